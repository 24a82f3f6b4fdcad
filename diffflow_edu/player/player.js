// Draws the trajectory player. Everything arrives once in the model; nothing is asked of the kernel.

const MISSING = -32768;
const GAP = 14;
const TITLE_HEIGHT = 26;
const LARGEST_PANEL = 430;

const ICONS = {
  play: "M4 2.5v11l9.5-5.5z",
  pause: "M3.5 2.5h3.2v11H3.5zM9.3 2.5h3.2v11H9.3z",
  back: "M3 2.5h2v11H3zM13 2.5v11L5.8 8z",
  next: "M11 2.5h2v11h-2zM3 2.5v11L10.2 8z",
};

function element(tag, style, attributes = {}) {
  const made = document.createElement(tag);
  Object.assign(made.style, style);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function icon(name) {
  const space = "http:" + "//www.w3.org/2000/svg"; // a name space, never fetched
  const svg = document.createElementNS(space, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("width", "16");
  svg.setAttribute("height", "16");
  svg.setAttribute("aria-hidden", "true");
  svg.style.display = "block";
  const path = document.createElementNS(space, "path");
  path.setAttribute("d", ICONS[name]);
  path.setAttribute("fill", "currentColor");
  svg.append(path);
  return svg;
}

function button(label, content) {
  const made = element(
    "button",
    {
      display: "inline-flex",
      alignItems: "center",
      justifyContent: "center",
      flex: "none",
      minWidth: "36px",
      height: "32px",
      padding: "0 9px",
      border: "1px solid var(--jp-border-color1, #bdbdbd)",
      borderRadius: "4px",
      background: "var(--jp-layout-color1, transparent)",
      color: "inherit",
      font: "inherit",
      cursor: "pointer",
    },
    // Without this attribute JupyterLab takes space and the arrows for its own shortcuts.
    { type: "button", "aria-label": label, title: label, "data-lm-suppress-shortcuts": "true" },
  );
  made.append(content);
  return made;
}

// The page's controls, without behaviour.
function build(spec) {
  const last = spec.frames - 1;
  const root = element(
    "div",
    {
      boxSizing: "border-box",
      maxWidth: `${spec.panels.length * (LARGEST_PANEL + GAP) - GAP + 8}px`,
      padding: "4px",
      color: "var(--jp-content-font-color1, var(--vscode-foreground, inherit))",
      fontFamily: "var(--jp-ui-font-family, system-ui, sans-serif)",
      fontSize: "15px",
    },
    { role: "group", "aria-label": "Trajectory player", "data-lm-suppress-shortcuts": "true" },
  );
  root.className = "diffflow-player";
  const canvas = element(
    "canvas",
    { display: "block", width: "100%", outlineOffset: "2px" },
    { role: "img", tabindex: "0", "aria-label": spec.alt, "data-lm-suppress-shortcuts": "true" },
  );
  const controls = element("div", {
    display: "flex",
    flexWrap: "wrap",
    alignItems: "center",
    gap: "8px",
    marginTop: "8px",
  });
  const back = button("step back", icon("back"));
  const play = button("play/pause", icon("play"));
  const next = button("step forward", icon("next"));
  const slider = element(
    "input",
    { flex: "1 1 120px", minWidth: "80px", margin: "0", accentColor: "#0072B2", cursor: "pointer" },
    {
      type: "range",
      min: "0",
      max: String(last),
      step: "1",
      "aria-label": "time step, from data to noise",
      "data-lm-suppress-shortcuts": "true",
    },
  );
  slider.value = "0";
  const turn = button("play direction", "");
  turn.style.minWidth = "8.4em";
  const readout = element(
    "div",
    { flex: "none", fontVariantNumeric: "tabular-nums", whiteSpace: "pre" },
    { "aria-live": "polite", "aria-atomic": "true" },
  );
  // As wide as its longest text, so that the slider keeps its place while time runs.
  readout.style.minWidth = `${11 + spec.digits + String(last).length * 2}ch`;
  const quiet = { flex: "none", opacity: "0.8" };
  const data = element("span", quiet, { "aria-hidden": "true" });
  const noise = element("span", quiet, { "aria-hidden": "true" });
  data.textContent = "data";
  noise.textContent = "noise";
  controls.append(back, play, next, data, slider, noise, readout, turn);
  if (spec.title) {
    const title = element("div", { fontSize: "18px", margin: "2px 0 8px" });
    title.textContent = spec.title;
    root.append(title);
  }
  root.append(canvas, controls);
  return { root, canvas, back, play, next, slider, readout, turn };
}

// One round dot per palette colour, drawn once; stamping them is faster than drawing 6000 circles.
function dots(palette, size) {
  const sheet = document.createElement("canvas");
  sheet.width = size * palette.length;
  sheet.height = size;
  const brush = sheet.getContext("2d");
  palette.forEach((color, i) => {
    brush.fillStyle = color;
    brush.beginPath();
    brush.arc((i + 0.5) * size, size / 2, size / 2 - 0.5, 0, 2 * Math.PI);
    brush.fill();
  });
  return sheet;
}

function aligned(view, Type) {
  const start = view.byteOffset;
  return new Type(view.buffer.slice(start, start + view.byteLength));
}

function render({ model, el }) {
  const spec = model.get("spec");
  const frames = aligned(model.get("frames"), Int16Array);
  const colors = aligned(model.get("colors"), Uint8Array);
  const count = spec.panels.length;
  const last = spec.frames - 1;
  const sharedTimes = spec.times.every((times) => times.every((t, i) => t === spec.times[0][i]));

  const parts = build(spec);
  const { root, canvas, slider } = parts;
  el.append(root);
  const brush = canvas.getContext("2d");
  const listeners = new AbortController();
  const on = (target, event, handler) =>
    target.addEventListener(event, handler, { signal: listeners.signal });

  let forward = spec.direction !== "backward";
  let position = forward ? 0 : last; // in steps; between two steps while playing
  let playing = false;
  let request = 0;
  let previous = 0;
  let layout = null;

  function measure() {
    const width = canvas.clientWidth;
    if (!width) return; // not on the page yet; the observer calls again
    const ratio = window.devicePixelRatio || 1;
    const side = Math.min(LARGEST_PANEL, (width - GAP * (count - 1)) / count);
    const top = spec.panels.some((name) => name) || !sharedTimes ? TITLE_HEIGHT : 1;
    canvas.style.height = `${side + top + 1}px`;
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round((side + top + 1) * ratio);
    const size = Math.round((2.2 + side * 0.005) * ratio);
    layout = { ratio, side, top, size, width, sheet: dots(spec.palette, size) };
  }

  function time(panel) {
    const low = Math.floor(position);
    const high = Math.min(low + 1, last);
    const times = spec.times[panel];
    return (times[low] + (position - low) * (times[high] - times[low])).toFixed(spec.digits);
  }

  function draw() {
    if (!layout || layout.ratio !== window.devicePixelRatio) measure();
    if (!layout) return;
    const { ratio, side, top } = layout;
    const look = getComputedStyle(root);
    const frame = look.getPropertyValue("--jp-border-color2").trim() || "rgba(128,128,128,.45)";
    brush.setTransform(ratio, 0, 0, ratio, 0, 0);
    brush.clearRect(0, 0, canvas.width, canvas.height);
    for (let panel = 0; panel < count; panel++) {
      const left = panel * (side + GAP);
      brush.fillStyle = look.color;
      brush.textBaseline = "alphabetic";
      brush.font = `500 16px ${look.fontFamily}`;
      brush.textAlign = "left";
      brush.fillText(spec.panels[panel], left + 1, top - 9, side);
      const notes = [];
      if (!sharedTimes) notes.push(`t = ${time(panel)}`);
      if (spec.missing[panel]) notes.push(`${spec.missing[panel]} not finite`);
      brush.font = `14px ${look.fontFamily}`;
      brush.textAlign = "right";
      brush.fillText(notes.join(" · "), left + side - 1, top === 1 ? 18 : top - 9, side);
      brush.strokeStyle = frame;
      brush.lineWidth = 1;
      brush.strokeRect(left + 0.5, top + 0.5, side - 1, side - 1);
      brush.save();
      brush.beginPath();
      brush.rect(left + 1, top + 1, side - 2, side - 2);
      brush.clip();
      stamp(panel, left, top);
      brush.restore();
    }
  }

  function stamp(panel, left, top) {
    const { ratio, side, size, sheet } = layout;
    const low = Math.floor(position);
    const share = position - low;
    const points = spec.points;
    const a = 2 * points * (low * count + panel);
    const b = 2 * points * (Math.min(low + 1, last) * count + panel);
    const scale = (side / 2) * spec.reach * ratio;
    const x0 = (left + side / 2) * ratio - size / 2;
    const y0 = (top + side / 2) * ratio - size / 2;
    brush.setTransform(1, 0, 0, 1, 0, 0);
    brush.globalAlpha = 0.85;
    for (let i = 0; i < points; i++) {
      const ax = frames[a + 2 * i];
      const bx = frames[b + 2 * i];
      if (ax === MISSING || (share > 0 && bx === MISSING)) continue;
      const ay = frames[a + 2 * i + 1];
      const by = frames[b + 2 * i + 1];
      const x = x0 + scale * (ax + share * (bx - ax));
      const y = y0 - scale * (ay + share * (by - ay));
      const from = size * colors[panel * points + i];
      // Whole pixels: stamping between them would blur the dots and cost twice the time.
      brush.drawImage(sheet, from, 0, size, size, Math.round(x), Math.round(y), size, size);
    }
    brush.globalAlpha = 1;
  }

  function describe() {
    const step = Math.round(position);
    const place = `step ${step}/${last}`;
    const text = sharedTimes ? `t = ${time(0)} · ${place}` : place;
    // A screen reader hears where the time stands, not every frame on the way.
    parts.readout.setAttribute("aria-live", playing ? "off" : "polite");
    if (parts.readout.textContent !== text) parts.readout.textContent = text;
    if (slider.value !== String(step)) slider.value = String(step);
    slider.setAttribute("aria-valuetext", text);
  }

  function showButtons() {
    parts.play.replaceChildren(icon(playing ? "pause" : "play"));
    parts.play.setAttribute("aria-pressed", String(playing));
    parts.turn.textContent = forward ? "data → noise" : "noise → data";
    parts.turn.setAttribute("aria-label", `play direction: ${forward ? "data to noise" : "noise to data"}`);
  }

  function tick(now) {
    request = 0;
    if (playing) {
      // A frame's clock may lie before the click that started it; a hidden tab does not jump ahead.
      const passed = Math.min(Math.max(now - previous, 0), 250) / 1000;
      previous = now;
      position += (forward ? 1 : -1) * spec.fps * passed;
      if (forward ? position >= last : position <= 0) {
        position = Math.min(Math.max(position, 0), last);
        setPlaying(false);
      }
    }
    draw();
    describe();
    if (playing) schedule();
  }

  function schedule() {
    if (!request) request = requestAnimationFrame(tick);
  }

  function setPlaying(value) {
    playing = value;
    showButtons();
    if (!playing) return;
    const end = forward ? last : 0;
    if (position === end) position = last - end; // at the end, play starts over
    previous = performance.now();
    schedule();
  }

  function go(step) {
    setPlaying(false);
    position = Math.min(Math.max(step, 0), last);
    cancelAnimationFrame(request);
    tick(); // at once: the browser already sends no more than one input event per frame
  }

  const pause = () => {
    position = Math.round(position); // a pause rests on a step: what is seen is what was computed
    go(position);
  };
  const toggle = () => (playing ? pause() : setPlaying(true));
  const stepBack = () => go(Math.ceil(position) - 1);
  const stepForward = () => go(Math.floor(position) + 1);

  on(parts.play, "click", toggle);
  on(parts.back, "click", stepBack);
  on(parts.next, "click", stepForward);
  on(slider, "input", () => go(Number(slider.value)));
  on(parts.turn, "click", () => {
    forward = !forward;
    showButtons();
  });
  on(canvas, "pointerdown", () => canvas.focus({ preventScroll: true }));
  on(root, "keydown", (event) => {
    if (event.altKey || event.ctrlKey || event.metaKey) return;
    const onSlider = event.target === slider;
    // Buttons answer to space and the slider to arrows, Home and End by themselves.
    const moves = onSlider
      ? {}
      : {
          ArrowLeft: stepBack,
          ArrowRight: stepForward,
          Home: () => go(0),
          End: () => go(last),
        };
    if (event.target.tagName !== "BUTTON") moves[" "] = toggle;
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
  resized.observe(canvas);
  const themed = new MutationObserver(schedule);
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
