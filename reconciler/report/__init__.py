"""Reports: log lines of changes, events, metrics, endpoints, control socket, status page. Decides nothing."""
