// One start, many noises: the ways on and back from a point, in every panel. A kernel computes
// them; without one, the particles that pass nearest stand for them, and the label says so.

const FUTURES = 24;
const ON = "#0072B2";
const BACK = "#D55E00";

// x, y: in quanta of the frames, like a particle's.
function startFan(view, x, y) {
  const step = Math.round(view.position);
  const panels = Array.from({ length: view.count }, (_, panel) => panel);
  return { x, y, step, near: panels.map((panel) => nearestOnes(view, panel, x, y, step)), exact: [] };
}

function nearestOnes(view, panel, x, y, step) {
  const { frames, run, points, count } = view;
  const a = run.offset + 2 * points * (step * count + panel);
  const far = [];
  for (let i = 0; i < points; i++) {
    const at = a + 2 * i;
    if (frames[at] !== MISSING) far.push([Math.hypot(frames[at] - x, frames[at + 1] - y), i]);
  }
  far.sort((one, other) => one[0] - other[0]);
  return far.slice(0, FUTURES).map(([, i]) => i);
}

// The quanta that lie under a point of the canvas.
function quantaAt(view, panel, x, y) {
  const { side } = view.layout;
  const scale = (side / 2) * view.reach;
  return [
    (x - panelLeft(view, panel) - side / 2) / scale,
    -(y - panelTop(view, panel) - side / 2) / scale,
  ];
}

function inUnits(view, [x, y]) {
  const [cx, cy, half] = view.window;
  return [cx + x * view.reach * half, cy + y * view.reach * half];
}

// Where the ways are at a step, [x, y] in quanta each; those that are not finite are left out.
function waysAt(view, panel, step) {
  const { fan, frames, run, points, count } = view;
  const exact = fan.exact[panel];
  const many = exact ? exact.length / (2 * run.frames) : fan.near[panel].length;
  const found = [];
  for (let k = 0; k < many; k++) {
    const at = exact
      ? 2 * (step * many + k)
      : run.offset + 2 * (points * (step * count + panel) + fan.near[panel][k]);
    const from = exact || frames;
    if (from[at] !== MISSING) found.push([k, from[at], from[at + 1]]);
  }
  return found;
}

// How wide the ways are apart: the root of their mean square distance to their mean, in the data's
// units.
function spread(view, panel, step) {
  const places = waysAt(view, panel, step).map(([, ...at]) => inUnits(view, at));
  const mean = [0, 1].map((c) => places.reduce((sum, at) => sum + at[c], 0) / places.length);
  const squares = places.map(([x, y]) => (x - mean[0]) ** 2 + (y - mean[1]) ** 2);
  return Math.sqrt(squares.reduce((sum, each) => sum + each, 0) / places.length);
}

function drawFan(view, panel) {
  const { brush, fan, run, layout, position, ink, paper } = view;
  const { side, scale } = layout;
  const unit = (side / 2) * view.reach;
  const [left, top] = [panelLeft(view, panel), panelTop(view, panel)];
  const spotOf = (x, y) => [left + side / 2 + unit * x, top + side / 2 - unit * y];
  const last = run.frames - 1;
  const shade = (color) => (view.dark ? paler(color) : color);
  for (const [end, color] of [[last, shade(ON)], [0, shade(BACK)]]) {
    const lines = new Path2D();
    const before = new Map(); // where each way was a step ago
    const way = Math.sign(end - fan.step);
    for (let step = fan.step; way && step !== end + way; step += way) {
      for (const [k, x, y] of waysAt(view, panel, step)) {
        const to = spotOf(x, y);
        if (before.has(k)) {
          lines.moveTo(...before.get(k));
          lines.lineTo(...to);
        }
        before.set(k, to);
        if (step === end) circle(brush, to, 2.2 * scale, color);
      }
    }
    brush.globalAlpha = 0.45;
    brush.strokeStyle = color;
    brush.lineWidth = 1.1 * scale;
    brush.stroke(lines);
    brush.globalAlpha = 1;
  }
  const low = Math.floor(position);
  const next = new Map(
    waysAt(view, panel, Math.min(low + 1, last)).map(([k, x, y]) => [k, [x, y]]),
  );
  const color = shade(position >= fan.step ? ON : BACK);
  for (const [k, x, y] of waysAt(view, panel, low)) {
    const [toX, toY] = next.get(k) || [x, y];
    const share = position - low;
    const now = spotOf(x + share * (toX - x), y + share * (toY - y));
    circle(brush, now, 4.5 * scale, color, paper, 1.5 * scale);
  }
  circle(brush, spotOf(fan.x, fan.y), 6 * scale, paper, ink, 2.5 * scale);
  const many = waysAt(view, panel, fan.step).length;
  if (!fan.exact[panel]) return { text: `the ${many} particles nearest to it` };
  return { text: many === 1 ? "one future: no noise" : `${many} futures of one start` };
}

function fanInWords(view) {
  const { fan, run, titles } = view;
  const [x, y] = inUnits(view, [fan.x, fan.y]).map(signed);
  const wide = titles.map((name, panel) => {
    const [data, noise] = [0, run.frames - 1].map((step) => {
      const apart = spread(view, panel, step);
      return Number.isNaN(apart) ? "not finite" : apart.toFixed(2);
    });
    const whose = fan.exact[panel] ? "" : " (of the nearest particles)";
    return `${name ? `${name} ` : ""}${data} at the data, ${noise} at the noise${whose}`;
  });
  return `From (${x}, ${y}) at step ${fan.step} the ways spread: ${wide.join(" · ")}`;
}
