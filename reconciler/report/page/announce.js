// For those who listen: what changed, in a few words, no more often than every few seconds.

import { byId, printable } from './dom.js';
import { isProblem } from './rows.js';
import { count } from './words.js';

const EVERY_MS = 3000;
const FIRST_MS = 300; // what changes together is told together
const NAMED = 3; // more at once are counted

let phases = new Map();
let problems = 0;
let waiting = [];
let timer = 0;

export function announce(sentence) {
  waiting.push(sentence);
  if (timer === 0) timer = setTimeout(speak, FIRST_MS);
}

// A target's change implies its tunnels': those are told only while the target stays what it is.
export function announceChanges(targets, tunnels) {
  const things = [
    ...targets.map((target) => [`target ${target.name}`, target, '']),
    ...tunnels.map((tunnel) => [`tunnel ${tunnel.id}`, tunnel, `target ${tunnel.target}`]),
  ];
  const changed = things.filter(([name, thing]) => phases.has(name) && phases.get(name) !== thing.phase);
  const moved = new Set(changed.map(([name]) => name));
  for (const [name, thing, parent] of changed) if (!moved.has(parent)) announce(`${name} is ${thing.phase}`);
  problems = tunnels.filter(isProblem).length;
  phases = new Map(things.map(([name, thing]) => [name, thing.phase]));
}

function speak() {
  const told = waiting.slice(0, NAMED);
  if (waiting.length > NAMED) told.push(`and ${count(waiting.length - NAMED, 'other change')}`);
  told.push(problems > 0 ? `${count(problems, 'tunnel')} with problems` : 'no problems');
  byId('announce').textContent = printable(told.join('. '));
  waiting = [];
  timer = setTimeout(() => {
    timer = 0;
    if (waiting.length > 0) speak();
  }, EVERY_MS);
}
