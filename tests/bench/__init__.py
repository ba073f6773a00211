"""Measurements, each with the command that shows it: see `__main__`."""
