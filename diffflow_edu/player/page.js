// The player's controls as plain elements of the page, without behaviour.

const GAP = 14;
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

const KEY = {
  flex: "none",
  height: "32px",
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
      minWidth: "36px",
      padding: "0 9px",
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
  const made = element("select", { ...KEY, padding: "0 4px" }, named(label));
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
    gap: "8px",
    marginTop: "8px",
  });
  made.append(...content);
  return made;
}

const SPEEDS = [0.25, 0.5, 1, 2, 4];

function build(spec) {
  const root = element(
    "div",
    {
      boxSizing: "border-box",
      maxWidth: `${Math.max(spec.panels.length * (LARGEST_PANEL + GAP) - GAP + 8, 560)}px`,
      padding: "4px",
      color: "var(--jp-content-font-color1, var(--vscode-foreground, inherit))",
      fontFamily: "var(--jp-ui-font-family, system-ui, sans-serif)",
      fontSize: "15px",
    },
    { role: "group", "aria-label": "Trajectory player", "data-lm-suppress-shortcuts": "true" },
  );
  root.className = "diffflow-player";
  root.dataset.view = spec.view.join(","); // lets a test find a particle on the canvas
  const canvas = element(
    "canvas",
    { display: "block", width: "100%", outlineOffset: "2px", touchAction: "pan-y" },
    { role: "img", tabindex: "0", "aria-label": spec.alt, "data-lm-suppress-shortcuts": "true" },
  );
  const back = button("step back", icon("back"));
  const play = button("play/pause", icon("play"));
  const next = button("step forward", icon("next"));
  const slider = element(
    "input",
    { flex: "1 1 120px", minWidth: "80px", margin: "0", accentColor: "#0072B2", cursor: "pointer" },
    {
      type: "range",
      min: "0",
      step: "1",
      "aria-label": "time step, from data to noise",
      "data-lm-suppress-shortcuts": "true",
    },
  );
  const turn = button("play direction", "");
  turn.style.minWidth = "8.4em";
  const readout = element(
    "div",
    { flex: "none", fontVariantNumeric: "tabular-nums", whiteSpace: "pre" },
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

  const loop = toggleButton("loop", "loop");
  const speed = choice("speed", SPEEDS.map((s) => `${s}×`), SPEEDS.indexOf(1));
  const trails = toggleButton("trails", "trails");
  const colouring = choice("colour by", spec.colorings.map((c) => c.name));
  const one = spec.images ? "image" : "particle";
  const another = button(`follow another ${one}`, "follow one");
  const around = button("follow the region around it", "its region");
  const clear = button("clear the selection", "clear");
  const dials = spec.dials.map((dial) => choice(dial.name, dial.values));
  const turned = spec.dials.map((dial, i) => labelled(`${dial.name} =`, dials[i]));
  const density = toggleButton("density", "density");
  const grid = toggleButton("grid", "grid");
  const arrows = choice("arrows", ["none", ...spec.fields.kinds]);
  const some = (runs) => runs.some((run) => Object.keys(run).length);
  // Controls without anything to show are left out.
  const plane = spec.images ? [] : [trails, density];
  if (some(spec.lattice.runs)) plane.push(grid);
  if (some(spec.fields.runs)) plane.push(labelled("arrows", arrows));
  if (!spec.images) plane.push(labelled("colour", colouring));
  const chosen = spec.images ? [another, clear] : [another, around, clear];
  const tools = row(...turned, loop, speed, ...plane, ...chosen);
  // role="status" is a live region too: what is followed is told apart from where time stands.
  const status = element(
    "div",
    { minHeight: "1.4em", marginTop: "6px", fontVariantNumeric: "tabular-nums" },
    { role: "status" },
  );
  if (spec.title) {
    const title = element("div", { fontSize: "18px", margin: "2px 0 8px" });
    title.textContent = spec.title;
    root.append(title);
  }
  root.append(canvas, row(back, play, next, data, slider, noise, readout, turn), tools, status);
  return {
    root, canvas, back, play, next, slider, readout, turn, dials, density, grid, arrows,
    loop, speed, trails, colouring, another, around, clear, status,
  };
}
