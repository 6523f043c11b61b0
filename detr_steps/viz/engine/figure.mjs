// Interactive figures: attention, layers, sampling points, matching. Canvas 2D, no library.
//
// Python (figure.py) packs arrays, a picture, notes and looks (figure.css) into a bundle; this
// module draws it on stages (stage.mjs), with the view that the bundle asks for (attention.mjs,
// points.mjs, matching.mjs). It has two hosts: a page in a sandboxed frame (`start`, at the end),
// and anywidget (`render`), where a kernel can change the bundle. It asks no network.

import { Controls } from "./controls.mjs";
import { Stage, blend, bytesOf, clamp, iou, make, range, raster, unpack } from "./stage.mjs";

export const VIEWS = {}; // the views' modules put themselves here

const THEMES = { // also the custom properties of figure.css
  light: { paper: "#ffffff", ink: "#1c2430", soft: "#5a6472", line: "#dde2e8", tint: "#f3f5f7",
    accent: "#0072b2", changed: "#d55e00" },
  dark: { paper: "#15181d", ink: "#e7eaef", soft: "#9ba5b3", line: "#2f3640", tint: "#20252c",
    accent: "#56b4e9", changed: "#e69f00" },
};

// --- What all views share ------------------------------------------------------------------

export const KEYS = [["← → ↑ ↓", "step"], ["[ ]", "frame before, after"], ["space", "play, pause"],
  ["h", "next head"], ["t", "true objects on, off"], ["click, Enter", "pin"], ["Esc", "let go"]];
const CARD = `<style></style><section class="card" tabindex="0"><div class="grid">
<div class="title"><h2></h2></div><div class="stages"></div><div class="words" aria-hidden="true">
<p></p><p></p><p></p><p></p></div><div class="panel"></div><div class="items"></div>
<div class="frames"></div><div class="caption"></div></div><div class="keys" hidden></div>
<div class="spoken" aria-live="polite"></div></section>`;

export class Figure extends Controls {
  constructor(el, model) {
    super();
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
    for (const stage of this.stages) stage.take(raster(image, bundle, stage.maxPixels));
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

  // Which object a query was matched with, and how well its box fits; without a match in this
  // frame, the one that it has in another.
  match(frame, item) {
    const object = this.at("matched", frame, item);
    if (object === null) return "";
    if (object >= 0) return this.fits(frame, item, object);
    const other = range(this.frames).map((f) => this.at("matched", f, item)).findLast((n) => n >= 0);
    return other === undefined ? "matched to no object"
      : `not matched: ${this.fits(frame, item, other)}`;
  }

  fits(frame, item, object) {
    const label = this.at("truth_labels", object), truth = this.at("truth", object);
    return `object ${object}${label === null ? "" : ` (${this.className(label)})`}${
      truth ? `, IoU ${iou(this.at("boxes", frame, item), truth).toFixed(2)}` : ""}`;
  }

  // The true objects; a heavier line around the one that a query was matched with.
  objects(stage, frame, item, all = true) {
    const object = this.at("matched", frame, item) ?? -1;
    if (!this.state.truth) return;
    if (all) stage.boxes(this.all("truth"), "#fff", 1, [4, 4]);
    if (object >= 0) stage.boxes([this.at("truth", object)], "#fff", 2, [4, 4]);
  }

  get letGo() { return this.state.pinned ? "pinned, Esc lets go" : ""; }

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

  // A stage with at most `maxPixels` that follows the pointer: move shows, click or tap pins.
  stage(place, maxPixels = 400_000) {
    const stage = new Stage(this.bundle.summary, maxPixels), { element } = stage;
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
