// The last events, newest first. They come from the server as they happen; a poll tells what is, an event what was.

import { byId, fromTemplate, printable, setHidden, setPhase } from './dom.js';
import { clock, millis } from './words.js';

const KEPT = 60;
const RETRY_MS = 10_000;

export class Events {
  #source = null;
  #seen = new Set();
  #hint;

  // `hint` is called for each event and each time the stream is there again.
  constructor(hint) {
    this.#hint = hint;
  }

  listen() {
    if (this.#source !== null || document.hidden) return;
    const source = new EventSource('api/v1/events');
    this.#source = source;
    source.addEventListener('open', () => this.#hint());
    for (const name of ['message', 'change', 'event']) source.addEventListener(name, (message) => this.#hear(message.data));
    source.addEventListener('error', () => {
      // A browser tries again by itself, unless the server said no: then it is for us to ask again.
      if (source.readyState !== EventSource.CLOSED) return;
      this.deafen();
      setTimeout(() => this.listen(), RETRY_MS);
    });
  }

  // A browser has six connections to one server for all its tabs: a page that is out of sight gives its own back.
  deafen() {
    this.#source?.close();
    this.#source = null;
  }

  #hear(data) {
    let event;
    try {
      event = JSON.parse(data);
    } catch {
      return;
    }
    this.#note(event);
    this.#hint();
  }

  // The server may tell its last events again to a page that comes back.
  #note(event) {
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
