// One row for each target and tunnel. A row is created once and kept; an update writes only what differs.

import { fromTemplate, setData, setHidden, setLink, setPhase, setText, setTitle } from './dom.js';
import { Route } from './route.js';
import { bytes, count, millis, rate, roundTrip, span } from './format.js';

export function isProblem(thing) {
  return thing.phase === 'down' || thing.phase === 'unhealthy' || Boolean(thing.needsAction);
}

// The number of problems, in the title and beside "only problems": each tunnel, and each target without such a tunnel.
export function countProblems(targets, tunnels) {
  const bad = tunnels.filter(isProblem);
  const counted = new Set(bad.map((tunnel) => tunnel.target));
  return bad.length + targets.filter((target) => isProblem(target) && !counted.has(target.name)).length;
}

export class TargetRow {
  constructor() {
    this.node = fromTemplate('target-template');
    this.list = this.#find('ul');
    this.why = new Why(this.#find('.why'));
    this.parts = ['phase', 'name', 'action', 'host', 'known', 'unverified'].map((name) => this.#find(`.${name}`));
  }

  #find(selector) {
    return this.node.querySelector(selector);
  }

  show(target, tunnels, now) {
    const [phase, name, action, host, known, unverified] = this.parts;
    setPhase(phase, target.phase);
    setText(name, target.name);
    setHidden(action, !target.needsAction);
    setText(host, target.host || (target.hosts ?? []).join(', '));
    setText(known, factsOf(target, tunnels, now).join(' · '));
    setHidden(unverified, target.hostKeyVerified !== false);
    setData(this.node, 'tone', isProblem(target) ? 'bad' : '');
    this.why.show(target, now);
  }
}

function factsOf(target, tunnels, now) {
  const up = tunnels.filter((tunnel) => tunnel.phase === 'up').length;
  const facts = [up === tunnels.length ? count(up, 'tunnel') : `${up} of ${count(tunnels.length, 'tunnel')} up`];
  const since = millis(target.since);
  if (!Number.isNaN(since)) facts.push(`${target.phase} for ${span(now - since)}`);
  if (target.reconnects) facts.push(count(target.reconnects, 'reconnect'));
  if (typeof target.rttSeconds === 'number') facts.push(`${roundTrip(target.rttSeconds)} round trip`);
  if (target.hostKeyVerified === true) facts.push('host key verified');
  facts.push(...[target.cipher, target.kex].filter(Boolean).map((name) => name.replace(/@openssh\.com$/, '')));
  return facts;
}

export class TunnelRow {
  constructor() {
    this.node = fromTemplate('tunnel-template');
    this.route = new Route(this.#find('.route'));
    this.why = new Why(this.#find('.why'));
    this.meter = new Meter();
    this.parts = ['phase', 'name', 'note', 'traffic', 'sent', 'received', 'live', 'held', 'since'].map((name) =>
      this.#find(`.${name}`),
    );
  }

  #find(selector) {
    return this.node.querySelector(selector);
  }

  // `clock`: when the response arrived, monotonic, in ms.
  show(tunnel, target, now, clock) {
    const [phase, name, note, traffic, sent, received, live, held, since] = this.parts;
    setPhase(phase, tunnel.phase);
    setText(name, tunnel.name);
    setTitle(name, tunnel.id);
    setLink(name, `#${new URLSearchParams({ tunnel: tunnel.id }).toString().replaceAll('%2F', '/')}`);
    setText(note, noteOf(tunnel, now));
    setData(this.node, 'tone', isProblem(tunnel) ? 'bad' : tunnel.phase === 'off' ? 'off' : '');
    this.route.draw(tunnel, target);
    this.meter.read(tunnel, clock);
    setText(sent, rate(this.meter.sent));
    setText(received, rate(this.meter.received));
    setData(traffic, 'still', this.meter.sent < 1 && this.meter.received < 1 ? 'yes' : '');
    setTitle(traffic, `${bytes(tunnel.bytesSent ?? 0)} sent, ${bytes(tunnel.bytesReceived ?? 0)} received in total`);
    setText(live, count(tunnel.connections ?? 0, 'client'));
    setData(live, 'still', tunnel.connections ? '' : 'yes');
    setText(held, `${tunnel.held} held`);
    setHidden(held, !tunnel.held);
    const isInherited = isFailureOfTarget(tunnel, target);
    setText(since, sinceOf(tunnel, now, isInherited));
    this.why.show(isInherited ? NOTHING : tunnel, now);
  }
}

const NOTHING = { reason: null, message: null, needsAction: false, nextTryAt: null };

// The failure of a target is described once, in its own row. Its tunnels repeat only the reason.
function isFailureOfTarget(tunnel, target) {
  return target !== undefined && Boolean(target.message) && tunnel.message === target.message && tunnel.reason === target.reason;
}

export function noteOf(tunnel, now) {
  const labels = Object.entries(tunnel.labels ?? {}).map(([name, value]) => `${name}=${value}`);
  const notes = [tunnel.type, tunnel.description, ...labels];
  if (tunnel.reconnects) notes.push(count(tunnel.reconnects, 'reconnect'));
  const left = millis(tunnel.expiresAt) - now;
  if (left > 0) notes.push(`expires in ${span(left)}`);
  return notes.filter(Boolean).join(' · ');
}

function sinceOf(tunnel, now, isInherited) {
  const since = millis(tunnel.since);
  const words = Number.isNaN(since) ? '' : `for ${span(now - since)}`;
  return isInherited && tunnel.reason ? `${tunnel.reason} ${words}` : words;
}

// The reason and message of a target or tunnel, and the time of the next try.
export class Why {
  constructor(node) {
    this.node = node;
    this.parts = ['reason', 'message', 'next'].map((name) => node.querySelector(`.${name}`));
    this.action = node.querySelector('.action'); // null for a target, which shows it beside its name
    this.due = NaN;
  }

  show(thing, now) {
    const [reason, message] = this.parts;
    setHidden(this.node, !thing.reason && !thing.message && !thing.needsAction);
    if (this.action !== null) setHidden(this.action, !thing.needsAction);
    setText(reason, thing.reason ?? '');
    setHidden(reason, !thing.reason);
    setText(message, thing.message ?? '');
    this.due = millis(thing.nextTryAt);
    this.tick(now);
  }

  tick(now) {
    const left = this.due - now;
    setText(this.parts[2], Number.isNaN(left) ? '' : left > 500 ? `next try in ${span(left)}` : 'trying now');
  }
}

// Converts byte counters to bytes per second.
class Meter {
  sent = 0;
  received = 0;
  #at = NaN;
  #sent = 0;
  #received = 0;

  read(tunnel, clock) {
    const elapsed = (clock - this.#at) / 1000;
    if (elapsed < 0.9) return; // too short an interval makes the rate jump
    const sent = tunnel.bytesSent ?? 0;
    const received = tunnel.bytesReceived ?? 0;
    if (elapsed > 0) {
      // A smaller counter is that of a new process.
      this.sent = Math.max(0, sent - this.#sent) / elapsed;
      this.received = Math.max(0, received - this.#received) / elapsed;
    }
    this.#at = clock;
    this.#sent = sent;
    this.#received = received;
  }
}
