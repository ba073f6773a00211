// The latest events, newest first, as the server streams them.

import { byId, fromTemplate, printable, setHidden, setPhase } from './dom.js';
import { clock, millis } from './format.js';

const KEPT = 60;
const RETRY_MS = 10_000;

export class Events {
  #source = null;
  #seen = new Set();
  #onEvent;

  // `onEvent` is called for each event and each time the stream is connected.
  constructor(onEvent) {
    this.#onEvent = onEvent;
  }

  connect() {
    if (this.#source !== null || document.hidden) return;
    const source = new EventSource('api/v1/events');
    this.#source = source;
    source.addEventListener('open', () => this.#onEvent());
    for (const name of ['message', 'change', 'event']) source.addEventListener(name, (message) => this.#receive(message.data));
    source.addEventListener('error', () => {
      // The browser reconnects by itself, unless the server refused the stream.
      if (source.readyState !== EventSource.CLOSED) return;
      this.disconnect();
      setTimeout(() => this.connect(), RETRY_MS);
    });
  }

  // A browser has six connections to a server for all of its tabs: a hidden page closes its stream.
  disconnect() {
    this.#source?.close();
    this.#source = null;
  }

  #receive(data) {
    let event;
    try {
      event = JSON.parse(data);
    } catch {
      return;
    }
    this.#show(event);
    this.#onEvent();
  }

  // After a reconnect the server may send events again.
  #show(event) {
    const key = [event.at, event.subject, event.phase, event.reason].join('\n');
    if (this.#seen.has(key)) return;
    this.#seen.add(key);
    if (this.#seen.size > 10 * KEPT) this.#seen.delete(this.#seen.values().next().value);
    const list = byId('events');
    const at = millis(event.at) || 0;
    const older = [...list.children].find((other) => Number(other.dataset.at) <= at);
    list.insertBefore(eventNode(event, at), older ?? null);
    while (list.children.length > KEPT) list.lastElementChild.remove();
    setHidden(byId('no-events'), true);
  }
}

function eventNode(event, at) {
  const node = fromTemplate('event-template');
  node.dataset.at = String(at);
  const time = node.querySelector('time');
  time.textContent = clock(at);
  time.title = new Date(at).toLocaleString();
  const phase = event.phase || 'gone';
  setPhase(node.querySelector('.phase'), phase, event.before && event.before !== phase ? `${event.before} → ${phase}` : phase);
  node.querySelector('.subject').textContent = printable(event.subject ?? '');
  const message = node.querySelector('.message');
  message.textContent = printable([event.reason, event.message].filter(Boolean).join(': '));
  message.hidden = message.textContent === '';
  return node;
}
