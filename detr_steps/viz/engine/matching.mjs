// The view of matching: what each query would cost for each object, and who gets whom.

import { Figure, KEYS, VIEWS } from "./figure.mjs";
import { change, clamp, farness, fixed, lowest, make, range } from "./stage.mjs";

// The cheapest way to pair rows with columns: the row of each column, or -1. Rows join one by
// one, each along the cheapest path of swaps (Kuhn 1955; Jonker and Volgenant 1987). The prices
// u, v keep what any swap would cost at 0 or more. Free partners make the table square.
export function assign(cost) {
  const rows = cost.length, columns = cost[0]?.length ?? 0, n = Math.max(rows, columns);
  const u = Array(n + 1).fill(0), v = Array(n + 1).fill(0), owner = Array(n + 1).fill(0);
  for (let row = 1; row <= n; row++) { // rows and columns count from 1; 0 is nobody
    const best = Array(n + 1).fill(Infinity), from = Array(n + 1).fill(0), seen = new Set();
    let column = 0;
    owner[0] = row;
    do {
      seen.add(column);
      let step = Infinity, next = 0;
      for (let j = 1; j <= n; j++) {
        if (seen.has(j)) continue;
        const slack = (cost[owner[column] - 1]?.[j - 1] ?? 0) - u[owner[column]] - v[j];
        if (slack < best[j]) [best[j], from[j]] = [slack, column];
        if (best[j] < step) [step, next] = [best[j], j];
      }
      for (let j = 0; j <= n; j++) {
        if (seen.has(j)) { u[owner[j]] += step; v[j] -= step; } else best[j] -= step;
      }
      column = next;
    } while (owner[column]);
    while (column) { owner[column] = owner[from[column]]; column = from[column]; }
  }
  return owner.slice(1, columns + 1).map((row) => (row <= rows ? row - 1 : -1));
}

// The cost of every query for every object, and the cheapest one-to-one assignment.
class Matching extends Figure {
  measure() {
    [, this.items, this.columns] = this.arrays.parts.shape;
    this.keys = KEYS.filter(([key]) => !["[ ]", "space", "h"].includes(key));
    const { parts, weights = parts.map(() => 1), row_names, column_names, rule } = this.notes;
    this.bare = rule === "none" && parts.length === 1; // a table of one measure: no cost
    this.sign = this.notes.better === "high" ? -1 : 1;
    this.state.weights ??= [...weights];
    this.rowName = (q) => row_names?.[q] ?? this.itemName(q);
    this.columnName = (n) => column_names?.[n] ?? `object ${n}`;
    this.solve();
    this.before = this.rowOf; // with the weights of the start
    this.state.column ??= 0;
    this.state.item = this.notes.start?.item ?? Math.max(0, this.rowOf[this.state.column]);
  }

  fill() {
    const table = make("table");
    this.card.style.setProperty("--rows", this.items);
    this.card.style.setProperty("--columns", this.columns);
    if (this.items <= 8 && this.columns <= 8) this.card.dataset.size = "small"; // a larger picture
    const heads = range(this.columns).map((n) => make("th", {}, this.columnName(n)));
    this.main = this.stage(this.find("stages"));
    this.grid = { heads, rows: [], cells: [] };
    table.append(make("tr", {}, make("th"), ...heads));
    for (const q of range(this.items)) {
      const cells = range(this.columns).map((n) => make("td", { "data-q": q, "data-n": n }));
      this.grid.cells.push(cells);
      const row = make("tr", {}, make("th", {}, this.rowName(q)), ...cells);
      this.grid.rows.push(table.appendChild(row));
    }
    const point = ({ target: { dataset: { q, n } }, type }) => {
      if (q === undefined) return;
      if (!this.state.pinned) this.set({ item: +q, column: +n });
      if (type === "click") this.set({ pinned: !this.state.pinned });
    };
    table.addEventListener("pointermove", point);
    table.addEventListener("click", point);
    this.find("panel").append(table);
    if (!this.bare) this.notes.parts.forEach((name, p) => this.slider(name, p));
    this.show();
  }

  slider(name, p) {
    const [low, high] = this.notes.limits?.[p] ?? [0, 10], label = make("label");
    const control = make("input", { type: "range", min: low, max: high, step: (high - low) / 100,
      "aria-label": `weight of ${name}`, "data-own": "yes" });
    control.addEventListener("input", () => {
      this.state.weights[p] = +control.value;
      this.solve();
      this.show();
      this.set({});
    });
    this.refresh.push(() => {
      change(control, "value", String(this.state.weights[p]));
      change(label, "textContent", `${name} × ${this.state.weights[p].toFixed(1)}`);
    });
    this.find("items").append(make("div", { class: "slider" }, label, control));
  }

  solve() {
    const { weights } = this.state, part = (p, q, n) => this.at("parts", p, q, n);
    this.cost = range(this.items).map((q) => range(this.columns).map((n) =>
      weights.reduce((sum, weight, p) => sum + weight * part(p, q, n), 0)));
    this.rowOf = this.notes.rule === "none" ? Array(this.columns).fill(-1) : this.assign(this.cost);
  }

  assign(cost) { return assign(cost); }

  // Fill the table: the cheaper, the darker; a frame for a pair, another for a changed one.
  show() {
    const all = this.cost.flat().map((cost) => this.sign * cost), digits = this.notes.digits ?? 1;
    const low = Math.min(...all), wide = Math.max(...all) - low || 1;
    this.grid.cells.forEach((row, q) => row.forEach((cell, n) => {
      const cheap = (1 - (this.sign * this.cost[q][n] - low) / wide) ** 2;
      const pair = this.rowOf[n] === q, was = this.before?.[n] === q;
      cell.textContent = fixed(this.cost[q][n], digits);
      cell.style.setProperty("--cheap", `${Math.round(6 + 84 * cheap)}%`);
      for (const [name, on] of Object.entries({ good: cheap > 0.6, pair, new: pair && !was,
        was: was && !pair })) cell.classList.toggle(name, on);
    }));
  }

  paint() {
    const { item, column, truth, pinned } = this.state, { heads, rows, cells } = this.grid;
    const stage = this.main, mine = this.colour(column);
    stage.begin();
    if (truth) stage.boxes(this.all("truth"), "#fff", 1, [4, 4]);
    this.rowOf.forEach((q, n) => {
      if (q >= 0) stage.boxes([this.at("boxes", q)], this.colour(n), 1.2);
    });
    stage.boxes([this.at("truth", column)], "#fff", 2.5, [4, 4]);
    stage.boxes([this.at("boxes", item)], mine, 3);
    stage.name(this.at("truth", column), this.columnName(column), "#ffffff", true);
    stage.name(this.at("boxes", item), this.rowName(item), mine);
    if (pinned) stage.ring(...this.at("boxes", item).subarray(0, 2), mine, true);
    for (const old of this.marked ?? []) old.classList.remove("here");
    this.marked = [heads[column], rows[item], cells[item][column]];
    for (const now of this.marked) now.classList.add("here");
  }

  // On the picture: the nearest box, and the object that it costs least for.
  hover(x, y) {
    if (this.state.pinned) return;
    const item = lowest(range(this.items), (q) => farness(this.at("boxes", q), x, y));
    this.set({ item, column: lowest(range(this.columns), (n) => this.sign * this.cost[item][n]) });
  }

  press(key) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[key];
    if (!step) return super.press(key);
    this.set({ column: clamp(this.state.column + step, 0, this.columns - 1) });
  }

  describe() {
    const { item, column, weights, pinned } = this.state, owner = this.rowOf[column];
    const number = (value) => fixed(value, 2);
    if (this.bare) {
      return [[`${this.rowName(item)} and ${this.columnName(column)}`, null, pinned ? "pinned" : ""],
        [`${this.notes.parts[0]} ${number(this.cost[item][column])}`]];
    }
    const terms = this.notes.parts.map((name, p) =>
      `${weights[p].toFixed(1)} × ${number(this.at("parts", p, item, column))} (${name})`);
    const other = owner < 0 ? "goes to nobody"
      : `goes to ${this.rowName(owner)}, for ${number(this.cost[owner][column])}`;
    const pair = owner === item ? "they are a pair" : `${this.columnName(column)} ${other}`;
    const changed = this.rowOf.filter((q, n) => q !== this.before[n]).length;
    return [[`${this.rowName(item)} for ${this.columnName(column)}`, null, pinned ? "pinned" : ""],
      [`cost ${number(this.cost[item][column])} = ${terms.join(" + ")}`],
      [this.notes.rule === "none" ? "" : pair],
      [changed ? `${changed} of ${this.columns} pairs changed by the weights` : ""]];
  }
}

VIEWS.matching = Matching;
