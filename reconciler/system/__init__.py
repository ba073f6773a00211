"""Operating-system helpers that are not SSH. Imports only the core from this project."""
