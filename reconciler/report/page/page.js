// The main loop of the status page: poll the status, show it, poll again. An event from the server only triggers a poll
// and changes nothing by itself, so a lost event delays an update by two seconds at most.

import { announce, announceChanges } from './announce.js';
import { isInvalid, showConfig } from './config.js';
import { arrange, byId, setData, setHidden, setText } from './dom.js';
import { Detail } from './detail.js';
import { Events } from './events.js';
import { Filter } from './filter.js';
import { followKeys } from './list_keys.js';
import { TargetRow, TunnelRow, countProblems } from './rows.js';
import { showTraffic } from './traffic.js';
import { count, millis, moment, span } from './format.js';

const POLL_MS = 2000;
const TIMEOUT_MS = 5000;
const EVENT_DELAY_MS = 150; // events come in bursts: one poll for all of them
const TICK_MS = 1000;
const ID_MAX = 4000; // encoded characters: no tunnel has a longer id, and the server refuses longer requests

let status = null; // the last response
let receivedAt = 0; // performance.now() of the last response
let receivedWall = 0; // Date.now() of the last response
let lostAt = null; // Date.now() of the first failed poll, null while connected
let skew = 0; // the server's clock minus the browser's, in ms
const targets = new Map();
const tunnels = new Map();

const events = new Events(() => pollIn(EVENT_DELAY_MS));
const detail = new Detail(moved); // before the filter: both use the Escape key
const filter = new Filter(() => status !== null && arrangeRows());

// --- polling ----------------------------------------------------------------------------------------------------------

let timer = 0;
let isPolling = false;

function pollIn(ms) {
  clearTimeout(timer);
  timer = setTimeout(poll, ms);
}

async function poll() {
  if (isPolling || document.hidden) return; // a hidden page polls again when it becomes visible
  isPolling = true;
  const asked = detail.id;
  const encoded = encodeURIComponent(asked);
  const query = asked === '' || encoded.length > ID_MAX ? '' : `?tunnel=${encoded}`;
  try {
    const response = await fetch(`api/v1/status${query}`, { cache: 'no-store', signal: AbortSignal.timeout(TIMEOUT_MS) });
    if (!response.ok) throw new Error(`the server answered ${response.status} ${response.statusText}`.trim());
    status = await response.json();
    receivedAt = performance.now();
    receivedWall = Date.now();
    // The Date header has whole seconds: ignore a small difference.
    const difference = millis(status.now ?? response.headers.get('Date')) - Date.now();
    skew = Math.abs(difference) > 2000 ? difference : 0;
    setConnected();
    show();
  } catch (error) {
    setDisconnected(error);
  } finally {
    isPolling = false;
    pollIn(detail.id === asked ? POLL_MS : 0);
  }
}

// --- connection -------------------------------------------------------------------------------------------------------

function setConnected() {
  if (lostAt === null) return;
  lostAt = null;
  setHidden(byId('lost'), true);
  setData(document.body, 'lost', '');
  announce('Connection restored');
}

function setDisconnected(error) {
  if (lostAt === null) {
    lostAt = Date.now();
    const shown = status === null ? 'The page' : `The page shows the status of ${moment(receivedWall, lostAt)} and`;
    setText(byId('lost'), `No connection to ${location.host}: ${whyLost(error)}. ${shown} keeps trying.`);
    setHidden(byId('lost'), false);
    setData(document.body, 'lost', 'yes');
    showTitle();
  }
  showConnection();
}

function whyLost(error) {
  if (error.name === 'TimeoutError') return `no response within ${span(TIMEOUT_MS)}`;
  return error instanceof TypeError ? 'no response' : error.message;
}

function showConnection() {
  const age = performance.now() - receivedAt;
  if (lostAt !== null) setText(byId('contact-words'), `disconnected for ${span(Date.now() - lostAt)}`);
  else if (status !== null) setText(byId('contact-words'), age < POLL_MS + TIMEOUT_MS / 2 ? 'live' : `${span(age)} old`);
  detail.showAge(receivedWall, lostAt !== null && status !== null ? age : null);
  setData(byId('contact'), 'state', lostAt !== null ? 'lost' : status === null ? 'waiting' : 'live');
}

// --- showing ----------------------------------------------------------------------------------------------------------

function show() {
  const now = Date.now() + skew;
  const byName = new Map(status.targets.map((target) => [target.name, target]));
  const own = new Map(status.targets.map((target) => [target.name, []]));
  let sent = 0;
  let received = 0;
  for (const tunnel of status.tunnels) {
    const row = rowOf(tunnels, tunnel.id, TunnelRow);
    row.show(tunnel, byName.get(tunnel.target), now, receivedAt);
    own.get(tunnel.target)?.push(tunnel);
    sent += row.meter.sent;
    received += row.meter.received;
  }
  for (const target of status.targets) rowOf(targets, target.name, TargetRow).show(target, own.get(target.name), now);
  prune(targets, new Set(byName.keys()));
  prune(tunnels, new Set(status.tunnels.map((tunnel) => tunnel.id)));
  arrangeRows();
  showDetail();
  setText(byId('instance'), status.instance ?? '');
  setText(byId('version'), status.version ?? '–');
  showConfig(status.config ?? {}, now, Boolean(status.ending));
  showTraffic(sent, received, receivedAt);
  showTitle();
  showConnection();
  announceChanges(status.targets, status.tunnels);
}

// --- one tunnel -------------------------------------------------------------------------------------------------------

const STILL = { sent: 0, received: 0 };

function showDetail() {
  detail.show(status, tunnels.get(detail.id)?.meter ?? STILL, Date.now() + skew);
}

// The address names another tunnel, or none. Back in the list, the focus returns to the tunnel that was shown.
function moved(before) {
  showDetail();
  showTitle();
  showConnection();
  pollIn(0);
  if (detail.id !== '') return;
  const row = tunnels.get(before)?.node;
  (row?.isConnected ? row.querySelector('a.name') : byId('targets')).focus({ preventScroll: true });
}

// A link to a tunnel keeps the filter. With a modifier the browser opens it elsewhere, without the filter.
function followLink(event) {
  const link = event.target.closest('a.name');
  if (link === null || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  detail.open(new URLSearchParams(link.hash.slice(1)).get('tunnel'));
}

// The skip link must not replace the view in the address.
function skip(event) {
  event.preventDefault();
  byId(detail.id === '' ? 'targets' : 'detail-title').focus();
}

// --- rows -------------------------------------------------------------------------------------------------------------

function rowOf(rows, key, Row) {
  if (!rows.has(key)) rows.set(key, new Row());
  return rows.get(key);
}

function prune(rows, wanted) {
  for (const key of rows.keys()) if (!wanted.has(key)) rows.delete(key);
}

// Rows that do not match the filter are removed from the document, not only hidden.
function arrangeRows() {
  const lists = new Map(status.targets.map((target) => [target.name, []]));
  const byName = new Map(status.targets.map((target) => [target.name, target]));
  for (const tunnel of status.tunnels) {
    if (filter.matches(tunnel, byName.get(tunnel.target))) lists.get(tunnel.target)?.push(tunnels.get(tunnel.id).node);
  }
  const shown = status.targets.filter((target) => lists.get(target.name).length > 0 || filter.matchesTarget(target));
  for (const target of shown) arrange(targets.get(target.name).list, lists.get(target.name));
  arrange(byId('targets'), shown.map((target) => targets.get(target.name).node));
  setHidden(byId('nothing'), shown.length > 0);
  setText(byId('nothing'), shown.length > 0 ? '' : status.ending ? endingWords() : filter.emptyWords(status.tunnels.length));
  filter.showPhases(status.targets, status.tunnels);
}

// While the process ends, the status has no targets, and only the tunnels that still have clients.
function endingWords() {
  const clients = status.tunnels.reduce((sum, tunnel) => sum + (tunnel.connections ?? 0), 0);
  return `The process is ending${clients > 0 ? `: it accepts no new clients, and ${count(clients, 'client')} may finish` : ''}.`;
}

// The title and the icon of the tab show the state too: a dot, a cross, a broken ring.
const ICONS = {
  good: '<circle cx="8" cy="8" r="6" fill="#1d7a43"/>',
  bad: '<path d="M3 3 13 13M13 3 3 13" stroke="#c2281f" stroke-width="4"/>',
  lost: '<circle cx="8" cy="8" r="5" fill="none" stroke="#777" stroke-width="3" stroke-dasharray="4 3"/>',
};
let icon = '';

function showTitle() {
  const bad = countProblems(status?.targets ?? [], status?.tunnels ?? []);
  const invalid = isInvalid(status?.config);
  const live = status?.ending ? 'ending' : bad > 0 ? count(bad, 'problem') : invalid ? 'invalid file' : 'no problems';
  const words = lostAt !== null ? 'disconnected' : live;
  setText(document.querySelector('title'), [words, detail.id, 'tunnels'].filter(Boolean).join(' · '));
  const state = lostAt !== null ? 'lost' : live === 'no problems' ? 'good' : 'bad';
  if (state === icon) return;
  icon = state;
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">${ICONS[state]}</svg>`;
  byId('icon').href = `data:image/svg+xml,${encodeURIComponent(svg)}`;
}

// --- start ------------------------------------------------------------------------------------------------------------

function tick() {
  if (document.hidden) return;
  showConnection();
  if (lostAt !== null) return; // a countdown without a current status would be wrong
  const now = Date.now() + skew;
  for (const row of targets.values()) row.why.tick(now);
  for (const row of tunnels.values()) row.why.tick(now);
  detail.tick(now);
}

document.addEventListener('visibilitychange', () => {
  if (document.hidden) events.disconnect();
  else {
    events.connect();
    pollIn(0);
  }
});

byId('targets').addEventListener('click', followLink);
document.querySelector('.skip').addEventListener('click', skip);
addEventListener('keydown', followKeys);
setText(byId('place'), location.host);
setInterval(tick, TICK_MS);
showDetail();
events.connect();
poll();
