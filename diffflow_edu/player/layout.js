// Where the panels stand, and how large they and their words are.

const TITLE_HEIGHT = 26; // above a panel, at the size at which words have their usual size
const AXIS_HEIGHT = 34;
const CURVES_HEIGHT = 66;
const LINE_HEIGHT = 19;
const USUAL = 430; // the side of such a panel; beyond it words grow half as fast as the panel
const NARROWEST = 260; // panels narrower than this stand below each other
const LEAST = 240; // a low window is scrolled, rather than panels made smaller
const ONE_LINE = 520; // a panel as wide as this, in usual pixels, has its metrics in one line

const scaleOf = (side) => Math.max(1, 0.5 + side / (2 * USUAL));

// The largest square of so many columns: what is above and below it grows with it.
function fit({ width, height, measured, titled, curves }, columns, rows) {
  const wide = (width - GAP * (columns - 1)) / columns;
  const high = (height - GAP * (rows - 1)) / rows;
  for (const lines of measured ? [1, 2] : [0]) {
    const below = AXIS_HEIGHT + (curves ? CURVES_HEIGHT : 0) + lines * LINE_HEIGHT;
    const around = (titled ? TITLE_HEIGHT : 1) + 1 + below;
    let tall = high - around;
    if (tall > USUAL) tall = (high - around / 2) / (1 + around / (2 * USUAL));
    const side = Math.floor(Math.min(wide, tall));
    if (lines !== 1 || side / scaleOf(side) >= ONE_LINE) return { side, lines, below, wide, columns };
  }
}

// width, height: pixels to stand in. measured: whether metrics are shown, curves: as curves, too;
// titled: whether anything stands above a panel; fill: use all of the screen, else stay in a cell
// of a page that scrolls.
function arrange(space) {
  const { count, width, fill } = space;
  let best;
  if (fill) {
    for (let columns = count; columns >= 1; columns--) {
      const found = fit(space, columns, Math.ceil(count / columns));
      if (!best || found.side > best.side) best = found;
    }
  } else {
    const columns = Math.max(1, Math.min(count, Math.floor((width + GAP) / (NARROWEST + GAP))));
    best = fit(space, columns, 1); // each is seen whole, though not all at once
  }
  const { columns, lines, below } = best;
  const side = Math.floor(Math.max(best.side, Math.min(best.wide, LEAST)));
  const scale = scaleOf(side);
  const rows = Math.ceil(count / columns);
  const top = space.titled ? Math.round(scale * TITLE_HEIGHT) : 1;
  const tall = top + side + 1 + Math.round(scale * below);
  return {
    side, scale, columns, lines, below, top, tall,
    width: columns * (side + GAP) - GAP,
    height: rows * (tall + GAP) - GAP,
  };
}

function panelLeft(view, panel) {
  return (panel % view.layout.columns) * (view.layout.side + GAP);
}

// The upper edge of a panel's square.
function panelTop(view, panel) {
  const { columns, tall, top } = view.layout;
  return Math.floor(panel / columns) * (tall + GAP) + top;
}

// The panel whose square holds a point of the canvas, −1 where none does.
function panelAt(view, x, y) {
  const { side } = view.layout;
  for (let panel = 0; panel < view.count; panel++) {
    const [left, top] = [panelLeft(view, panel), panelTop(view, panel)];
    if (x >= left && x <= left + side && y >= top && y <= top + side) return panel;
  }
  return -1;
}
