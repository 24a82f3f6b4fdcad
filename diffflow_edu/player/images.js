// Particles that are images: side by side in a panel, or one of them large above its way in time.

const FILM = 6; // pictures of the way of the image that is followed
const LARGE = 0.78; // the followed image, as a share of the panel

function pixelSheet(width, height) {
  const sheet = document.createElement("canvas");
  sheet.width = width;
  sheet.height = height;
  const image = new ImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  return { sheet, brush: sheet.getContext("2d"), image, pixels, width, height };
}

function imageSheets({ columns, height, width }, points) {
  const rows = Math.ceil(points / columns);
  return {
    all: pixelSheet(columns * (width + 1) - 1, rows * (height + 1) - 1), // a pixel apart
    one: pixelSheet(width, height),
  };
}

// Image i at a position in steps, into a sheet from this pixel on. A byte of 0 is not finite: the
// pixel stays transparent.
function paintImage(view, panel, i, position, target, start) {
  const { frames, run, points, count } = view;
  const { height, width, channels } = view.images;
  const size = height * width * channels;
  const low = Math.floor(position);
  const share = position - low;
  let a = run.offset + size * (points * (low * count + panel) + i);
  let b = share > 0 ? a + size * points * count : a;
  for (let y = 0; y < height; y++) {
    for (let at = start + y * target.width, end = at + width; at < end; at++) {
      let rgb = 0;
      let there = true;
      for (let c = 0; c < channels; c++, a++, b++) {
        if (!frames[a] || !frames[b]) there = false;
        const value = Math.round(frames[a] + share * (frames[b] - frames[a]));
        rgb |= channels === 1 ? value * 0x10101 : value << (8 * c);
      }
      target.pixels[at] = there ? 0xff000000 | rgb : 0; // as a little-endian machine reads RGBA
    }
  }
}

function showSheet(view, target, x, y, width, height) {
  target.brush.putImageData(target.image, 0, 0);
  view.brush.imageSmoothingEnabled = false; // pixels are what is seen
  view.brush.drawImage(target.sheet, x, y, width, height);
}

// Where all images stand: the sheet as large as the panel allows, in its middle.
function sheetPlace(view, panel) {
  const { side } = view.layout;
  const { width, height } = view.sheets.all;
  const scale = (side - 4) / Math.max(width, height);
  return {
    scale,
    x: panelLeft(view, panel) + (side - scale * width) / 2,
    y: panelTop(view, panel) + (side - scale * height) / 2,
  };
}

function drawImages(view, panel) {
  if (view.follow >= 0) return drawOneImage(view, panel);
  const { all } = view.sheets;
  const { columns, height, width } = view.images;
  for (let i = 0; i < view.points; i++) {
    const row = Math.floor(i / columns);
    const start = row * (height + 1) * all.width + (i % columns) * (width + 1);
    paintImage(view, panel, i, view.position, all, start);
  }
  const { x, y, scale } = sheetPlace(view, panel);
  showSheet(view, all, x, y, scale * all.width, scale * all.height);
}

function drawOneImage(view, panel) {
  const { brush, run, layout, sheets, follow } = view;
  const { side } = layout;
  const { width, height } = view.images;
  const [left, top] = [panelLeft(view, panel), panelTop(view, panel)];
  const show = (position, x, y, room) => {
    const scale = room / Math.max(width, height);
    paintImage(view, panel, follow, position, sheets.one, 0);
    const [w, h] = [scale * width, scale * height];
    showSheet(view, sheets.one, x + (room - w) / 2, y + (room - h) / 2, w, h);
  };
  show(view.position, left + (side * (1 - LARGE)) / 2, top + 4, side * LARGE - 4);
  const pictures = Math.min(FILM, run.frames);
  const room = (side - 8) / FILM - 4;
  const y = top + side * LARGE + (side * (1 - LARGE) - room) / 2;
  const start = left + (side - pictures * (room + 4)) / 2 + 2;
  const last = run.frames - 1;
  const steps = Array.from({ length: pictures }, (_, k) => Math.round((k * last) / (pictures - 1 || 1)));
  steps.forEach((step, k) => show(step, start + k * (room + 4), y, room));
  const far = steps.map((step) => Math.abs(step - view.position));
  const now = far.indexOf(Math.min(...far));
  brush.strokeStyle = "#0072B2";
  brush.lineWidth = 3 * layout.scale;
  brush.strokeRect(start + now * (room + 4) - 1.5, y - 1.5, room + 3, room + 3);
}

// The image under a point of the canvas, −1 where there is none.
function imageAt(view, panel, x, y) {
  const place = sheetPlace(view, panel);
  const { columns, height, width } = view.images;
  const column = Math.floor((x - place.x) / place.scale / (width + 1));
  const row = Math.floor((y - place.y) / place.scale / (height + 1));
  const i = row * columns + column;
  return column >= 0 && column < columns && i >= 0 && i < view.points ? i : -1;
}
