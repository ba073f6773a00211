// The arrow keys move the focus from tunnel to tunnel, Home and End to the first and last one. Tab works as everywhere.

import { byId } from './dom.js';

export function followKeys(event) {
  if (event.defaultPrevented || event.ctrlKey || event.metaKey || event.altKey || event.shiftKey) return;
  const links = [...byId('targets').querySelectorAll('a.name')];
  const at = links.indexOf(event.target);
  const next = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: links.length - 1 }[event.key];
  const isBefore = event.key === 'ArrowDown' && ['filter', 'targets'].includes(event.target.id);
  if (next === undefined || (at < 0 && !isBefore) || links[next] === undefined) return;
  event.preventDefault();
  links[next].focus();
}
