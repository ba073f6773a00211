// Writes only changed values to the document, so that a poll of a thousand unchanged tunnels writes nothing.
//
// Names, addresses and messages come from files and from servers: they are written as text only. The page never sets
// innerHTML; the structure is in the templates of index.html.

// The last value written to each node. Reading it back from the document could cause a layout.
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

// Invisible characters could hide text or reverse its order. The same set as in core/text/printable.py.
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

// A link within this page: `hash` begins with #.
export function setLink(node, hash) {
  if (differs(node, 'link', hash)) node.setAttribute('href', hash);
}

// A data attribute, for the style sheet. '' removes it.
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

// A phase is a shape, a colour and a word. The style sheet has the shape and the colour.
export function setPhase(node, phase, word = phase) {
  setData(node, 'phase', phase);
  setText(node.querySelector('.word'), word);
}

// Sets the children of a node, in this order, without moving those that are in place.
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
