// The life of the status page: ask, show, ask again. An event from the server only says *when* to ask; the answer to the
// question is the only thing that is believed, so a lost event costs two seconds and nothing else.

import { announce, announceChanges } from './announce.js';
import { isInvalid, showConfig } from './config.js';
import { arrange, byId, setData, setHidden, setText } from './dom.js';
import { Events } from './events.js';
import { Filter } from './filter.js';
import { TargetRow, TunnelRow, isProblem } from './rows.js';
import { showTraffic } from './traffic.js';
import { clock, count, millis, span } from './words.js';

const POLL_MS = 2000;
const ANSWER_WITHIN_MS = 5000;
const HINT_MS = 150; // events come in bursts: one question for all of them
const TICK_MS = 1000;

let status = null; // the last good answer
let heardAt = 0; // performance.now() of it
let lostAt = null; // Date.now() since when nobody answers
let skew = 0; // the server's clock minus this one's, ms
const targets = new Map();
const tunnels = new Map();

const events = new Events(() => askIn(HINT_MS));
const filter = new Filter(() => status !== null && arrangeRows());

// --- asking -----------------------------------------------------------------------------------------------------------

let timer = 0;
let asking = false;

function askIn(ms) {
  clearTimeout(timer);
  timer = setTimeout(ask, ms);
}

async function ask() {
  if (asking || document.hidden) return; // nobody looks: the page asks again when it is seen
  asking = true;
  try {
    const response = await fetch('api/v1/status', { cache: 'no-store', signal: AbortSignal.timeout(ANSWER_WITHIN_MS) });
    if (!response.ok) throw new Error(`it answers ${response.status} ${response.statusText}`.trim());
    status = await response.json();
    heardAt = performance.now();
    // The Date header is whole seconds: a small difference is noise.
    const difference = millis(status.now ?? response.headers.get('Date')) - Date.now();
    skew = Math.abs(difference) > 2000 ? difference : 0;
    found();
    show();
  } catch (error) {
    lose(error);
  } finally {
    asking = false;
    askIn(POLL_MS);
  }
}

// --- contact ----------------------------------------------------------------------------------------------------------

function found() {
  if (lostAt === null) return;
  lostAt = null;
  setHidden(byId('lost'), true);
  setData(document.body, 'lost', '');
  announce('In contact again');
}

function lose(error) {
  if (lostAt === null) {
    lostAt = Date.now();
    const then = status === null ? '' : ` What is shown is what was known at ${clock(lostAt)}.`;
    setText(byId('lost'), `No contact with ${location.host}: ${whyLost(error)}.${then} This page keeps trying.`);
    setHidden(byId('lost'), false);
    setData(document.body, 'lost', 'yes');
    showTitle();
  }
  showContact();
}

function whyLost(error) {
  if (error.name === 'TimeoutError') return `no answer within ${span(ANSWER_WITHIN_MS)}`;
  return error instanceof TypeError ? 'nothing answers there' : error.message;
}

function showContact() {
  const age = performance.now() - heardAt;
  if (lostAt !== null) setText(byId('contact-words'), `no contact for ${span(Date.now() - lostAt)}`);
  else if (status !== null) setText(byId('contact-words'), age < POLL_MS + ANSWER_WITHIN_MS / 2 ? 'live' : `${span(age)} old`);
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
    const row = kept(tunnels, tunnel.id, TunnelRow);
    row.show(tunnel, byName.get(tunnel.target), now, heardAt);
    own.get(tunnel.target)?.push(tunnel);
    sent += row.meter.sent;
    received += row.meter.received;
  }
  for (const target of status.targets) kept(targets, target.name, TargetRow).show(target, own.get(target.name), now);
  forget(targets, new Set(byName.keys()));
  forget(tunnels, new Set(status.tunnels.map((tunnel) => tunnel.id)));
  arrangeRows();
  showConfig(status.config ?? {}, now, Boolean(status.ending));
  showTraffic(sent, received, heardAt);
  showTitle();
  showContact();
  announceChanges(status.targets, status.tunnels);
}

function kept(rows, key, Row) {
  if (!rows.has(key)) rows.set(key, new Row());
  return rows.get(key);
}

function forget(rows, wanted) {
  for (const key of rows.keys()) if (!wanted.has(key)) rows.delete(key);
}

// What the filter does not want is out of the document, not merely hidden in it.
function arrangeRows() {
  const lists = new Map(status.targets.map((target) => [target.name, []]));
  const byName = new Map(status.targets.map((target) => [target.name, target]));
  for (const tunnel of status.tunnels) {
    if (filter.wants(tunnel, byName.get(tunnel.target))) lists.get(tunnel.target)?.push(tunnels.get(tunnel.id).node);
  }
  const shown = status.targets.filter((target) => lists.get(target.name).length > 0 || filter.wantsAlone(target));
  for (const target of shown) arrange(targets.get(target.name).list, lists.get(target.name));
  arrange(byId('targets'), shown.map((target) => targets.get(target.name).node));
  setHidden(byId('nothing'), shown.length > 0);
  setText(byId('nothing'), shown.length > 0 ? '' : status.ending ? endingWords() : filter.emptyWords(status.tunnels.length));
  filter.showPhases(status.tunnels);
}

// Its targets are gone by then, and of its tunnels all that nobody uses any more.
function endingWords() {
  const clients = status.tunnels.reduce((sum, tunnel) => sum + (tunnel.connections ?? 0), 0);
  return `The process is ending${clients > 0 ? `: ${count(clients, 'client')} may finish, new clients are not accepted` : ''}.`;
}

// The tab and its icon tell it too: a dot, a cross, a broken ring.
const ICONS = {
  good: '<circle cx="8" cy="8" r="6" fill="#1d7a43"/>',
  bad: '<path d="M3 3 13 13M13 3 3 13" stroke="#c2281f" stroke-width="4"/>',
  lost: '<circle cx="8" cy="8" r="5" fill="none" stroke="#777" stroke-width="3" stroke-dasharray="4 3"/>',
};
let icon = '';

function showTitle() {
  const bad = [...(status?.targets ?? []), ...(status?.tunnels ?? [])].filter(isProblem).length;
  const invalid = isInvalid(status?.config);
  const live = status?.ending ? 'ending' : bad > 0 ? count(bad, 'problem') : invalid ? 'invalid file' : 'all well';
  const words = lostAt !== null ? 'no contact' : live;
  setText(document.querySelector('title'), `${words} · tunnels`);
  const state = lostAt !== null ? 'lost' : live === 'all well' ? 'good' : 'bad';
  if (state === icon) return;
  icon = state;
  const svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16">${ICONS[state]}</svg>`;
  byId('icon').href = `data:image/svg+xml,${encodeURIComponent(svg)}`;
}

// --- beginning --------------------------------------------------------------------------------------------------------

function tick() {
  if (document.hidden) return;
  showContact();
  if (lostAt !== null) return; // a countdown to what is not known would be a lie
  const now = Date.now() + skew;
  for (const row of targets.values()) row.why.tick(now);
  for (const row of tunnels.values()) row.why.tick(now);
}

document.addEventListener('visibilitychange', () => {
  if (document.hidden) events.deafen();
  else {
    events.listen();
    askIn(0);
  }
});

setText(byId('place'), location.host);
setInterval(tick, TICK_MS);
events.listen();
ask();
