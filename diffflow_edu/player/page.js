// The player's controls as plain elements of the page, without behaviour.

const GAP = 14; // between panels

const ICONS = {
  play: "M4 2.5v11l9.5-5.5z",
  pause: "M3.5 2.5h3.2v11H3.5zM9.3 2.5h3.2v11H9.3z",
  back: "M3 2.5h2v11H3zM13 2.5v11L5.8 8z",
  next: "M11 2.5h2v11h-2zM3 2.5v11L10.2 8z",
  whole: "M2 2h5v2H4v3H2zM9 2h5v5h-2V4H9zM2 9h2v3h3v2H2zM12 9h2v5H9v-2h3z",
  leave: "M5 2h2v5H2V5h3zM9 2h2v3h3v2H9zM2 9h5v5H5v-3H2zM9 9h5v2h-3v3H9z",
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

const KEY = {
  flex: "none",
  height: "var(--target)",
  boxSizing: "border-box",
  border: "1px solid var(--jp-border-color1, #bdbdbd)",
  borderRadius: "4px",
  background: "var(--jp-layout-color1, transparent)",
  color: "inherit",
  font: "inherit",
  cursor: "pointer",
};

// Without data-lm-suppress-shortcuts JupyterLab takes space and the arrows for its own shortcuts.
function named(label) {
  return { "aria-label": label, title: label, "data-lm-suppress-shortcuts": "true" };
}

function button(label, content) {
  const made = element(
    "button",
    {
      ...KEY,
      display: "inline-flex",
      alignItems: "center",
      justifyContent: "center",
      minWidth: "max(36px, var(--target))",
      padding: "0 7px",
    },
    { type: "button", ...named(label) },
  );
  made.append(content);
  return made;
}

// A button that stays down: its state is told by the border and the weight, not by colour alone.
function press(toggle, down) {
  toggle.setAttribute("aria-pressed", String(down));
  toggle.style.boxShadow = down ? "inset 0 0 0 2px #0072B2" : "none";
  toggle.style.fontWeight = down ? "600" : "inherit";
}

function toggleButton(label, content) {
  const made = button(label, content);
  press(made, false);
  return made;
}

function choice(label, options, chosen = 0) {
  const made = element("select", { ...KEY, padding: "0 2px", maxWidth: "8em" }, named(label));
  options.forEach((text, i) => {
    const option = element("option", { color: "#000", background: "#fff" }, { value: String(i) });
    option.textContent = text;
    made.append(option);
  });
  made.value = String(chosen);
  return made;
}

// A select with its name in view.
function labelled(text, control) {
  const made = element("label", { display: "inline-flex", alignItems: "center", gap: "5px" });
  const words = element("span", { opacity: "0.8" });
  words.textContent = text;
  made.append(words, control);
  return made;
}

function row(...content) {
  const made = element("div", {
    display: "flex",
    flexWrap: "wrap",
    alignItems: "center",
    gap: "7px",
    marginTop: "8px",
  });
  made.append(...content);
  return made;
}

function slide(label, last) {
  return element(
    "input",
    {
      flex: "1 1 100px",
      minWidth: "80px",
      height: "var(--target)",
      margin: "0",
      accentColor: "#0072B2",
      cursor: "pointer",
    },
    {
      type: "range",
      min: "0",
      max: String(last),
      step: "1",
      value: "0",
      "aria-label": label,
      "data-lm-suppress-shortcuts": "true",
    },
  );
}

// A dial: play it, read it, slide it. The value is large enough to be read from the back row.
function buildDial({ name, values }) {
  const play = button(`play the dial ${name}`, icon("play"));
  const slider = slide(name, values.length - 1);
  const words = element("span", { flex: "none", opacity: "0.8" }, { "aria-hidden": "true" });
  words.textContent = `${name} =`;
  const longest = Math.max(...values.map((value) => value.length));
  const value = element(
    "span",
    {
      flex: "none",
      minWidth: `${Math.min(longest, 12) + 0.3}ch`,
      maxWidth: "12em",
      overflow: "hidden",
      textOverflow: "ellipsis",
      whiteSpace: "nowrap",
      fontSize: "1.5em",
      fontWeight: "600",
      lineHeight: "1.1",
      fontVariantNumeric: "tabular-nums",
    },
    { "aria-hidden": "true" }, // the slider tells it
  );
  const made = element("div", {
    display: "flex",
    flex: "1 1 300px",
    minWidth: "0",
    alignItems: "center",
    gap: "8px",
  });
  made.append(play, words, value, slider);
  return { made, play, slider, value, values, playing: false, since: 0 };
}

const SPEEDS = [0.25, 0.5, 1, 2, 4];
const TARGET = 32; // the height of a control in pixels
const FINGER = 44;

// The whole screen, or the place of the cell. size: of words and controls, 1 in a page.
function setSize({ root, stage, controls }, size, whole, paper) {
  const target = window.matchMedia("(any-pointer: coarse)").matches ? FINGER : TARGET;
  root.style.setProperty("--target", `${Math.round(size * target)}px`);
  Object.assign(root.style, {
    fontSize: `${15 * size}px`,
    padding: whole ? "4px 12px" : "4px",
    position: whole ? "fixed" : "",
    inset: whole ? "0" : "",
    zIndex: whole ? "10000" : "",
    width: whole ? "100%" : "",
    height: whole ? "100%" : "",
    display: whole ? "flex" : "block",
    flexDirection: "column",
    background: whole ? `var(--jp-layout-color0, ${paper})` : "",
  });
  Object.assign(stage.style, {
    display: whole ? "flex" : "block",
    flex: "1 1 0",
    minHeight: "0",
    alignItems: "center",
    justifyContent: "center",
  });
  // On a screen, which is wide, dials and time share a row.
  Object.assign(controls.style, {
    display: whole ? "flex" : "block",
    flexWrap: "wrap",
    columnGap: "24px",
  });
  for (const each of controls.children) each.style.flex = "1 1 480px";
}

function build(spec) {
  const root = element(
    "div",
    {
      boxSizing: "border-box",
      color: "var(--jp-content-font-color1, var(--vscode-foreground, inherit))",
      fontFamily: "var(--jp-ui-font-family, system-ui, sans-serif)",
    },
    { role: "group", "aria-label": "Trajectory player", "data-lm-suppress-shortcuts": "true" },
  );
  root.className = "diffflow-player";
  root.dataset.view = spec.view.join(","); // lets a test find a particle on the canvas
  const canvas = element(
    "canvas",
    // Outside the panels a finger scrolls the page; inside it draws a box (follow.js).
    { display: "block", outlineOffset: "2px", touchAction: "pan-y pinch-zoom" },
    { role: "img", tabindex: "0", "aria-label": spec.alt, "data-lm-suppress-shortcuts": "true" },
  );
  const back = button("step back", icon("back"));
  const play = button("play/pause", icon("play"));
  const next = button("step forward", icon("next"));
  const slider = slide("time step, from data to noise", 0);
  const turn = button("play direction", "");
  turn.style.minWidth = "8.4em";
  const readout = element(
    "div",
    { flex: "none", marginLeft: "6px", fontVariantNumeric: "tabular-nums", whiteSpace: "pre" },
    { "aria-live": "polite", "aria-atomic": "true" },
  );
  // As wide as its longest text, so that the slider keeps its place while time runs.
  const longest = Math.max(...spec.runs.map((run) => String(run.frames - 1).length));
  readout.style.minWidth = `${11 + spec.digits + longest * 2}ch`;
  const quiet = { flex: "none", opacity: "0.8" };
  const data = element("span", quiet, { "aria-hidden": "true" });
  const noise = element("span", quiet, { "aria-hidden": "true" });
  data.textContent = "data";
  noise.textContent = "noise";
  const time = element("div", {
    display: "flex",
    flex: "1 1 150px",
    alignItems: "center",
    gap: "8px",
  });
  time.append(data, slider, noise);
  const whole = button("present: fill the screen (f)", icon("whole"));
  const more = toggleButton("tools: more controls", "tools");

  const loop = toggleButton("loop", "loop");
  const speed = choice("speed", SPEEDS.map((s) => `${s}×`), SPEEDS.indexOf(1));
  const trails = toggleButton("trails", "trails");
  const colouring = choice("colour by", spec.colorings.map((c) => c.name));
  const one = spec.images ? "image" : "particle";
  const another = button(`follow another ${one}`, "follow one");
  const around = button("follow the region around it", "its region");
  const clear = button("clear the selection", "clear");
  const dials = spec.dials.map(buildDial);
  const density = toggleButton("density", "density");
  const grid = toggleButton("grid", "grid");
  const arrows = choice("arrows", ["no arrows", ...spec.fields.kinds]);
  arrows.title = "arrows: as long as the square root of the vector, bold where it is longer still";
  const own = toggleButton("each arrow field on its own scale", "own scale");
  const some = (runs) => runs.some((run) => Object.keys(run).length);
  const curves = toggleButton("curves of what was measured", "curves");
  const futures = toggleButton("futures: one start, many noises (b)", "futures");
  // Controls without anything to show are left out.
  const plane = spec.images ? [] : [trails, density];
  if (some(spec.lattice.runs)) plane.push(grid);
  if (some(spec.fields.runs)) plane.push(arrows, own);
  if (spec.runs[0].metrics.length) plane.push(curves);
  if (!spec.images) plane.push(labelled("colour", colouring));
  const chosen = spec.images ? [another, clear] : [another, around, futures, clear];
  const tools = row(loop, speed, ...plane, ...chosen);
  // role="status" is a live region too: what is followed is told apart from where time stands.
  const status = element(
    "div",
    { minHeight: "1.4em", marginTop: "6px", fontVariantNumeric: "tabular-nums" },
    { role: "status" },
  );
  const stage = element("div", {});
  stage.append(canvas);
  if (spec.title) {
    const title = element("div", { flex: "none", fontSize: "1.2em", margin: "0 0 6px" });
    title.textContent = spec.title;
    root.append(title);
  }
  // Directly under the picture: the dials, then time.
  const controls = element("div", { flex: "none" });
  if (dials.length) controls.append(row(...dials.map((dial) => dial.made)));
  controls.append(row(back, play, next, time, readout, turn, more, whole));
  root.append(stage, controls, tools, status);
  const parts = {
    root, stage, canvas, controls, tools, back, play, next, slider, readout, turn, more, whole,
    ends: [data, noise], dials, density, grid, arrows, own, loop, speed, trails, colouring, another, around, clear,
    curves, futures, status,
  };
  setSize(parts, 1, false);
  return parts;
}
