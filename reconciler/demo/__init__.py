"""`tunnels demo`: runs the program on a tunnels.yaml, with an SSH server and a web service behind it.

Everything runs in this process, on loopback and in a temporary directory. The end of the demo removes it.
"""
