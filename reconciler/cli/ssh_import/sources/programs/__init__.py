"""Programs: ssh, and those that start another program."""
