"""Generates the reference pages and the man pages from the source."""
