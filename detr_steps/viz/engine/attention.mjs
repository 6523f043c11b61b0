// Views of attention maps: one frame with all heads, or all frames (layers) side by side.

import { Figure, VIEWS } from "./figure.mjs";
import { Stage, change, clamp, farness, fixed, lowest, make, range } from "./stage.mjs";

class Attention extends Figure {
  measure() {
    [this.frames, this.items, this.heads, this.h, this.w] = this.arrays.maps.shape;
    this.cells = this.notes.pick === "cell";
    this.cover = this.notes.cover ?? [1, 1];
    if (!this.held) this.patch = this.notes.live?.patch.slice();
  }

  fill() {
    this.main = this.stage(this.find("stages"));
    this.headMaps();
    this.itemBars();
    this.frameControls();
    if (this.notes.flat) this.card.dataset.tall = "yes"; // room for what `along` draws
  }

  // Negative entropy of the map shown, frame by frame: minus the log of its spread.
  sparsity(frame) {
    const one = this.head < 0 || this.heads === 1;
    return -Math.log(one ? this.at("spread", frame, this.state.item)
      : this.at("spread_heads", frame, this.state.item, this.head));
  }

  // Over the timeline of a training: sparsity, flat maps below; where the object changed.
  along(ink, each, high) {
    const { flat } = this.notes, { frame, item } = this.state;
    const y = (value) => 4 + value / flat * (high - 18);
    ink.strokeStyle = ink.fillStyle = this.theme.changed;
    ink.beginPath();
    for (const f of range(this.frames)) ink.lineTo((f + 0.5) * each, y(this.sparsity(f)));
    ink.stroke();
    ink.fillText(`sparsity ${fixed(this.sparsity(frame), 2)}`, 2, 23);
    ink.fillStyle = this.theme.ink;
    for (const f of this.changes(item)) {
      ink.beginPath(); // a diamond
      for (const [dx, dy] of [[0, -5], [4, 0], [0, 5], [-4, 0]]) ink.lineTo(f * each + dx, high - 6 + dy);
      ink.fill();
    }
  }

  // Frames at which a query has another object than in the frame before, or none.
  changes(item) {
    const had = (f) => this.at("matched", f, item);
    return range(this.frames).filter((f) => f && had(f) !== had(f - 1));
  }

  // Small maps of the mean and of each head: they are the head picker.
  headMaps() {
    const count = this.heads + 1, { width, height } = this.bundle, size = (columns) =>
      Math.min(340 / columns, 290 / Math.ceil(count / columns) * width / height);
    const columns = lowest(range(count).map((i) => i + 1), (n) => -size(n)); // the largest tiles
    const box = make("div", { class: "heads", role: "group", "aria-label": "head" });
    box.style.setProperty("--columns", columns);
    box.style.setProperty("--rows", Math.ceil(count / columns));
    this.tiles = (this.heads > 1 ? range(count) : []).map((i) => {
      const head = i - 1, stage = new Stage("", 2000), number = make("em");
      const tile = this.button(box, "", i ? `head ${i}` : "mean of all heads",
        () => this.state.head === head, () => this.set({ head, peek: undefined }));
      tile.append(stage.picture, make("span", {}, i || "mean"), number);
      tile.addEventListener("pointerenter", () => this.set({ peek: head }));
      tile.addEventListener("pointerleave", () => this.set({ peek: undefined }));
      this.stages.push(stage);
      return { head, stage, number };
    });
    this.find("panel").append(box);
  }

  get head() { return this.heads === 1 ? 0 : this.state.peek ?? this.state.head; }

  // Weights 0..255 of a head, or of the mean of all scaled to its maximum; and that maximum.
  map(frame, item, head) {
    const size = this.h * this.w, maps = this.at("maps", frame, item);
    const peaks = this.at("peaks", frame, item);
    if (head >= 0) return [maps.subarray(head * size, (head + 1) * size), peaks[head]];
    const values = new Float64Array(size);
    let most = 0;
    for (let m = 0; m < this.heads; m++) {
      const peak = peaks[m], from = m * size;
      for (let i = 0; i < size; i++) values[i] += maps[from + i] * peak;
    }
    for (let i = 0; i < size; i++) most = Math.max(most, values[i]);
    for (let i = 0; i < size; i++) values[i] *= 255 / (most || 1);
    return [values, most / 255 / this.heads];
  }

  glow(stage, [values, peak]) {
    stage.glow(values, this.h, this.w, this.cover, this.table);
    return peak;
  }

  paint() {
    const { frame, item } = this.state;
    const maps = range(this.heads + 1).map((i) => this.map(frame, item, i - 1)); // mean first
    this.peak = this.glow(this.main, maps[this.head + 1]);
    this.marks(this.main, frame);
    for (const { head, stage, number } of this.tiles) {
      change(number, "textContent", this.glow(stage, maps[head + 1]).toFixed(2));
    }
    if (!this.moved) return;
    this.moved = false; // the patch: at most once per drawing the kernel looks again
    this.model.set("point", this.patch.slice(0, 2));
    this.model.save_changes();
  }

  // Boxes, cells and names over a stage.
  marks(stage, frame) {
    const { item, pinned } = this.state, small = stage.frame !== undefined;
    stage.begin();
    if (this.patch) stage.boxes([this.patch], "#fff", 2, [6, 3]);
    if (this.cells) {
      const [row, column] = this.cell(item), w = this.cover[0] / this.w, h = this.cover[1] / this.h;
      const box = [(column + 0.5) * w, (row + 0.5) * h, w, h];
      stage.boxes([box], "#fff", 2);
      if (pinned) stage.ring(...box.slice(0, 2), this.colour(0), true);
    }
    this.objects(stage, frame, item, !small);
    if (!this.arrays.boxes) return;
    const box = this.box(frame, item), same = {};
    const colour = this.colour(this.at("labels", frame, item));
    for (const other of small ? [] : this.sure(frame)) { // one stroke for boxes of one colour
      const others = this.colour(this.at("labels", frame, other));
      if (other !== item) (same[others] ??= []).push(this.box(frame, other));
    }
    for (const others in same) stage.boxes(same[others], others, 1.2);
    stage.boxes([box], colour, small ? 2.2 : 2.8);
    if (pinned || !small) stage.ring(box[0], box[1], colour, pinned);
    if (!small) stage.name(box, `${this.itemName(item)} ${this.answer(frame, item)}`, colour);
  }

  // Row and column of a cell; where cells were left out, the notes tell which are there.
  cell(item) {
    const id = this.notes.items?.[item] ?? item;
    return [Math.floor(id / this.w), id % this.w];
  }

  // Queries that count as detections in this frame; all of them where none does.
  sure(frame) {
    const sure = range(this.items).filter((i) => !(this.at("scores", frame, i) < this.threshold));
    return sure.length ? sure : range(this.items);
  }

  // The cell under the pointer; or the smallest box around it, else the nearest.
  hover(x, y, { frame = this.state.frame }) {
    const row = y / this.cover[1] * this.h - 0.5, column = x / this.cover[0] * this.w - 0.5;
    const far = ([r, c]) => Math.hypot(r - row, c - column);
    if (this.state.pinned) return;
    if (this.cells) this.set({ item: lowest(range(this.items), (i) => far(this.cell(i))) });
    else if (this.arrays.boxes) {
      const away = (i) => farness(this.at("boxes", frame, i), x, y);
      this.set({ item: lowest(this.sure(frame), away) });
    }
  }

  // With a kernel: a patch to drag over the picture, or to move with Shift and arrows.
  grab(x, y) {
    const [cx, cy, w, h] = this.patch ?? [];
    this.held = Math.abs(x - cx) < w / 2 && Math.abs(y - cy) < h / 2 ? [x - cx, y - cy] : null;
  }

  drag(x, y) {
    if (!this.held) return false;
    this.patch.splice(0, 2, clamp(x - this.held[0], 0, 1), clamp(y - this.held[1], 0, 1));
    this.set({ pinned: this.moved = true });
    return true;
  }

  press(key, shift) {
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const way = ways[key];
    const item = this.state.item + way?.[1] * this.w; // the cell above or below
    if (way && shift && this.patch) {
      this.held = way.map((step) => -0.04 * step);
      this.drag(...this.patch);
      this.held = null;
    } else if (!this.cells || this.notes.items || !way?.[1]) return super.press(key);
    else if (item >= 0 && item < this.items) this.set({ item });
  }

  describe() {
    const { frame, item } = this.state;
    const one = this.head < 0 ? "mean of heads: " : `head ${this.head + 1}: `;
    const spread = this.head < 0 || this.heads === 1 ? this.at("spread", frame, item)
      : this.at("spread_heads", frame, item, this.head);
    const stops = [0, 64, 128, 192, 255].map((i) => `rgb(${this.lut.subarray(3 * i, 3 * i + 3)})`);
    const far = spread === null ? "" : `, spread over ${spread.toFixed(1)} cells`;
    const weight = [`${this.heads > 1 ? one : ""}heaviest cell ${this.peak.toFixed(2)}${far}`,
      `linear-gradient(90deg, ${stops})`];
    const [row, column] = this.cell(item);
    if (this.cells) return [[`cell in row ${row + 1}, column ${column + 1}`, null, this.letGo], weight];
    const times = this.notes.flat && this.changes(item).length;
    const changed = this.notes.flat ? `; ◆ ${times} time${times === 1 ? "" : "s"}` : "";
    return [[this.itemName(item), null, this.letGo],
      [this.answer(frame, item), this.arrays.labels && this.labelColour(item)],
      [this.match(frame, item) + changed], weight];
  }
}

// All frames side by side, the same query in each.
class Layers extends Attention {
  fill() {
    const row = this.find("panel").appendChild(make("div", { class: "row" }));
    this.find("stages").style.setProperty("--rows", this.frames > 3 ? 2 : 1);
    for (const frame of range(this.frames)) {
      const cell = this.find("stages").appendChild(make("div"));
      const stage = Object.assign(this.stage(cell, 12_288), { frame });
      stage.picture.setAttribute("aria-label", this.frameName(frame));
      stage.text = cell.appendChild(make("p"));
    }
    if (this.heads > 1) this.pick(row, "head", "mean", this.heads);
    this.itemBars();
  }

  paint() {
    const { item } = this.state;
    const texts = this.stages.map((stage, frame) => {
      this.peak = this.glow(stage, this.map(frame, item, this.head));
      this.marks(stage, frame);
      return [this.frameName(frame), this.answer(frame, item),
        ...this.match(frame, item).split(", ")].join("\n");
    });
    this.stages.forEach(({ text }, frame) => {
      if (text.said === texts[frame]) return;
      text.said = texts[frame];
      const parts = text.said.split("\n").flatMap((part) => [make("span", {}, part), " "]);
      text.replaceChildren(...parts);
    });
  }

  describe() {
    const lines = this.stages.map(({ text }) => [text.said.replaceAll("\n", ", ")]);
    return [super.describe()[0], ...lines]; // the first is shown here, all are spoken
  }
}

VIEWS.attention = Attention;
VIEWS.layers = Layers;
