// The filter: the search field, "only problems" and the phases. It is kept in the address.

import { inAddress, replaceAddress } from './address.js';
import { arrange, byId, fromTemplate, setData, setHidden, setPhase, setPressed, setText } from './dom.js';
import { countProblems, isProblem } from './rows.js';
import { count, listening } from './format.js';

const PHASES = ['down', 'unhealthy', 'connecting', 'pending', 'draining', 'standby', 'off', 'up'];

export class Filter {
  #words = [];
  #problems = false;
  #phase = '';
  #chips = new Map();
  #changed;

  constructor(changed) {
    this.#changed = changed;
    this.#readUrl();
    byId('filter').addEventListener('input', () => this.#set({ text: byId('filter').value }));
    byId('problems').addEventListener('click', () => this.#set({ problems: !this.#problems }));
    addEventListener('hashchange', () => this.#readUrl());
    addEventListener('keydown', (event) => this.#key(event));
  }

  get active() {
    return this.#words.length > 0 || this.#problems || this.#phase !== '';
  }

  // Every word must occur in some field of the tunnel or in the host of its target.
  matches(tunnel, target) {
    if (this.#problems && !isProblem(tunnel)) return false;
    if (this.#phase !== '' && tunnel.phase !== this.#phase) return false;
    return this.#words.length === 0 || this.#hasAllWords(textOf(tunnel, target));
  }

  // Returns true if a target is shown although none of its tunnels matches.
  matchesTarget(target) {
    if (!this.active) return true;
    if (this.#phase !== '' || (this.#problems && !isProblem(target))) return false;
    return this.#hasAllWords(`${target.name} ${target.phase} ${target.host} ${target.reason}`.toLowerCase());
  }

  #hasAllWords(text) {
    return this.#words.every((word) => text.includes(word));
  }

  // One button for each phase, with its number of tunnels, and one for the problems.
  showPhases(targets, tunnels) {
    const counts = new Map();
    for (const tunnel of tunnels) counts.set(tunnel.phase, (counts.get(tunnel.phase) ?? 0) + 1);
    const shown = [...PHASES, ...[...counts.keys()].filter((phase) => !PHASES.includes(phase))].filter(
      (phase) => counts.has(phase) || phase === this.#phase,
    );
    const chips = shown.map((phase) => {
      const chip = this.#chip(phase);
      setText(chip.querySelector('.number'), String(counts.get(phase) ?? 0));
      setPressed(chip, phase === this.#phase);
      return chip;
    });
    arrange(byId('phases'), chips);
    const problems = countProblems(targets, tunnels);
    setText(byId('problem-count'), String(problems));
    setData(byId('problems'), 'some', problems > 0 ? 'yes' : '');
    setPressed(byId('problems'), this.#problems);
    setHidden(byId('bar'), false);
  }

  emptyWords(total) {
    if (!this.active) return 'The configuration has no targets.';
    if (this.#problems && this.#words.length === 0 && this.#phase === '') return `No problems: ${count(total, 'tunnel')}.`;
    return `No match among ${count(total, 'tunnel')}. Press Escape to clear the filter.`;
  }

  #chip(phase) {
    let chip = this.#chips.get(phase);
    if (chip === undefined) {
      chip = fromTemplate('chip-template');
      setPhase(chip.querySelector('.phase'), phase);
      chip.addEventListener('click', () => this.#set({ phase: this.#phase === phase ? '' : phase }));
      this.#chips.set(phase, chip);
    }
    return chip;
  }

  #set({ text = byId('filter').value, problems = this.#problems, phase = this.#phase }) {
    this.#words = text.toLowerCase().split(/\s+/).filter(Boolean);
    this.#problems = problems;
    this.#phase = phase;
    replaceAddress({ q: text.trim(), problems: problems ? '1' : '', phase });
    this.#changed();
  }

  #key(event) {
    if (event.defaultPrevented || inAddress('tunnel') !== '') return; // the filter is hidden while a tunnel is shown
    const typing = event.target instanceof HTMLInputElement;
    if (event.key === '/' && !typing && !event.ctrlKey && !event.metaKey && !event.altKey) {
      event.preventDefault();
      byId('filter').focus();
      byId('filter').select();
    } else if (event.key === 'Escape' && this.active) {
      byId('filter').value = '';
      this.#set({ text: '', problems: false, phase: '' });
    }
  }

  #readUrl() {
    byId('filter').value = inAddress('q');
    this.#set({ text: inAddress('q'), problems: inAddress('problems') === '1', phase: inAddress('phase') });
  }
}

function textOf(tunnel, target) {
  const labels = Object.entries(tunnel.labels ?? {}).flatMap(([name, value]) => [`${name}=${value}`]);
  const parts = [tunnel.id, tunnel.type, tunnel.phase, tunnel.reason, tunnel.message, listening(tunnel), tunnel.dial, tunnel.description];
  return [...parts, ...labels, target?.host].filter(Boolean).join('\n').toLowerCase();
}
