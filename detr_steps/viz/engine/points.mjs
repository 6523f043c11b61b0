// The view of sampling points: where deformable attention reads, and with which weights.

import { Figure, KEYS, VIEWS } from "./figure.mjs";
import { Stage, clamp, lowest, make, range } from "./stage.mjs";

const NINTH = "#b8f2e6"; // of nine taps; beyond, the colours come round again

// Where deformable attention reads: M heads, L levels, K points each, around a reference.
class Points extends Figure {
  measure() {
    [this.frames, this.items, this.heads, this.L, this.K] = this.arrays.weights.shape;
    this.keys = [...KEYS, ["l", "next level"], ["p", "next point"], ["+ − 0", "zoom"]];
    this.state = { level: -1, point: -1, ...this.state };
  }

  headColour(m) { return m === 8 ? NINTH : this.colour(m); }

  fill() {
    const panel = this.find("panel");
    const [heads, levels] = range(2).map(() => panel.appendChild(make("div", { class: "row" })));
    this.main = this.stage(this.find("stages"));
    const buttons = this.pick(heads, "head", "all", this.heads, this.notes.head_name);
    buttons.slice(1).forEach((button, m) => {
      button.style.borderBottom = `3px solid ${this.headColour(m)}`;
    });
    this.pick(levels, "level", "all", this.L);
    this.loupe = new Stage("the cells that one point reads", 400_000);
    this.stages.push(this.loupe);
    panel.append(this.loupe.element);
    this.button("title", "−", "zoom out", null, () => this.press("-"));
    this.button("title", "+", "zoom in", null, () => this.press("+"));
    this.main.element.addEventListener("wheel", (event) => {
      if (!this.state.pinned && !event.ctrlKey) return; // the page scrolls on
      event.preventDefault();
      this.magnify(event.deltaY < 0 ? 1.25 : 0.8, ...this.main.place(event));
    });
    this.main.element.addEventListener("dblclick", (event) =>
      this.magnify(this.main.zoom.scale > 7 ? 0 : 2, ...this.main.place(event)));
    this.frameControls();
    this.itemBars();
  }

  // Zoom around a place of the picture, which stays where it is; 0 goes back to all of it.
  magnify(factor, x, y) {
    const { zoom } = this.main, scale = factor ? clamp(zoom.scale * factor, 0.6, 16) : 1;
    const keep = zoom.scale / scale;
    Object.assign(zoom, { scale, x: x - (x - zoom.x) * keep, y: y - (y - zoom.y) * keep });
    if (!factor) Object.assign(zoom, { x: 0, y: 0 });
    this.set({});
  }

  // The points of a query that are shown: place, weight, head m, level l, number k.
  points() {
    const { frame, item, head, level } = this.state, { L, K } = this;
    const places = this.at("locations", frame, item), weights = this.at("weights", frame, item);
    return range(weights.length).map((i) => ({ i, x: places[2 * i], y: places[2 * i + 1],
      weight: weights[i], m: Math.floor(i / L / K), l: Math.floor(i / K) % L, k: i % K }))
      .filter(({ m, l }) => (head < 0 || m === head) && (level < 0 || l === level))
      .sort((a, b) => b.weight - a.weight);
  }

  paint() {
    const { frame, item, pinned, point } = this.state, { main, loupe } = this;
    const points = this.points();
    this.chosen = points.find(({ i }) => i === point) ?? points[0];
    const { l, x, y } = this.chosen, [h, w] = this.notes.levels[l], scale = Math.min(w, h) / 4;
    const reference = this.at("references", frame, item, l), [cx, cy] = main.at(...reference);
    main.begin();
    if (main.zoom.scale > 1.5) this.reading(main);
    main.ink.setLineDash([]);
    if (this.notes.cells)
      main.boxes(range(this.items).map((i) => this.box(frame, i)), "#fffb", 0.6);
    this.objects(main, frame, item);
    if (this.arrays.boxes) main.boxes([this.box(frame, item)], this.labelColour(item), 2);
    for (const dot of points) this.dot(main, dot);
    main.stroke(new Path2D(`M${cx - 8} ${cy}h16M${cx} ${cy - 8}v16`), "#fff", 2);
    if (pinned) main.ring(...reference, this.colour(0), true);
    Object.assign(loupe.zoom, { scale, x: x - 0.5 / scale, y: y - 0.5 / scale });
    loupe.begin();
    this.reading(loupe);
    this.dot(loupe, this.chosen);
  }

  // Area: weight. Colour: head. Shape: level (disc, square, diamond, triangle).
  dot(stage, { i, x, y, weight, m, l }) {
    const [cx, cy] = stage.at(x, y), r = 1.5 + 16 * Math.sqrt(weight), { ink } = stage;
    const sides = [24, 4, 4, 3][l % 4], turn = l % 4 === 1 ? 0.5 : 0, mine = i === this.chosen.i;
    ink.beginPath();
    for (let s = 0; s < sides; s++) {
      const angle = 2 * Math.PI * (s + turn) / sides;
      ink.lineTo(cx + r * Math.sin(angle), cy - r * Math.cos(angle));
    }
    ink.closePath();
    ink.fillStyle = this.headColour(m);
    ink.fill();
    ink.strokeStyle = mine ? "#fff" : this.notes.even ? "#fffb" : "#000a";
    ink.lineWidth = mine ? 2.5 : 1;
    ink.stroke();
  }

  // The four cells that a point reads and the share of each: bilinear, cell centres at +0.5.
  four({ x, y, l }) {
    const [h, w] = this.notes.levels[l], u = x * w - 0.5, v = y * h - 0.5;
    const left = Math.floor(u), top = Math.floor(v);
    return [[0, 0], [0, 1], [1, 0], [1, 1]].map(([down, right]) => {
      const row = top + down, column = left + right;
      const share = (down ? v - top : 1 - v + top) * (right ? u - left : 1 - u + left);
      return { row, column, share, there: row >= 0 && row < h && column >= 0 && column < w };
    });
  }

  // The grid of the chosen point's level, and the cells that it reads.
  reading(stage) {
    const [h, w] = this.notes.levels[this.chosen.l], { ink } = stage, grid = new Path2D();
    const line = (x0, y0, x1, y1) => {
      grid.moveTo(...stage.at(x0, y0));
      grid.lineTo(...stage.at(x1, y1));
    };
    for (const i of range(w + 1)) line(i / w, 0, i / w, 1);
    for (const i of range(h + 1)) line(0, i / h, 1, i / h);
    Object.assign(ink, { strokeStyle: "#fff8", lineWidth: 1 });
    ink.setLineDash([]);
    ink.stroke(grid);
    for (const { row, column, share, there } of this.four(this.chosen)) {
      const box = [(column + 0.5) / w, (row + 0.5) / h, 1 / w, 1 / h];
      const [left, top] = stage.at(column / w, row / h);
      const [right, bottom] = stage.at((column + 1) / w, (row + 1) / h);
      const y = row > this.chosen.y * h - 0.5 ? bottom - 21 : top + 3; // away from the point
      ink.fillStyle = `rgba(255, 255, 255, ${0.65 * share})`; // the more is read, the lighter
      ink.fillRect(left, top, right - left, bottom - top);
      stage.boxes([box], "#fff", 1.5);
      if (right - left < 40) continue;
      ink.fillStyle = "#000b";
      ink.fillRect(left + 3, y, there ? 44 : 56, 18);
      ink.fillStyle = "#fff";
      ink.fillText(there ? `× ${share.toFixed(2)}` : "outside", left + 6, y + 13);
    }
  }

  // The query nearest to the pointer, unless one is pinned, and the nearest of its points.
  hover(x, y) {
    const { frame, pinned } = this.state, far = ([u, v]) => Math.hypot(u - x, v - y);
    const near = (i) => far(this.at("references", frame, i, 0));
    if (!pinned) this.state.item = lowest(range(this.items), near);
    this.set({ point: lowest(this.points(), (p) => far([p.x, p.y])).i });
  }

  press(key) {
    const factor = { "+": 1.5, "=": 1.5, "-": 1 / 1.5, 0: 0 }[key], points = this.points();
    const next = points.findIndex(({ i }) => i === this.chosen.i) + 1;
    if (factor !== undefined) this.magnify(factor, this.chosen.x, this.chosen.y);
    else if (key === "l") this.set({ level: (this.state.level + 2) % (this.L + 1) - 1 });
    else if (key === "p") this.set({ point: points[next % points.length].i });
    else return super.press(key);
  }

  describe() {
    const { frame, item } = this.state, { m, l, k, weight } = this.chosen;
    const [h, w] = this.notes.levels[l], said = [this.answer(frame, item), this.match(frame, item)];
    const cells = this.four(this.chosen).filter(({ there }) => there), [first] = cells;
    const { head_name: head = "head", point_name: name = "point", even } = this.notes;
    const value = even ? "" : `: weight ${weight.toFixed(3)}`;
    return [[this.itemName(item), null, this.letGo],
      [said.filter(Boolean).join(", "), said[0] && this.labelColour(item)],
      [`${head} ${m + 1}, level ${l + 1} (${h} × ${w}), ${name} ${k + 1}${value}`,
        this.headColour(m)],
      [first ? `reads ${cells.length} cells, from row ${first.row}, column ${first.column} on`
        : "outside of the map: reads nothing"]];
  }
}

VIEWS.points = Points;
