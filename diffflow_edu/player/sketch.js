// The sketch pad. It draws without a kernel; training asks the kernel and shows what comes back.

const LARGEST_PAD = 400;
const CLOSEST = 0.012; // points nearer than this to the last one are left out, in half sides
const MOST_POINTS = 1000; // of a stroke; beyond, every other one goes and CLOSEST doubles for it
const GLIDE = 280; // milliseconds from one frame of samples to the next; they come every 350
const NO_ANSWER = 1500; // milliseconds until the pad says that no kernel has answered

function element(tag, style, attributes = {}) {
  const made = document.createElement(tag);
  Object.assign(made.style, style);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

const FIELD = {
  height: "32px",
  boxSizing: "border-box",
  padding: "0 10px",
  border: "1px solid var(--jp-border-color1, #bdbdbd)",
  borderRadius: "4px",
  background: "var(--jp-layout-color1, Canvas)",
  color: "inherit",
  font: "inherit",
  cursor: "pointer",
};
// Without this attribute JupyterLab takes keys for its own shortcuts.
const OWN_KEYS = { "data-lm-suppress-shortcuts": "true" };

function button(text) {
  const made = element("button", FIELD, { type: "button", ...OWN_KEYS });
  made.textContent = text;
  return made;
}

function labelled(text, control) {
  const label = element("label", { display: "inline-flex", alignItems: "center", gap: "6px" });
  label.append(text, control);
  return label;
}

// The page's controls, without behaviour.
function build(spec) {
  const root = element(
    "div",
    {
      boxSizing: "border-box",
      padding: "4px",
      color: "var(--jp-content-font-color1, var(--vscode-foreground, inherit))",
      fontFamily: "var(--jp-ui-font-family, system-ui, sans-serif)",
      fontSize: "15px",
    },
    { role: "group", "aria-label": "Sketch pad", ...OWN_KEYS },
  );
  root.className = "diffflow-sketch";
  const canvas = element(
    "canvas",
    {
      display: "block",
      width: "100%",
      maxWidth: `${LARGEST_PAD}px`,
      aspectRatio: "1",
      borderRadius: "4px",
      cursor: "crosshair",
      touchAction: "none", // a finger draws and does not scroll the page
    },
    { role: "img" },
  );
  const row = () =>
    element("div", {
      display: "flex",
      flexWrap: "wrap",
      alignItems: "center",
      gap: "8px",
      marginTop: "8px",
    });
  const undo = button("undo");
  const clear = button("clear");
  const preset = element("select", FIELD, OWN_KEYS);
  preset.append(new Option("choose…", ""), ...Object.keys(spec.presets).map((n) => new Option(n, n)));
  const brush = element(
    "input",
    { width: "96px", margin: "0", accentColor: "#0072B2", cursor: "pointer" },
    { type: "range", min: spec.widths[0], max: spec.widths[1], step: "0.005", ...OWN_KEYS },
  );
  const tools = row();
  tools.append(undo, clear, labelled("drawing", preset), labelled("brush", brush));
  const train = button("Train");
  train.style.fontWeight = "600";
  const bar = element(
    "progress",
    { width: "150px", accentColor: "#0072B2" },
    { max: "1", "aria-label": "training progress" },
  );
  const stop = button("Stop");
  stop.setAttribute("aria-label", "stop training");
  const left = element("span", { fontVariantNumeric: "tabular-nums" });
  const training = row();
  training.append(train, stop, bar, left);
  const status = element(
    "div",
    { marginTop: "8px", minHeight: "1.3em", maxWidth: "44em" },
    { role: "status", "aria-live": "polite" },
  );
  const note = element(
    "div",
    { marginTop: "4px", paddingLeft: "8px", borderLeft: "3px solid #E69F00", maxWidth: "44em" },
    { role: "note" },
  );
  note.textContent =
    "Training needs a running kernel, and none answers here. Run this cell in JupyterLab, " +
    "Notebook or Binder; where the kernel is busy with another cell, wait for it.";
  note.hidden = true;
  const slot = element("div", { marginTop: "8px" });
  root.append(canvas, tools, training, status, note, slot);
  return { root, canvas, undo, clear, preset, brush, train, stop, bar, left, status, note, slot };
}

// One round dot per palette colour, drawn once; stamping them is faster than drawing circles.
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

function rowsOf(view) {
  const start = view.byteOffset;
  return new Int16Array(view.buffer.slice(start, start + view.byteLength));
}

function render({ model, el, host }) {
  const spec = model.get("spec");
  const parts = build(spec);
  const { root, canvas } = parts;
  el.append(root);
  const brush = canvas.getContext("2d");
  const listeners = new AbortController();
  const on = (target, event, handler) =>
    target.addEventListener(event, handler, { signal: listeners.signal });
  const calm = window.matchMedia("(prefers-reduced-motion: reduce)").matches;

  let strokes = model.get("strokes");
  let past = []; // drawings to go back to
  let current = null; // the stroke under the pen
  let closest = CLOSEST; // of its points
  let alive = false; // a kernel has answered
  let asked = false; // Train was pressed and the kernel has not yet begun
  let stopping = false; // Stop was pressed and training has not yet ended
  let edited = false; // what the kernel said last was about another drawing
  let rows = new Int16Array(0); // samples that are shown
  let former = rows; // where the same samples were one frame ago
  let arrived = 0;
  let request = 0;
  let sheet = null; // a dot of each colour
  let closePlayer = () => {};

  const progress = () => model.get("progress");
  const busy = () => asked || progress().state === "training";

  // Drawing ---------------------------------------------------------------------------------------

  function measure() {
    const ratio = window.devicePixelRatio || 1;
    const side = Math.round(canvas.clientWidth * ratio);
    if (side && canvas.width !== side) canvas.width = canvas.height = side;
  }

  function draw(now = performance.now()) {
    request = 0;
    measure();
    const side = canvas.width;
    const look = getComputedStyle(root);
    const color = (name, other) => look.getPropertyValue(name).trim() || other;
    brush.setTransform(1, 0, 0, 1, 0, 0);
    brush.clearRect(0, 0, side, side);
    brush.strokeStyle = color("--jp-border-color1", "rgba(128,128,128,.6)");
    brush.lineWidth = 2;
    brush.strokeRect(0, 0, side, side);
    brush.setTransform(side / 2, 0, 0, -side / 2, side / 2, side / 2);
    // Under the samples the drawing stays as a shadow to compare them with.
    brush.globalAlpha = rows.length ? 0.18 : 1;
    brush.lineCap = brush.lineJoin = "round";
    brush.lineWidth = spec.line_widths * model.get("width");
    [...strokes, ...(current ? [current] : [])].forEach((stroke, i) => {
      brush.strokeStyle = spec.palette[i % spec.palette.length];
      brush.beginPath();
      brush.moveTo(...stroke[0]);
      brush.lineTo(stroke[0][0] + 1e-4, stroke[0][1]); // a line without length is not drawn
      for (const point of stroke) brush.lineTo(...point);
      brush.stroke();
    });
    const share = calm ? 1 : Math.min(1, (now - arrived) / GLIDE);
    stamp(share);
    if (share < 1 && rows.length) schedule();
  }

  // The samples, share of the way from the frame before to the last one: the seed is the same in
  // every frame, so each particle moves smoothly while the model learns.
  function stamp(share) {
    const half = canvas.width / 2;
    const size = Math.max(3, Math.round((2.2 * half) / 100));
    if (sheet?.height !== size) sheet = dots(spec.palette, size);
    const from = former.length === rows.length ? former : rows;
    const scale = half * spec.reach;
    brush.setTransform(1, 0, 0, 1, 0, 0);
    brush.globalAlpha = 0.85;
    for (let k = 0; k < rows.length; k += 3) {
      const x = half + scale * (from[k] + share * (rows[k] - from[k]));
      const y = half - scale * (from[k + 1] + share * (rows[k + 1] - from[k + 1]));
      const mode = rows[k + 2] % spec.palette.length;
      brush.drawImage(
        sheet, mode * size, 0, size, size,
        Math.round(x - size / 2), Math.round(y - size / 2), size, size,
      );
    }
    brush.globalAlpha = 1;
  }

  function schedule() {
    if (!request) request = requestAnimationFrame(draw);
  }

  function show() {
    const { state, share, left, message } = progress();
    const count = strokes.length;
    const drawn = count === 1 ? "1 stroke" : `${count} strokes`;
    const hint = "Draw with mouse, finger or pen, or choose a drawing from the list.";
    let text = count ? `${drawn} on the pad.` : hint;
    if (full()) text = `${drawn} on the pad: it holds no more. Undo takes the last one off.`;
    if (asked) text = "Waiting for the kernel…";
    else if (stopping) text = "Stopping…";
    else if (state === "training") text = `Training, ${spec.seconds} s of processor time at most. Stop keeps what is learned.`;
    else if (message && !edited) text = message;
    if (parts.status.textContent !== text) parts.status.textContent = text;
    const failed = state === "error" && !asked && !edited;
    parts.status.style.color = failed ? "var(--jp-error-color1, #c62828)" : "";
    const training = state === "training" && !asked;
    for (const part of [parts.bar, parts.left, parts.stop]) part.hidden = !training;
    parts.stop.disabled = stopping;
    parts.bar.value = share;
    const seconds = left === null ? "" : `, about ${Math.ceil(left)} s left`;
    parts.left.textContent = `${Math.round(100 * share)} %${seconds}`;
    for (const control of [parts.preset, parts.brush]) control.disabled = busy();
    parts.train.disabled = busy() || !alive || !count;
    parts.clear.disabled = busy() || !count;
    parts.undo.disabled = busy() || !(count || past.length);
    for (const control of [parts.train, parts.clear, parts.undo]) {
      control.style.opacity = control.disabled ? "0.5" : "";
      control.style.cursor = control.disabled ? "default" : "pointer";
    }
    canvas.style.cursor = busy() ? "default" : "crosshair";
    const what = rows.length ? `${drawn}, and ${rows.length / 3} samples of the model` : drawn;
    canvas.setAttribute("aria-label", `Sketch pad: ${count ? what : "empty"}`);
    parts.brush.value = model.get("width");
    parts.brush.setAttribute("aria-valuetext", `width ${model.get("width")}`);
    schedule();
  }

  // Editing ---------------------------------------------------------------------------------------

  function edit(drawing, name = "") {
    strokes = drawing;
    parts.preset.value = name;
    changed("strokes", drawing);
  }

  function redraw(drawing, name) {
    past.push(strokes);
    edit(drawing, name);
  }

  function changed(name, value) {
    edited = true;
    rows = new Int16Array(0); // the samples were learned from another drawing
    model.set(name, value);
    model.save_changes();
    show();
  }

  function pointOf(event) {
    const box = canvas.getBoundingClientRect();
    const on = (share) => Math.round(1000 * Math.min(1, Math.max(-1, 2 * share - 1))) / 1000;
    return [
      on((event.clientX - box.left) / box.width),
      -on((event.clientY - box.top) / box.height),
    ];
  }

  function extend(event) {
    const passed = event.getCoalescedEvents?.() ?? [];
    for (const each of passed.length ? passed : [event]) {
      const [x, y] = pointOf(each);
      const [fromX, fromY] = current[current.length - 1];
      if (Math.hypot(x - fromX, y - fromY) >= closest) current.push([x, y]);
      if (current.length > MOST_POINTS) {
        current = current.filter((_, i) => i % 2 === 0);
        closest *= 2;
      }
    }
    schedule();
  }

  function full() {
    return strokes.length >= spec.most_strokes;
  }

  function finish(event) {
    if (!current || !canvas.hasPointerCapture(event.pointerId)) return;
    const stroke = current;
    current = null;
    redraw([...strokes, stroke]);
  }

  on(canvas, "pointerdown", (event) => {
    if (busy() || current || event.button !== 0 || full()) return;
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    current = [pointOf(event)];
    closest = CLOSEST;
    rows = new Int16Array(0);
    schedule();
  });
  on(canvas, "pointermove", (event) => {
    if (current && canvas.hasPointerCapture(event.pointerId)) extend(event);
  });
  on(canvas, "pointerup", finish);
  on(canvas, "pointercancel", finish);

  const undo = () => {
    // The first view of a drawing made elsewhere has no past: then the last stroke goes.
    if (past.length) edit(past.pop());
    else if (strokes.length) edit(strokes.slice(0, -1));
  };
  on(parts.undo, "click", undo);
  on(parts.clear, "click", () => redraw([]));
  on(parts.preset, "change", () => {
    const name = parts.preset.value;
    if (name) redraw(spec.presets[name], name);
  });
  on(parts.brush, "input", () => changed("width", Number(parts.brush.value)));
  on(root, "keydown", (event) => {
    if (event.key !== "z" || !(event.ctrlKey || event.metaKey) || busy()) return;
    event.preventDefault();
    event.stopPropagation();
    undo();
  });

  // The kernel ------------------------------------------------------------------------------------

  function tell(content) {
    try {
      model.send(content);
    } catch {
      alive = false; // a closed line to the kernel
    }
  }

  function ping() {
    alive = false;
    asked = false;
    tell({ type: "ping" });
    window.setTimeout(() => {
      parts.note.hidden = alive;
    }, NO_ANSWER);
    show();
  }

  on(parts.train, "click", () => {
    if (busy()) return;
    asked = true;
    const { runs } = progress();
    tell({ type: "train", runs, strokes, width: model.get("width") });
    show();
  });

  on(parts.stop, "click", () => {
    stopping = true;
    tell({ type: "stop" });
    show();
  });

  async function showPlayer() {
    closePlayer();
    closePlayer = () => {};
    const ref = model.get("player");
    if (!ref || !host) return;
    const life = new AbortController();
    const frame = element("div", {});
    closePlayer = () => {
      life.abort();
      frame.remove();
    };
    parts.slot.append(frame);
    const widget = await host.getWidget(ref);
    if (!life.signal.aborted) await widget.render({ el: frame, signal: life.signal });
  }

  model.on("msg:custom", (content) => {
    if (content.type !== "pong") return;
    alive = true;
    parts.note.hidden = true;
    show();
  });
  model.on("comm_live_update", ping);
  model.on("change:progress", () => {
    asked = edited = false;
    stopping = stopping && progress().state === "training";
    show();
  });
  model.on("change:samples", () => {
    former = rows;
    rows = rowsOf(model.get("samples"));
    arrived = performance.now();
    show();
  });
  model.on("change:strokes", () => {
    strokes = model.get("strokes");
    show();
  });
  model.on("change:width", show);
  model.on("change:player", showPlayer);

  const resized = new ResizeObserver(() => draw());
  resized.observe(canvas);
  const themed = new MutationObserver(schedule);
  themed.observe(document.body, {
    attributes: true,
    attributeFilter: ["class", "data-jp-theme-light", "data-jp-theme-name"],
  });

  rows = former = rowsOf(model.get("samples"));
  ping();
  showPlayer();

  return () => {
    listeners.abort();
    resized.disconnect();
    themed.disconnect();
    cancelAnimationFrame(request);
    closePlayer();
    root.remove();
  };
}

export default { render };
