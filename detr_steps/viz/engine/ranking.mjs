// A ranking of trained models: a table to sort, and a chart of the score against a cost.
//
// Column 0 is the score; the chart's x is the last other column that was sorted by.
// ranking.py draws the same.

import { Figure, VIEWS } from "./figure.mjs";
import { clear, fixed, lowest, make, range } from "./stage.mjs";

const RANKING_KEYS = [["↑ ↓", "row before, after"], ["← →", "sort by another column"],
  ["click, Enter", "pin"], ["Esc", "let go"]];
const EDGE = { left: 44, right: 14, top: 12, bottom: 34 }; // px around the chart

class Ranking extends Figure {
  measure() {
    [this.items, this.columns] = this.arrays.values.shape;
    this.keys = RANKING_KEYS;
    this.state.sort ??= 0;
    this.state.x ??= Math.min(1, this.columns - 1);
  }

  fill() {
    this.main = this.stage(this.find("stages"));
    const table = make("table"), head = make("tr", {}, make("th"));
    this.heads = this.notes.columns.map(({ name }, k) => {
      const cell = head.appendChild(make("th"));
      return this.button(cell, name, `sort by ${name}`, () => this.state.sort === k, () => this.sortBy(k));
    });
    this.rows = range(this.items).map((i) => make("tr", { "data-i": i },
      make("th", {}, this.notes.titles[i]), ...range(this.columns).map((k) => make("td", {}, this.said(i, k)))));
    this.body = table;
    table.append(head, ...this.rows);
    const point = ({ target, type }) => {
      const row = target.closest("[data-i]");
      if (!row) return;
      if (!this.state.pinned || type === "click") this.set({ item: +row.dataset.i });
      if (type === "click") this.set({ pinned: true });
    };
    table.addEventListener("pointermove", point);
    table.addEventListener("click", point);
    this.find("panel").append(table);
    this.recipe = this.find("items").appendChild(make("div", { class: "recipe" }));
    this.sortBy(this.state.sort);
  }

  said(i, k) { return fixed(this.at("values", i, k), this.notes.columns[k].digits); }

  sortBy(k) {
    const sign = this.notes.columns[k].better === "high" ? -1 : 1;
    this.order = range(this.items).sort((a, b) => sign * (this.at("values", a, k) - this.at("values", b, k)));
    for (const i of this.order) this.body.append(this.rows[i]);
    this.set({ sort: k, ...(k ? { x: k } : {}) });
  }

  // From values to CSS pixels of the chart; both axes begin at 0.
  place(k, value) {
    const { wide, high } = this.main.overlay, most = this.most(k);
    return k ? EDGE.left + value / most * (wide - EDGE.left - EDGE.right)
      : high - EDGE.bottom - value / most * (high - EDGE.top - EDGE.bottom);
  }

  most(k) {
    const own = range(this.items).map((i) => this.at("values", i, k));
    return 1.08 * Math.max(...own, ...(k ? [] : this.all("spread").map(([, high]) => high))) || 1;
  }

  spot(i) {
    const { x } = this.state;
    return [this.place(x, this.at("values", i, x)), this.place(0, this.at("values", i, 0))];
  }

  // Rows that no other one beats in both score and cost.
  front() {
    const { x } = this.state, value = (i, k) => this.at("values", i, k);
    const sign = this.notes.columns[x].better === "high" ? 1 : -1;
    return range(this.items).filter((i) => !range(this.items).some((j) =>
      value(j, 0) > value(i, 0) && sign * value(j, x) >= sign * value(i, x)));
  }

  paint() {
    const ink = this.main.ink = clear(this.main.overlay), { item, x } = this.state;
    const { wide, high } = this.main.overlay;
    Object.assign(ink, { fillStyle: this.theme.soft, strokeStyle: this.theme.line, lineWidth: 1 });
    ink.strokeRect(EDGE.left, EDGE.top, wide - EDGE.left - EDGE.right, high - EDGE.top - EDGE.bottom);
    this.ticks(ink, 0);
    if (x) this.ticks(ink, x);
    const front = new Set(this.front());
    const each = range(this.items).sort((a, b) => (a === item) - (b === item));
    for (const i of each) this.dot(ink, i, i === item, front.has(i));
    this.rows.forEach((row, i) => row.classList.toggle("here", i === item));
    const told = `${this.notes.recipes[item]}\n${item}`;
    if (this.recipe.said === told) return;
    this.recipe.said = told;
    const lines = this.notes.recipes[item].map((line, n) => make(n ? "span" : "code", {}, line));
    this.recipe.replaceChildren(...lines);
  }

  ticks(ink, k) {
    const most = this.most(k), { digits, name } = this.notes.columns[k], high = this.main.overlay.high;
    const step = [1, 2, 5, 10].map((n) => n * 10 ** Math.floor(Math.log10(most / 4))).find((n) => most / n <= 5);
    const places = Math.max(0, Math.min(digits, -Math.floor(Math.log10(step))));
    for (let value = 0; value < most; value += step) {
      const at = this.place(k, value);
      ink.textAlign = k ? "center" : "right";
      ink.fillText(value.toFixed(places), k ? at : EDGE.left - 5, k ? high - EDGE.bottom + 14 : at + 4);
    }
    ink.textAlign = k ? "center" : "left";
    if (k) ink.fillText(name, (EDGE.left + this.main.overlay.wide - EDGE.right) / 2, high - 4);
    else ink.fillText(name, EDGE.left + 6, EDGE.top + 14);
    ink.textAlign = "start";
  }

  dot(ink, i, here, front) {
    const [x, y] = this.spot(i), [low, high] = this.at("spread", i), path = new Path2D();
    Object.assign(ink, { strokeStyle: here ? this.theme.changed : this.theme.accent, lineWidth: here ? 2.5 : 1.2 });
    ink.fillStyle = ink.strokeStyle;
    path.moveTo(x, this.place(0, low));
    path.lineTo(x, this.place(0, high));
    ink.stroke(path);
    const disc = new Path2D();
    disc.arc(x, y, here ? 6.5 : 5, 0, 7);
    if (front || here) ink.fill(disc); else { // beaten in both: hollow
      ink.fillStyle = this.theme.paper;
      ink.fill(disc);
      ink.stroke(disc);
    }
    if (!here) return;
    const title = this.notes.titles[i], right = x > this.main.overlay.wide / 2;
    ink.fillStyle = this.theme.ink;
    ink.textAlign = right ? "right" : "left";
    ink.fillText(title, x + (right ? -11 : 11), y + 4);
    ink.textAlign = "start";
  }

  hover(x, y) {
    if (this.state.pinned) return;
    const [left, top] = this.main.at(x, y);
    this.set({ item: lowest(range(this.items), (i) => Math.hypot(this.spot(i)[0] - left, this.spot(i)[1] - top)) });
  }

  press(key) {
    const along = { ArrowUp: -1, ArrowDown: 1 }[key], aside = { ArrowLeft: -1, ArrowRight: 1 }[key];
    if (aside) return this.sortBy((this.state.sort + aside + this.columns) % this.columns);
    if (!along) return super.press(key);
    const next = this.order[this.order.indexOf(this.state.item) + along];
    if (next !== undefined) this.set({ item: next });
  }

  describe() {
    const { item, sort } = this.state, rank = this.order.indexOf(item) + 1;
    const [low, high] = this.at("spread", item), { name, digits } = this.notes.columns[0];
    const seeds = this.at("seeds", item), spread = seeds > 1
      ? `${low.toFixed(digits)} to ${high.toFixed(digits)}, ${seeds} seeds` : "one seed";
    const rest = this.notes.columns.slice(1).map((column, k) => `${column.name} ${this.said(item, k + 1)}`);
    return [[this.notes.titles[item], null, this.letGo], [`${name} ${this.said(item, 0)} (${spread})`],
      [rest.join(", ")], [`place ${rank} of ${this.items} by ${this.notes.columns[sort].name}`]];
  }
}

VIEWS.ranking = Ranking;
