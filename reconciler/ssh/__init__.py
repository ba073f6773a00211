"""SSH: dialling, host keys, links, listeners, clients and the relay. Carries out the actions of the planner."""
