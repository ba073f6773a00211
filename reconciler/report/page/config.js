// Shows the configuration: the applied revision, whether the tunnels match it, and the errors of each file.

import { byId, printable, setData, setText, setTitle } from './dom.js';
import { clock, millis, span } from './format.js';

let shown = '';

export function showConfig(config, now, ending) {
  const revision = config.revision ?? '';
  setText(byId('revision'), revision.replace(/^sha256:/, '').slice(0, 12) || '–');
  setTitle(byId('revision'), revision);
  const loaded = millis(config.loadedAt);
  setText(byId('loaded'), Number.isNaN(loaded) ? '–' : `${clock(loaded)}, ${span(now - loaded)} ago`);
  setText(byId('converged'), ending ? 'ending' : config.converged ? 'converged' : 'converging…');
  setData(byId('converged'), 'state', config.converged && !ending ? 'good' : 'busy');
  const files = config.files ?? [];
  const key = JSON.stringify(files);
  if (key === shown) return;
  shown = key;
  byId('files').replaceChildren(...files.map(fileNode));
}

export function isInvalid(config) {
  return (config?.files ?? []).some((file) => !file.valid);
}

function fileNode(file) {
  const node = document.createElement('li');
  node.dataset.valid = file.valid ? 'yes' : 'no';
  node.append(element('code', file.path ?? ''), ' ', element('span', file.valid ? 'valid' : 'invalid'));
  if (!file.valid) {
    const error = element('pre', file.error ?? '');
    error.tabIndex = 0; // it can be scrolled with the keyboard
    error.setAttribute('role', 'region');
    error.setAttribute('aria-label', `Errors in ${file.path}`);
    node.append(error, element('p', 'Its last valid content stays in use.'));
  }
  return node;
}

function element(name, text) {
  const node = document.createElement(name);
  node.textContent = printable(text);
  return node;
}
