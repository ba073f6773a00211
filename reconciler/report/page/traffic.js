// Shows the traffic of all tunnels together: the current rates and the last two minutes.

import { byId, setHidden, setText } from './dom.js';
import { rate } from './format.js';

const POINTS = 60;
const WIDTH = 120; // of the graph, in SVG units
const HEIGHT = 24;
const SCALE_MIN = 1024; // lower end of the scale: keepalive traffic must not fill the graph

const history = [];
let last = NaN;

// `clock` is monotonic, in ms. The first response has no rate, and one that follows too soon adds nothing.
export function showTraffic(sent, received, clock) {
  const elapsed = clock - last;
  if (elapsed < 900) return;
  last = clock;
  if (Number.isNaN(elapsed)) return;
  history.push([sent, received]);
  if (history.length > POINTS) history.shift();
  setText(byId('total-sent'), rate(sent));
  setText(byId('total-received'), rate(received));
  const top = Math.max(SCALE_MIN, ...history.flat());
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
