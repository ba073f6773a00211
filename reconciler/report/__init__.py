"""What people and machines are told: changes in words, metrics, endpoints. Reads the core's values, decides nothing."""
