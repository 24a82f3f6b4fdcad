// What was measured, as curves over time under each panel's axis, on one scale for all panels.

const CURVES = [
  { name: "W2 to data", color: "#0072B2", dash: [] },
  { name: "W2 to N(0, I)", color: "#009E73", dash: [6, 3] },
  { name: "leak", color: "#D55E00", dash: [2, 3] }, // a share, from 0 to 1
];

// The largest distance at any step of any panel at any setting of the dials.
function longestDistance(runs) {
  const all = runs.flatMap(({ metrics }) =>
    metrics.flatMap((each) => [...each["W2 to data"], ...each["W2 to N(0, I)"]]),
  );
  return all.reduce((most, value) => Math.max(most, value), 1e-9); // null counts as 0
}

function drawCurves(view, panel) {
  const { brush, run, layout, ink } = view;
  const { side, scale } = layout;
  const metrics = run.metrics[panel];
  const times = run.times[panel];
  const left = panelLeft(view, panel) + 6 * scale;
  const width = side - 12 * scale;
  const names = panelTop(view, panel) + side + scale * (AXIS_HEIGHT + 11);
  const bottom = panelTop(view, panel) + side + scale * (AXIS_HEIGHT + CURVES_HEIGHT - 4);
  const high = scale * (CURVES_HEIGHT - 22);
  const span = times[times.length - 1] - times[0] || 1;
  const at = (t) => left + (width * (t - times[0])) / span;
  brush.strokeStyle = view.frameColor;
  brush.lineWidth = scale;
  brush.strokeRect(left, bottom - high, width, high);
  const now = at(timeOf(view, panel));
  brush.strokeStyle = ink;
  brush.beginPath();
  brush.moveTo(now, bottom - high);
  brush.lineTo(now, bottom);
  brush.stroke();
  type(view, 12);
  brush.textAlign = "left";
  let pen = left;
  for (const { name, color, dash } of CURVES) {
    const top = name === "leak" ? 1 : view.longestDistance;
    const line = new Path2D();
    let drawing = false;
    metrics[name].forEach((value, step) => {
      if (value === null) {
        drawing = false;
        return;
      }
      const place = [at(times[step]), bottom - (high * value) / top];
      if (drawing) line.lineTo(...place);
      else line.moveTo(...place);
      drawing = true;
    });
    const shade = view.dark ? paler(color) : color;
    brush.strokeStyle = shade;
    brush.lineWidth = 1.8 * scale;
    brush.setLineDash(dash.map((each) => each * scale));
    brush.stroke(line);
    brush.beginPath();
    brush.moveTo(pen, names - 4 * scale);
    brush.lineTo(pen + 20 * scale, names - 4 * scale);
    brush.stroke();
    brush.setLineDash([]);
    const value = metrics[name][Math.round(view.position)];
    const dot = [at(times[Math.round(view.position)]), bottom - (high * value) / top];
    if (value !== null) circle(brush, dot, 3.2 * scale, shade);
    const end = name === "leak" ? "100 %" : top.toPrecision(2);
    const text = side / scale < 460 ? name : `${name}, to ${end}`;
    brush.fillStyle = ink;
    brush.fillText(text, pen + 24 * scale, names, width / 3 - 28 * scale);
    pen += width / 3;
  }
}
