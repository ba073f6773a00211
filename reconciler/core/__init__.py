"""The pure core: desired state, observed state, and the actions that lead from one to the other.

Defines every type that crosses a module, and makes every decision. It does no IO, reads no clock, logs nothing and does
not use asyncssh; import-linter checks this (pyproject.toml). Read in this order: spec, observed, actions, plan, status.
"""
