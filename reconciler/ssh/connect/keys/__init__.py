"""The keys of a hop: reading, restoring, offering, and why none of them logged in."""
