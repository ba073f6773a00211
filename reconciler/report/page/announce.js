// Announces changes to screen readers, briefly and at most every few seconds.

import { byId, printable } from './dom.js';
import { isProblem } from './rows.js';
import { count } from './format.js';

const EVERY_MS = 3000;
const FIRST_MS = 300; // changes within this time are announced together
const NAMED = 3; // further changes are only counted

let phases = new Map();
let problems = 'no problems';
let waiting = [];
let timer = 0;

export function announce(sentence) {
  waiting.push(sentence);
  if (timer === 0) timer = setTimeout(flush, FIRST_MS);
}

// A change of a target implies changes of its tunnels: announce a tunnel only if its target did not change.
export function announceChanges(targets, tunnels) {
  const things = [
    ...targets.map((target) => [`target ${target.name}`, target, '']),
    ...tunnels.map((tunnel) => [`tunnel ${tunnel.id}`, tunnel, `target ${tunnel.target}`]),
  ];
  const changed = things.filter(([name, thing]) => phases.has(name) && phases.get(name) !== thing.phase);
  const changedNames = new Set(changed.map(([name]) => name));
  for (const [name, thing, parent] of changed) if (!changedNames.has(parent)) announce(`${name} is ${thing.phase}`);
  problems = problemWords(targets.filter(isProblem).length, tunnels.filter(isProblem).length);
  phases = new Map(things.map(([name, thing]) => [name, thing.phase]));
}

function problemWords(targets, tunnels) {
  if (tunnels > 0) return `${count(tunnels, 'tunnel')} with problems`;
  return targets > 0 ? `${count(targets, 'target')} with problems` : 'no problems';
}

function flush() {
  const sentences = waiting.slice(0, NAMED);
  if (waiting.length > NAMED) sentences.push(`and ${count(waiting.length - NAMED, 'other change')}`);
  sentences.push(problems);
  byId('announce').textContent = printable(sentences.join('. '));
  waiting = [];
  timer = setTimeout(() => {
    timer = 0;
    if (waiting.length > 0) flush();
  }, EVERY_MS);
}
