// Sets of queries through the decoder layers: a set to hover over, and its path.
//
// One column for each layer, the queries at the start first. sets.py draws the same.

import { Figure, VIEWS } from "./figure.mjs";
import { change, clear, lowest, make, range } from "./stage.mjs";

const SET_KEYS = [["↑ ↓", "set before, after"], ["← →", "along its path"],
  ["click, Enter", "pin"], ["Esc", "let go"]];
const TOP = 0.04, TALL = 0.8; // of the stage; below are the names of the columns

class Sets extends Figure {
  measure() {
    [this.items] = this.arrays.sets.shape;
    this.keys = SET_KEYS;
    const all = range(this.items).map((i) => this.at("sets", i)), columns = [];
    all.forEach(([layer], i) => (columns[layer] ??= []).push(i));
    this.columns = columns;
    this.spots = all.map(([layer], i) => {
      const row = columns[layer].indexOf(i) + 0.5;
      return [(layer + 0.5) / columns.length, TOP + TALL * row / columns[layer].length];
    });
    this.plain = columns.map(([first]) => first); // what inference computes
  }

  fill() {
    this.main = this.stage(this.find("stages"));
    const legend = this.find("items").appendChild(make("div", { class: "legend" }));
    [["before", "from the layer just before"], ["skips", "recollected from further back"],
      ["plain", "all that inference computes"]].forEach(([kind, words]) =>
      legend.append(make("span", {}, make("i", { class: kind }), words)));
  }

  layer(i) { return this.at("sets", i)[0]; }
  parent(i) { return this.at("sets", i)[1]; }
  path(i) { return i < 0 ? [] : [...this.path(this.parent(i)), i]; }
  skips(i) { return this.layer(i) - this.layer(this.parent(i)) > 1; }
  ink(i) { return this.skips(i) ? this.theme.changed : this.theme.accent; }

  paint() {
    const ink = this.main.ink = clear(this.main.overlay), mine = new Set(this.path(this.state.item));
    for (const here of [false, true]) { // the path above all others
      for (const i of range(this.items)) if (mine.has(i) === here) this.line(ink, i, here);
    }
    const size = Math.min(9, 0.36 * TALL * this.main.overlay.high / Math.max(...this.columns.map((c) => c.length)));
    for (const i of range(this.items)) this.dot(ink, i, size, mine.has(i));
    this.columns.forEach((column, layer) => this.heading(ink, column, layer));
  }

  line(ink, i, here) {
    if (this.parent(i) < 0) return;
    const [x0, y0] = this.main.at(...this.spots[this.parent(i)]), [x1, y1] = this.main.at(...this.spots[i]);
    const bend = 0.5 * (x1 - x0), path = new Path2D();
    path.moveTo(x0, y0);
    path.bezierCurveTo(x0 + bend, y0, x1 - bend, y1, x1, y1);
    Object.assign(ink, { strokeStyle: this.ink(i), lineWidth: here ? 3.5 : 1, globalAlpha: here ? 1 : 0.35 });
    ink.stroke(path);
    ink.globalAlpha = 1;
  }

  dot(ink, i, size, here) {
    const path = new Path2D(), [x, y] = this.main.at(...this.spots[i]);
    path.arc(x, y, here ? size + 1 : size, 0, 7);
    ink.fillStyle = this.parent(i) < 0 ? this.theme.ink : this.ink(i);
    ink.globalAlpha = here ? 1 : 0.55;
    ink.fill(path);
    ink.globalAlpha = 1;
    if (!this.plain.includes(i)) return;
    const ring = new Path2D();
    ring.arc(x, y, size + 3.5, 0, 7);
    Object.assign(ink, { strokeStyle: this.theme.ink, lineWidth: 1.6 });
    ink.stroke(ring);
  }

  heading(ink, column, layer) {
    const [x, y] = this.main.at((layer + 0.5) / this.columns.length, TOP + TALL + 0.06);
    const narrow = this.main.overlay.wide < 420;
    Object.assign(ink, { textAlign: "center", fillStyle: this.theme.ink });
    ink.fillText(layer ? `${narrow ? "" : "layer "}${layer}` : "start", x, y);
    ink.fillStyle = this.theme.soft;
    const sets = narrow ? "" : column.length === 1 ? " set" : " sets";
    ink.fillText(`${column.length}${sets}`, x, y + 15);
    ink.textAlign = "start";
  }

  hover(x, y) {
    if (this.state.pinned) return;
    const shape = this.bundle.width / this.bundle.height;
    this.set({ item: lowest(range(this.items), (i) =>
      Math.hypot((this.spots[i][0] - x) * shape, this.spots[i][1] - y)) });
  }

  press(key) {
    const { item } = this.state, along = { ArrowLeft: this.parent(item),
      ArrowRight: range(this.items).find((i) => this.parent(i) === item) ?? -1 }[key];
    if (along === undefined) return super.press(key);
    if (along >= 0) this.set({ item: along });
  }

  describe() {
    const { item } = this.state, layer = this.layer(item), column = this.columns[layer];
    const through = this.path(item).map((i) => this.layer(i)).slice(1);
    const missing = range(layer).map((i) => i + 1).filter((i) => !through.includes(i));
    const after = range(this.items).filter((i) => this.parent(i) === item).map((i) => this.layer(i));
    const list = (layers) => `layer${layers.length === 1 ? "" : "s"} ${layers.join(", ")}`;
    if (!layer) return [["the queries at the start", null, this.letGo], [`refined by ${list(after)}`]];
    const skipped = missing.length ? `, past ${list(missing)}` : ": nothing is skipped";
    return [[`layer ${layer}, set ${column.indexOf(item) + 1} of ${column.length}`, null, this.letGo],
      [`made by ${list(through)}${skipped}`],
      [after.length ? `refined further by ${list(after)}` : "its loss is its last"],
      [this.plain.includes(item) ? "inference computes this one, too" : "in training only"]];
  }
}

VIEWS.sets = Sets;
