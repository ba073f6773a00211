"""The processes that the benchmarks start beside the forwarders: the destination, the clients, plain asyncssh."""
