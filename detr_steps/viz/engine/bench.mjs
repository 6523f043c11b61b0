// The anchor bench: an anchor to drag over a picture, and where its query would look.
//
// Scores of positions are separable, s_y(y) + s_x(x), so all maps are computed anew in every
// drawing: codes, projections, softmax. bench.py is the same in NumPy.

import { Figure, VIEWS } from "./figure.mjs";
import { Stage, change, clamp, clear, make, range } from "./stage.mjs";

const EXPECTED = "#009e73", SMALLEST = 0.02;
const MAPS = ["position", "content", "sum"], WEIGHTS = ["identity", "untrained", "trained"];
const QUERY_T = 10_000, LOW_T = 2, SPAN = Math.log(5000); // temperatures from 2 to 10,000
const BENCH_KEYS = [["← → ↑ ↓", "move the anchor"], ["Shift + ← →", "narrower, wider"],
  ["Shift + ↑ ↓", "taller, flatter"], ["[ ]", "lower, higher temperature"], ["m", "modulation"],
  ["l", "λ of the content"], ["w", "next weights"], ["h", "next head"], ["Esc", "as at first"]];

// --- Mathematics ---------------------------------------------------------------------------

// Sine code of a share of the picture, sine and cosine in turn.
function sines(share, code, temperature) {
  for (let k = 0; k < code.length; k += 2) {
    const angle = 2 * Math.PI * share / temperature ** (k / code.length);
    code[k] = Math.sin(angle);
    code[k + 1] = Math.cos(angle);
  }
  return code;
}

// rows x columns of a matrix, from a row on, times a vector.
function times(matrix, first, rows, vector) {
  const n = vector.length, result = new Float64Array(rows);
  for (let r = 0, i = first * n; r < rows; r++) {
    let sum = 0;
    for (let c = 0; c < n; c++) sum += matrix[i++] * vector[c];
    result[r] = sum;
  }
  return result;
}

function softmax(scores) { // typed arrays, plain loops: this runs dozens of times per drawing
  const weights = new Float64Array(scores.length);
  let most = -Infinity, total = 0;
  for (let i = 0; i < scores.length; i++) most = Math.max(most, scores[i]);
  for (let i = 0; i < scores.length; i++) total += weights[i] = Math.exp(scores[i] - most);
  for (let i = 0; i < scores.length; i++) weights[i] /= total;
  return weights;
}

function mean(lists) {
  const result = new Float64Array(lists[0].length);
  for (const list of lists) {
    for (let i = 0; i < list.length; i++) result[i] += list[i] / lists.length;
  }
  return result;
}

const rms = (list) => Math.sqrt(list.reduce((sum, x) => sum + x * x, 0) / list.length);

// Where weights of cells lie, and how wide they spread; cells are counted from 1.
function moments(weights) {
  const n = weights.length, at = weights.reduce((sum, w, j) => sum + w * (j + 1) / n, 0);
  const square = weights.reduce((sum, w, j) => sum + w * ((j + 1) / n - at) ** 2, 0);
  return [at, Math.sqrt(square)];
}

// --- The view ------------------------------------------------------------------------------

class AnchorBench extends Figure {
  measure() {
    [this.heads, ...this.sides] = this.arrays.content.shape; // rows, columns
    [this.C] = this.arrays.scale.shape;
    this.norm = 1 / Math.sqrt(2 * this.C / this.heads);
    this.keys = BENCH_KEYS;
    this.codes = {}; // of the cells, of one temperature
  }

  fill() {
    const cross = this.find("stages").appendChild(make("div", { class: "cross" }));
    this.main = this.stage(cross);
    [this.across, this.down] = ["across", "down"].map((name) =>
      cross.appendChild(make("canvas", { class: `overlay ${name}` })));
    const legend = this.find("stages").appendChild(make("div", { class: "legend" }));
    [["anchor", "anchor"], ["size", "size the content expects"], ["bars", "softmax over cells"],
      ["law", "Gaussian, width ∝ √(w / w_ref)"]].forEach(([kind, words]) =>
      legend.append(make("span", {}, make("i", { class: kind }), words)));
    this.tiles = MAPS.map((name) => {
      const stage = new Stage(name, 12_288), number = make("small");
      const label = make("p", {}, make("b", {}, name), " ", number);
      this.find("panel").append(make("div", {}, label, stage.element));
      this.stages.push(stage);
      return { stage, number };
    });
    this.controls(this.find("items"));
  }

  controls(place) {
    const [first, second, third] = range(3).map(() => place.appendChild(make("div")));
    this.choice(first, "W", WEIGHTS, () => this.state.weights, (weights) => this.set({ weights }));
    this.button(first, "modulate", "scale the code by w_ref / w and h_ref / h",
      () => this.state.modulate, () => this.press("m"));
    const lam = this.button(first, "λ", "scale the code by λ of the content",
      () => this.scaled, () => this.press("l"));
    this.refresh.push(() => change(lam, "disabled", !this.canScale));
    this.pick(second, "head", "mean", this.heads);
    const temperature = this.slider(third, "T", (t) => LOW_T * Math.exp(t * SPAN),
      () => Math.log(this.state.temperature / LOW_T) / SPAN,
      (t) => this.set({ temperature: Math.abs(t / 20 - 1) < 0.08 ? 20 : t }));
    const share = Math.log(20 / LOW_T) / SPAN;
    temperature.append(make("b", { style: `left: calc(8px + ${share} * (100% - 16px))` }, "20"));
    const span = 1 - SMALLEST;
    ["width", "height"].forEach((name, i) => this.slider(third, name, (t) => SMALLEST + t * span,
      () => (this.state.anchor[2 + i] - SMALLEST) / span, (size) => this.size(i, size)));
  }

  slider(place, name, value, chosen, choose) {
    const label = make("label"), control = make("input", { type: "range", min: 0, max: 1,
      step: 0.001, "aria-label": name, "data-own": "yes" });
    control.addEventListener("input", () => choose(value(+control.value)));
    this.refresh.push(() => {
      const share = clamp(chosen(), 0, 1), now = value(share);
      const text = now < 1.9 ? now.toFixed(2) : Math.round(now).toLocaleString("en");
      change(control, "value", String(Math.round(1000 * share) / 1000));
      change(label, "textContent", `${name} ${text}`);
      change(control, "ariaValueText", text);
    });
    return place.appendChild(make("div", { class: "slider" }, label, control));
  }

  get canScale() { return this.notes.lam && this.state.weights === 2; }
  get scaled() { return this.canScale && this.state.lam; }

  // Expected by actual height and width; 1 without modulation.
  ratios(modulate = this.state.modulate) {
    const { anchor: [, , w, h], expected } = this.state;
    return modulate ? [expected[1] / Math.max(h, 1e-4), expected[0] / Math.max(w, 1e-4)] : [1, 1];
  }

  // Scores along y and x of each head, but for a constant.
  scores(modulate) {
    const { state, arrays, C, heads, norm } = this, half = C / 2, set = state.weights - 1;
    const { temperature, anchor } = state, own = set < 0 ? temperature : QUERY_T;
    const code = new Float64Array(C), ratios = this.ratios(modulate), D = C / heads;
    sines(anchor[1], code.subarray(0, half), own); // y comes before x
    sines(anchor[0], code.subarray(half), own);
    for (let i = 0; i < C; i++) {
      if (this.scaled) code[i] = code[i] * arrays.scale.data[i] + arrays.shift.data[i];
      code[i] *= ratios[Math.floor(i / half)];
    }
    if (this.codes.temperature !== temperature) {
      const each = (n, j) => [...sines((j + 1) / n, new Float64Array(half), temperature)];
      const axes = this.sides.map((n) => Float64Array.from(range(n).flatMap((j) => each(n, j))));
      this.codes = { temperature, axes };
    }
    let query = code;
    if (set >= 0) {
      const bias = this.at("sine_bias", set);
      query = times(this.at("sine", set), 0, C, code).map((x, i) => x + bias[i]);
    }
    query = query.map((x) => x * norm);
    return range(heads).map((m) => {
      const part = query.subarray(m * D, (m + 1) * D);
      const meets = set < 0 ? query : this.back(this.at("key", set), m * D, part);
      return this.codes.axes.map((codes, axis) =>
        times(codes, 0, this.sides[axis], meets.subarray(axis * half, (axis + 1) * half)));
    });
  }

  // A vector times some rows of a matrix: what the keys' codes meet in one head.
  back(matrix, first, vector) {
    const { C } = this, result = new Float64Array(C);
    for (let r = 0, i = first * C; r < vector.length; r++) {
      for (let c = 0; c < C; c++) result[c] += vector[r] * matrix[i++];
    }
    return result;
  }

  // The Gaussian of an axis without modulation: each head's centre and width.
  law(axis, plain) {
    const { state, C, norm } = this, half = C / 2;
    if (state.weights > 0) return plain.map((each) => moments(softmax(each[axis])));
    const wave = (k) => 2 * Math.PI / state.temperature ** (2 * k / half); // scores are cosines
    const curvature = norm * range(half / 2).reduce((sum, k) => sum + wave(k) ** 2, 0);
    return [[state.anchor[1 - axis], 1 / Math.sqrt(curvature)]];
  }

  profile(axis, scores, plain) {
    const ratio = this.ratios()[axis], heads = scores.map((each) => softmax(each[axis]));
    const narrow = ([at, wide]) => [at, Math.max(wide, 1e-6) / Math.sqrt(ratio)];
    const law = this.law(axis, plain).map(narrow);
    return { ratio, law, weights: mean(heads), width: rms(heads.map((each) => moments(each)[1])),
      predicted: rms(law.map(([, wide]) => wide)) };
  }

  // All that is shown of the state: three maps, two profiles.
  look() {
    const { head, weights, modulate } = this.state, [h, w] = this.sides;
    const mine = (list) => (head < 0 ? list : [list[head]]), scores = mine(this.scores());
    const plain = weights > 0 && modulate ? mine(this.scores(false)) : scores;
    const content = mine(range(this.heads)).map((m) => this.at("content", m));
    const position = scores.map(([y, x]) => {
      const both = new Float64Array(h * w);
      for (let i = 0; i < h * w; i++) both[i] = y[Math.floor(i / w)] + x[i % w];
      return both;
    });
    const sum = position.map((each, m) => each.map((score, i) => score + content[m][i]));
    const maps = [position, content, sum].map((lists) => mean(lists.map(softmax)));
    return { maps, y: this.profile(0, scores, plain), x: this.profile(1, scores, plain) };
  }

  paint() {
    const { main, state: { anchor, expected }, notes: { cover } } = this, [x, y, w, h] = anchor;
    const blue = this.theme.accent;
    this.seen = this.look();
    main.begin();
    main.boxes([[x, y, ...expected]], EXPECTED, 2, [5, 4]);
    main.boxes([anchor], blue, 3);
    for (const [right, below] of [[0, 0], [w / 2, 0], [0, h / 2], [w / 2, h / 2]]) {
      main.ring(x + right, y + below, blue, true);
    }
    this.tiles.forEach(({ stage, number }, i) => {
      const map = this.seen.maps[i], peak = map.reduce((a, b) => Math.max(a, b));
      stage.glow(map.map((weight) => weight * 255 / peak), ...this.sides, cover, this.table);
      stage.begin();
      stage.boxes([anchor], "#fff", 1);
      change(number, "textContent", `≤ ${peak.toFixed(peak < 0.01 ? 3 : 2)}`);
    });
    this.bars(this.across, this.seen.x, cover[0], false);
    this.bars(this.down, this.seen.y, cover[1], true);
  }

  // A profile beside the picture: bars over the cells, the Gaussian dashed.
  bars(canvas, { weights, law }, cover, upright) {
    const ink = clear(canvas), { wide, high } = canvas, n = weights.length;
    const gaussian = mean(law.map(([at, width]) => { // in the weight of a cell
      const bell = new Float64Array(81);
      let total = 0;
      for (let i = 0; i < 81; i++) {
        const far = (i / 80 / cover + 0.5 / n - at) / width;
        total += bell[i] = Math.exp(-far * far / 2);
      }
      return bell.map((value) => value * 81 / n / Math.max(total, 1e-30));
    }));
    const top = Math.max(...weights, ...gaussian);
    const spot = (along, value) => (upright ? [value / top * wide, along * high]
      : [along * wide, (1 - value / top) * high]);
    ink.fillStyle = this.theme.accent + "77";
    weights.forEach((weight, j) => {
      const [x0, y0] = spot(j / n * cover, 0), [x1, y1] = spot((j + 1) / n * cover, weight);
      ink.fillRect(x0, y0, x1 - x0 - !upright, y1 - y0 - upright);
    });
    Object.assign(ink, { strokeStyle: this.theme.changed, lineWidth: 2 });
    ink.setLineDash([5, 3]);
    ink.beginPath();
    gaussian.forEach((value, i) => ink.lineTo(...spot(i / 80, value)));
    ink.stroke();
    ink.setLineDash([]);
  }

  // Which part of the anchor a pointer holds: a side, a corner, or all of it.
  part(x, y) {
    const [cx, cy, w, h] = this.state.anchor, { wide, high } = this.main.overlay;
    const [dx, dy] = [Math.abs(x - cx), Math.abs(y - cy)], [px, py] = [12 / wide, 12 / high];
    const edge = (d, size, p) => Math.abs(d - size / 2) < p && d > size / 4;
    const [side, end] = [edge(dx, w, px) && dy < h / 2 + py, edge(dy, h, py) && dx < w / 2 + px];
    return { side, end, inside: dx < w / 2 && dy < h / 2 };
  }

  grab(x, y) {
    const { anchor: [cx, cy] } = this.state, part = this.part(x, y);
    this.held = { ...part, from: part.inside ? [x - cx, y - cy] : [0, 0] };
  }

  drag(x, y) {
    if (!this.held) return false;
    const { side, end, from } = this.held, [cx, cy, w, h] = this.state.anchor;
    if (side || end) {
      if (side) this.size(0, 2 * Math.abs(x - cx));
      if (end) this.size(1, 2 * Math.abs(y - cy));
    } else this.set({ anchor: [clamp(x - from[0], 0, 1), clamp(y - from[1], 0, 1), w, h] });
    return true;
  }

  hover(x, y) {
    const { side, end, inside } = this.part(x, y);
    const ways = [side && end && "nwse-resize", side && "ew-resize", end && "ns-resize",
      inside && "move"];
    change(this.main.element.style, "cursor", ways.find(Boolean) ?? "");
  }

  size(axis, size) {
    const anchor = [...this.state.anchor];
    anchor[2 + axis] = clamp(size, SMALLEST, 1);
    this.set({ anchor });
  }

  press(key, shift) {
    const { state } = this, [x, y, w, h] = state.anchor;
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
    if (way && shift) this.size(way[0] ? 0 : 1, way[0] ? w + 0.02 * way[0] : h - 0.02 * way[1]);
    else if (way) {
      const moved = [x, y].map((at, i) => clamp(at + 0.02 * way[i], 0, 1));
      this.set({ anchor: [...moved, w, h] });
    } else if (key === "[" || key === "]") {
      const next = state.temperature * 10 ** (key === "]" ? 0.1 : -0.1);
      this.set({ temperature: clamp(Math.round(100 * next) / 100, LOW_T, LOW_T * 5000) });
    } else if (key === "m") this.set({ modulate: !state.modulate });
    else if (key === "l") this.set({ lam: this.canScale ? !state.lam : state.lam });
    else if (key === "w") this.set({ weights: (state.weights + 1) % 3 });
    else {
      if (key === "Escape") this.set(this.notes.start);
      return ["h", "?", "Escape"].includes(key) ? super.press(key) : false;
    }
  }

  describe() {
    const { anchor, expected, modulate, temperature, weights } = this.state, { x, y } = this.seen;
    const line = ({ width, predicted, ratio }, i, name, side) => {
      const [upper, lower, a] = [expected[i], anchor[2 + i], ratio].map((v) => v.toFixed(2));
      return [`${name}: width ${width.toFixed(3)}, predicted ${predicted.toFixed(3)}`, null,
        modulate ? `a = ${side}_ref / ${side} = ${upper} / ${lower} = ${a}` : "not modulated: a = 1"];
    };
    const keys = `keys at T = ${temperature.toLocaleString("en")}`, alike = weights === 0;
    return [[this.notes.query], line(x, 0, "across", "w"), line(y, 1, "down", "h"),
      [alike ? `${keys}, the query as well, compared as they are` : `${keys}, the query at 10,000`]];
  }
}

VIEWS.bench = AnchorBench;
