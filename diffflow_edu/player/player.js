// The trajectory player. Everything arrives once in the model; nothing is asked of the kernel but
// the futures of a point that a reader drops, and without a kernel there are others to show.
// page.js builds the controls; layout.js says where the panels stand; draw.js, images.js, fields.js
// and curves.js paint; follow.js and futures.js know what is followed. Together they are one module
// (pack.py).

const REST = 0.6; // seconds for which a loop shows its end

function aligned(view, Type) {
  const start = view.byteOffset;
  return new Type(view.buffer.slice(start, start + view.byteLength));
}

// The height in pixels that a reader sees at once, or that a page gives: --player-room, of a slide.
// A frame (of a page that runs outputs in frames) may be as tall as its content, and tells nothing.
function roomOf(root) {
  const given = parseFloat(getComputedStyle(root).getPropertyValue("--player-room"));
  if (given > 0) return given;
  const scrolled = root.closest(".jp-WindowedPanel-outer, .jp-NotebookPanel-notebook, .jp-LinkedOutputView");
  const seen = window.parent === window ? window.innerHeight : 0.75 * window.screen.availHeight;
  return (scrolled?.clientHeight || seen) - 16;
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
  const on = (target, event, handler, options = {}) =>
    target.addEventListener(event, handler, { ...options, signal: listeners.signal });

  let playing = false;
  let request = 0;
  let previous = 0;
  let rested = 0; // seconds at the end of a loop
  let speed = 1;
  let loop = false;
  let coloring = 0;
  let presenting = false;
  let unfolded = false; // the tools, while presenting
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
    scales: sharedScales(spec.fields),
    ownScale: false,
    warped: false,
    underlay: false,
    curves: false,
    longestDistance: longestDistance(spec.runs),
    fanning: false, // a click drops a start
    fan: null,
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
    const { palette } = spec.colorings[coloring];
    view.palette = view.dark ? palette.map(paler) : palette;
    view.shades = view.palette.map(packed);
    view.colorStart = (coloring * spec.runs.length + view.runIndex) * count * view.points;
  }

  // Another run, at the same share of the way: the runs may differ in their number of steps.
  function turnDials() {
    const share = view.position / Math.max(last(), 1);
    let index = 0;
    for (const dial of parts.dials) {
      index = index * dial.values.length + Number(dial.slider.value);
      showDial(dial);
    }
    takeRun(index);
    view.position = playing ? share * last() : Math.round(share * last());
    if (view.fan) ask(startFan(view, view.fan.x, view.fan.y));
  }

  const last = () => view.run.frames - 1;
  const rate = () => speed * (spec.fps || Math.max(last(), 1) / 4);

  function measure() {
    const { stage, controls } = parts;
    if (!stage.clientWidth) return; // not on the page yet; the observer calls again
    // On a phone the slider needs the room of the words at its ends.
    for (const word of parts.ends) word.style.display = stage.clientWidth < 500 ? "none" : "";
    // In a page, all from the title to the controls is seen together.
    const others =
      controls.getBoundingClientRect().bottom - root.getBoundingClientRect().top - stage.offsetHeight;
    const layout = arrange({
      count,
      width: stage.clientWidth,
      height: presenting ? stage.clientHeight : roomOf(root) - others,
      fill: presenting,
      titled,
      measured: spec.runs[0].metrics.length > 0,
      curves: view.curves,
    });
    const ratio = window.devicePixelRatio || 1;
    const { width, height, side } = layout;
    canvas.style.width = `${width}px`;
    canvas.style.height = `${height}px`;
    if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
    if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
    const size = Math.round(Math.max(2.2 + side * 0.005, side / 100) * ratio);
    const before = view.layout;
    const same = before?.layer && before.side === side && before.ratio === ratio;
    const layer = same ? before.layer : particleLayer(Math.round(side * ratio), size);
    view.layout = { ...layout, ratio, size, layer: view.images ? null : layer };
  }

  function draw() {
    if (!view.layout || view.layout.ratio !== window.devicePixelRatio) measure();
    if (!view.layout) return;
    const { ratio } = view.layout;
    view.look = getComputedStyle(root);
    view.ink = view.look.color;
    view.paper = paperFor(view.ink);
    if (view.dark !== (view.paper === "#111")) {
      view.dark = view.paper === "#111";
      takeColors();
    }
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
    press(parts.own, view.ownScale);
    parts.own.disabled = view.kind < 0;
    press(parts.curves, view.curves);
    press(parts.futures, view.fanning);
    parts.around.disabled = view.follow < 0;
    parts.clear.disabled = view.follow < 0 && !view.chosen && !view.fan;
    // What has nothing to act on is not in the way: the tools of one panel fit one row.
    for (const each of [parts.around, parts.clear, parts.own]) {
      each.style.display = each.disabled ? "none" : "inline-flex";
    }
    press(parts.more, unfolded);
    parts.more.style.display = presenting ? "inline-flex" : "none";
    const told = presenting ? "end the full screen (f, Esc)" : "present: fill the screen (f)";
    parts.whole.replaceChildren(icon(presenting ? "leave" : "whole"));
    parts.whole.setAttribute("aria-label", told);
    parts.whole.title = told;
    for (const each of [parts.tools, parts.status]) {
      each.style.display = presenting && !unfolded ? "none" : each === parts.tools ? "flex" : "block";
    }
  }

  function tick(now) {
    request = 0;
    if (playing) advance(now);
    for (const dial of parts.dials) if (dial.playing) turnOn(dial, now);
    draw();
    describe();
    if (playing || parts.dials.some((dial) => dial.playing)) schedule();
  }

  // A dial that is played goes through its settings in 4 s, a second for each at most.
  function turnOn(dial, now) {
    const end = dial.values.length - 1;
    const each = Math.min(Math.max(4000 / Math.max(end, 1), 150), 1000) / speed;
    if (now - dial.since < each) return;
    dial.since = now;
    const at = Number(dial.slider.value);
    if (at === end && !loop) return playDial(dial, false);
    setDial(dial, at === end ? 0 : at + 1);
  }

  function playDial(dial, value) {
    dial.playing = value;
    showDial(dial);
    if (!value) return;
    const end = dial.values.length - 1;
    if (Number(dial.slider.value) === end) setDial(dial, 0); // at the end, play starts over
    dial.since = performance.now();
    schedule();
  }

  function setDial(dial, index) {
    dial.slider.value = String(index);
    turnDials();
  }

  function showDial(dial) {
    const value = dial.values[Number(dial.slider.value)];
    dial.value.textContent = value;
    dial.slider.setAttribute("aria-valuetext", value);
    dial.play.replaceChildren(icon(dial.playing ? "pause" : "play"));
    dial.play.setAttribute("aria-pressed", String(dial.playing));
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

  // Presenting --------------------------------------------------------------------------------

  // Where a browser has no full screen for elements (an iPhone, a frame that may not), the player
  // covers the page.
  function present() {
    if (!document.fullscreenEnabled) return setPresenting(true);
    root.requestFullscreen().catch(() => setPresenting(true));
  }

  function endPresenting() {
    if (document.fullscreenElement === root) document.exitFullscreen();
    else setPresenting(false);
  }

  const turnPresenting = () => (presenting ? endPresenting() : present());

  function setPresenting(value) {
    presenting = value;
    unfolded = false;
    // Controls grow half as fast as the screen: the room is the panels'.
    const short = Math.min(window.innerHeight, 0.5625 * window.innerWidth);
    const size = value ? Math.max(1, 0.3 + short / 1030) : 1;
    setSize(parts, size, value, view.paper);
    showButtons();
    measure();
    redraw();
    if (value) canvas.focus({ preventScroll: true });
  }

  // Following ---------------------------------------------------------------------------------

  function select(follow, chosen) {
    view.follow = follow;
    view.chosen = chosen;
    view.box = view.fan = null;
    view.trailed = trailed(view);
    showButtons();
    redraw();
  }

  const clear = () => select(-1, null);

  // A start where the pointer is, or at the particle that is followed there.
  function drop(panel, x, y) {
    if (playing) pause();
    const at = view.follow >= 0 ? spot(view, panel, view.follow, view.position) : null;
    ask(startFan(view, ...quantaAt(view, panel, ...(at || [x, y]))));
    showButtons();
    redraw();
  }

  // From the keyboard: the followed particle is the start.
  function dropFollowed() {
    if (!view.fanning || view.follow < 0) return;
    const panel = spec.panels.findIndex((_, each) => spot(view, each, view.follow, view.position));
    if (panel >= 0) drop(panel, 0, 0);
  }

  function turnFutures() {
    view.fanning = !view.fanning;
    if (!view.fanning) view.fan = null;
    dropFollowed();
    showButtons();
    redraw();
  }

  let questions = 0;
  const us = `${Math.random()}`; // a model may have several views

  function ask(fan) {
    view.fan = fan;
    fan.question = `${us} ${++questions}`;
    if (!spec.futures || !model.send) return;
    const { question, step } = fan;
    const at = inUnits(view, [fan.x, fan.y]);
    try {
      model.send({ type: "futures", question, run: view.runIndex, step, at });
    } catch {
      // The line to the kernel is closed: what is nearest stays in view.
    }
  }

  function hear(content, buffers) {
    if (content.type !== "futures" || content.question !== view.fan?.question) return;
    content.panels.forEach((panel, i) => {
      view.fan.exact[panel] = aligned(buffers[i], Int16Array);
    });
    redraw();
  }

  model.on?.("msg:custom", hear);

  followPointer(view, canvas, on, { rest: () => playing && pause(), schedule, select, drop });

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
    showButtons();
    redraw();
  });
  on(parts.own, "click", () => {
    view.ownScale = !view.ownScale;
    showButtons();
    redraw();
  });
  on(parts.colouring, "change", () => {
    coloring = Number(parts.colouring.value);
    takeColors();
    redraw();
  });
  for (const dial of parts.dials) {
    on(dial.play, "click", () => playDial(dial, !dial.playing));
    on(dial.slider, "input", () => {
      playDial(dial, false);
      turnDials();
      redraw();
    });
  }
  on(parts.whole, "click", turnPresenting);
  on(parts.more, "click", () => {
    unfolded = !unfolded;
    showButtons();
  });
  on(document, "fullscreenchange", () => {
    const now = document.fullscreenElement === root;
    if (now !== presenting) setPresenting(now);
  });
  on(window, "resize", () => {
    measure();
    draw();
  });
  on(parts.curves, "click", () => {
    view.curves = !view.curves;
    showButtons();
    measure();
    redraw();
  });
  on(parts.futures, "click", turnFutures);
  on(parts.another, "click", () => {
    select(another(view), view.chosen);
    dropFollowed();
  });
  on(parts.around, "click", () => select(view.follow, region(view)));
  on(parts.clear, "click", clear);
  on(root, "keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.target.tagName === "SELECT") {
      event.stopPropagation(); // a select answers to its keys by itself
      return;
    }
    const onSlider = event.target.type === "range";
    const dial = parts.dials.find((each) => each.slider === event.target);
    // Buttons answer to space and the slider to arrows, Home and End by themselves.
    const moves = onSlider
      ? {}
      : {
          ArrowLeft: stepBack,
          ArrowRight: stepForward,
          Home: () => go(0),
          End: () => go(last()),
        };
    if (event.target.tagName !== "BUTTON") {
      moves[" "] = dial ? () => playDial(dial, !dial.playing) : toggle;
    }
    moves.f = turnPresenting;
    if (!view.images) moves.b = turnFutures;
    if (view.follow >= 0 || view.chosen || view.box || view.fan) moves.Escape = clear;
    if (presenting) moves.Escape = endPresenting;
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

  const titled =
    spec.panels.some((name) => name) ||
    spec.runs.some(({ times }) => times.some((each) => each.some((t, i) => t !== times[0][i])));
  takeRun(0);
  parts.dials.forEach(showDial);
  view.trailed = trailed(view);
  view.position = view.forward ? 0 : last();
  resized.observe(parts.stage);
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
    model.off?.("msg:custom", hear);
    resized.disconnect();
    themed.disconnect();
    cancelAnimationFrame(request);
    playing = false;
    for (const dial of parts.dials) dial.playing = false;
    root.remove();
  };
}

export default { render };
