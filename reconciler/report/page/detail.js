// The view of one tunnel: its state, last hour, clients, failures and metrics. The address names the tunnel.

import { arrange, byId, fromTemplate, printable, setData, setHidden, setPhase, setText } from './dom.js';
import { hashWith, inAddress, replaceAddress } from './address.js';
import { announce } from './announce.js';
import { showHour } from './hour.js';
import { queriesOf } from './queries.js';
import { Route } from './route.js';
import { Why, noteOf } from './rows.js';
import { bytes, count, millis, moment, rate, roundTrip, span } from './format.js';

const COPIED_MS = 2500;

export class Detail {
  #id = ''; // of the tunnel, '' while the list is shown
  #data = null; // its latest detail: null before the first one
  #route = new Route(byId('detail-route'));
  #why = new Why(byId('detail-why'));
  #clients = [];
  #failures = '';
  #queries = '';
  #listScroll = 0; // of the list, while a tunnel is shown
  #isLeaving = false; // on the way back to the list, which the browser does later
  #onMove;

  // `onMove` is called with the id of the tunnel that was shown before, when the address names another one or none.
  constructor(onMove) {
    this.#onMove = onMove;
    byId('detail-back').addEventListener('click', () => this.close());
    for (const name of ['popstate', 'hashchange']) addEventListener(name, () => this.#follow());
    addEventListener('keydown', (event) => this.#key(event));
    this.#enter(inAddress('tunnel'));
  }

  get id() {
    return this.#id;
  }

  open(id) {
    history.pushState({ hasList: true }, '', hashWith({ tunnel: id }));
    this.#follow();
  }

  // Goes back to the list if that is the entry before this one, so that "back" does not open the tunnel again.
  close() {
    if (this.#isLeaving) return;
    if (history.state?.hasList) {
      this.#isLeaving = true;
      history.back();
    } else {
      replaceAddress({ tunnel: '' });
      this.#follow();
    }
  }

  // This listener must be added before that of the filter, which ignores an event that was used here.
  #key(event) {
    if (event.key !== 'Escape' || this.#id === '' || event.isComposing) return;
    event.preventDefault();
    this.close();
  }

  #follow() {
    this.#isLeaving = false;
    const before = this.#id;
    const id = inAddress('tunnel');
    if (id === before) return;
    if (before === '') this.#listScroll = scrollY;
    this.#enter(id);
    this.#onMove(before);
    scrollTo(0, id === '' ? this.#listScroll : 0);
    if (id !== '') byId('detail-title').focus({ preventScroll: true });
  }

  #enter(id) {
    this.#id = id;
    this.#data = null;
    setData(document.body, 'view', id === '' ? '' : 'detail');
    setHidden(byId('detail'), id === '');
    setHidden(byId('list'), id !== '');
    setText(byId('detail-title'), id);
  }

  // `status` is the last response, null before the first one. `meter`: the traffic of the tunnel.
  show(status, meter, now) {
    if (this.#id === '') return;
    const tunnel = status?.tunnels.find((one) => one.id === this.#id);
    if (status?.detail?.id === this.#id) this.#data = status.detail;
    setText(byId('detail-note'), tunnel === undefined ? '' : noteOf(tunnel, now));
    setText(byId('detail-missing'), this.#missingWords(status, tunnel));
    setHidden(byId('detail-missing'), status !== null && tunnel !== undefined && this.#data !== null);
    setHidden(byId('detail-state'), tunnel === undefined);
    setHidden(byId('detail-phase'), tunnel === undefined);
    setHidden(byId('detail-past'), tunnel === undefined || this.#data === null);
    if (tunnel === undefined) return;
    const target = status.targets.find((one) => one.name === tunnel.target);
    this.#showState(tunnel, target, meter, now);
    this.#showClientFailure(tunnel.lastClientFailure ?? null, now);
    this.#showQueries(tunnel);
    if (this.#data === null) return;
    showHour(this.#data.history, now);
    this.#showClients(tunnel, now);
    this.#showFailures(now);
  }

  #missingWords(status, tunnel) {
    if (status === null || tunnel !== undefined) return 'Waiting for its data.';
    if (status.ending) return 'The process is ending: this tunnel is closed.';
    return `There is no tunnel ${this.#id}: it was renamed or removed, or the address is wrong.`;
  }

  // Says how old the data is while there is no connection. `age` in ms, null while connected.
  showAge(at, age) {
    setHidden(byId('detail-age'), age === null || this.#id === '');
    if (age !== null) setText(byId('detail-age'), `No connection: this is the state of ${moment(at, at + age)}, ${span(age)} ago.`);
  }

  tick(now) {
    this.#why.tick(now);
  }

  #showState(tunnel, target, meter, now) {
    setPhase(byId('detail-phase'), tunnel.phase);
    this.#route.draw(tunnel, target);
    this.#why.show(tunnel, now);
    const since = millis(tunnel.since);
    const total = `${bytes(tunnel.bytesSent ?? 0)} sent, ${bytes(tunnel.bytesReceived ?? 0)} received`;
    setText(byId('detail-since'), Number.isNaN(since) ? '–' : `${moment(since, now)}, ${span(now - since)} ago`);
    setText(byId('detail-target'), targetWords(tunnel, target));
    setText(byId('detail-live'), `${count(tunnel.connections ?? 0, 'client')}${tunnel.held ? `, ${tunnel.held} held` : ''}`);
    setText(byId('detail-rates'), `↑ ${rate(meter.sent)} ↓ ${rate(meter.received)}`);
    setText(byId('detail-total'), total);
    setText(byId('detail-reconnects'), String(tunnel.reconnects ?? 0));
    setText(byId('detail-place'), this.#placeWords());
  }

  #placeWords() {
    if (this.#data === null) return '–';
    return this.#data.file ? `${this.#data.file}:${this.#data.line}` : 'no longer in the files';
  }

  #showClientFailure(failure, now) {
    const node = byId('client-failure');
    setHidden(node, failure === null);
    if (failure === null) return;
    const words = [failure.result, failure.message].filter(Boolean).join(': ');
    setText(node, `Last client without a connection: ${failure.from ?? 'unix socket'} at ${moment(millis(failure.at), now)}: ${words}`);
  }

  #showClients(tunnel, now) {
    const clients = this.#data.clients;
    const total = (tunnel.connections ?? 0) + (tunnel.held ?? 0);
    while (this.#clients.length < clients.length) this.#clients.push(fromTemplate('client-template'));
    clients.forEach((client, index) => {
      const parts = ['from', 'since', 'sent', 'received'].map((name) => this.#clients[index].querySelector(`.${name}`));
      const [from, since, sent, received] = parts;
      setText(from, `${client.from ?? 'unix socket'}${client.state === 'held' ? ' (held)' : ''}`);
      setText(since, span(now - millis(client.since)));
      setText(sent, bytes(client.bytesSent));
      setText(received, bytes(client.bytesReceived));
    });
    arrange(byId('clients'), this.#clients.slice(0, clients.length));
    setHidden(byId('clients-table'), clients.length === 0);
    setText(byId('clients-note'), clients.length === 0 ? 'No clients.' : `The newest ${clients.length} of ${total}.`);
    setHidden(byId('clients-note'), clients.length > 0 && clients.length >= total);
  }

  #showFailures(now) {
    const failures = this.#data.failures;
    const key = JSON.stringify([failures, new Date(now).toDateString()]);
    if (key === this.#failures) return;
    this.#failures = key;
    byId('failures').replaceChildren(...failures.map((failure) => failureNode(failure, now)));
    setHidden(byId('no-failures'), failures.length > 0);
  }

  #showQueries(tunnel) {
    if (this.#queries === tunnel.id) return;
    this.#queries = tunnel.id;
    byId('queries').replaceChildren(...queriesOf(tunnel).map(([title, query]) => queryNode(title, query)));
  }
}

function targetWords(tunnel, target) {
  if (target === undefined) return tunnel.target;
  const words = [target.name, target.host || (target.hosts ?? []).join(', ') || 'no host', target.phase];
  if (typeof target.rttSeconds === 'number') words.push(`${roundTrip(target.rttSeconds)} round trip`);
  return words.join(' · ');
}

function failureNode(failure, now) {
  const node = fromTemplate('failure-template');
  const [first, last] = [millis(failure.first), millis(failure.last)];
  const time = node.querySelector('time');
  time.textContent = moment(last, now);
  time.title = new Date(last).toLocaleString();
  node.querySelector('.reason').textContent = printable(failure.reason);
  node.querySelector('.times').textContent = failure.count > 1 ? `${failure.count} times since ${moment(first, now)}` : '';
  node.querySelector('.message').textContent = printable(failure.message || '');
  return node;
}

function queryNode(title, query) {
  const node = fromTemplate('query-template');
  const [code, button] = [node.querySelector('code'), node.querySelector('button')];
  node.querySelector('.query-title').textContent = title;
  code.textContent = printable(query);
  button.setAttribute('aria-label', `Copy the query: ${title}`);
  button.addEventListener('click', () => copy(query, code, button));
  return node;
}

// Without HTTPS a browser gives the clipboard to pages from this machine only: elsewhere the query is selected.
async function copy(query, code, button) {
  const isCopied = await (navigator.clipboard?.writeText(query) ?? Promise.reject()).then(
    () => true,
    () => false,
  );
  if (!isCopied) getSelection().selectAllChildren(code);
  button.textContent = isCopied ? 'Copied' : 'Selected';
  announce(isCopied ? 'Copied' : 'Selected: copy it with the keyboard');
  setTimeout(() => (button.textContent = 'Copy'), COPIED_MS);
}
