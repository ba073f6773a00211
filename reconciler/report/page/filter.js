// What is shown: the filter box, "only problems", and the phases. It is kept in the address, so that a view can be sent
// to a colleague or linked from an alert: #q=prod&problems=1.

import { arrange, byId, fromTemplate, setData, setHidden, setPhase, setPressed, setText } from './dom.js';
import { isProblem } from './rows.js';
import { listening } from './words.js';

const PHASES = ['down', 'unhealthy', 'connecting', 'pending', 'draining', 'standby', 'off', 'up'];

export class Filter {
  #words = [];
  #problems = false;
  #phase = '';
  #chips = new Map();
  #changed;

  constructor(changed) {
    this.#changed = changed;
    this.#fromAddress();
    byId('filter').addEventListener('input', () => this.#set({ text: byId('filter').value }));
    byId('problems').addEventListener('click', () => this.#set({ problems: !this.#problems }));
    addEventListener('hashchange', () => this.#fromAddress());
    addEventListener('keydown', (event) => this.#key(event));
  }

  get active() {
    return this.#words.length > 0 || this.#problems || this.#phase !== '';
  }

  // Every word has to occur somewhere in what is known of the tunnel, its target's host included.
  wants(tunnel, target) {
    if (this.#problems && !isProblem(tunnel)) return false;
    if (this.#phase !== '' && tunnel.phase !== this.#phase) return false;
    return this.#words.length === 0 || this.#found(textOf(tunnel, target));
  }

  // A target is shown with those of its tunnels that are; by itself only if it is what was asked for.
  wantsAlone(target) {
    if (!this.active) return true;
    if (this.#phase !== '' || (this.#problems && !isProblem(target))) return false;
    return this.#found(`${target.name} ${target.phase} ${target.host} ${target.reason}`.toLowerCase());
  }

  #found(text) {
    return this.#words.every((word) => text.includes(word));
  }

  // How many there are of each phase; each count is a button.
  showPhases(tunnels) {
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
    const problems = tunnels.filter(isProblem).length;
    setText(byId('problem-count'), String(problems));
    setData(byId('problems'), 'some', problems > 0 ? 'yes' : '');
    setPressed(byId('problems'), this.#problems);
    setHidden(byId('bar'), false);
  }

  emptyWords(total) {
    if (!this.active) return 'Nothing is asked for: the configuration names no target.';
    if (this.#problems && this.#words.length === 0 && this.#phase === '') return `No problems among ${total} tunnels.`;
    return `None of ${total} tunnels matches. Escape clears the filter.`;
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
    this.#toAddress(text.trim());
    this.#changed();
  }

  #key(event) {
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

  #fromAddress() {
    const wanted = new URLSearchParams(location.hash.slice(1));
    byId('filter').value = wanted.get('q') ?? '';
    this.#set({ text: wanted.get('q') ?? '', problems: wanted.get('problems') === '1', phase: wanted.get('phase') ?? '' });
  }

  #toAddress(text) {
    const wanted = new URLSearchParams();
    if (text) wanted.set('q', text);
    if (this.#problems) wanted.set('problems', '1');
    if (this.#phase) wanted.set('phase', this.#phase);
    const hash = wanted.toString();
    if (hash !== location.hash.slice(1)) history.replaceState(null, '', hash ? `#${hash}` : location.pathname + location.search);
  }
}

function textOf(tunnel, target) {
  const labels = Object.entries(tunnel.labels ?? {}).flatMap(([name, value]) => [`${name}=${value}`]);
  const parts = [tunnel.id, tunnel.type, tunnel.phase, tunnel.reason, tunnel.message, listening(tunnel), tunnel.dial, tunnel.description];
  return [...parts, ...labels, target?.host].filter(Boolean).join('\n').toLowerCase();
}
