"""The curves of a run, with matplotlib; of several seeds their mean and spread."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import LogFormatter, MaxNLocator

from ..training.folder import score
from .story import Story

FEW = 8  # classes that curves can show: as many as the house has colours
POINTS = 40  # a curve of fewer points shows each of them
LAST_LAYER, ALL_LAYERS = "Loss terms, last layer", "Loss terms, sum of layers"

Records = list[list[dict]]


@dataclass(frozen=True)
class Panel:
    """One plot: `draw` fills axes; `note` says in words what it shows."""

    title: str
    note: str
    draw: Callable[[Axes], None]
    rows: int = 1  # how much higher than others it is


class Spread(NamedTuple):
    """A number of several records: `[n]` steps, mean, least and largest value."""

    steps: np.ndarray
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


class Terms(NamedTuple):
    """Which keys of a record are losses: of a term those of all layers, and others."""

    layers: dict[str, list[str]]  # class -> class, class_0, …: the last layer first
    sets: list[str]  # of further prediction sets: class_proposals, …


def panels(story: Story) -> list[Panel]:
    """All plots that a run has numbers for."""
    records = [lines for lines in story.records.values() if lines]
    found = [*_losses(records), *_scores(records)]
    if story.recipe:
        found.append(_learning_rate(story))
    return [*found, *_gradients(story, records), *_seconds(records)]


def spread(records: Records, value: Callable[[dict], float | None]) -> Spread:
    """A number of each line over the steps of several records; None is left out."""
    points: dict[int, list[float]] = {}
    for lines in records:
        for line in lines:
            number = value(line)
            if number is not None and np.isfinite(number):
                points.setdefault(line["step"], []).append(number)
    steps = sorted(points)
    rows = [(np.mean(v), min(v), max(v)) for v in (points[step] for step in steps)]
    return Spread(np.array(steps), *np.array(rows, float).reshape(-1, 3).T)


def terms(lines: list[dict]) -> Terms:
    """Find the losses of a record: in its lines they stand before their total."""
    keys: dict[str, None] = {}
    for line in lines:
        names = list(line)
        end = names.index("total") if "total" in line else 0
        keys |= dict.fromkeys(name for name in names[:end] if name != "step")
    layers: dict[str, list[str]] = {key: [key] for key in keys if "_" not in key}
    sets = []
    for key in keys:
        term, _, of = key.partition("_")
        if of.isdecimal() and term in layers:
            layers[term].append(key)
        elif of:
            sets.append(key)
    return Terms(layers, sets)


def log_scale(ax: Axes) -> None:
    """A logarithmic axis with plain numbers; within a decade between its powers too."""
    ax.set_yscale("log")
    for use in (ax.yaxis.set_major_formatter, ax.yaxis.set_minor_formatter):
        use(_PlainLog(labelOnlyBase=False, minor_thresholds=(1, 0.4)))


class _PlainLog(LogFormatter):
    """0.1 in place of 1e-01; which ticks have a number is left to matplotlib."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def draw_spread(ax: Axes, values: Spread, name: str, **look: object) -> None:
    """One curve, with a band from the least to the largest value of several seeds."""
    marker = "." if len(values.steps) < POINTS else ""
    (line,) = ax.plot(values.steps, values.mean, label=name, marker=marker, **look)
    if (values.high > values.low).any():
        colour = line.get_color()
        ax.fill_between(values.steps, values.low, values.high, color=colour, alpha=0.2)


def _panel(
    title: str,
    note: str,
    curves: dict[str, Spread],
    *,
    log: bool = False,
    share: bool = False,
) -> list[Panel]:
    """A plot of named curves against steps; [] where none has a point."""
    there = {name: values for name, values in curves.items() if len(values.steps)}

    def draw(ax: Axes) -> None:
        for name, values in there.items():
            draw_spread(ax, values, name)
        if log and all((values.low > 0).all() for values in there.values()):
            log_scale(ax)
        elif share:  # of 1: from 0, as high as it came
            highest = max(values.high.max() for values in there.values())
            ax.set_ylim(0, max(0.1, 1.08 * highest))
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.set(xlabel="step", title=title)
        if len(there) > 1:
            ax.legend(fontsize=8)

    return [Panel(title, note, draw)] if there else []


def _losses(records: Records) -> list[Panel]:
    found = terms([line for lines in records for line in lines])
    last = {term: spread(records, _sum_of([term])) for term in found.layers}
    note = "Means since the line before, unweighted, as the record has them."
    made = _panel(LAST_LAYER, note, last, log=True)
    if any(len(keys) > 1 for keys in found.layers.values()):
        whole = {t: spread(records, _sum_of(keys)) for t, keys in found.layers.items()}
        whole["total, weighted"] = spread(records, _sum_of(["total"]))
        note = "Every decoder layer learns as if it were the last one."
        made += _panel(ALL_LAYERS, note, whole, log=True)
    else:
        total = {"total": spread(records, _sum_of(["total"]))}
        made += _panel("Total loss", "What the gradient is of.", total, log=True)
    others = {key: spread(records, _sum_of([key])) for key in found.sets}
    note = "Of the predictions that only training sees."
    return made + _panel("Loss terms of further sets", note, others, log=True)


def _sum_of(keys: list[str]) -> Callable[[dict], float | None]:
    def value(line: dict) -> float | None:
        return sum(line[k] for k in keys) if all(k in line for k in keys) else None

    return value


def _scores(records: Records) -> list[Panel]:
    def of(*keys: str) -> dict[str, Spread]:
        return {key: spread(records, lambda line, k=key: line.get(k)) for key in keys}

    note = "COCO's AP of the validation pictures, of IoU 0.50 to 0.95."
    made = _panel("Average precision", note, of("AP", "AP50", "AP75"), share=True)
    note = "AP of small, medium and large objects."
    made += _panel("AP by size", note, of("AP_S", "AP_M", "AP_L"), share=True)
    made += _by_class(records)
    return made + _panel(
        "Accuracy", "Share of right answers.", of("accuracy"), share=True
    )


def class_scores(lines: list[dict]) -> dict[str, list[float | None]]:
    """AP of each class at every evaluation, in the order of the classes."""
    scored = [line["per_class"] for line in lines if line.get("per_class")]
    names = dict.fromkeys(name for found in scored for name in found)
    return {name: [found.get(name) for found in scored] for name in names}


def _by_class(records: Records) -> list[Panel]:
    names = class_scores([line for lines in records for line in lines])
    if not names:
        return []
    note = "AP of each class; a class without objects to find has none."
    if len(names) > FEW:
        return [_class_map(records[0], note)]
    curves = {
        name: spread(records, lambda line, n=name: line.get("per_class", {}).get(n))
        for name in names
    }
    return _panel("AP by class", note, curves, share=True)


def _class_map(lines: list[dict], note: str) -> Panel:
    """Too many classes for curves: a row of cells each, one cell an evaluation."""
    classes = class_scores(lines)
    values = np.array([[np.nan if v is None else v for v in row]
                       for row in classes.values()])  # fmt: skip
    steps = [line["step"] for line in lines if line.get("per_class")]

    def draw(ax: Axes) -> None:
        image = ax.imshow(values, aspect="auto", vmin=0, interpolation="nearest")
        ax.figure.colorbar(image, ax=ax, label="AP")
        ticks = range(0, len(steps), max(1, len(steps) // 4))
        ax.set_xticks(list(ticks), [str(steps[i]) for i in ticks])
        ax.set_yticks(range(len(classes)), list(classes), fontsize=7)
        ax.set(xlabel="step", title="AP by class")

    return Panel("AP by class", note, draw, rows=1 + len(classes) // 20)


def _learning_rate(story: Story) -> Panel:
    recipe = story.recipe
    ends = sorted({0, recipe.warmup, *recipe.drops, recipe.steps})
    steps = np.unique(np.concatenate(  # a drop is a step of one step
        [np.linspace(0, recipe.steps - 1, 200).astype(int)]
        + [np.arange(max(0, end - 2), min(recipe.steps, end + 2)) for end in ends]
    ))  # fmt: skip
    factors = {"all other parts": 1.0} | recipe.lr_factors
    if not recipe.lr_factors:
        factors = {"all parts": 1.0}

    def draw(ax: Axes) -> None:
        shares = np.array([recipe.lr_at(int(step)) for step in steps])
        for name, factor in factors.items():
            ax.plot(steps, recipe.lr * factor * shares, label=name)
        ax.axvline(story.step(), linestyle=":", color=ax.xaxis.label.get_color())
        log_scale(ax)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.set(xlabel="step", title="Learning rate")
        ax.legend(fontsize=8)

    return Panel("Learning rate", "Dotted: where the run has come to.", draw)


def _gradients(story: Story, records: Records) -> list[Panel]:
    norm = {"norm": spread(records, lambda line: line.get("gradient_norm"))}
    clip = story.recipe.clip if story.recipe else 0
    note = f"Before it is clipped to {clip:g}." if clip else "Mean of the steps."
    return _panel("Gradient norm", note, norm, log=True)


def _seconds(records: Records) -> list[Panel]:
    taken = {"minutes": spread(records, _minutes)}
    note = "With evaluations, and before a resume as well."
    return _panel("Minutes since the start", note, taken)


def _minutes(line: dict) -> float | None:
    return line["seconds"] / 60 if "seconds" in line else None


def next_evaluation(story: Story) -> int | None:
    """The step of the first evaluation, of a run that has not come to it."""
    if story.recipe is None or any(score(line) is not None for line in story.lines):
        return None
    return min(story.recipe.evaluate_every, story.recipe.steps)
