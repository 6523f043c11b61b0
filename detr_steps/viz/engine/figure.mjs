// Interactive figures: attention, layers, sampling points, matching. Canvas 2D, no library.
//
// Python (viz/figure.py) packs arrays, a picture, notes and looks (figure.css) into a bundle; this
// module draws it, with the view that the bundle asks for (attention.mjs, points.mjs,
// matching.mjs). It has two hosts: a page in a sandboxed frame (`start`, at the end), and
// anywidget (`render`), where a kernel can change the bundle. It asks no network.
//
// In this order: data, mathematics, stage, what all views share, hosts.

export const VIEWS = {}; // the views' modules put themselves here

const THEMES = { // also the custom properties of figure.css
  light: { paper: "#ffffff", ink: "#1c2430", soft: "#5a6472", line: "#dde2e8", tint: "#f3f5f7",
    accent: "#0072b2", changed: "#d55e00" },
  dark: { paper: "#15181d", ink: "#e7eaef", soft: "#9ba5b3", line: "#2f3640", tint: "#20252c",
    accent: "#56b4e9", changed: "#e69f00" },
};

// --- Data ----------------------------------------------------------------------------------

const bytesOf = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));

// Float16 by hand: sign, 5 bits of exponent, 10 of fraction.
function half(bits) {
  const sign = bits >> 15 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
}

const READ = { u1: (bytes) => new Uint8Array(bytes), i2: (bytes) => new Int16Array(bytes),
  f4: (bytes) => new Float32Array(bytes),
  f2: (bytes) => Float32Array.from(new Uint16Array(bytes), half) };

// The arrays of a bundle, {name: {shape, strides, data}}, laid out as in NumPy.
async function unpack(bundle) {
  const packed = new Blob([bytesOf(bundle.data)]).stream(), arrays = {};
  const stream = packed.pipeThrough(new DecompressionStream("deflate"));
  const bytes = await new Response(stream).arrayBuffer();
  let at = 0;
  for (const [name, { dtype, shape }] of Object.entries(bundle.arrays)) {
    const strides = shape.map((_, axis) => shape.slice(axis + 1).reduce((a, b) => a * b, 1));
    const end = at + dtype[1] * shape[0] * strides[0];
    arrays[name] = { shape, strides, data: READ[dtype](bytes.slice(at, end)) };
    at = end;
  }
  return arrays;
}

// --- Mathematics ---------------------------------------------------------------------------

export const clamp = (x, low, high) => Math.max(low, Math.min(high, x));
export const range = (count) => Array.from({ length: count }, (_, i) => i);
export const lowest = (list, cost) =>
  list.map((x) => [cost(x), x]).reduce((a, b) => (b[0] < a[0] ? b : a))[1];
export const corners = ([x, y, w, h]) => [x - w / 2, y - h / 2, x + w / 2, y + h / 2];

export function iou(a, b) {
  const p = corners(a), q = corners(b);
  const wide = Math.max(0, Math.min(p[2], q[2]) - Math.max(p[0], q[0]));
  const both = wide * Math.max(0, Math.min(p[3], q[3]) - Math.max(p[1], q[1]));
  return both / (a[2] * a[3] + b[2] * b[3] - both || 1);
}

// How badly a box answers for a place: its area around it, else more the farther away it is.
export function farness(box, x, y) {
  const [x0, y0, x1, y1] = corners(box);
  const far = Math.hypot(Math.max(x0 - x, 0, x - x1), Math.max(y0 - y, 0, y - y1));
  return far > 0 ? 10 + far : box[2] * box[3];
}

// The colour of each weight over each grey: the stronger the weight, the thicker its colour.
// With this table a drawing costs one look-up per pixel.
function blend(lut) {
  const table = new Uint32Array(256 * 256);
  for (let value = 0; value < 256; value++) {
    const alpha = 0.35 + 0.45 * value / 255;
    for (let grey = 0; grey < 256; grey++) {
      let pixel = 255;
      for (const channel of [2, 1, 0]) { // in memory the bytes lie as red, green, blue, alpha
        const mixed = grey * (1 - alpha) + lut[3 * value + channel] * alpha;
        pixel = pixel * 256 + Math.floor(mixed + 0.5);
      }
      table[value * 256 + grey] = pixel;
    }
  }
  return table;
}

// --- Stage ---------------------------------------------------------------------------------

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

// Set a property of the page only where it differs: each change costs the browser work.
export function change(target, name, value) {
  if (target[name] !== value) target[name] = value;
}

// Clear a canvas; `wide` and `high` (set by the ResizeObserver) are its size in CSS pixels.
function clear(canvas) {
  const ink = canvas.getContext("2d"), ratio = canvas.width / canvas.wide;
  ink.setTransform(ratio, 0, 0, ratio, 0, 0);
  ink.clearRect(0, 0, canvas.wide, canvas.high);
  return ink;
}

// The picture with at most `most` pixels: its colours and its greys.
function raster(image, { width, height }, most) {
  const scale = Math.min(1, Math.sqrt(most / (width * height)));
  [width, height] = [Math.round(width * scale), Math.round(height * scale)];
  const ink = make("canvas", { width, height }).getContext("2d");
  Object.assign(ink, { imageSmoothingQuality: "high", fillStyle: "#808080" });
  ink.fillRect(0, 0, width, height);
  if (image) ink.drawImage(image, 0, 0, width, height);
  const colours = ink.getImageData(0, 0, width, height), p = colours.data;
  const mean = (i) => Math.floor((p[4 * i] + p[4 * i + 1] + p[4 * i + 2]) / 3 + 0.5);
  return { width, height, colours, grey: Uint8Array.from(range(width * height), mean) };
}

// Black or white, whichever reads better on a colour "#rrggbb".
function inkOn(colour) {
  const [r, g, b] = [1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16));
  return 0.3 * r + 0.6 * g + 0.1 * b > 140 ? "#000" : "#fff";
}

// Two canvases: the picture, pixel for pixel, and over it lines and words, sharp at any size.
export class Stage {
  constructor(label, most) {
    this.most = most;
    this.picture = make("canvas", { class: "picture",
      ...(label ? { role: "img", "aria-label": label } : { "aria-hidden": "true" }) });
    this.overlay = make("canvas", { class: "overlay", "aria-hidden": "true" });
    this.element = make("div", { class: "stack" }, this.picture, this.overlay);
    this.zoom = { scale: 1, x: 0, y: 0 }; // x, y: the place of the picture at the left top
  }

  take(base) {
    this.base = base;
    [this.picture.width, this.picture.height] = [base.width, base.height];
    this.context = this.picture.getContext("2d", { willReadFrequently: true });
    this.pixels = new ImageData(base.width, base.height);
    this.numbers = new Uint32Array(this.pixels.data.buffer); // the same, one number per pixel
    this.cold = this.first = null;
    this.context.putImageData(base.colours, 0, 0);
  }

  // A map of h x w weights in 0..255 over the grey picture; bilinear between the centres of cells,
  // level beyond the outer ones. `cover`: the share of the picture that the map spans, in x and y.
  glow(values, h, w, cover, table) {
    const { width, height, grey } = this.base, { numbers } = this, line = new Float64Array(w + 2);
    const wide = w / width / cover[0], high = h / height / cover[1]; // cells per pixel
    const cold = this.cold ??= Uint32Array.from(grey, (value) => table[value]);
    const first = this.first ??= range(w + 2).map((k) => (k > w ? width
      : clamp(Math.ceil((k - 0.5) / wide - 0.5), 0, width))); // pixel behind each centre
    for (let y = 0, pixel = 0; y < height; y++) {
      const at = (y + 0.5) * high - 0.5, row = Math.floor(at), share = at - row;
      const up = w * clamp(row, 0, h - 1), down = w * clamp(row + 1, 0, h - 1);
      for (let i = 0; i < w; i++) {
        line[i + 1] = values[up + i] * (1 - share) + values[down + i] * share;
      }
      line[0] = line[1];
      line[w + 1] = line[w];
      for (let k = 0; k <= w; k++) { // pixels between two centres, from value a to value b
        const a = line[k], b = line[k + 1], end = first[k + 1];
        if (a < 0.5 && b < 0.5) { // as most of a map: no weight to speak of
          while (pixel < y * width + end) numbers[pixel] = cold[pixel++];
          continue;
        }
        const start = a + (b - a) * ((first[k] + 0.5) * wide + 0.5 - k), stop = y * width + end;
        const step = 65536 * (b - a) * wide | 0; // whole numbers are faster: 65536 is 1
        for (let value = 65536 * (start + 0.5) | 0; pixel < stop; pixel++, value += step) {
          numbers[pixel] = table[(value >> 8 & 0xff00) | grey[pixel]];
        }
      }
    }
    this.context.putImageData(this.pixels, 0, 0);
  }

  begin() {
    this.ink = clear(this.overlay);
    const { scale, x, y } = this.zoom;
    const move = `scale(${scale}) translate(${-100 * x}%, ${-100 * y}%)`;
    change(this.picture.style, "transform", move);
    change(this.picture.style, "imageRendering", scale > 2 ? "pixelated" : "auto");
  }

  // From shares of the picture to CSS pixels, and back from a pointer.
  at(x, y) {
    const { scale, x: left, y: top } = this.zoom;
    return [(x - left) * scale * this.overlay.wide, (y - top) * scale * this.overlay.high];
  }

  place(event) {
    const frame = this.element.getBoundingClientRect(), { scale, x, y } = this.zoom;
    return [(event.clientX - frame.left) / frame.width / scale + x,
      (event.clientY - frame.top) / frame.height / scale + y];
  }

  // Lines have a dark rim: they are seen on any picture.
  stroke(path, colour, width, dash = []) {
    this.ink.setLineDash(dash);
    for (const [strokeStyle, lineWidth] of [["#0009", width + 1.6], [colour, width]]) {
      Object.assign(this.ink, { strokeStyle, lineWidth, lineJoin: "round" });
      this.ink.stroke(path);
    }
  }

  boxes(boxes, colour, width, dash) {
    const path = new Path2D();
    for (const [x0, y0, x1, y1] of boxes.map(corners)) {
      const [left, top] = this.at(x0, y0), [right, bottom] = this.at(x1, y1);
      path.rect(left, top, right - left, bottom - top);
    }
    this.stroke(path, colour, width, dash);
  }

  // A name on a plate above a box (or below), or inside it where there is no room.
  name(box, text, colour, below) {
    const { ink } = this, [x0, y0, , y1] = corners(box), [left, top] = this.at(x0, below ? y1 : y0);
    ink.fillStyle = colour;
    const wide = ink.measureText(text).width + 10;
    const x = clamp(left - 2, 0, Math.max(0, this.overlay.wide - wide));
    const y = clamp(top + (below ? 2 : -19), 0, this.overlay.high - 17);
    ink.fillRect(x, y, wide, 17);
    ink.fillStyle = inkOn(colour);
    ink.fillText(text, x + 5, y + 12.5);
  }

  ring(x, y, colour, filled) {
    const path = new Path2D();
    path.arc(...this.at(x, y), 5, 0, 7);
    this.stroke(path, "#fff", 2);
    if (filled) { this.ink.fillStyle = colour; this.ink.fill(path); }
  }
}

// --- What all views share ------------------------------------------------------------------

export const KEYS = [["← → ↑ ↓", "step"], ["[ ]", "frame before, after"], ["space", "play, pause"],
  ["h", "next head"], ["t", "true objects on, off"], ["click, Enter", "pin"], ["Esc", "let go"]];
const CARD = `<style></style><section class="card" tabindex="0"><div class="grid">
<div class="title"><h2></h2></div><div class="stages"></div><div class="words" aria-hidden="true">
<p></p><p></p><p></p><p></p></div><div class="panel"></div><div class="items"></div>
<div class="frames"></div><div class="caption"></div></div><div class="keys" hidden></div>
<div class="spoken" aria-live="polite"></div></section>`;

export class Figure {
  constructor(el, model) {
    Object.assign(this, { model, frames: 1, items: 1, heads: 1, keys: KEYS, stages: [],
      refresh: [] }); // functions that bring the controls up to date
    this.root = el.shadowRoot ?? el.attachShadow({ mode: "open" }); // nobody else's styles
    el.setAttribute("data-lm-suppress-shortcuts", "true"); // JupyterLab leaves the keys to us
    this.state = { frame: Infinity, item: 0, head: -1, pinned: false, truth: true, playing: false };
    this.counts = { draws: 0, total: 0, longest: 0 };
    this.calm = matchMedia("(prefers-reduced-motion: reduce)");
    this.leaving = new AbortController(); // ends the listeners outside of `el`
  }

  // Take a bundle: the first, or a new one from the kernel, which keeps the state.
  async load(bundle) {
    const image = bundle.picture && Object.assign(new Image(), { src: bundle.picture });
    const [arrays] = await Promise.all([unpack(bundle), image?.decode()]);
    const first = !this.bundle;
    Object.assign(this, { bundle, arrays, notes: bundle.notes });
    if (first) Object.assign(this.state, this.notes.start);
    this.measure();
    if (first) this.build();
    this.lut ??= bytesOf(bundle.lut);
    this.table ??= blend(this.lut);
    for (const stage of this.stages) stage.take(raster(image, bundle, stage.most));
    this.draw(); // at once: a new picture does not flash
  }

  find(name) { return this.root.querySelector(`.${name}`); }

  build() {
    const { title, caption, view, width, height, style } = this.bundle;
    this.root.innerHTML = CARD;
    this.root.firstChild.textContent = style;
    this.card = this.find("card");
    this.card.dataset.view = view;
    this.card.style.setProperty("--aspect", width / height);
    this.card.setAttribute("aria-label", title);
    this.root.querySelector("h2").textContent = title;
    this.find("caption").textContent = caption;
    const sizes = new ResizeObserver((entries) => {
      const ratio = globalThis.devicePixelRatio || 1;
      for (const { target, contentRect } of entries) {
        [target.wide, target.high] = [contentRect.width, contentRect.height];
        target.width = Math.max(1, Math.round(target.wide * ratio));
        target.height = Math.max(1, Math.round(target.high * ratio));
        target.getContext("2d").font = "600 11px system-ui, sans-serif"; // once: it costs time
      }
      this.draw();
    });
    this.fill();
    if (this.arrays.truth) {
      const shown = () => this.state.truth;
      this.button("title", "objects", "true objects", shown, () => this.press("t"));
    }
    this.button("title", "?", "keys", () => !this.find("keys").hidden, () => this.press("?"));
    for (const [key, does] of this.keys) this.find("keys").append(make("b", {}, key), does);
    this.root.querySelectorAll(".overlay, .strip canvas").forEach((each) => sizes.observe(each));
    this.card.addEventListener("keydown", (event) => {
      const { tagName, dataset } = event.composedPath()[0], { key } = event;
      const others = event.ctrlKey || event.metaKey || event.altKey
        || (tagName === "BUTTON" && [" ", "Enter"].includes(key)) // a button's own
        || (dataset.own && key.startsWith("Arrow")); // a slider's own
      if (!others && this.press(key, event.shiftKey) !== false) event.preventDefault();
    });
    this.listen();
  }

  // Light or dark, as the system says, or the page around us.
  listen() {
    const { signal } = this.leaving, dark = matchMedia("(prefers-color-scheme: dark)");
    const theme = (name = dark.matches ? "dark" : "light") => {
      this.theme = THEMES[name];
      this.card.style.colorScheme = name;
      const { style } = this.root.host;
      for (const key in this.theme) style.setProperty(`--${key}`, this.theme[key]);
      this.set({});
    };
    dark.addEventListener("change", () => theme(), { signal });
    addEventListener("message", ({ data, source }) => {
      const known = data?.type === "theme" && Object.hasOwn(THEMES, data.value);
      if (known && source === parent) theme(data.value);
    }, { signal });
    theme();
  }

  // The entry of an array: at("boxes", frame, item) is four numbers; null without the array.
  at(name, ...index) {
    const array = this.arrays[name];
    if (!array) return null;
    const { data, strides } = array, last = index.length - 1;
    let start = 0;
    for (let axis = 0; axis <= last; axis++) start += index[axis] * strides[axis];
    return last === strides.length - 1 ? data[start] : data.subarray(start, start + strides[last]);
  }

  all(name) { return range(this.arrays[name]?.shape[0] ?? 0).map((i) => this.at(name, i)); }
  itemName(i) { return `${this.notes.item_name ?? "query"} ${this.notes.items?.[i] ?? i}`; }
  frameName(i) { return `${this.notes.frame_name ?? "layer"} ${this.notes.frames?.[i] ?? i + 1}`; }
  className(label) { return this.notes.names?.[label] ?? `class ${label}`; }
  colour(label) { return this.bundle.colours[(label ?? 0) % this.bundle.colours.length]; }
  labelColour(item) { return this.colour(this.at("labels", this.state.frame, item)); }

  // The class a query answers with, and its probability.
  answer(frame, item) {
    const score = this.at("scores", frame, item), label = this.at("labels", frame, item);
    return label === null ? "" : `${this.className(label)} ${score?.toFixed(2) ?? ""}`;
  }

  // Change the state, and draw once, before the next frame.
  set(changes) {
    const { state, calm } = this, from = state.frame;
    Object.assign(state, changes);
    state.frame = clamp(state.frame, 0, this.frames - 1);
    state.item = clamp(state.item, 0, this.items - 1);
    const moves = from !== state.frame && from < this.frames && !calm.matches;
    if (moves) this.slide = { from, start: performance.now() };
    this.waiting ??= requestAnimationFrame(() => { this.waiting = null; this.draw(); });
  }

  draw() {
    if (this.stages[0].overlay.wide === undefined || !this.stages[0].base) return; // not ready
    const start = performance.now(), { counts } = this;
    if (start - this.slide?.start > 180) this.slide = null;
    this.paint();
    for (const update of this.refresh) update();
    this.say(this.describe());
    const took = performance.now() - start;
    counts.draws += 1;
    counts.total += took;
    counts.longest = Math.max(counts.longest, took);
    if (this.slide) this.set({});
  }

  // A frame's box of an item: on its way for a moment after the frame has changed.
  box(frame, item) {
    const box = this.at("boxes", frame, item);
    if (!this.slide || frame !== this.state.frame) return box;
    const t = Math.min(1, (performance.now() - this.slide.start) / 180), ease = t * (2 - t);
    return this.at("boxes", this.slide.from, item).map((old, i) => old + (box[i] - old) * ease);
  }

  // Lines of words, [text, colour, aside]: shown at once; spoken when the pointer rests.
  say(lines) {
    this.root.querySelectorAll(".words p").forEach((line, i) => {
      const [text = "", colour, aside] = lines[i] ?? [], said = [text, colour, aside].join();
      if (line.said === said) return;
      line.said = said;
      line.replaceChildren(text);
      if (colour) line.prepend(make("i", { style: `background: ${colour}`,
        class: colour[0] === "#" ? "swatch" : "scale" }));
      if (aside) line.append(make("small", {}, ` ${aside}`));
    });
    clearTimeout(this.speaking);
    const text = lines.map(([words]) => words).filter(Boolean).join(", ");
    this.speaking = setTimeout(() => { this.find("spoken").textContent = text; }, 500);
  }

  // A stage with at most `most` pixels that follows the pointer: move shows, click or tap pins.
  stage(place, most = 400_000) {
    const stage = new Stage(this.bundle.summary, most), { element } = stage;
    let down = null;
    const move = (event) => {
      if (down && this.drag?.(...stage.place(event))) down.moved = true;
      else this.hover(...stage.place(event), stage);
    };
    element.addEventListener("pointermove", move);
    element.addEventListener("pointerdown", (event) => {
      down = { x: event.clientX, y: event.clientY };
      this.grab?.(...stage.place(event));
      element.setPointerCapture(event.pointerId);
      move(event);
    });
    element.addEventListener("pointerup", (event) => {
      const far = down ? Math.hypot(event.clientX - down.x, event.clientY - down.y) : 9;
      if (far < 8 && !down.moved) this.set({ pinned: !this.state.pinned });
    });
    element.addEventListener("lostpointercapture", () => { down = this.held = null; });
    place.append(element);
    this.stages.push(stage);
    return stage;
  }

  // A button that is pressed or not.
  button(place, text, label, pressed, act) {
    const button = make("button", { type: "button", "aria-label": label, title: label }, text);
    button.addEventListener("click", act);
    if (pressed) this.refresh.push(() => change(button, "ariaPressed", String(pressed())));
    (typeof place === "string" ? this.find(place) : place).append(button);
    return button;
  }

  // A row of buttons, one of them chosen.
  choice(place, label, names, chosen, choose) {
    const row = make("div", { class: "steps", role: "group", "aria-label": label });
    const buttons = names.map((name, i) =>
      this.button(row, name, `${label} ${name}`, () => chosen() === i, () => choose(i)));
    place.append(make("label", {}, label), row);
    return buttons;
  }

  // A canvas to point at, over a real range control for keys and screen readers.
  strip(place, label, count, chosen, choose, paint, hover) {
    const canvas = make("canvas");
    const control = make("input", { type: "range", max: count - 1, "aria-label": label });
    const box = make("div", { class: "strip" }, canvas, control);
    const point = (event) => {
      if (!event.buttons && !hover) return;
      const share = (event.clientX - box.getBoundingClientRect().left) / box.clientWidth;
      choose(clamp(Math.floor(share * count), 0, count - 1), event.buttons > 0);
    };
    control.addEventListener("input", () => choose(+control.value, false));
    box.addEventListener("pointermove", point);
    box.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      control.focus({ preventScroll: true });
      box.setPointerCapture(event.pointerId);
      point(event);
    });
    this.refresh.push(() => {
      change(control, "value", String(chosen()));
      paint(clear(canvas), canvas.wide, canvas.high);
    });
    place.append(box);
  }

  // One bar per query: as high as its score, in the colour of its class.
  itemBars() {
    const place = this.find("items"), name = this.notes.item_name ?? "query";
    if (this.items < 2) return;
    place.append(make("label", {}, name === "query" ? "queries" : `${name}s`));
    this.strip(place, name, this.items, () => this.state.item, (item, pin) => {
      if (pin || !this.state.pinned) this.set(pin ? { item, pinned: true } : { item });
    }, (ink, wide, high) => {
      const { frame, item } = this.state, each = wide / this.items, gap = each > 5 ? 1 : 0;
      for (const i of range(this.items)) {
        const score = this.at("scores", frame, i) ?? 0, tall = 3 + (high - 10) * score;
        const bar = (colour, top, size) => {
          ink.fillStyle = colour;
          ink.fillRect(i * each + gap, top, Math.max(each - 2 * gap, 1), size);
        };
        if (i === item) bar(this.theme.line, 0, high);
        if (i === item) bar(this.theme.ink, high - 3, 3);
        ink.globalAlpha = i === item || score >= this.threshold ? 1 : 0.4;
        bar(this.arrays.labels ? this.labelColour(i) : this.theme.soft, high - 5 - tall, tall);
        ink.globalAlpha = 1;
      }
    }, true);
  }

  get threshold() { return this.notes.threshold ?? 0.5; }
  // Layers or training steps: buttons where they are few, else a line to drag along.
  frameControls() {
    const place = this.find("frames"), kind = this.notes.frame_name ?? "layer";
    const names = this.notes.frames ?? range(this.frames).map((i) => i + 1);
    const chosen = () => this.state.frame;
    const choose = (frame) => { this.play(false); this.set({ frame }); };
    if (this.frames < 2) return;
    this.button(place, "▶", `play the ${kind}s`, () => this.state.playing, () => this.press(" "));
    if (this.frames <= 8 && !this.arrays.curve) {
      this.choice(place, kind, names, chosen, choose);
      return;
    }
    const label = place.appendChild(make("label"));
    this.refresh.push(() => change(label, "textContent", this.frameName(chosen())));
    this.strip(place, kind, this.frames, chosen, choose, (...on) => this.timeline(...on));
  }

  // Frames lie at equal distances; a curve's points between those that they fall between.
  timeline(ink, wide, high) {
    const { shape: [, n] = [0, 0], data } = this.arrays.curve ?? {}, { frames } = this;
    const { frame } = this.state, steps = this.notes.frame_x ?? range(frames), each = wide / frames;
    const x = (step) => {
      const after = steps.findIndex((s) => s > step);
      const i = Math.max(0, (after < 0 ? frames : after) - 1);
      const part = after > 0 ? (step - steps[i]) / (steps[after] - steps[i]) : 0;
      return (i + part + 0.5) * each;
    };
    const most = n ? Math.max(...data.subarray(n), 1e-9) : 1;
    ink.fillStyle = this.theme.line;
    for (const i of range(frames)) ink.fillRect((i + 0.5) * each - 0.5, high - 6, 1, 6);
    ink.strokeStyle = ink.fillStyle = this.theme.accent;
    ink.lineWidth = 1.8;
    ink.beginPath();
    for (const i of range(n)) ink.lineTo(x(data[i]), high - 2 - data[n + i] / most * (high - 16));
    ink.stroke();
    ink.fillRect((frame + 0.5) * each - 1, 0, 2, high);
    if (!n) return;
    const near = lowest(range(n), (i) => Math.abs(data[i] - steps[frame]));
    const right = frame > frames / 2, text = `${this.notes.curve.y} ${data[n + near].toFixed(2)}`;
    ink.textAlign = right ? "right" : "left";
    ink.fillText(text, (frame + 0.5) * each + (right ? -6 : 6), 9);
  }

  // Play through the frames once. It never starts by itself; with less motion, it steps.
  play(on) {
    const last = this.frames - 1, { frame } = this.state;
    clearInterval(this.ticking);
    if (on && this.calm.matches) return this.set({ frame: (frame + 1) % this.frames });
    this.set({ playing: on, frame: on && frame === last ? 0 : frame });
    this.ticking = on && setInterval(() => {
      this.set({ frame: this.state.frame + 1 });
      if (this.state.frame === last) this.play(false);
    }, clamp(6000 / this.frames, 150, 700));
  }

  // What a key does; false for a key that is not ours.
  press(key) {
    const { state } = this, keys = this.find("keys");
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[key];
    if (step) this.set({ item: state.item + step });
    else if (key === "Home" || key === "End") this.set({ item: key === "End" ? Infinity : 0 });
    else if (key === "[" || key === "]") {
      this.play(false);
      this.set({ frame: state.frame + (key === "]" ? 1 : -1) });
    } else if (key === "h") this.set({ head: (state.head + 2) % (this.heads + 1) - 1 });
    else if (key === "t") this.set({ truth: !state.truth });
    else if (key === " ") this.play(!state.playing && this.frames > 1);
    else if (key === "Enter") this.set({ pinned: !state.pinned });
    else if (key === "?" || key === "Escape") {
      keys.hidden = key === "Escape" || !keys.hidden;
      if (key === "Escape") this.play(this.state.pinned = false);
      this.set({});
    } else return false;
  }

  leave() { clearInterval(this.ticking); this.leaving.abort(); }
}

// --- Hosts ---------------------------------------------------------------------------------

// anywidget's entry: draw model.get("bundle") into `el`; returns how to leave.
export async function render({ model, el }) {
  const read = () => {
    const bundle = model.get("bundle");
    return typeof bundle === "string" ? JSON.parse(bundle) : bundle;
  };
  const figure = el.detrFigure = new VIEWS[read().view](el, model);
  await figure.load(read());
  model.on("change:bundle", () => figure.load(read()));
  return () => figure.leave();
}

export default { render };

// The frame's entry: a model that never changes stands in for a kernel.
export function start(el, script) {
  if (!globalThis.DecompressionStream) return; // an old browser: the poster behind is seen
  const bundle = JSON.parse(script.textContent);
  const ready = render({ el, model: { get: () => bundle, on() {} } }), figure = el.detrFigure;
  globalThis.detrFigure = { ready, set: (changes) => figure.set(changes), // for tests
    state: () => figure.state, stats: () => ({ ...figure.counts,
      meanDraw: figure.counts.total / Math.max(figure.counts.draws, 1) }) };
}
