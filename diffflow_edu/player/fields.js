// Arrows of fields, the density underlay and the warped grid.

const BINS = 64;
const BLUR = [0.061, 0.242, 0.394, 0.242, 0.061]; // a Gaussian of one bin, applied twice
const DENSITY_COLOR = [86, 180, 233];

// Particles counted in squares and smoothed: a kernel estimate at any moment, a millisecond each.
function kernelEstimate(view, panel) {
  let bins = new Float32Array(BINS * BINS);
  const { side, top } = view.layout;
  const left = panelLeft(view, panel);
  for (let i = 0; i < view.points; i++) {
    const at = spot(view, panel, i, view.position);
    if (!at) continue;
    const column = Math.floor(((at[0] - left) / side) * BINS);
    const line = Math.floor(((at[1] - top) / side) * BINS);
    if (column < 0 || column >= BINS || line < 0 || line >= BINS) continue;
    bins[line * BINS + column]++;
  }
  for (const stride of [1, BINS, 1, BINS]) bins = blurred(bins, stride);
  const most = bins.reduce((a, b) => Math.max(a, b), 1e-9);
  return bins.map((b) => 255 * Math.sqrt(b / most));
}

function blurred(bins, stride) {
  const out = new Float32Array(bins.length);
  for (let i = 0; i < bins.length; i++) {
    let sum = 0;
    for (let k = -2; k <= 2; k++) {
      const j = i + k * stride;
      const inside = stride === 1 ? Math.floor(j / BINS) === Math.floor(i / BINS) : j >= 0;
      if (inside && j < bins.length) sum += BLUR[k + 2] * bins[j];
    }
    out[i] = sum;
  }
  return out;
}

function drawDensity(view, panel) {
  const exact = view.exact.length > 0 && view.position === 0;
  const values = exact ? view.exact : kernelEstimate(view, panel);
  const side = exact ? Math.sqrt(values.length) : BINS;
  const sheet = document.createElement("canvas");
  sheet.width = sheet.height = side;
  const image = new ImageData(side, side);
  for (let i = 0; i < values.length; i++) {
    image.data.set(DENSITY_COLOR, 4 * i);
    image.data[4 * i + 3] = 0.8 * values[i];
  }
  sheet.getContext("2d").putImageData(image, 0, 0);
  view.brush.drawImage(sheet, panelLeft(view, panel), view.layout.top, view.layout.side, view.layout.side);
  return exact ? "density: exact" : "density: kernel estimate";
}

// Lengths are relative to the step's own scale, which the label tells.
function drawArrows(view, panel) {
  const { brush, arrows, layout } = view;
  const field = view.fields.runs[view.runIndex][panel];
  if (!field) return "no field";
  const side = view.fields.grid;
  const { stride } = view.fields; // with many steps, only every stride-th one has its arrows
  const step = Math.min(Math.round(view.position / stride), field.frames - 1);
  const start = field.offset + 2 * side * side * (field.frames * view.kind + step);
  const cell = layout.side / side;
  const unit = (view.fields.longest / 127) * cell * 0.85;
  const line = new Path2D();
  for (let i = 0; i < side * side; i++) {
    const dx = unit * arrows[start + 2 * i];
    const dy = -unit * arrows[start + 2 * i + 1];
    const length = Math.hypot(dx, dy);
    if (length < 1) continue;
    const x = panelLeft(view, panel) + ((i % side) + 0.5) * cell - dx / 2;
    const y = layout.top + (Math.floor(i / side) + 0.5) * cell - dy / 2;
    const head = Math.min(4, 0.45 * length) / length;
    line.moveTo(x, y);
    line.lineTo(x + dx, y + dy);
    line.lineTo(x + dx - head * (dx + 0.6 * dy), y + dy - head * (dy - 0.6 * dx));
    line.moveTo(x + dx, y + dy);
    line.lineTo(x + dx - head * (dx - 0.6 * dy), y + dy - head * (dy + 0.6 * dx));
  }
  brush.globalAlpha = 0.75;
  brush.strokeStyle = view.ink;
  brush.lineWidth = 1.2;
  brush.stroke(line);
  brush.globalAlpha = 1;
  const scale = field.scales[view.kind][step];
  const when = stride > 1 ? ` at step ${step * stride}` : "";
  return `${view.fields.kinds[view.kind]}${when}, long arrows ≈ ${scale.toPrecision(2)}`;
}

// The lattice as the flow has carried it so far: both families of lines through its crossings.
function drawLattice(view, panel) {
  const { brush, lattice, layout, position, run } = view;
  const offset = view.grids.runs[view.runIndex][panel];
  if (offset === undefined) return "no grid";
  const { lines } = view.grids;
  const low = Math.floor(position);
  const share = position - low;
  const a = offset + 2 * lines * lines * low;
  const b = offset + 2 * lines * lines * Math.min(low + 1, run.frames - 1);
  const scale = (layout.side / 2) * view.reach;
  const middle = [panelLeft(view, panel) + layout.side / 2, layout.top + layout.side / 2];
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
  brush.lineWidth = 1;
  brush.stroke(path);
  brush.globalAlpha = 1;
  return "grid: a square of data, carried";
}
