// Segments of a picture: which query owns each pixel at each threshold, and how its mask was made.
//
// Under the pointer a query; its attention maps and the stages of the head as small tiles. Frames
// are thresholds. still.tinted draws the same.

import { Figure, VIEWS } from "./figure.mjs";
import { Stage, change, make, range } from "./stage.mjs";

const SEGMENT_KEYS = [["← → ↑ ↓", "query before, after"], ["[ ]", "threshold lower, higher"],
  ["space", "play, pause"], ["h", "next map or stage"], ["t", "true segments on, off"],
  ["click, Enter", "pin"], ["Esc", "let go"]];

class Segments extends Figure {
  measure() {
    const { scores, owner, maps, stages } = this.arrays;
    [this.frames, this.items] = scores.shape;
    [, this.h, this.w] = owner.shape;
    this.maps = maps?.shape[1] ?? 0; // a head may read features alone
    this.heads = this.maps + stages.shape[1]; // all that a tile shows
    this.keys = SEGMENT_KEYS;
  }

  get threshold() { return this.notes.frame_x[this.state.frame]; }
  name(tile) {
    return tile < 0 ? "segments" : tile < this.maps ? `map ${tile + 1}` : this.notes.stages[tile - this.maps];
  }
  // A map's share of all that the query's maps weigh: each is drawn as bright as the others.
  share(tile) {
    if (tile < 0 || tile >= this.maps || !this.arrays.shares) return "";
    return `${Math.round(100 * this.at("shares", this.state.item, tile))} %`;
  }

  fill() {
    this.state.truth = false; // its outlines: only when asked for
    this.main = this.stage(this.find("stages"));
    const box = this.find("panel").appendChild(make("div", { class: "heads", role: "group", "aria-label": "maps and stages" }));
    box.style.setProperty("--columns", 4);
    box.style.setProperty("--rows", Math.ceil(this.heads / 4));
    this.tiles = range(this.heads).map((head) => {
      const stage = new Stage("", 4096), peek = (value) => () => this.set({ peek: value });
      const tile = this.button(box, "", this.name(head), () => this.state.head === head,
        () => this.set({ head: this.state.head === head ? -1 : head, peek: undefined }));
      const share = make("em");
      tile.append(stage.picture, make("span", {}, this.name(head)), share);
      this.refresh.push(() => change(share, "textContent", this.share(head)));
      tile.addEventListener("pointerenter", peek(head));
      tile.addEventListener("pointerleave", peek(undefined));
      this.stages.push(stage);
      return stage;
    });
    if (this.arrays.true) {
      this.button("title", "truth", "true segments", () => this.state.truth, () => this.press("t"));
    }
    this.itemBars();
    this.frameControls();
  }

  get head() { return this.state.peek ?? this.state.head; }

  // What a tile shows of a query: weights 0..255, rows, columns.
  values(item, head) {
    const [name, at] = head < this.maps ? ["maps", head] : ["stages", head - this.maps];
    return [this.at(name, item, at), ...this.arrays[name].shape.slice(2)];
  }

  paint() {
    const { frame, item } = this.state, { main, head, notes, table } = this;
    const cover = notes.cover ?? [1, 1];
    this.tiles.forEach((stage, i) => stage.glow(...this.values(item, i), i < this.maps ? cover : [1, 1], table));
    if (head < 0) this.tint(frame, item);
    else main.glow(...this.values(item, head), head < this.maps ? cover : [1, 1], table);
    main.begin();
    const owner = this.at("owner", frame);
    if (head < 0) main.stroke(this.edges(owner), "#fff", 0.8);
    main.stroke(this.edges(owner, item + 1), "#fff", 2.4);
    if (this.state.truth) main.stroke(this.edges(this.arrays.true.data), this.theme.changed, 1.6);
    const box = this.reach(owner, item + 1);
    if (box) main.name(box, `${this.itemName(item)} ${this.answer(frame, item)}`, this.labelColour(item));
  }

  // Segments in the colours of their classes over the grey picture, the chosen one strongest.
  tint(frame, item) {
    const { main, h, w } = this, { width, height, grey } = main.base, owner = this.at("owner", frame);
    const inks = range(this.items + 1).map((id) => {
      if (!id) return [0, 0, 0, 0.7];
      const label = this.at("labels", frame, id - 1), colour = this.colour(label);
      const share = (label < this.notes.things ? 0.55 : 0.2) + (id === item + 1 ? 0.2 : 0);
      return [...[1, 3, 5].map((i) => parseInt(colour.slice(i, i + 2), 16)), share];
    });
    const { data } = main.pixels;
    for (let y = 0, at = 0; y < height; y++) {
      const row = w * Math.floor((y + 0.5) * h / height);
      for (let x = 0; x < width; x++, at += 4) {
        const ink = inks[owner[row + Math.floor((x + 0.5) * w / width)]], value = grey[at / 4];
        for (let c = 0; c < 3; c++) data[at + c] = Math.floor(value * (1 - ink[3]) + ink[c] * ink[3] + 0.5);
        data[at + 3] = 255;
      }
    }
    main.context.putImageData(main.pixels, 0, 0);
  }

  // Borders between pixels of different owners; around one of them only, if it is given.
  edges(owner, id) {
    const { h, w, main } = this, path = new Path2D();
    const parts = (a, b) => a !== b && (id === undefined || a === id || b === id);
    const line = (x0, y0, x1, y1) => {
      path.moveTo(...main.at(x0 / w, y0 / h));
      path.lineTo(...main.at(x1 / w, y1 / h));
    };
    for (let y = 0; y < h; y++) for (let x = 0; x < w; x++) {
      const here = owner[y * w + x];
      if (x + 1 < w && parts(here, owner[y * w + x + 1])) line(x + 1, y, x + 1, y + 1);
      if (y + 1 < h && parts(here, owner[(y + 1) * w + x])) line(x, y + 1, x + 1, y + 1);
    }
    return path;
  }

  // The box around the pixels of an owner, in shares of the picture; undefined without any.
  reach(owner, id) {
    const { h, w } = this, places = range(h * w).filter((i) => owner[i] === id);
    if (!places.length) return undefined;
    const x = places.map((i) => i % w), y = places.map((i) => Math.floor(i / w));
    const [x0, x1] = [Math.min(...x) / w, (Math.max(...x) + 1) / w];
    const [y0, y1] = [Math.min(...y) / h, (Math.max(...y) + 1) / h];
    return [(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0];
  }

  hover(x, y) {
    const row = Math.floor(y * this.h), column = Math.floor(x * this.w);
    if (this.state.pinned || row < 0 || column < 0 || row >= this.h || column >= this.w) return;
    const id = this.at("owner", this.state.frame)[row * this.w + column];
    if (id) this.set({ item: id - 1 });
  }

  // How a query fared at a threshold, as segments.py says it.
  fate(frame, item) {
    const owner = this.at("owner", frame), overlap = this.at("overlap", frame, item);
    const pixels = owner.reduce((sum, id) => sum + (id === item + 1), 0);
    if (!pixels) return this.at("scores", frame, item) > this.threshold ? "kept, owns no pixel" : "not kept";
    const share = `${(100 * pixels / owner.length).toFixed(1)} % of the pixels`;
    if (!this.arrays.true) return share;
    return `${share}: ${overlap > 0.5 ? "a hit" : "a false alarm"}, IoU ${overlap.toFixed(2)}`;
  }

  describe() {
    const { frame, item } = this.state, shown = this.head < 0 ? "" : `shown: ${this.name(this.head)} ${this.share(this.head)}`;
    return [[this.itemName(item), null, this.letGo], [this.answer(frame, item), this.labelColour(item)],
      [this.fate(frame, item)], [shown]];
  }
}

VIEWS.segments = Segments;
