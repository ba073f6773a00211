// Draws the route of a tunnel: listener → (jump hosts) → server → destination, and marks the broken part.

import { listening } from './format.js';

// Reasons by the part of the route that they are about. All other reasons are about the SSH connection.
const AT_LISTENER = new Set(['local_port_in_use', 'remote_port_in_use', 'bind', 'forbidden_by_server']);
const AT_DESTINATION = new Set(['destination', 'probe']);
const CARRIES_NOTHING = new Set(['down', 'unhealthy']);

export class Route {
  #node;
  #drawn = '';

  constructor(node) {
    this.#node = node;
  }

  draw(tunnel, target) {
    const stops = stopsOf(tunnel, target);
    const broken = brokenAt(tunnel, target, stops);
    const key = JSON.stringify([stops, broken]);
    if (key === this.#drawn) return;
    this.#drawn = key;
    const parts = stops.flatMap((stop, index) => {
      const node = stopNode(stop, broken.stop === index);
      return index === 0 ? [node] : [' ', wireNode(stop.ssh, broken.wires.includes(index)), ' ', node];
    });
    this.#node.replaceChildren(...parts);
  }
}

// `ssh`: the wire to this stop is inside the SSH connection.
function stopsOf(tunnel, target) {
  const via = (target?.via ?? []).map((hop) => ({ text: hop, role: 'jump', ssh: true }));
  const listen = { text: listening(tunnel), role: 'listen', ssh: false };
  const dial = { text: tunnel.dial || '?', role: 'dial', ssh: false };
  if (tunnel.type === 'remote') {
    // The listener is on the server, and the destination is reached from here.
    return [listen, ...via.reverse(), { text: 'here', role: 'here', ssh: true }, dial];
  }
  const server = target?.host || target?.hosts?.[0] || tunnel.target;
  return [listen, ...via, { text: server, role: 'server', ssh: true }, dial];
}

// The index of the broken stop (-1: none), and the broken wires, each by the index of the stop it leads to.
function brokenAt(tunnel, target, stops) {
  const failed = CARRIES_NOTHING.has(tunnel.phase);
  const listener = failed && AT_LISTENER.has(tunnel.reason);
  const destination = failed && AT_DESTINATION.has(tunnel.reason);
  const last = stops.length - 1;
  // A failed SSH connection breaks all of its hops, in the route of a tunnel that is off too.
  const ssh = target?.phase === 'down' || (failed && !listener && !destination);
  const wires = ssh ? [...stops.keys()].filter((index) => stops[index].ssh) : [];
  return { stop: listener ? 0 : destination ? last : -1, wires: destination ? [...wires, last] : wires };
}

function stopNode(stop, broken) {
  const node = document.createElement('code');
  node.className = 'stop';
  node.dataset.role = stop.role;
  if (broken) node.dataset.broken = 'yes';
  node.textContent = stop.text;
  return node;
}

function wireNode(ssh, broken) {
  const node = document.createElement('span');
  node.className = 'wire';
  if (ssh) node.dataset.ssh = 'yes';
  if (broken) node.dataset.broken = 'yes';
  node.title = `${ssh ? 'inside SSH' : 'outside SSH'}${broken ? ': broken' : ''}`;
  node.textContent = broken ? '✕' : '→';
  return node;
}
