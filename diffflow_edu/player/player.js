// The trajectory player. Everything arrives once in the model; nothing is asked of the kernel.
// page.js builds the controls; draw.js, images.js and fields.js paint; follow.js knows what is
// followed. Together they are one module (pack.py).

const REST = 0.6; // seconds for which a loop shows its end

function aligned(view, Type) {
  const start = view.byteOffset;
  return new Type(view.buffer.slice(start, start + view.byteLength));
}

// Black or white, whichever the text is not: what lies behind it on any page.
function paperFor(color) {
  const [r, g, b] = (color.match(/[\d.]+/g) || [0, 0, 0]).map(Number);
  return 0.3 * r + 0.59 * g + 0.11 * b > 128 ? "#111" : "#fff";
}

function render({ model, el }) {
  const spec = model.get("spec");
  const count = spec.panels.length;
  const parts = build(spec);
  const { root, canvas, slider } = parts;
  el.append(root);
  const listeners = new AbortController();
  const on = (target, event, handler) =>
    target.addEventListener(event, handler, { signal: listeners.signal });

  let playing = false;
  let request = 0;
  let previous = 0;
  let rested = 0; // seconds at the end of a loop
  let speed = 1;
  let loop = false;
  let coloring = 0;
  const view = {
    brush: canvas.getContext("2d"),
    images: spec.images || null,
    sheets: spec.images && imageSheets(spec.images, spec.points),
    frames: aligned(model.get("frames"), spec.images ? Uint8Array : Int16Array),
    colors: aligned(model.get("colors"), Uint8Array),
    arrows: aligned(model.get("arrows"), Int8Array),
    exact: aligned(model.get("exact"), Uint8Array),
    lattice: aligned(model.get("lattice"), Int16Array),
    fields: spec.fields,
    grids: spec.lattice,
    kind: -1, // of the arrows
    warped: false,
    underlay: false,
    titles: spec.panels,
    points: spec.points,
    count,
    reach: spec.reach,
    window: spec.view,
    digits: spec.digits,
    forward: spec.direction !== "backward",
    position: 0, // in steps; between two steps while playing
    follow: -1,
    chosen: null,
    box: null,
    trails: false,
    layout: null,
  };

  function takeRun(index) {
    view.run = spec.runs[index];
    const times = view.run.times;
    view.sharedTimes = times.every((each) => each.every((t, i) => t === times[0][i]));
    view.runIndex = index;
    slider.max = String(view.run.frames - 1);
    takeColors();
  }

  function takeColors() {
    if (view.images) return;
    view.palette = spec.colorings[coloring].palette;
    view.colorStart = (coloring * spec.runs.length + view.runIndex) * count * view.points;
    view.layout = null; // the layer of particles holds the palette's colours
  }

  // Another run, at the same share of the way: the runs may differ in their number of steps.
  function turnDials() {
    const share = view.position / Math.max(last(), 1);
    let index = 0;
    spec.dials.forEach((dial, i) => {
      index = index * dial.values.length + Number(parts.dials[i].value);
    });
    takeRun(index);
    view.position = playing ? share * last() : Math.round(share * last());
    redraw();
  }

  const last = () => view.run.frames - 1;
  const rate = () => speed * (spec.fps || Math.max(last(), 1) / 4);

  function measure() {
    const width = canvas.clientWidth;
    if (!width) return; // not on the page yet; the observer calls again
    const ratio = window.devicePixelRatio || 1;
    const side = Math.min(LARGEST_PANEL, (width - GAP * (count - 1)) / count);
    const top = spec.panels.some((name) => name) || !view.sharedTimes ? TITLE_HEIGHT : 1;
    const lines = view.run.metrics.length ? 2 * LINE_HEIGHT : 0;
    const height = side + top + 1 + AXIS_HEIGHT + lines;
    canvas.style.height = `${height}px`;
    if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
    if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
    const size = Math.round((2.2 + side * 0.005) * ratio);
    const layer = view.images ? null : particleLayer(view.palette, Math.round(side * ratio), size);
    view.layout = { ratio, side, top, size, width, layer };
  }

  function draw() {
    if (!view.layout || view.layout.ratio !== window.devicePixelRatio) measure();
    if (!view.layout) return;
    const { ratio } = view.layout;
    view.look = getComputedStyle(root);
    view.ink = view.look.color;
    view.paper = paperFor(view.ink);
    view.frameColor =
      view.look.getPropertyValue("--jp-border-color2").trim() || "rgba(128,128,128,.45)";
    view.brush.setTransform(ratio, 0, 0, ratio, 0, 0);
    view.brush.clearRect(0, 0, canvas.width, canvas.height);
    for (let panel = 0; panel < count; panel++) drawPanel(view, panel);
  }

  function describe() {
    // While playing, the step last reached, so that the end is told when it is reached.
    const reached = view.forward ? Math.floor(view.position) : Math.ceil(view.position);
    const step = playing ? reached : Math.round(view.position);
    const place = `step ${step}/${last()}`;
    const text = view.sharedTimes ? `t = ${timeOf(view, 0).toFixed(view.digits)} · ${place}` : place;
    // A screen reader hears where the time stands, not every frame on the way.
    parts.readout.setAttribute("aria-live", playing ? "off" : "polite");
    if (parts.readout.textContent !== text) parts.readout.textContent = text;
    if (slider.value !== String(step)) slider.value = String(step);
    slider.setAttribute("aria-valuetext", text);
    if (playing) return;
    const told = followedInWords(view);
    if (parts.status.textContent !== told) parts.status.textContent = told;
    const measured = spec.panels.map((name, panel) =>
      [name, ...metricLines(view, panel)].filter(Boolean).join(", "),
    );
    canvas.setAttribute("aria-description", measured.join("; "));
  }

  function showButtons() {
    parts.play.replaceChildren(icon(playing ? "pause" : "play"));
    parts.play.setAttribute("aria-pressed", String(playing));
    parts.turn.textContent = view.forward ? "data → noise" : "noise → data";
    const words = view.forward ? "data to noise" : "noise to data";
    parts.turn.setAttribute("aria-label", `play direction: ${words}`);
    press(parts.loop, loop);
    press(parts.trails, view.trails);
    press(parts.density, view.underlay);
    press(parts.grid, view.warped);
    parts.around.disabled = view.follow < 0;
    parts.clear.disabled = view.follow < 0 && !view.chosen;
    for (const each of [parts.around, parts.clear]) each.style.opacity = each.disabled ? 0.5 : 1;
  }

  function tick(now) {
    request = 0;
    if (playing) advance(now);
    draw();
    describe();
    if (playing) schedule();
  }

  function advance(now) {
    // A frame's clock may lie before the click that started it; a hidden tab does not jump ahead.
    const passed = Math.min(Math.max(now - previous, 0), 250) / 1000;
    previous = now;
    view.position += (view.forward ? 1 : -1) * rate() * passed;
    if (view.forward ? view.position < last() : view.position > 0) return;
    view.position = view.forward ? last() : 0;
    if (!loop) {
      setPlaying(false);
    } else if ((rested += passed) >= REST) {
      view.position = last() - view.position;
      rested = 0;
    }
  }

  function schedule() {
    if (!request) request = requestAnimationFrame(tick);
  }

  function setPlaying(value) {
    playing = value;
    showButtons();
    if (!playing) return;
    const end = view.forward ? last() : 0;
    if (view.position === end) view.position = last() - end; // at the end, play starts over
    previous = performance.now();
    schedule();
  }

  function redraw() {
    cancelAnimationFrame(request);
    tick(performance.now()); // at once: the browser sends at most one input event a frame
  }

  function go(step) {
    setPlaying(false);
    view.position = Math.min(Math.max(step, 0), last());
    redraw();
  }

  const pause = () => go(Math.round(view.position)); // rest on a step: what was computed is seen
  const toggle = () => (playing ? pause() : setPlaying(true));
  const stepBack = () => go(Math.ceil(view.position) - 1);
  const stepForward = () => go(Math.floor(view.position) + 1);

  // Following ---------------------------------------------------------------------------------

  function select(follow, chosen) {
    view.follow = follow;
    view.chosen = chosen;
    view.box = null;
    view.trailed = trailed(view);
    showButtons();
    redraw();
  }

  const clear = () => select(-1, null);

  followPointer(view, canvas, on, { rest: () => playing && pause(), schedule, select });

  // Controls ----------------------------------------------------------------------------------

  on(parts.play, "click", toggle);
  on(parts.back, "click", stepBack);
  on(parts.next, "click", stepForward);
  on(slider, "input", () => go(Number(slider.value)));
  on(parts.turn, "click", () => {
    view.forward = !view.forward;
    showButtons();
    schedule(); // trails now lie on the other side
  });
  on(parts.loop, "click", () => {
    loop = !loop;
    showButtons();
  });
  on(parts.speed, "change", () => {
    speed = SPEEDS[Number(parts.speed.value)];
  });
  for (const [name, layer] of [["trails", "trails"], ["density", "underlay"], ["grid", "warped"]]) {
    on(parts[name], "click", () => {
      view[layer] = !view[layer];
      showButtons();
      redraw();
    });
  }
  on(parts.arrows, "change", () => {
    view.kind = Number(parts.arrows.value) - 1;
    redraw();
  });
  on(parts.colouring, "change", () => {
    coloring = Number(parts.colouring.value);
    takeColors();
    redraw();
  });
  for (const dial of parts.dials) on(dial, "change", turnDials);
  on(parts.another, "click", () => select(another(view), view.chosen));
  on(parts.around, "click", () => select(view.follow, region(view)));
  on(parts.clear, "click", clear);
  on(root, "keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.target.tagName === "SELECT") {
      event.stopPropagation(); // a select answers to its keys by itself
      return;
    }
    const onSlider = event.target === slider;
    // Buttons answer to space and the slider to arrows, Home and End by themselves.
    const moves = onSlider
      ? {}
      : {
          ArrowLeft: stepBack,
          ArrowRight: stepForward,
          Home: () => go(0),
          End: () => go(last()),
        };
    if (event.target.tagName !== "BUTTON") moves[" "] = toggle;
    if (view.follow >= 0 || view.chosen || view.box) moves.Escape = clear;
    const move = moves[event.key];
    if (!move) return;
    event.preventDefault();
    event.stopPropagation();
    move();
  });
  const resized = new ResizeObserver(() => {
    measure();
    draw(); // now: a resized canvas is blank until it is drawn again
  });
  const themed = new MutationObserver(schedule);

  takeRun(0);
  view.trailed = trailed(view);
  view.position = view.forward ? 0 : last();
  resized.observe(canvas);
  themed.observe(document.body, {
    attributes: true,
    attributeFilter: ["class", "data-jp-theme-light", "data-jp-theme-name"],
  });
  showButtons();
  schedule();
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (spec.autoplay && !calm) setPlaying(true);

  return () => {
    listeners.abort();
    resized.disconnect();
    themed.disconnect();
    cancelAnimationFrame(request);
    playing = false;
    root.remove();
  };
}

export default { render };
