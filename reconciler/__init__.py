"""Reads tunnels.yaml and keeps SSH tunnels matching it: opens, closes, changes and restarts them."""

__version__ = "0.1.0"
