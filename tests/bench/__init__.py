"""Benchmarks. `python -m bench` runs them; each module's docstring has its command."""
