// The bytes of all tunnels together, now and over the last two minutes.

import { byId, setHidden, setText } from './dom.js';
import { rate } from './words.js';

const POINTS = 60;
const WIDTH = 120; // of the drawing, in its own units
const HEIGHT = 24;
const LEAST = 1024; // a few bytes of keepalive must not fill the drawing

const history = [];
let last = NaN;

// `clock` is monotonic, in ms. Nothing is known of the first answer's rates, nothing new of one that follows at once.
export function showTraffic(sent, received, clock) {
  const elapsed = clock - last;
  if (elapsed < 900) return;
  last = clock;
  if (Number.isNaN(elapsed)) return;
  history.push([sent, received]);
  if (history.length > POINTS) history.shift();
  setText(byId('total-sent'), rate(sent));
  setText(byId('total-received'), rate(received));
  const top = Math.max(LEAST, ...history.flat());
  draw(byId('spark-sent'), 0, top);
  draw(byId('spark-received'), 1, top);
  setHidden(byId('total'), false);
}

function draw(path, which, top) {
  const points = history.map((pair, index) => {
    const x = (WIDTH * index) / Math.max(1, history.length - 1);
    const y = HEIGHT - 1 - ((HEIGHT - 2) * pair[which]) / top;
    return `${x.toFixed(1)} ${y.toFixed(1)}`;
  });
  path.setAttribute('d', `M${points.join('L')}`);
}
