"""SSH: dialling, trust, links, listeners and the relay. Everything that knows asyncssh, and nothing above it."""
