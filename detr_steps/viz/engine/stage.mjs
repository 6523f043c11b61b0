// The stage of interactive figures: a picture, under a map or not, and lines and words on it.
//
// In this order: data, mathematics, stage. Canvas 2D, no library.

// --- Data ----------------------------------------------------------------------------------

export const bytesOf = (base64) => Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));

// Float16 by hand: sign, 5 bits of exponent, 10 of fraction.
function half(bits) {
  const sign = bits >> 15 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  return sign * (exponent ? (1 + fraction / 1024) * 2 ** (exponent - 15) : fraction * 2 ** -24);
}

const READ = { u1: (bytes) => new Uint8Array(bytes), i2: (bytes) => new Int16Array(bytes),
  f4: (bytes) => new Float32Array(bytes),
  f2: (bytes) => Float32Array.from(new Uint16Array(bytes), half) };

// The arrays of a bundle, {name: {shape, strides, data}}, laid out as in NumPy.
export async function unpack(bundle) {
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
// A number with so many digits, zero without a sign.
export const fixed = (value, digits) => value.toFixed(digits).replace(/^-(?=0\.?0*$)/, "").replace("-", "−");
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
export function blend(lut) {
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
export function clear(canvas) {
  const ink = canvas.getContext("2d"), ratio = canvas.width / canvas.wide;
  ink.setTransform(ratio, 0, 0, ratio, 0, 0);
  ink.clearRect(0, 0, canvas.wide, canvas.high);
  return ink;
}

// The picture with at most `maxPixels`: its colours and its greys.
export function raster(image, { width, height }, maxPixels) {
  const scale = Math.min(1, Math.sqrt(maxPixels / (width * height)));
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
  constructor(label, maxPixels) {
    this.maxPixels = maxPixels;
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
