// The metrics of one tunnel as queries for Prometheus. Pure functions.

// Each entry is a title and a query.
export function queriesOf(tunnel) {
  const target = labels({ target: tunnel.target });
  const own = labels({ target: tunnel.target, tunnel: tunnel.name });
  const total = (name, more = '') => `ssh_tunnel_${name}_total{${own}${more}}`;
  return [
    ['Up', `ssh_tunnel_up{${own}}`],
    ['Phase', `ssh_tunnel_phase{${own}} == 1`],
    ['Seconds in this phase', `time() - ssh_tunnel_last_transition_timestamp_seconds{${own}}`],
    ['Clients', `ssh_tunnel_active_connections{${own}}`],
    ['Waiting clients', `ssh_tunnel_held_connections{${own}}`],
    ['Clients in an hour, by result', `sum by (result) (increase(${total('connections')}[1h]))`],
    ['Bytes per second sent', `rate(${total('bytes', ',direction="sent"')}[5m])`],
    ['Bytes per second received', `rate(${total('bytes', ',direction="received"')}[5m])`],
    ['Reconnects in an hour', `increase(${total('reconnects')}[1h])`],
    ['Failures in an hour, by reason', `sum by (reason) (increase(${total('failures')}[1h]))`],
    ['Health probe', `ssh_tunnel_probe_success{${own}}`],
    ['Target up', `ssh_target_up{${target}}`],
    ['Round trip to the target', `ssh_target_rtt_seconds{${target}}`],
    ['Failures of the target in an hour, by reason', `sum by (reason) (increase(ssh_target_failures_total{${target}}[1h]))`],
  ];
}

function labels(values) {
  return Object.entries(values)
    .map(([name, value]) => `${name}="${escaped(value)}"`)
    .join(',');
}

function escaped(value) {
  return value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n');
}
