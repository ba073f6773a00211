"""The pure core: what is asked, what is there, and what to do about the difference.

Owns every type that crosses a module, and every decision. Nothing here does IO, reads a clock, logs, or knows
asyncssh; the import layers (pyproject.toml) keep it so. Read in this order: spec, status, actions, plan.
"""
