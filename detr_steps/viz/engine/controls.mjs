// The controls of interactive figures: buttons, strips to drag along, bars, playing.

import { change, clamp, clear, lowest, make, range } from "./stage.mjs";

// Methods of a figure, by what they make; the figure has `state`, `set`, `refresh` and `find`.
export class Controls {
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

  // A row of buttons for all (-1 in the state) and for each of so many.
  pick(place, name, all, count, label = name) {
    return this.choice(place, label, [all, ...range(count).map((i) => i + 1)],
      () => this.state[name] + 1, (i) => this.set({ [name]: i - 1 }));
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

  // One bar per query: as high as its score, in the colour of its class. The label is its key.
  itemBars() {
    const place = this.find("items"), name = this.notes.item_name ?? "query";
    if (this.items < 2) return;
    const several = name === "query" ? "queries" : `${name}s`;
    const label = make("label", {}, this.arrays.scores ? `${name} scores` : several);
    const drawn = this.arrays.labels ? "; its colour is the class" : "";
    if (this.arrays.scores) label.title = `a bar is as high as the score of a ${name}${drawn}`;
    place.append(label);
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
    if (this.notes.flat) this.along(ink, each, high);
    if (!n) return;
    const near = lowest(range(n), (i) => Math.abs(data[i] - steps[frame]));
    const { y, reach } = this.notes.curve, ends = reach?.map((value) => value.toFixed(2)).join(" to ");
    const right = frame > frames / 2, text = `${y} ${data[n + near].toFixed(2)}${ends ? ` (${ends})` : ""}`;
    ink.fillStyle = this.theme.accent;
    if (this.notes.flat) return ink.fillText(text, 2, 9); // above what `along` says
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
}
