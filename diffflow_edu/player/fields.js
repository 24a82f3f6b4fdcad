// Arrows of fields, the density underlay and the warped grid.

const FINEST = 128; // squares along a side
const COARSEST = 8;
const NEIGHBOURS = 6;
// A fog behind the dots in either theme: none of the particles' colours, and weaker than all.
const FOG = { light: { color: [96, 112, 128], opacity: 0.5 }, dark: { color: [190, 205, 220], opacity: 0.3 } };
const LONGEST = 1.5; // an arrow's length at most, where 1 is the length of the label's

const pyramid = [];
for (let side = FINEST; side >= COARSEST; side /= 2) {
  pyramid.push({ side, counts: new Float32Array(side * side), mass: new Float32Array(side * side) });
}
const blurred = new Float32Array(FINEST * FINEST);

// One rule for the bandwidth at every time: each particle is spread over squares as large as hold
// its nearest few. A thin set stays thin, and a cloud is smooth. Between two sizes of squares the
// particle is shared, so that nothing jumps while it moves.
function kernelEstimate(view, panel) {
  const { frames, run, points, count } = view;
  const low = Math.floor(view.position);
  const share = view.position - low;
  const a = run.offset + 2 * points * (low * count + panel);
  const b = share > 0 ? a + 2 * points * count : a;
  const scale = (FINEST / 2) * view.reach;
  const cells = [];
  for (const level of pyramid) {
    level.counts.fill(0);
    level.mass.fill(0);
  }
  for (let i = 0; i < 2 * points; i += 2) {
    if (frames[a + i] === MISSING || frames[b + i] === MISSING) continue;
    const column = Math.floor(FINEST / 2 + scale * (frames[a + i] + share * (frames[b + i] - frames[a + i])));
    const up = frames[a + i + 1] + share * (frames[b + i + 1] - frames[a + i + 1]);
    const line = Math.floor(FINEST / 2 - scale * up);
    if (column < 0 || column >= FINEST || line < 0 || line >= FINEST) continue;
    cells.push(line * FINEST + column);
    pyramid[0].counts[line * FINEST + column]++;
  }
  for (let k = 1; k < pyramid.length; k++) {
    const [{ side, counts }, finer] = [pyramid[k], pyramid[k - 1]];
    for (let i = 0; i < finer.counts.length; i++) {
      const line = Math.floor(i / finer.side);
      counts[(line >> 1) * side + ((i % finer.side) >> 1)] += finer.counts[i];
    }
  }
  for (const cell of cells) {
    const [line, column] = [Math.floor(cell / FINEST), cell % FINEST];
    let before = -1;
    let fewer = 0;
    for (let k = 0; k < pyramid.length; k++) {
      const { side, counts, mass } = pyramid[k];
      const at = (line >> k) * side + (column >> k);
      const last = k === pyramid.length - 1;
      if (counts[at] >= NEIGHBOURS || last) {
        const coarse =
          before < 0 ? 1 : Math.min(1, Math.log(NEIGHBOURS / fewer) / Math.log(counts[at] / fewer || 1));
        mass[at] += coarse;
        if (before >= 0) pyramid[k - 1].mass[before] += 1 - coarse;
        break;
      }
      [before, fewer] = [at, counts[at]];
    }
  }
  // From the coarsest squares to the finest, each time smoothed: no edge of a square is seen.
  for (let k = pyramid.length - 1; k >= 0; k--) {
    const { side, mass } = pyramid[k];
    smooth(mass, side);
    if (k === 0) break;
    const finer = pyramid[k - 1];
    for (let i = 0; i < finer.mass.length; i++) {
      const from = (Math.floor(i / finer.side) >> 1) * side + ((i % finer.side) >> 1);
      finer.mass[i] += mass[from] / 4;
    }
  }
  const { mass } = pyramid[0];
  let [sum, squares] = [1e-9, 0];
  for (const value of mass) [sum, squares] = [sum + value, squares + value * value];
  const typical = squares / sum || 1; // the density where a particle is, on average
  return mass.map((value) => 255 * Math.min(1, Math.sqrt(value / (1.5 * typical))));
}

// Weights 1, 2, 1 along lines and columns; beyond the edge is nothing.
function smooth(values, side) {
  for (const stride of [1, side]) {
    for (let i = 0; i < values.length; i++) {
      const k = stride === 1 ? i % side : Math.floor(i / side);
      const left = k > 0 ? values[i - stride] : 0;
      const right = k < side - 1 ? values[i + stride] : 0;
      blurred[i] = (left + 2 * values[i] + right) / 4;
    }
    values.set(blurred.subarray(0, values.length));
  }
}

// The exact density belongs to t = 0; over the first step it gives way to that of the particles.
function drawDensity(view, panel) {
  const exact = view.exact.length > 0 ? Math.max(0, 1 - view.position) : 0;
  if (exact > 0) drawFog(view, panel, view.exact, exact);
  if (exact < 1) drawFog(view, panel, kernelEstimate(view, panel), 1 - exact);
  const text = exact === 1 ? "exact" : "kernel estimate";
  return { text: `density: ${exact > 0 && exact < 1 ? "exact → kernel estimate" : text}` };
}

function drawFog(view, panel, values, share) {
  const side = Math.sqrt(values.length);
  const sheet = document.createElement("canvas");
  sheet.width = sheet.height = side;
  const image = new ImageData(side, side);
  const pixels = new Uint32Array(image.data.buffer);
  const { color, opacity } = view.dark ? FOG.dark : FOG.light;
  const rgb = (color[2] << 16) | (color[1] << 8) | color[0];
  for (let i = 0; i < values.length; i++) {
    pixels[i] = (Math.round(opacity * share * values[i]) << 24) | rgb;
  }
  sheet.getContext("2d").putImageData(image, 0, 0);
  const { brush, layout } = view;
  brush.imageSmoothingEnabled = true;
  brush.drawImage(sheet, panelLeft(view, panel), panelTop(view, panel), layout.side, layout.side);
}

// One scale for each kind: that of the middle one of all steps, at every setting of the dials, in
// the panel where it is largest. The largest of all is a step's that no other comes near.
function sharedScales({ kinds, runs }) {
  return kinds.map((_, kind) => {
    const steps = runs.flatMap((run) => {
      const each = Object.values(run).map((field) => field.scales[kind]);
      return each.length ? each[0].map((_, step) => Math.max(...each.map((all) => all[step]))) : [];
    });
    steps.sort((a, b) => a - b);
    return steps[Math.floor(steps.length / 2)] || 0;
  });
}

function arrowTo(line, x, y, dx, dy, scale) {
  const length = Math.hypot(dx, dy);
  const head = Math.min(4 * scale, 0.45 * length) / length;
  line.moveTo(x, y);
  line.lineTo(x + dx, y + dy);
  line.lineTo(x + dx - head * (dx + 0.6 * dy), y + dy - head * (dy - 0.6 * dx));
  line.moveTo(x + dx, y + dy);
  line.lineTo(x + dx - head * (dx - 0.6 * dy), y + dy - head * (dy + 0.6 * dx));
}

function strokeArrows({ brush, ink, layout }, line, width = 1.2) {
  brush.globalAlpha = 0.75;
  brush.strokeStyle = ink;
  brush.lineWidth = width * layout.scale;
  brush.stroke(line);
  brush.globalAlpha = 1;
}

// An arrow's length is the square root of its vector's, else the long ones would hide the short.
// One scale holds for all panels and steps, so that arrows can be compared, or, as the label then
// says, each has its own. The label's arrow tells the scale; bold ones should be longer than drawn.
function drawArrows(view, panel) {
  const { arrows, layout } = view;
  const field = view.fields.runs[view.runIndex][panel];
  if (!field) return { text: "no field" };
  const side = view.fields.grid;
  const { stride, longest } = view.fields; // with many steps, only every stride-th one has arrows
  const step = Math.min(Math.round(view.position / stride), field.frames - 1);
  const start = field.offset + 2 * side * side * (field.frames * view.kind + step);
  const cell = layout.side / side;
  const own = field.scales[view.kind][step];
  const scale = view.ownScale ? own : view.scales[view.kind];
  const unit = (longest / 127) * (own / (scale || 1));
  const one = 0.85 * cell; // pixels of an arrow as long as the scale
  const [line, bold] = [new Path2D(), new Path2D()];
  for (let i = 0; i < side * side; i++) {
    const [across, up] = [arrows[start + 2 * i], arrows[start + 2 * i + 1]];
    const vector = Math.hypot(across, up);
    const share = Math.sqrt(unit * vector);
    const length = one * Math.min(share, LONGEST);
    if (length < 1) continue;
    const [dx, dy] = [(length * across) / vector, (-length * up) / vector];
    const x = panelLeft(view, panel) + ((i % side) + 0.5) * cell - dx / 2;
    const y = panelTop(view, panel) + (Math.floor(i / side) + 0.5) * cell - dy / 2;
    arrowTo(share > LONGEST ? bold : line, x, y, dx, dy, layout.scale);
  }
  strokeArrows(view, line);
  strokeArrows(view, bold, 2.4);
  const when = stride > 1 ? ` at step ${step * stride}` : "";
  const whose = view.ownScale ? ", each its own scale" : "";
  const text = `= ${Number(scale.toPrecision(2))} · ${view.fields.kinds[view.kind]}${when}${whose}`;
  return { text, arrow: one };
}

// The lattice as the flow has carried it so far: both families of lines through its crossings.
function drawLattice(view, panel) {
  const { brush, lattice, layout, position, run } = view;
  const offset = view.grids.runs[view.runIndex][panel];
  if (offset === undefined) return { text: "no grid" };
  const { lines } = view.grids;
  const low = Math.floor(position);
  const share = position - low;
  const a = offset + 2 * lines * lines * low;
  const b = offset + 2 * lines * lines * Math.min(low + 1, run.frames - 1);
  const scale = (layout.side / 2) * view.reach;
  const middle = [panelLeft(view, panel) + layout.side / 2, panelTop(view, panel) + layout.side / 2];
  const path = new Path2D();
  const follow = (first, stride) => {
    let drawing = false;
    for (let k = 0; k < lines; k++) {
      const i = 2 * (first + k * stride);
      if (lattice[a + i] === MISSING || lattice[b + i] === MISSING) {
        drawing = false;
        continue;
      }
      const x = middle[0] + scale * (lattice[a + i] + share * (lattice[b + i] - lattice[a + i]));
      const up = lattice[a + i + 1] + share * (lattice[b + i + 1] - lattice[a + i + 1]);
      if (drawing) path.lineTo(x, middle[1] - scale * up);
      else path.moveTo(x, middle[1] - scale * up);
      drawing = true;
    }
  };
  for (let line = 0; line < lines; line++) {
    follow(line * lines, 1);
    follow(line, lines);
  }
  brush.globalAlpha = 0.5;
  brush.strokeStyle = view.ink;
  brush.lineWidth = layout.scale;
  brush.stroke(path);
  brush.globalAlpha = 1;
  return { text: "grid: a square of data, carried" };
}
