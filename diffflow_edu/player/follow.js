// What is followed: chosen by a click, a box or keys, and told in words. draw.js draws it.

const CLICK = 4; // a pointer that moved less has clicked, not dragged
const NEAR = { mouse: 14, touch: 24 }; // how far from a particle a click or tap still means it
const REGION = 0.09; // half the side of "its region", as a share of the panel

// The particles of one panel in a box of pixels, as 0 and 1 a particle.
function within(view, panel, { x, y, width, height }) {
  const chosen = new Uint8Array(view.points);
  for (let i = 0; i < view.points; i++) {
    const at = spot(view, panel, i, view.position);
    if (!at) continue;
    const inside = at[0] >= x && at[0] <= x + width && at[1] >= y && at[1] <= y + height;
    chosen[i] = inside ? 1 : 0;
  }
  return chosen;
}

function nearest(view, panel, x, y, pointer) {
  // With one image in view, a click shows them all again.
  if (view.images) return view.follow >= 0 ? -1 : imageAt(view, panel, x, y);
  let best = -1;
  let least = ((NEAR[pointer] || NEAR.mouse) * view.layout.scale) ** 2;
  for (let i = 0; i < view.points; i++) {
    const at = spot(view, panel, i, view.position);
    if (!at) continue;
    const distance = (at[0] - x) ** 2 + (at[1] - y) ** 2;
    if (distance <= least) [best, least] = [i, distance];
  }
  return best;
}

// From the keyboard: each press follows another particle, far from the one before in the list.
function another(view) {
  const stride = Math.max(1, Math.round(view.points * 0.382));
  for (let k = 1; k <= view.points; k++) {
    const i = (Math.max(view.follow, 0) + k * stride) % view.points;
    if (view.images || spot(view, 0, i, view.position)) return i;
  }
  return view.follow;
}

// The particles around the followed one in the first panel that shows it; null where none does.
function region(view) {
  const reach = REGION * view.layout.side;
  for (let panel = 0; panel < view.count; panel++) {
    const at = spot(view, panel, view.follow, view.position);
    if (!at) continue;
    const box = { x: at[0] - reach, y: at[1] - reach, width: 2 * reach, height: 2 * reach };
    return within(view, panel, box);
  }
  return null;
}

function place(view, panel) {
  const at = coordinates(view, panel, view.follow);
  return at ? `(${signed(at[0])}, ${signed(at[1])})` : "not finite";
}

function followedInWords(view) {
  const { images } = view;
  let text = "Click a particle to see its way; drag a box to follow a region.";
  if (view.fanning) text = "Click anywhere, at any time: the ways that lead on from there, and back.";
  if (images) text = `${view.points} of ${images.of} images, ${images.range}. Click one to see its way.`;
  if (view.follow >= 0) {
    const time = (panel) => `t = ${timeOf(view, panel).toFixed(view.digits)}`;
    const places = view.titles.map((name, panel) =>
      [name, view.sharedTimes ? "" : time(panel), images ? "" : place(view, panel)]
        .filter(Boolean)
        .join(" "),
    );
    const shared = view.sharedTimes ? [time(0)] : [];
    const what = `${images ? "image" : "particle"} ${view.follow}`;
    const where = images && view.sharedTimes ? [] : places;
    text = [what, `step ${Math.round(view.position)}`, ...shared, ...where].join(" · ");
  }
  if (view.fan) return fanInWords(view);
  if (!view.chosen) return text;
  const many = view.chosen.reduce((sum, one) => sum + one, 0);
  const told = many ? `following ${many} of ${view.points} particles` : "no particle is in this box";
  return view.follow >= 0 ? `${told} · ${text}` : told;
}

// A click follows what lies under it, a drag all in its box.
function followPointer(view, canvas, on, { rest, schedule, select, drop }) {
  let pressed = null; // where the pointer went down

  function boxTo(event) {
    const { side } = view.layout;
    const [left, top] = [panelLeft(view, pressed.panel), panelTop(view, pressed.panel)];
    const x = Math.min(Math.max(event.offsetX, left), left + side);
    const y = Math.min(Math.max(event.offsetY, top), top + side);
    return {
      panel: pressed.panel,
      x: Math.min(x, pressed.x),
      y: Math.min(y, pressed.y),
      width: Math.abs(x - pressed.x),
      height: Math.abs(y - pressed.y),
    };
  }

  on(canvas, "pointerdown", (event) => {
    canvas.focus({ preventScroll: true });
    if (event.button !== 0 || !view.layout) return;
    const panel = panelAt(view, event.offsetX, event.offsetY);
    if (panel < 0) return;
    pressed = { panel, x: event.offsetX, y: event.offsetY };
    canvas.setPointerCapture(event.pointerId);
  });
  on(canvas, "pointermove", (event) => {
    if (!pressed || view.images) return;
    const box = boxTo(event);
    if (!view.box && Math.max(box.width, box.height) < CLICK) return;
    rest(); // a box around things that move means nothing
    view.box = box;
    schedule();
  });
  on(canvas, "pointerup", (event) => {
    if (!pressed) return;
    const { panel, x, y } = pressed;
    const box = view.box && boxTo(event);
    pressed = null;
    if (box) select(-1, within(view, panel, box));
    else {
      select(nearest(view, panel, x, y, event.pointerType), null);
      if (view.fanning) drop(panel, x, y);
    }
  });
  // A finger in a panel draws a box, up and down, too; two fingers, and a finger elsewhere, move
  // the page. Only a listener that is not passive can say so where the finger comes down.
  on(
    canvas,
    "touchstart",
    (event) => {
      if (view.images || !view.layout || event.touches.length > 1) return;
      const box = canvas.getBoundingClientRect();
      const [{ clientX, clientY }] = event.touches;
      const unit = view.layout.width / box.width; // a slide may be drawn larger than it is laid out
      const [x, y] = [unit * (clientX - box.left), unit * (clientY - box.top)];
      if (panelAt(view, x, y) >= 0) event.preventDefault();
    },
    { passive: false },
  );
  on(canvas, "pointercancel", () => {
    pressed = view.box = null;
    schedule();
  });
}
