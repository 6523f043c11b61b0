// Interactive figures: attention, layers, sampling points, matching. Canvas 2D only.
//
// Python (viz/figure.py) packs arrays, a picture and notes into one bundle; this module
// draws it. It has two hosts: a page inside a sandboxed frame (`start`, at the end), and
// anywidget (`render`), where a kernel can change the bundle. It asks no network.
//
// Order: style · data · mathematics · stage · figure · the four views · hosts.

const STYLE = `
:host { display: block; height: 100% }
* { box-sizing: border-box; margin: 0 }
.card { --paper: #fff; --ink: #1c2430; --soft: #5a6472; --line: #dfe3e8; --tint: #f3f5f7;
  --accent: #0072b2; container: card / inline-size; height: 100%; min-height: 480px;
  color-scheme: light; color: var(--ink); background: var(--paper); outline: 0;
  border: 1px solid var(--line); border-radius: 10px; overflow: hidden; position: relative;
  font: 13px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif }
.card[data-theme=dark] { --paper: #15181d; --ink: #e7eaef; --soft: #9ba5b3;
  --line: #2d333c; --tint: #20252c; --accent: #56b4e9; color-scheme: dark }
.card:focus-visible, :focus-visible { outline: 2px solid var(--accent); outline-offset: 1px }
.grid { display: grid; height: 100%; padding: 12px 16px 10px; gap: 8px 18px;
  grid: "title title" auto "stage words" 92px "stage panel" minmax(0, 1fr)
    "frames items" 40px "caption caption" auto / minmax(0, 1fr) 346px }
header { grid-area: title; display: flex; gap: 6px; align-items: center }
h2 { font-size: 15px; font-weight: 600; flex: 1; overflow: hidden; white-space: nowrap;
  text-overflow: ellipsis }
button { font: inherit; font-size: 12px; color: var(--ink); background: var(--tint);
  border: 1px solid var(--line); border-radius: 6px; padding: 3px 9px; cursor: pointer;
  touch-action: manipulation; white-space: nowrap }
button:hover { border-color: var(--soft) }
button[aria-pressed=true] { background: var(--accent); border-color: var(--accent);
  color: var(--paper) }
.stages { grid-area: stage; container-type: size; display: flex; align-items: center;
  justify-content: center; min-width: 0 }
.stack { position: relative; overflow: hidden; border-radius: 6px; touch-action: none;
  width: min(100cqw, calc(100cqh * var(--aspect))); aspect-ratio: var(--aspect);
  cursor: crosshair; user-select: none }
.stack canvas { position: absolute; inset: 0; width: 100%; height: 100%;
  transform-origin: 0 0 }
.words { grid-area: words; overflow: hidden; line-height: 1.4 }
.words p { overflow: hidden; text-overflow: ellipsis; white-space: nowrap }
.words p:first-child { font-weight: 600; font-size: 15px }
.words p:empty { display: none }
.words i { display: inline-block; width: 10px; height: 10px; border-radius: 3px;
  margin-right: 6px }
.words small { font-weight: 400; font-size: 12px; color: var(--soft); margin-left: 8px }
.panel { grid-area: panel; container-type: size; min-width: 0; overflow: auto }
.heads { display: grid; gap: 6px; grid-template-columns: repeat(var(--columns), 1fr);
  width: min(100cqw, calc(100cqh * var(--columns) / var(--rows) * var(--aspect))) }
.heads button { position: relative; padding: 0; aspect-ratio: var(--aspect); border: 0;
  overflow: hidden; border-radius: 5px; background: none }
.heads canvas { width: 100%; height: 100%; display: block }
.heads button[aria-pressed=true] { outline: 3px solid var(--accent); outline-offset: 0 }
.heads span { position: absolute; left: 0; bottom: 0; color: #fff; background: #000a;
  padding: 0 5px; font-size: 11px; border-radius: 0 5px 0 5px }
.heads em { position: absolute; right: 4px; top: 1px; color: #fff; font-size: 10.5px;
  font-style: normal; text-shadow: 0 0 3px #000, 0 0 3px #000 }
.items, .frames { min-width: 0; display: flex; gap: 6px; align-items: center }
.items { grid-area: items } .frames { grid-area: frames }
.items label, .frames label { color: var(--soft); font-size: 12px; white-space: nowrap }
.strip { position: relative; flex: 1; height: 100%; min-width: 0; touch-action: none }
.strip canvas { position: absolute; inset: 0; width: 100%; height: 100% }
.strip input { position: absolute; inset: 0; width: 100%; height: 100%; opacity: 0;
  cursor: pointer; margin: 0 }
.strip:focus-within { outline: 2px solid var(--accent); outline-offset: 1px;
  border-radius: 3px }
.steps { display: flex; flex: 1; min-width: 0 }
.steps button { flex: 1; border-radius: 0; margin-left: -1px; padding: 3px 0 }
.steps button:first-child { border-radius: 6px 0 0 6px }
.steps button:last-child { border-radius: 0 6px 6px 0 }
input[type=range] { accent-color: var(--accent); min-width: 0; flex: 1 }
.caption { grid-area: caption; color: var(--soft); font-size: 11.5px; line-height: 1.35;
  max-height: 48px; overflow: auto }
.spoken { position: absolute; width: 1px; height: 1px; overflow: hidden; opacity: 0 }
.keys { position: absolute; inset: 48px 16px auto auto; background: var(--paper);
  border: 1px solid var(--line); border-radius: 8px; padding: 10px 14px; z-index: 2;
  box-shadow: 0 6px 24px #0003; display: grid; grid-template-columns: auto auto;
  gap: 3px 14px; font-size: 12px }
.keys[hidden] { display: none }
.keys b { font-family: ui-monospace, monospace; font-weight: 600 }
@container card (max-width: 599px) {
  .grid { padding: 8px 10px; gap: 6px; grid: "title" auto "stage" minmax(0, 1fr)
    "words" 36px "panel" 58px "items" 30px "frames" 30px "caption" auto
    / minmax(0, 1fr) }
  .words { font-size: 12px; line-height: 18px }
  .words p { display: inline; white-space: normal }
  .words p:first-child { font-size: 12px } .words small { font-size: 11px }
  .words p:not(:first-child):not(:empty)::before { content: " · "; color: var(--soft) }
  .words i { display: none }
  .heads { display: flex; width: max-content; height: 56px; padding: 3px }
  .heads button { height: 50px; flex: none }
  .caption { font-size: 10.5px; max-height: 43px }
}
`;

// --- Data ------------------------------------------------------------------------------

const bytesOf = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));

// Float16 by hand: sign, 5 bits of exponent, 10 of fraction.
function half(bits) {
  const sign = bits >> 15 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

// The arrays of a bundle: {name: {shape, data}}, laid out as NumPy does.
export async function unpack(bundle) {
  const stream = new Blob([bytesOf(bundle.data)]).stream()
    .pipeThrough(new DecompressionStream("deflate"));
  const buffer = await new Response(stream).arrayBuffer();
  const arrays = {};
  let at = 0;
  for (const [name, { dtype, shape }] of Object.entries(bundle.arrays)) {
    const count = shape.reduce((a, b) => a * b, 1), size = +dtype[1] * count;
    const part = buffer.slice(at, at + size); // a copy: typed arrays need aligned starts
    const data = dtype === "u1" ? new Uint8Array(part)
      : dtype === "i2" ? new Int16Array(part)
      : dtype === "f4" ? new Float32Array(part)
      : Float32Array.from(new Uint16Array(part), half);
    arrays[name] = { shape, data };
    at += size;
  }
  return arrays;
}

async function decode(uri) {
  const image = new Image();
  image.src = uri;
  await image.decode();
  return image;
}

// --- Mathematics -----------------------------------------------------------------------

const clamp = (x, low, high) => Math.max(low, Math.min(high, x));
const corners = ([x, y, w, h]) => [x - w / 2, y - h / 2, x + w / 2, y + h / 2];

export function iou(a, b) {
  const [p, q] = [corners(a), corners(b)];
  const wide = Math.min(p[2], q[2]) - Math.max(p[0], q[0]);
  const high = Math.min(p[3], q[3]) - Math.max(p[1], q[1]);
  const both = Math.max(0, wide) * Math.max(0, high);
  return both / (a[2] * a[3] + b[2] * b[3] - both || 1);
}

// How far a point is outside a box; 0 inside.
function outside([x0, y0, x1, y1], x, y) {
  return Math.hypot(Math.max(x0 - x, 0, x - x1), Math.max(y0 - y, 0, y - y1));
}

// The smallest total cost of pairing rows with columns: the row of each column, or -1.
// Each row joins in turn, along the cheapest path of swaps (Kuhn 1955; Jonker and
// Volgenant 1987). `u` and `v` are prices that keep every other swap's cost above 0.
export function assign(cost) {
  const rows = cost.length, columns = rows ? cost[0].length : 0;
  if (rows > columns) { // needs a column for every row: turn the table over
    const turned = Array.from({ length: columns }, (_, j) => cost.map((row) => row[j]));
    const columnOf = assign(turned), result = Array(columns).fill(-1);
    columnOf.forEach((column, row) => { if (column >= 0) result[column] = row; });
    return result;
  }
  const u = Array(rows + 1).fill(0), v = Array(columns + 1).fill(0);
  const owner = Array(columns + 1).fill(0); // rows and columns count from 1, 0 is nobody
  for (let row = 1; row <= rows; row++) {
    const best = Array(columns + 1).fill(Infinity), from = Array(columns + 1).fill(0);
    const seen = Array(columns + 1).fill(false);
    let column = 0;
    owner[0] = row;
    do {
      seen[column] = true;
      const r = owner[column];
      let step = Infinity, next = 0;
      for (let j = 1; j <= columns; j++) {
        if (seen[j]) continue;
        const slack = cost[r - 1][j - 1] - u[r] - v[j];
        if (slack < best[j]) { best[j] = slack; from[j] = column; }
        if (best[j] < step) { step = best[j]; next = j; }
      }
      for (let j = 0; j <= columns; j++) {
        if (seen[j]) { u[owner[j]] += step; v[j] -= step; } else best[j] -= step;
      }
      column = next;
    } while (owner[column] !== 0);
    while (column) { owner[column] = owner[from[column]]; column = from[column]; }
  }
  return owner.slice(1).map((row) => row - 1);
}

// Colours for every (weight, grey) pair: the map's colour over grey, thicker where the
// weight is large. One look-up per pixel is all that a drawing costs then.
function blend(lut) {
  const table = new Uint32Array(256 * 256);
  for (let value = 0; value < 256; value++) {
    const alpha = 0.35 + 0.45 * value / 255;
    for (let grey = 0; grey < 256; grey++) {
      let pixel = 255;
      for (const channel of [2, 1, 0]) { // bytes lie in memory as R, G, B, A
        const mixed = grey * (1 - alpha) + lut[3 * value + channel] * alpha;
        pixel = pixel * 256 + Math.floor(mixed + 0.5);
      }
      table[value * 256 + grey] = pixel;
    }
  }
  return table;
}

// --- Stage -----------------------------------------------------------------------------

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// Give a canvas as many pixels as it has on the screen; draw in CSS pixels.
function sharp(canvas) {
  const ratio = globalThis.devicePixelRatio || 1;
  const [wide, high] = [canvas.clientWidth, canvas.clientHeight];
  if (canvas.width !== Math.round(wide * ratio)) canvas.width = Math.round(wide * ratio);
  if (canvas.height !== Math.round(high * ratio)) canvas.height = Math.round(high * ratio);
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, wide, high);
  return [context, wide, high];
}

// The picture once, at a size with at most `most` pixels: its colours and its greys.
function raster(image, width, height, most) {
  const scale = Math.min(1, Math.sqrt(most / (width * height)));
  [width, height] = [Math.round(width * scale), Math.round(height * scale)];
  const canvas = make("canvas", { width, height });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#808080";
  context.fillRect(0, 0, width, height);
  if (image) context.drawImage(image, 0, 0, width, height);
  const colours = context.getImageData(0, 0, width, height);
  const grey = new Uint8Array(width * height);
  for (let i = 0, p = colours.data; i < grey.length; i++) {
    grey[i] = Math.floor((p[4 * i] + p[4 * i + 1] + p[4 * i + 2]) / 3 + 0.5);
  }
  return { width, height, colours, grey };
}

// Two canvases: the picture, pixel for pixel, and over it lines and words, sharp.
class Stage {
  constructor(label) {
    this.picture = make("canvas", { class: "picture", role: "img", "aria-label": label });
    this.overlay = make("canvas", { class: "overlay", "aria-hidden": "true" });
    this.element = make("div", { class: "stack" }, this.picture, this.overlay);
    this.zoom = { scale: 1, x: 0, y: 0 }; // x, y: what part of the picture is at the left top
  }

  // Take a raster of the picture to draw on.
  take(base) {
    this.base = base;
    this.picture.width = base.width;
    this.picture.height = base.height;
    this.context = this.picture.getContext("2d", { willReadFrequently: true });
    this.pixels = new ImageData(base.width, base.height);
    this.words = new Uint32Array(this.pixels.data.buffer);
  }

  // The picture in colour.
  plain() {
    this.context.putImageData(this.base.colours, 0, 0);
  }

  // A map of h x w values in 0..255 over the grey picture; bilinear between the cells.
  // `cover`: the share of the picture that the map spans (its last cells may stick out).
  glow(values, h, w, cover, table) {
    const { width, height, grey } = this.base;
    const left = new Int32Array(width), part = new Float64Array(width);
    for (let x = 0; x < width; x++) {
      const at = clamp((x + 0.5) / width / cover[0] * w - 0.5, 0, w - 1);
      left[x] = Math.min(Math.floor(at), Math.max(w - 2, 0));
      part[x] = at - left[x];
    }
    const line = new Float64Array(w + 1); // one more, for maps of one column
    for (let y = 0, pixel = 0; y < height; y++) {
      const at = clamp((y + 0.5) / height / cover[1] * h - 0.5, 0, h - 1);
      const top = Math.floor(at), below = Math.min(top + 1, h - 1), share = at - top;
      for (let i = 0; i < w; i++) {
        line[i] = values[top * w + i] * (1 - share) + values[below * w + i] * share;
      }
      for (let x = 0; x < width; x++, pixel++) {
        const i = left[x];
        const value = line[i] * (1 - part[x]) + line[i + 1] * part[x];
        this.words[pixel] = table[Math.floor(value + 0.5) * 256 + grey[pixel]];
      }
    }
    this.context.putImageData(this.pixels, 0, 0);
  }

  // Start a fresh overlay. From here on, lengths are in CSS pixels.
  begin() {
    [this.ink, this.wide, this.high] = sharp(this.overlay);
    const { scale, x, y } = this.zoom;
    this.picture.style.transform = scale === 1 && !x && !y ? ""
      : `scale(${scale}) translate(${-100 * x}%, ${-100 * y}%)`;
  }

  x(share) { return (share - this.zoom.x) * this.zoom.scale * this.wide; }
  y(share) { return (share - this.zoom.y) * this.zoom.scale * this.high; }

  // Where a pointer is, in shares of the picture.
  place(event) {
    const frame = this.element.getBoundingClientRect(), { scale, x, y } = this.zoom;
    return [(event.clientX - frame.left) / frame.width / scale + x,
      (event.clientY - frame.top) / frame.height / scale + y];
  }

  // A line with a dark rim: seen on any picture.
  stroke(path, colour, width, dash = []) {
    const ink = this.ink;
    ink.lineJoin = "round";
    ink.setLineDash(dash);
    ink.strokeStyle = "#000a";
    ink.lineWidth = width + 1.6;
    ink.stroke(path);
    ink.strokeStyle = colour;
    ink.lineWidth = width;
    ink.stroke(path);
    ink.setLineDash([]);
  }

  rectangle([x0, y0, x1, y1], colour, width, dash) {
    const path = new Path2D();
    path.rect(this.x(x0), this.y(y0), this.x(x1) - this.x(x0), this.y(y1) - this.y(y0));
    this.stroke(path, colour, width, dash);
  }

  // A name on a plate above a box, or inside where there is no room above.
  name([x0, y0], text, colour) {
    const ink = this.ink;
    ink.font = "600 11px system-ui, sans-serif";
    const wide = ink.measureText(text).width + 10;
    const x = clamp(this.x(x0), 0, Math.max(0, this.wide - wide));
    const y = clamp(this.y(y0) - 19, 0, this.high - 17);
    ink.fillStyle = colour;
    ink.beginPath();
    ink.roundRect(x, y, wide, 17, 3);
    ink.fill();
    ink.fillStyle = inkOn(colour);
    ink.fillText(text, x + 5, y + 12.5);
  }

  ring(x, y, colour, pinned) {
    const path = new Path2D();
    path.arc(this.x(x), this.y(y), 5, 0, 7);
    this.stroke(path, "#fff", 2);
    if (pinned) { this.ink.fillStyle = colour; this.ink.fill(path); }
  }
}

// Black or white, whichever reads better on a colour "#rrggbb".
function inkOn(colour) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  return 0.3 * r + 0.6 * g + 0.1 * b > 140 ? "#000" : "#fff";
}

// --- Figure: what all views share ------------------------------------------------------

const KEYS = [["← →", "previous, next"], ["[ ]", "frame before, after"], ["h", "next head"],
  ["t", "true objects on, off"], ["space", "play, pause"], ["click, Enter", "pin"],
  ["Esc", "let go"]];

class Figure {
  constructor(el, model) {
    this.model = model;
    this.root = el.shadowRoot ?? el.attachShadow({ mode: "open" });
    el.setAttribute("data-lm-suppress-shortcuts", "true"); // JupyterLab: our keys, not yours
    this.state = { frame: 0, item: 0, head: -1, pinned: false, truth: true, playing: false };
    this.counts = { draws: 0, total: 0, longest: 0 };
    this.leaving = new AbortController(); // ends all listeners outside of `el`
    this.still = matchMedia("(prefers-reduced-motion: reduce)");
  }

  // Take a bundle: the first, or a new one from the kernel, which keeps the state.
  async load(bundle) {
    if (typeof bundle === "string") bundle = JSON.parse(bundle);
    const [arrays, image] = await Promise.all(
      [unpack(bundle), bundle.picture && decode(bundle.picture)]);
    const first = !this.bundle;
    Object.assign(this, { bundle, arrays, image, notes: bundle.notes });
    this.table ??= blend(bytesOf(bundle.lut));
    this.cover = this.notes.cover ?? [1, 1];
    this.measure();
    if (first) {
      Object.assign(this.state, { frame: this.frames - 1 }, this.notes.start);
      this.build();
      this.listen();
    }
    this.rasters();
    this.set({});
  }

  raster(most) {
    return raster(this.image, this.bundle.width, this.bundle.height, most);
  }

  get aspect() { return this.bundle.width / this.bundle.height; }

  // One entry of an array: this.at("boxes", frame, item) is the box's four numbers.
  at(name, ...index) {
    const array = this.arrays[name];
    if (!array) return null;
    const inner = array.shape.slice(index.length).reduce((a, b) => a * b, 1);
    const start = index.reduce((sum, i, axis) => sum * array.shape[axis] + i, 0) * inner;
    return inner === 1 && index.length === array.shape.length ? array.data[start]
      : array.data.subarray(start, start + inner);
  }

  itemName(item) {
    return `${this.notes.item_name ?? "query"} ${this.notes.items?.[item] ?? item}`;
  }

  className(label) { return this.notes.names?.[label] ?? `class ${label}`; }
  colour(label) { return this.bundle.colours[label % this.bundle.colours.length]; }

  // Change the state, and draw once before the next frame.
  set(changes) {
    const state = Object.assign(this.state, changes);
    state.frame = clamp(state.frame, 0, this.frames - 1);
    state.item = clamp(state.item, 0, this.items - 1);
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; this.draw(); });
  }

  draw() {
    if (!this.card.isConnected || !this.card.clientWidth) return;
    const start = performance.now();
    this.paint();
    this.say(this.describe());
    for (const update of this.controls) update();
    const took = performance.now() - start, counts = this.counts;
    counts.draws += 1;
    counts.total += took;
    counts.longest = Math.max(counts.longest, took);
  }

  // Words beside the stage at once; for a screen reader when the pointer has rested.
  say(lines) {
    lines.forEach(([text, colour, small], i) => {
      const shown = [text, colour, small].join("|"), line = this.lines[i];
      if (line.shown === shown) return;
      line.shown = shown;
      line.replaceChildren(...(colour ? [make("i", { style: `background:${colour}` })] : []),
        text, ...(small ? [make("small", {}, small)] : []));
    });
    clearTimeout(this.talk);
    this.talk = setTimeout(() => {
      const text = lines.map(([text]) => text).filter(Boolean).join(", ");
      if (this.spoken.textContent !== text) this.spoken.textContent = text;
    }, 500);
  }

  // The card, with empty places that the views fill.
  build() {
    this.controls = []; // functions that bring a control up to date
    this.lines = Array.from({ length: 4 }, () => make("p"));
    this.spoken = make("div", { class: "spoken", "aria-live": "polite" });
    this.places = {};
    for (const name of ["stages", "panel", "items", "frames"]) {
      this.places[name] = make("div", { class: name });
    }
    this.tools = make("header", {}, make("h2", {}, this.bundle.title));
    this.keys = make("div", { class: "keys", hidden: "" });
    this.card = make("section",
      { class: "card", "data-view": this.bundle.view, tabindex: 0, "aria-label": this.bundle.title },
      make("div", { class: "grid" }, this.tools, this.places.stages,
        make("div", { class: "words", "aria-hidden": "true" }, ...this.lines),
        this.places.panel, this.places.items, this.places.frames,
        make("div", { class: "caption" }, this.bundle.caption)),
      this.keys, this.spoken);
    this.fill();
    this.toggle("keys", "?", "keys of this figure", () => !this.keys.hidden,
      () => { this.keys.hidden = !this.keys.hidden; });
    for (const [key, does] of KEYS) this.keys.append(make("b", {}, key), make("span", {}, does));
    this.root.replaceChildren(make("style", {}, STYLE), this.card);
  }

  // A button with two positions.
  toggle(name, text, label, on, flip, place = this.tools) {
    const button = make("button", { type: "button", "aria-label": label, title: label,
      "data-name": name, onclick: () => { flip(); this.set({}); } }, text);
    this.controls.push(() => button.setAttribute("aria-pressed", String(on())));
    place.append(button);
    return button;
  }

  // A canvas to point at, with a real range control over it for keys and screen readers.
  strip(name, label, count, value, choose, paint, indexAt, preview) {
    const canvas = make("canvas"), range = make("input", { type: "range", min: 0,
      max: count - 1, "aria-label": label, "data-name": name,
      oninput: () => choose(+range.value, false) });
    const box = make("div", { class: "strip" }, canvas, range);
    const under = (event) => {
      const frame = box.getBoundingClientRect();
      return indexAt(clamp((event.clientX - frame.left) / frame.width, 0, 1));
    };
    let held = false;
    range.addEventListener("pointerdown", (event) => {
      event.preventDefault(); // the range's own idea of the place differs by its thumb
      range.focus({ preventScroll: true });
      range.setPointerCapture(event.pointerId);
      held = true;
      choose(under(event), true);
    });
    range.addEventListener("pointermove", (event) => {
      if (held) choose(under(event), true);
      else if (preview) choose(under(event), false);
    });
    range.addEventListener("lostpointercapture", () => { held = false; });
    this.controls.push(() => {
      range.value = value();
      paint(...sharp(canvas));
    });
    return box;
  }

  // Layers or training steps: buttons, a curve to drag along, or a slider.
  frameControls() {
    const names = this.notes.frames ?? [], kind = this.notes.frame_name ?? "layer";
    const place = this.places.frames;
    if (this.frames < 2) return;
    this.toggle("play", "▶", `play the ${kind}s`, () => this.state.playing,
      () => this.play(!this.state.playing), place);
    const choose = (frame) => { this.play(false); this.set({ frame }); };
    if (this.arrays.curve) {
      place.append(this.curve(kind, choose));
    } else if (this.frames <= 8) {
      const steps = make("div", { class: "steps", role: "group", "aria-label": kind });
      for (let i = 0; i < this.frames; i++) {
        this.toggle("frame", names[i] ?? i + 1, `${kind} ${names[i] ?? i + 1}`,
          () => this.state.frame === i, () => choose(i), steps);
      }
      place.append(make("label", {}, kind), steps);
    } else {
      const range = make("input", { type: "range", min: 0, max: this.frames - 1,
        "aria-label": kind, "data-name": "frame", oninput: () => choose(+range.value) });
      const label = make("label");
      this.controls.push(() => {
        range.value = this.state.frame;
        label.textContent = `${kind} ${names[this.state.frame] ?? this.state.frame + 1}`;
      });
      place.append(range, label);
    }
  }

  // Play through the frames once. It never starts by itself.
  play(on) {
    clearInterval(this.ticking);
    const last = this.frames - 1;
    if (on && this.still.matches) { // less motion: one step for each press
      this.set({ frame: (this.state.frame + 1) % this.frames, playing: false });
      return;
    }
    this.set({ playing: on, ...(on && this.state.frame === last ? { frame: 0 } : {}) });
    if (!on) return;
    this.ticking = setInterval(() => {
      this.set({ frame: this.state.frame + 1 });
      if (this.state.frame === last) this.play(false);
    }, Math.max(120, Math.min(700, 6000 / this.frames)));
  }

  listen() {
    const { signal } = this.leaving;
    this.card.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.set({})).observe(this.card);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const theme = (value) => {
      this.card.dataset.theme = value ?? (dark.matches ? "dark" : "light");
      this.set({});
    };
    dark.addEventListener("change", () => theme(), { signal });
    addEventListener("message", ({ data, source }) => {
      const known = data?.type === "theme" && ["dark", "light"].includes(data.value);
      if (known && (source === parent || source === globalThis)) theme(data.value);
    }, { signal });
    theme();
  }

  // Follow a pointer over a stage: move shows, a click or tap pins.
  follow(stage) {
    let down = null;
    const on = (type, act) => stage.element.addEventListener(type, act);
    on("pointermove", (event) => {
      if (!this.state.pinned || this.always) this.hover(...stage.place(event), stage);
    });
    on("pointerdown", (event) => {
      down = [event.clientX, event.clientY];
      if (!this.state.pinned || this.always) this.hover(...stage.place(event), stage);
    });
    on("pointerup", (event) => {
      const moved = down && Math.hypot(event.clientX - down[0], event.clientY - down[1]);
      if (down && moved < 8) this.set({ pinned: !this.state.pinned });
      down = null;
    });
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const on = event.composedPath()[0].tagName, key = event.key;
    if (on === "BUTTON" && (key === " " || key === "Enter")) return; // the button's own
    if (on === "INPUT" && event.composedPath()[0].dataset.native) return;
    if (this.press(key, event) === false) return;
    event.preventDefault();
    event.stopPropagation();
  }

  // What keys do; false for a key that is not ours.
  press(key) {
    const state = this.state, steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -1, ArrowDown: 1 };
    if (key in steps) this.set({ item: state.item + steps[key] });
    else if (key === "Home" || key === "End") this.set({ item: key === "End" ? this.items - 1 : 0 });
    else if (key === "[" || key === "]") {
      this.play(false);
      this.set({ frame: state.frame + (key === "]" ? 1 : -1) });
    } else if (key === "h" && this.heads > 1) {
      this.set({ head: (state.head + 2) % (this.heads + 1) - 1 });
    } else if (key === "t" && this.arrays.truth) this.set({ truth: !state.truth });
    else if (key === " " && this.frames > 1) this.play(!state.playing);
    else if (key === "Enter") this.set({ pinned: !state.pinned });
    else if (key === "?") { this.keys.hidden = !this.keys.hidden; this.set({}); }
    else if (key === "Escape") {
      this.keys.hidden = true;
      this.play(false);
      this.set({ pinned: false });
    } else return false;
  }

  stats() {
    const { draws, total, longest } = this.counts;
    return { draws, meanDraw: total / Math.max(draws, 1), longest };
  }

  leave() { clearInterval(this.ticking); this.leaving.abort(); }
}

// --- View: attention -------------------------------------------------------------------

class Attention extends Figure {
  measure() {
    [this.frames, this.items, this.heads, this.h, this.w] = this.arrays.maps.shape;
    this.cells = this.notes.pick === "cell";
  }

  fill() {
    this.stage = new Stage(this.bundle.summary);
    this.stage.element.style.setProperty("--aspect", this.aspect);
    this.places.stages.append(this.stage.element);
    this.follow(this.stage);
    this.headControls();
    this.itemControls();
    this.truthControl();
    this.frameControls();
  }

  rasters() {
    this.stage.take(this.raster(160_000));
    for (const { stage } of this.tiles) stage.take(this.raster(4096));
  }

  truthControl() {
    if (!this.arrays.truth) return;
    this.toggle("truth", "objects", "show the true objects", () => this.state.truth,
      () => this.set({ truth: !this.state.truth }));
  }

  // Small maps of the mean and of each head: they are the head picker.
  headControls() {
    const count = this.heads + 1, columns = Math.ceil(Math.sqrt(count));
    const box = make("div", { class: "heads", role: "group", "aria-label": "head" });
    box.style.setProperty("--columns", columns);
    box.style.setProperty("--rows", Math.ceil(count / columns));
    box.style.setProperty("--aspect", this.aspect);
    this.tiles = [];
    for (let head = -1; head < this.heads && this.heads > 1; head++) {
      const stage = new Stage(""), number = make("em");
      const name = head < 0 ? "mean" : `${head + 1}`;
      const button = this.toggle("head", "", head < 0 ? "mean of all heads" : `head ${name}`,
        () => this.state.head === head, () => this.set({ head, peek: null }), box);
      stage.picture.setAttribute("aria-hidden", "true");
      button.append(stage.picture, make("span", {}, name), number);
      button.addEventListener("pointerenter", () => this.set({ peek: head }));
      button.addEventListener("pointerleave", () => this.set({ peek: null }));
      this.tiles.push({ head, stage, number });
    }
    this.places.panel.append(box);
  }

  // One bar per query: as high as its score, in the colour of its class.
  itemControls() {
    const name = this.notes.item_name ?? "query";
    if (this.items < 2) return;
    const choose = (item, pin) => {
      if (pin || !this.state.pinned) this.set({ item, ...(pin ? { pinned: true } : {}) });
    };
    const label = make("label", {}, name === "query" ? "queries" : `${name}s`);
    this.places.items.append(label, this.strip("item", name, this.items,
      () => this.state.item, choose, (...canvas) => this.bars(...canvas),
      (share) => Math.min(this.items - 1, Math.floor(share * this.items)), true));
  }

  bars(ink, wide, high) {
    const each = wide / this.items, style = getComputedStyle(this.card);
    for (let i = 0; i < this.items; i++) {
      const here = i === this.state.item, score = this.at("scores", this.state.frame, i) ?? 0.5;
      const label = this.at("labels", this.state.frame, i);
      const tall = 3 + (high - 10) * score, gap = each > 5 ? 1 : 0;
      ink.fillStyle = here ? style.getPropertyValue("--line") : "transparent";
      ink.fillRect(i * each, 0, each, high);
      ink.globalAlpha = here || score >= this.threshold ? 1 : 0.45;
      ink.fillStyle = label === null ? style.getPropertyValue("--soft") : this.colour(label);
      ink.fillRect(i * each + gap, high - 5 - tall, Math.max(each - 2 * gap, 1), tall);
      ink.globalAlpha = 1;
      if (here) {
        ink.fillStyle = style.getPropertyValue("--ink");
        ink.fillRect(i * each, high - 3, each, 3);
      }
    }
  }

  get threshold() { return this.notes.threshold ?? 0.5; }
  get head() { return this.state.peek ?? this.state.head; }

  // Values 0..255 of one head's map, or the mean of all, scaled to its own maximum; and
  // the weight that 255 stands for.
  map(frame, item, head) {
    if (this.heads === 1) head = 0;
    const peaks = this.at("peaks", frame, item);
    if (head >= 0) return [this.at("maps", frame, item, head), peaks[head]];
    const size = this.h * this.w, mean = new Float64Array(size);
    const maps = this.at("maps", frame, item);
    for (let m = 0; m < this.heads; m++) {
      for (let i = 0; i < size; i++) mean[i] += maps[m * size + i] * peaks[m];
    }
    const most = mean.reduce((a, b) => Math.max(a, b), 0);
    for (let i = 0; i < size; i++) mean[i] *= 255 / (most || 1);
    return [mean, most / 255 / this.heads];
  }

  paint() {
    const { frame, item } = this.state;
    const glow = (stage, head) => {
      const [values, peak] = this.map(frame, item, head);
      stage.glow(values, this.h, this.w, this.cover, this.table);
      return peak;
    };
    this.peak = glow(this.stage, this.head);
    for (const { head, stage, number } of this.tiles) {
      number.textContent = glow(stage, head).toFixed(2);
    }
    this.stage.begin();
    this.marks(this.stage, frame);
  }

  // Boxes and names over a stage.
  marks(stage, frame) {
    const { item, truth, pinned } = this.state;
    if (this.cells) return this.cellMark(stage);
    if (!this.arrays.boxes) return;
    const label = this.at("labels", frame, item) ?? 0;
    const colour = this.colour(label), object = this.at("matched", frame, item) ?? -1;
    if (truth && this.arrays.truth) {
      for (let n = 0; n < this.arrays.truth.shape[0]; n++) {
        stage.rectangle(corners(this.at("truth", n)), "#fff", n === object ? 2 : 1, [4, 4]);
      }
    }
    for (const other of this.sure(frame)) {
      if (other !== item) {
        stage.rectangle(corners(this.at("boxes", frame, other)),
          this.colour(this.at("labels", frame, other) ?? 0), 1.2);
      }
    }
    const box = this.at("boxes", frame, item);
    stage.rectangle(corners(box), colour, 2.8);
    stage.ring(box[0], box[1], colour, pinned);
    stage.name(corners(box), this.plate(frame, item), colour);
  }

  plate(frame, item) {
    const score = this.at("scores", frame, item), label = this.at("labels", frame, item);
    const words = [this.itemName(item)];
    if (label !== null) words.push(this.className(label));
    if (score !== null) words.push(score.toFixed(2));
    return words.join(" ");
  }

  cellMark(stage) {
    const [row, column] = this.cell(this.state.item);
    const [x, y] = [this.cover[0] / this.w, this.cover[1] / this.h];
    stage.rectangle([column * x, row * y, (column + 1) * x, (row + 1) * y], "#fff", 2);
    if (this.state.pinned) stage.ring((column + 0.5) * x, (row + 0.5) * y, "#0072b2", true);
  }

  cell(item) {
    const id = this.notes.items?.[item] ?? item;
    return [Math.floor(id / this.w), id % this.w];
  }

  // Queries that count as detections in this frame; all of them where none does.
  sure(frame) {
    const all = Array.from({ length: this.items }, (_, i) => i);
    if (!this.arrays.scores) return all;
    const sure = all.filter((i) => this.at("scores", frame, i) >= this.threshold);
    return sure.length ? sure : all;
  }

  hover(x, y, stage) {
    const frame = stage.frame ?? this.state.frame;
    if (this.cells) this.set({ item: this.nearestCell(x, y) });
    else if (this.arrays.boxes) this.set({ item: this.nearestBox(frame, x, y) });
  }

  // The smallest box around a place, else the box that is nearest to it.
  nearestBox(frame, x, y) {
    const rank = (item) => {
      const box = this.at("boxes", frame, item), far = outside(corners(box), x, y);
      return far > 0 ? 10 + far : box[2] * box[3];
    };
    const queries = this.sure(frame), ranks = queries.map(rank);
    return queries[ranks.indexOf(Math.min(...ranks))];
  }

  nearestCell(x, y) {
    const column = clamp(Math.floor(x / this.cover[0] * this.w), 0, this.w - 1);
    const row = clamp(Math.floor(y / this.cover[1] * this.h), 0, this.h - 1);
    if (!this.notes.items) return row * this.w + column;
    const far = this.notes.items.map((_, i) => {
      const [r, c] = this.cell(i);
      return Math.hypot(r - row, c - column);
    });
    return far.indexOf(Math.min(...far));
  }

  press(key, event) {
    const rows = { ArrowUp: -1, ArrowDown: 1 };
    if (this.cells && !this.notes.items && key in rows) {
      const item = this.state.item + rows[key] * this.w;
      if (item >= 0 && item < this.items) this.set({ item });
    } else return super.press(key, event);
  }

  describe() {
    const { frame, item, pinned } = this.state;
    const pin = pinned ? "pinned, Esc lets go" : "";
    const who = this.heads === 1 ? "" : this.head < 0 ? "mean of heads: " : `head ${this.head + 1}: `;
    const cells = this.head < 0 || this.heads === 1 ? this.at("spread", frame, item)
      : this.at("spread_heads", frame, item, this.head);
    const spread = cells === null ? "" : `, spread over ${cells.toFixed(1)} cells`;
    const weight = `${who}heaviest cell ${this.peak.toFixed(2)}${spread}`;
    if (this.cells) {
      const [row, column] = this.cell(item);
      return [[`cell in row ${row + 1}, column ${column + 1}`, null, pin], [weight], [""], [""]];
    }
    return [[this.itemName(item), null, pin], this.answer(frame, item), [this.match(frame, item)],
      [weight]];
  }

  answer(frame, item) {
    const score = this.at("scores", frame, item), label = this.at("labels", frame, item);
    if (label === null) return [""];
    return [`${this.className(label)}${score === null ? "" : ` ${score.toFixed(2)}`}`,
      this.colour(label)];
  }

  // Which object a query stands for, and how well its box fits.
  match(frame, item) {
    const object = this.at("matched", frame, item);
    if (object === null) return "";
    if (object < 0) return "matched to no object";
    const label = this.at("truth_labels", object);
    const name = label === null ? "" : ` (${this.className(label)})`;
    const fit = iou(this.at("boxes", frame, item), this.at("truth", object));
    return `object ${object}${name}, IoU ${fit.toFixed(2)}`;
  }
}

// --- Hosts -----------------------------------------------------------------------------

const VIEWS = { attention: Attention };

// anywidget's entry: draw `model.get("bundle")` into `el`; returns how to leave.
export async function render({ model, el }) {
  const read = () => {
    const bundle = model.get("bundle");
    return typeof bundle === "string" ? JSON.parse(bundle) : bundle;
  };
  const figure = new VIEWS[read().view](el, model);
  await figure.load(read());
  model.on("change:bundle", () => figure.load(read()));
  el.detrFigure = figure;
  return () => figure.leave();
}

export default { render };

// The frame's entry: a model that never changes stands in for a kernel.
export function start(el, script) {
  const bundle = JSON.parse(script.textContent);
  const ready = render({ el, model: { get: () => bundle, on() {} } });
  globalThis.detrFigure = { // for tests
    ready,
    stats: () => el.detrFigure.stats(),
    state: () => el.detrFigure.state,
    set: (changes) => el.detrFigure.set(changes),
    assign,
  };
}
