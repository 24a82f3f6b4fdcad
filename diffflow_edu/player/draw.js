// Paints one panel after another. `view` holds what is shown: the run, the layout, the selection.

const MISSING = -32768;
const BRIEF = 330; // in narrower panels, in usual pixels, lines of metrics say less
const TRAIL_STEPS = 10;
const LIFT = 0.35;
const TRAILS = 150; // more of them hide what they should show, and cost time

// A layer of pixels for one panel's particles, and one dot as pixel offsets with their coverage.
// Written by hand into memory: drawing 6000 circles or stamps through the canvas takes 20 ms. Only
// the lines from … to hold particles; the others need not be moved.
function particleLayer(side, size) {
  const sheet = document.createElement("canvas");
  sheet.width = sheet.height = side;
  const image = new ImageData(side, side);
  const dot = [];
  const middle = (size - 1) / 2;
  for (let y = 0; y < size; y++) {
    for (let x = 0; x < size; x++) {
      const inside = size / 2 - Math.hypot(x - middle, y - middle); // a soft edge of one pixel
      const cover = Math.min(Math.max(inside, 0), 1);
      if (cover > 0) dot.push({ offset: y * side + x, cover });
    }
  }
  const pixels = new Uint32Array(image.data.buffer);
  return { sheet, brush: sheet.getContext("2d"), image, pixels, dot, side, from: 0, to: side };
}

function channels(color) {
  return [1, 3, 5].map((at) => parseInt(color.slice(at, at + 2), 16));
}

// A colour for dots on a dark page: paler, so that the darkest of them are seen, too.
function paler(color) {
  const mixed = channels(color).map((each) => Math.round(each + LIFT * (255 - each)));
  return `#${mixed.map((each) => each.toString(16).padStart(2, "0")).join("")}`;
}

// As a little-endian machine reads RGBA.
function packed(color) {
  const [r, g, b] = channels(color);
  return (b << 16) | (g << 8) | r;
}

// Type of so many pixels in a panel of the usual size.
function type(view, pixels, weight = "") {
  view.brush.font = `${weight} ${pixels * view.layout.scale}px ${view.look.fontFamily}`;
}

// Where particle i is at a position in steps, in pixels of the page; null where it is not finite.
function spot(view, panel, i, position) {
  const { frames, run, points, count, layout } = view;
  const low = Math.floor(position);
  const share = position - low;
  const a = run.offset + 2 * (points * (low * count + panel) + i);
  if (frames[a] === MISSING) return null;
  let x = frames[a];
  let y = frames[a + 1];
  if (share > 0) {
    const b = a + 2 * points * count;
    if (frames[b] === MISSING) return null;
    x += share * (frames[b] - x);
    y += share * (frames[b + 1] - y);
  }
  const scale = (layout.side / 2) * view.reach;
  return [
    panelLeft(view, panel) + layout.side / 2 + scale * x,
    panelTop(view, panel) + layout.side / 2 - scale * y,
  ];
}

// The particle's coordinates in the data's own units.
function coordinates(view, panel, i) {
  const at = spot(view, panel, i, view.position);
  if (!at) return null;
  const [x, y, half] = view.window;
  const { side } = view.layout;
  const unit = half / (side / 2);
  return [
    x + (at[0] - panelLeft(view, panel) - side / 2) * unit,
    y - (at[1] - panelTop(view, panel) - side / 2) * unit,
  ];
}

function signed(value) {
  return value.toFixed(2).replace("-", "−");
}

function colorOf(view, panel, i) {
  return view.palette[view.colors[view.colorStart + panel * view.points + i]];
}

function stamp(view, panel, only, opacity) {
  const { frames, run, points, count, colors, layout } = view;
  const { layer, size } = layout;
  const { pixels, dot, side } = layer;
  const offsets = Int32Array.from(dot, (each) => each.offset);
  const covers = Uint8Array.from(dot, (each) => Math.round(255 * opacity * each.cover));
  const low = Math.floor(view.position);
  const share = view.position - low;
  const a = run.offset + 2 * points * (low * count + panel);
  const b = run.offset + 2 * points * (Math.min(low + 1, run.frames - 1) * count + panel);
  const scale = (side / 2) * view.reach;
  const origin = side / 2 - size / 2;
  const color = view.colorStart + panel * points;
  for (let i = 0; i < points; i++) {
    if (only !== null && view.chosen[i] !== only) continue;
    const ax = frames[a + 2 * i];
    const bx = frames[b + 2 * i];
    if (ax === MISSING || (share > 0 && bx === MISSING)) continue;
    const ay = frames[a + 2 * i + 1];
    const by = frames[b + 2 * i + 1];
    const x = Math.round(origin + scale * (ax + share * (bx - ax)));
    const y = Math.round(origin - scale * (ay + share * (by - ay)));
    if (x < 0 || y < 0 || x + size > side || y + size > side) continue; // over the panel's edge
    const rgb = view.shades[colors[color + i]];
    if (y < layer.from) layer.from = y;
    if (y + size > layer.to) layer.to = y + size;
    const start = y * side + x;
    for (let k = 0; k < offsets.length; k++) {
      const at = start + offsets[k];
      if (covers[k] >= pixels[at] >>> 24) pixels[at] = (covers[k] << 24) | rgb;
    }
  }
}

function drawParticles(view, panel) {
  const { brush } = view;
  const { layer, ratio } = view.layout;
  const { side } = layer;
  layer.pixels.fill(0, layer.from * side, layer.to * side);
  [layer.from, layer.to] = [side, 0];
  if (view.fan) {
    stamp(view, panel, null, 0.13);
  } else if (view.chosen) {
    stamp(view, panel, 0, 0.13); // the others stay as a shadow
    stamp(view, panel, 1, 0.95);
  } else {
    stamp(view, panel, null, view.follow >= 0 ? 0.4 : 0.85);
  }
  const { from, to } = layer;
  if (from >= to) return;
  layer.brush.putImageData(layer.image, 0, 0, 0, from, side, to - from);
  brush.setTransform(1, 0, 0, 1, 0, 0); // pixel on pixel: between them the dots would blur
  const left = Math.round(panelLeft(view, panel) * ratio);
  const top = Math.round(panelTop(view, panel) * ratio);
  brush.drawImage(layer.sheet, 0, from, side, to - from, left, top + from, side, to - from);
  brush.setTransform(ratio, 0, 0, ratio, 0, 0);
}

// The particles that get a trail: an even choice among those followed, or among all.
function trailed(view) {
  const all = [];
  for (let i = 0; i < view.points; i++) if (!view.chosen || view.chosen[i]) all.push(i);
  if (all.length <= TRAILS) return all;
  return Array.from({ length: TRAILS }, (_, k) => all[Math.floor((k * all.length) / TRAILS)]);
}

// The last steps of the way, as play runs: behind the particle.
function drawTrails(view, panel) {
  const { brush, position, forward, run } = view;
  const behind = forward
    ? Math.max(position - TRAIL_STEPS, 0)
    : Math.min(position + TRAIL_STEPS, run.frames - 1);
  const steps = [position];
  const way = forward ? -1 : 1;
  let next = forward ? Math.ceil(position) - 1 : Math.floor(position) + 1;
  for (; forward ? next >= behind : next <= behind; next += way) steps.push(next);
  const lines = new Map(); // one path per colour: a stroke each for 150 lines would be slower
  for (const i of view.trailed) {
    const color = colorOf(view, panel, i);
    if (!lines.has(color)) lines.set(color, new Path2D());
    polyline(view, lines.get(color), panel, i, steps);
  }
  brush.globalAlpha = 0.55;
  brush.lineWidth = 1.2 * view.layout.scale;
  for (const [color, line] of lines) {
    brush.strokeStyle = color;
    brush.stroke(line);
  }
  brush.globalAlpha = 1;
}

function polyline(view, line, panel, i, steps) {
  let drawing = false;
  for (const step of steps) {
    const at = spot(view, panel, i, step);
    if (!at) drawing = false;
    else if (drawing) line.lineTo(at[0], at[1]);
    else {
      line.moveTo(at[0], at[1]);
      drawing = true;
    }
  }
}

function circle(brush, [x, y], radius, fill, stroke, width) {
  brush.beginPath();
  brush.arc(x, y, radius, 0, 2 * Math.PI);
  if (fill) {
    brush.fillStyle = fill;
    brush.fill();
  }
  if (stroke) {
    brush.strokeStyle = stroke;
    brush.lineWidth = width;
    brush.stroke();
  }
}

// The whole way of the followed particle: hollow at the data, filled at the noise, a dot a step.
function drawPath(view, panel) {
  const { brush, follow, run, ink, paper } = view;
  const { scale } = view.layout;
  const last = run.frames - 1;
  const steps = Array.from({ length: run.frames }, (_, step) => step);
  const line = new Path2D();
  polyline(view, line, panel, follow, steps);
  brush.lineJoin = "round";
  brush.strokeStyle = paper;
  brush.lineWidth = 4.5 * scale;
  brush.stroke(line);
  brush.strokeStyle = ink;
  brush.lineWidth = 1.6 * scale;
  brush.stroke(line);
  for (const step of steps) {
    const at = spot(view, panel, follow, step);
    if (!at) continue;
    circle(brush, at, (step === last ? 5 : 2.2) * scale, ink);
  }
  const start = spot(view, panel, follow, 0);
  if (start) circle(brush, start, 5 * scale, paper, ink, 2 * scale);
  const now = spot(view, panel, follow, view.position);
  if (now) circle(brush, now, 7.5 * scale, colorOf(view, panel, follow), paper, 3 * scale);
  if (now) circle(brush, now, 9 * scale, null, ink, 1.6 * scale);
}

// Words on a plate, so that they can be read over particles; an arrow of so many pixels before them.
function plate(view, text, x, y, align, arrow = 0) {
  const { brush, ink, paper } = view;
  const { scale, side } = view.layout;
  type(view, 14);
  const before = 4 * scale + (arrow ? arrow + 6 * scale : 0);
  const width = Math.min(before + brush.measureText(text).width + 4 * scale, side - 10);
  const left = align === "right" ? x - width : x;
  brush.globalAlpha = 0.82;
  brush.fillStyle = paper;
  brush.fillRect(left, y - 15 * scale, width, 20 * scale);
  brush.globalAlpha = 1;
  brush.fillStyle = ink;
  brush.textAlign = "left";
  brush.fillText(text, left + before, y, width - before - 4 * scale);
  if (!arrow) return;
  const line = new Path2D();
  arrowTo(line, left + 4 * scale, y - 5 * scale, arrow, 0, scale);
  strokeArrows(view, line);
}

function drawBox(view, panel) {
  const { brush, box, ink } = view;
  if (!box || box.panel !== panel) return;
  const { scale } = view.layout;
  brush.setLineDash([5 * scale, 4 * scale]);
  brush.strokeStyle = ink;
  brush.lineWidth = 1.4 * scale;
  brush.strokeRect(box.x, box.y, box.width, box.height);
  brush.setLineDash([]);
}

// The grid's actual times below each panel: steps that are uneven in time are seen to be.
function drawAxis(view, panel) {
  const { brush, layout, run, ink } = view;
  const { scale, side } = layout;
  const times = run.times[panel];
  const left = panelLeft(view, panel) + 6 * scale;
  const width = side - 12 * scale;
  const y = panelTop(view, panel) + side + 12 * scale;
  const span = times[times.length - 1] - times[0] || 1;
  const at = (t) => left + (width * (t - times[0])) / span;
  brush.strokeStyle = ink;
  brush.globalAlpha = 0.75;
  brush.lineWidth = scale;
  brush.beginPath();
  brush.moveTo(left, y);
  brush.lineTo(left + width, y);
  for (const t of times) {
    brush.moveTo(at(t), y - 4 * scale);
    brush.lineTo(at(t), y + 4 * scale);
  }
  brush.stroke();
  brush.globalAlpha = 1;
  brush.fillStyle = ink;
  type(view, 13);
  brush.textAlign = "left";
  brush.fillText(`t = ${times[0].toFixed(view.digits)}`, left - 5 * scale, y + 19 * scale);
  brush.textAlign = "right";
  const end = times[times.length - 1].toFixed(view.digits);
  brush.fillText(end, left + width + 5 * scale, y + 19 * scale);
  circle(brush, [at(timeOf(view, panel)), y], 5.5 * scale, "#0072B2", view.paper, 1.5 * scale);
}

function percent(value) {
  return `${(100 * value).toFixed(value < 0.1 ? 1 : 0)} %`;
}

// What was measured at the step that is nearest: how far from data, how far from noise, the leak.
function metricLines(view, panel, brief = false) {
  const metrics = view.run.metrics[panel];
  if (!metrics) return [];
  const step = Math.round(view.position);
  const value = (name) => metrics[name][step];
  const number = (x) => (x === null ? "–" : x.toFixed(3));
  if (brief) {
    return [
      `W2 to data ${number(value("W2 to data"))}`,
      `to N(0, I) ${number(value("W2 to N(0, I)"))} · leak ${percent(value("leak"))}`,
    ];
  }
  return [
    `sliced W2 to data ${number(value("W2 to data"))} (data to data ${number(metrics.floor)})`,
    `to N(0, I) ${number(value("W2 to N(0, I)"))} · leak ${percent(value("leak"))}`,
  ];
}

function drawMetrics(view, panel) {
  const { brush } = view;
  const { scale, side, lines, below } = view.layout;
  const told = metricLines(view, panel, side < BRIEF * scale);
  if (lines === 1) told.splice(0, 2, told.join(" · "));
  brush.fillStyle = view.ink;
  type(view, 14);
  brush.textAlign = "left";
  const y = panelTop(view, panel) + side + scale * (below - lines * LINE_HEIGHT + 14);
  told.forEach((line, i) => {
    brush.fillText(line, panelLeft(view, panel) + 1, y + i * scale * LINE_HEIGHT, side - 2);
  });
}

function timeOf(view, panel) {
  const low = Math.floor(view.position);
  const times = view.run.times[panel];
  const high = Math.min(low + 1, times.length - 1);
  return times[low] + (view.position - low) * (times[high] - times[low]);
}

function drawPanel(view, panel) {
  const { brush, ink } = view;
  const { side, scale } = view.layout;
  const [left, top] = [panelLeft(view, panel), panelTop(view, panel)];
  brush.fillStyle = ink;
  brush.textBaseline = "alphabetic";
  type(view, 16, "500");
  brush.textAlign = "left";
  brush.fillText(view.titles[panel], left + 1, top - 9 * scale, side);
  const notes = [];
  if (!view.sharedTimes) notes.push(`t = ${timeOf(view, panel).toFixed(view.digits)}`);
  if (view.run.missing[panel]) notes.push(`${view.run.missing[panel]} not finite`);
  type(view, 14);
  brush.textAlign = "right";
  const above = view.layout.top === 1 ? 17 : -9; // without a title the notes stand in the panel
  brush.fillText(notes.join(" · "), left + side - 1, top + above * scale, side);
  brush.strokeStyle = view.frameColor;
  brush.lineWidth = 1;
  brush.strokeRect(left + 0.5, top + 0.5, side - 1, side - 1);
  brush.save();
  brush.beginPath();
  brush.rect(left + 1, top + 1, side - 2, side - 2);
  brush.clip();
  if (view.images) drawImages(view, panel);
  else drawPlane(view, panel);
  brush.restore();
  drawAxis(view, panel);
  if (view.curves) drawCurves(view, panel);
  drawMetrics(view, panel);
}

// Points in the plane, with all that is switched on behind and before them.
function drawPlane(view, panel) {
  const { side, scale } = view.layout;
  const [left, top] = [panelLeft(view, panel), panelTop(view, panel)];
  const labels = [];
  if (view.underlay) labels.push(drawDensity(view, panel));
  if (view.warped) labels.push(drawLattice(view, panel));
  if (view.trails) drawTrails(view, panel);
  drawParticles(view, panel);
  if (view.fan) labels.push(drawFan(view, panel));
  if (view.follow >= 0) {
    drawPath(view, panel);
    plate(view, place(view, panel), left + 5, top + side - 9 * scale);
  }
  if (view.kind >= 0) labels.push(drawArrows(view, panel));
  labels.forEach(({ text, arrow }, i) => {
    plate(view, text, left + side - 5, top + scale * (19 + 21 * i), "right", arrow);
  });
  drawBox(view, panel);
}
