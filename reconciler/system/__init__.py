"""Operating-system helpers that are not SSH. Imports nothing of the project but the core."""
