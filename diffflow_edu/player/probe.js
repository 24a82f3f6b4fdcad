// Maps of log p side by side: the pointer reads all of them at once, a click pins a probe.
// All values came with the page, so no kernel is asked.

const OWN_KEYS = { "data-lm-suppress-shortcuts": "true" }; // else JupyterLab takes the arrow keys
const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowDown: [0, -1], ArrowUp: [0, 1] };

function element(tag, style = {}, attributes = {}) {
  const made = document.createElement(tag);
  Object.assign(made.style, style);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function number(value, decimals = 2) {
  if (Math.abs(value) === Infinity) return value < 0 ? "−∞" : "∞";
  if (Number.isNaN(value)) return "–"; // −∞ − (−∞), or outside the map
  return value.toFixed(decimals).replace("-", "−");
}

function render({ model, el }) {
  const spec = model.get("spec");
  const n = spec.cells;
  const [cx, cy, half] = spec.view;
  const coordinate = (value) => number(value, spec.decimals);
  const view = model.get("values");
  const values = new Float32Array(
    view.buffer.slice(view.byteOffset, view.byteOffset + view.byteLength),
  );
  const listeners = new AbortController();
  const on = (target, event, handler) =>
    target.addEventListener(event, handler, { signal: listeners.signal });

  const root = element(
    "div",
    {
      boxSizing: "border-box",
      padding: "4px",
      color: "var(--jp-content-font-color1, var(--vscode-foreground, inherit))",
      fontFamily: "var(--jp-ui-font-family, system-ui, sans-serif)",
      fontSize: "15px",
    },
    { role: "group", "aria-label": "Map of log p", tabindex: "0", ...OWN_KEYS },
  );
  root.className = "diffflow-probe";
  const heading = element("div", { fontWeight: "600", margin: "4px 0 8px" });
  heading.textContent = spec.title;
  const row = element("div", { display: "flex", flexWrap: "wrap", gap: "16px" });
  const scale = element("div", { display: "flex", alignItems: "center", gap: "8px", marginTop: "8px" });
  const strip = element("div", {
    width: "160px",
    height: "12px",
    background: `linear-gradient(to right, ${spec.palette.join(",")})`,
  });
  scale.append(`log p [nats]: ${number(spec.top - spec.depth)}`, strip, number(spec.top));
  const status = element(
    "div",
    { margin: "8px 0", minHeight: "1.4em", fontVariantNumeric: "tabular-nums" },
    { role: "status", "aria-live": "polite" },
  );
  const table = element("table", { borderCollapse: "collapse", fontVariantNumeric: "tabular-nums" });
  const clear = element(
    "button",
    { font: "inherit", marginTop: "8px", padding: "4px 12px", cursor: "pointer" },
    { type: "button", ...OWN_KEYS },
  );
  clear.textContent = "remove the probes";
  root.append(heading, row, scale, status, table, clear);
  el.append(root);

  const pictures = spec.names.map((_, k) => paint(k)); // n × n pixels each, drawn once
  const canvases = spec.names.map((name) => {
    const column = element("div", { flex: "1 1 240px", maxWidth: "380px" });
    const label = element("div", { textAlign: "center", marginBottom: "4px" });
    label.textContent = name;
    const canvas = element(
      "canvas",
      { display: "block", width: "100%", aspectRatio: "1", cursor: "crosshair" },
      { role: "img", "aria-label": `log p of ${name}` },
    );
    column.append(label, canvas);
    row.append(column);
    return canvas;
  });
  let cell = null; // [column, row] under the pointer

  function paint(k) {
    const picture = element("canvas");
    picture.width = picture.height = n;
    const brush = picture.getContext("2d");
    for (let i = 0; i < n * n; i++) {
      const share = 1 + (values[k * n * n + i] - spec.top) / spec.depth;
      const shade = Math.min(spec.palette.length - 1, Math.floor(share * spec.palette.length));
      brush.fillStyle = share >= 0 ? spec.palette[shade] : "#ffffff";
      brush.fillRect(i % n, n - 1 - Math.floor(i / n), 1, 1);
    }
    return picture;
  }

  const read = ([column, line]) => spec.names.map((_, k) => values[(k * n + line) * n + column]);
  const centre = ([column, line]) => [
    cx + ((2 * (column + 0.5)) / n - 1) * half,
    cy + ((2 * (line + 0.5)) / n - 1) * half,
  ];
  const cellOf = ([x, y]) => {
    const at = [x - cx, y - cy].map((c) => Math.floor(((c + half) / (2 * half)) * n));
    return at.every((c) => c >= 0 && c < n) ? at : null;
  };

  function describe(at) {
    const [x, y] = centre(at);
    const found = read(at);
    const parts = spec.names.map((name, k) => `${name} ${number(found[k])}`);
    const apart = found.length === 2 ? `; difference ${number(found[0] - found[1])}` : "";
    return `(${coordinate(x)}, ${coordinate(y)}): log p ${parts.join(", ")}${apart} nats`;
  }

  function draw() {
    canvases.forEach((canvas, k) => {
      const side = Math.round(canvas.clientWidth * (window.devicePixelRatio || 1));
      if (side && canvas.width !== side) canvas.width = canvas.height = side;
      const brush = canvas.getContext("2d");
      const unit = canvas.width / n;
      brush.imageSmoothingEnabled = false;
      brush.drawImage(pictures[k], 0, 0, canvas.width, canvas.height);
      brush.strokeStyle = "rgba(128,128,128,.6)";
      brush.strokeRect(0, 0, canvas.width, canvas.height);
      if (cell) {
        const [x, y] = [(cell[0] + 0.5) * unit, (n - cell[1] - 0.5) * unit];
        brush.strokeStyle = spec.probe;
        brush.lineWidth = Math.max(1, canvas.width / 300);
        brush.beginPath();
        brush.moveTo(x, 0);
        brush.lineTo(x, canvas.height);
        brush.moveTo(0, y);
        brush.lineTo(canvas.width, y);
        brush.stroke();
      }
      const radius = canvas.width / 38;
      model.get("probes").forEach(([px, py], i) => {
        const x = ((px - cx + half) / (2 * half)) * canvas.width;
        const y = (1 - (py - cy + half) / (2 * half)) * canvas.height;
        brush.beginPath();
        brush.arc(x, y, radius, 0, 2 * Math.PI);
        brush.fillStyle = "white";
        brush.fill();
        brush.strokeStyle = spec.probe;
        brush.lineWidth = radius / 4;
        brush.stroke();
        brush.fillStyle = "black";
        brush.font = `${1.25 * radius}px system-ui, sans-serif`;
        brush.textAlign = "center";
        brush.textBaseline = "middle";
        brush.fillText(String(i + 1), x, y);
      });
    });
  }

  function tabulate() {
    const probes = model.get("probes");
    table.replaceChildren();
    clear.hidden = table.hidden = probes.length === 0;
    const line = (cells, tag) => {
      const made = element("tr");
      for (const text of cells) {
        const each = element(tag, { padding: "2px 14px 2px 0", textAlign: "right" });
        each.textContent = text;
        made.append(each);
      }
      table.append(made);
    };
    const two = spec.names.length === 2;
    line(["probe", "x", "y", ...spec.names, ...(two ? ["difference"] : [])], "th");
    probes.forEach((point, i) => {
      const at = cellOf(point);
      const found = at ? read(at) : spec.names.map(() => NaN);
      const apart = two ? [number(found[0] - found[1])] : [];
      const values = found.map((value) => number(value)); // not .map(number): it passes the index, too
      line([String(i + 1), ...point.map(coordinate), ...values, ...apart], "td");
    });
  }

  function show() {
    status.textContent = cell
      ? describe(cell)
      : "Point at a map to read it, click to pin a probe. Keys: arrows move, Enter pins.";
    draw();
  }

  function pin() {
    if (!cell) return;
    model.set("probes", [...model.get("probes"), centre(cell)]);
    model.save_changes();
  }

  canvases.forEach((canvas) => {
    const follow = (event) => {
      const box = canvas.getBoundingClientRect();
      const share = [
        (event.clientX - box.left) / box.width,
        1 - (event.clientY - box.top) / box.height,
      ];
      cell = share.map((s) => Math.min(n - 1, Math.max(0, Math.floor(s * n))));
      show();
    };
    on(canvas, "pointermove", follow);
    on(canvas, "click", (event) => {
      follow(event);
      pin();
    });
  });
  on(root, "keydown", (event) => {
    if (event.target === clear || !(event.key in STEPS || event.key === "Enter")) return;
    event.preventDefault();
    event.stopPropagation();
    const [right, up] = STEPS[event.key] ?? [0, 0];
    const [column, line] = cell ?? [Math.floor(n / 2), Math.floor(n / 2)];
    cell = [column + right, line + up].map((c) => Math.min(n - 1, Math.max(0, c)));
    if (event.key === "Enter") pin();
    show();
  });
  on(clear, "click", () => {
    model.set("probes", []);
    model.save_changes();
  });
  const changed = () => {
    tabulate();
    show();
  };
  model.on("change:probes", changed);
  const resized = new ResizeObserver(draw);
  resized.observe(row);
  changed();

  return () => {
    listeners.abort();
    resized.disconnect();
    model.off("change:probes", changed);
    root.remove();
  };
}

export default { render };
