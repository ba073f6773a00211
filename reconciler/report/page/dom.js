// Writing to the page only what differs, so that a poll of a thousand unchanged tunnels touches nothing.
//
// Names, addresses and messages come from files and from servers: they go in as text and as nothing else. No part of
// this page sets innerHTML; what is needed of structure is in the templates of index.html.

// Reading the document back could cost a layout, so each node's last value is kept beside it.
const written = new WeakMap();

function differs(node, key, value) {
  let last = written.get(node);
  if (last === undefined) {
    last = new Map();
    written.set(node, last);
  }
  if (last.get(key) === value) return false;
  last.set(key, value);
  return true;
}

// What cannot be seen could hide in a text, or reverse the order in which it is shown. The same as core/printable.py.
const HIDDEN = /[\p{C}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\u2800]|(?! )\p{Zs}/gu;

export function printable(text) {
  return String(text).replace(HIDDEN, (character) => {
    const code = character.codePointAt(0).toString(16);
    return character === '\n' ? character : code.length > 4 ? `\\U${code.padStart(8, '0')}` : `\\u${code.padStart(4, '0')}`;
  });
}

export function setText(node, value) {
  if (differs(node, 'text', value)) node.textContent = printable(value);
}

export function setHidden(node, value) {
  if (differs(node, 'hidden', value)) node.hidden = value;
}

export function setTitle(node, value) {
  if (differs(node, 'title', value)) node.title = printable(value);
}

// A data attribute, for the style sheet; '' takes it away.
export function setData(node, key, value) {
  if (!differs(node, `data-${key}`, value)) return;
  if (value === '') delete node.dataset[key];
  else node.dataset[key] = value;
}

export function setPressed(node, value) {
  if (differs(node, 'pressed', value)) node.setAttribute('aria-pressed', String(value));
}

export function byId(id) {
  return document.getElementById(id);
}

export function fromTemplate(id) {
  return byId(id).content.firstElementChild.cloneNode(true);
}

// A phase is a shape, a colour and a word; the first two are the style sheet's.
export function setPhase(node, phase, word = phase) {
  setData(node, 'phase', phase);
  setText(node.querySelector('.word'), word);
}

// Exactly these children in this order, moving none that stands where it should.
export function arrange(parent, nodes) {
  let at = parent.firstElementChild;
  for (const node of nodes) {
    if (node === at) at = at.nextElementSibling;
    else parent.insertBefore(node, at);
  }
  while (at !== null) {
    const next = at.nextElementSibling;
    at.remove();
    at = next;
  }
}
