"""`tunnels demo`: an SSH server, a web service behind it and a tunnels.yaml, converging before your eyes.

Everything is embedded, on loopback and in a temporary directory, and is gone when the demo ends.
"""
