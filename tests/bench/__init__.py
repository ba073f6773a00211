"""Benchmarks: `make bench` runs them, `make bench-compare` compares two runs."""
