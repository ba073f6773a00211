// Shows the last hour of a tunnel: a strip of its minutes, the sums, and when it was down.

import { byId, printable, setHidden, setText } from './dom.js';
import { count, duration, millis, minuteOf } from './format.js';

const MINUTE = 60; // seconds
const WIDTH = 10; // of a minute in the strip, in SVG units
const HEIGHT = 40;
// A state is a colour and a height, from the bottom. Down is the tallest.
const HEIGHTS = { up: 22, down: HEIGHT, off: 5 };
const NARROWEST = 1.5; // a short failure is still visible
const TOLERATED = 30; // seconds without a record that are not reported: the last response is older than now
const SHOWN = 12; // times at which it was down

let shown = '';

// `now`: the server's clock, in ms.
export function showHour(history, now) {
  const key = JSON.stringify([history, Math.floor(now / 1000)]);
  if (key === shown) return;
  shown = key;
  const since = millis(history.since);
  for (const [state, path] of Object.entries(pathsOf(history))) byId(`hour-${state}`).setAttribute('d', path);
  setText(byId('hour-from'), minuteOf(since));
  setText(byId('hour-to'), minuteOf(now));
  setText(byId('hour-sums'), sumsOf(history, (now - since) / 1000));
  const downs = downsOf(history, since);
  const lines = downs.slice(0, SHOWN).map(downWords);
  if (downs.length > SHOWN) lines.push(`and ${count(downs.length - SHOWN, 'earlier time')}`);
  byId('hour-downs').replaceChildren(...lines.map(lineNode));
  setHidden(byId('hour-downs'), lines.length === 0);
}

// Each minute is divided by the share of each state: up first, then down, then off.
function pathsOf(history) {
  const paths = { up: '', down: '', off: '' };
  history.up.forEach((_, minute) => {
    let x = minute * WIDTH;
    const end = x + WIDTH;
    for (const state of ['up', 'down', 'off']) {
      const seconds = history[state][minute];
      if (seconds <= 0) continue;
      const width = Math.max(NARROWEST, (WIDTH * seconds) / MINUTE);
      const from = Math.min(x, end - width);
      paths[state] += `M${from.toFixed(2)} ${HEIGHT}v${-HEIGHTS[state]}h${width.toFixed(2)}v${HEIGHTS[state]}z`;
      x = from + width;
    }
  });
  return paths;
}

function sum(numbers) {
  return numbers.reduce((total, number) => total + number, 0);
}

function sumsOf(history, elapsed) {
  const [up, down, off] = [history.up, history.down, history.off].map(sum);
  const parts = [['up', up], ['down', down], ['off', off]].filter(([, seconds]) => seconds > 0);
  const words = parts.map(([state, seconds]) => `${state} ${duration(seconds)}`);
  const sentences = [words.join(', ') || 'nothing recorded yet'];
  if (up + down > 0) sentences.push(`${share(up, down)} % of the time that it should be up`);
  sentences.push(`${losses(sum(history.losses))}, ${count(sum(history.reconnects), 'reconnect')}`);
  const missing = elapsed - up - down - off;
  if (missing > TOLERATED) sentences.push(`no record of ${duration(missing)}`);
  return sentences.join(' · ');
}

// 100 only if it was never down.
function share(up, down) {
  return down === 0 ? '100' : (Math.floor((1000 * up) / (up + down)) / 10).toFixed(1);
}

function losses(number) {
  return number === 1 ? '1 loss' : `${number} losses`;
}

// The times at which it was down, newest first. Minutes that follow each other are one time.
function downsOf(history, since) {
  const downs = [];
  history.down.forEach((seconds, minute) => {
    if (seconds <= 0 && history.losses[minute] === 0) return;
    const last = downs.at(-1);
    if (last !== undefined && last.until === minute) {
      last.until += 1;
      last.seconds += seconds;
      last.losses += history.losses[minute];
    } else downs.push({ since, from: minute, until: minute + 1, seconds, losses: history.losses[minute] });
  });
  return downs.reverse();
}

function downWords({ since, from, until, seconds, losses: lost }) {
  const at = (minute) => minuteOf(since + minute * MINUTE * 1000);
  const time = until - from === 1 ? at(from) : `${at(from)} to ${at(until)}`;
  return `${time}: down ${duration(seconds)}${lost > 0 ? `, ${losses(lost)}` : ''}`;
}

function lineNode(words) {
  const node = document.createElement('li');
  node.textContent = printable(words);
  return node;
}
