"""Small maps with their numbers, and the scores of several seeds."""

import math
from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from torch import Tensor

from ..engine.plots import COLOURS


def number_maps(
    maps: Mapping[str, Tensor],
    cell: tuple[int, int] | None = None,
    columns: int = 2,
    digits: int = 1,
) -> Figure:
    """Draw named maps `[h, w]` beside each other, the number in each cell.

    Red is above zero, blue below, each map by its own largest number; a frame goes
    round `cell` (row, column). Built in chapters/10_conditional_attention.ipynb.
    Raises: ValueError without any maps.
    """
    if not maps:
        raise ValueError("no maps to draw: give a name and a [h, w] for each")
    rows = math.ceil(len(maps) / columns)
    h, w = (max(each.shape[side] for each in maps.values()) for side in (0, 1))
    size = (columns * max(0.42 * w, 1.6), rows * (0.36 * h + 0.45))
    apart = {"wspace": 0.25, "hspace": 0.45}  # room for the numbers of rows, for titles
    figure, axes = plt.subplots(
        rows, columns, figsize=size, squeeze=False, gridspec_kw=apart
    )
    for ax in axes.flat[len(maps) :]:
        ax.set_visible(False)
    for ax, (name, values) in zip(axes.flat, maps.items()):
        write_numbers(ax, values, digits)
        ax.set_title(name, size=9)
        if cell is not None:
            corner = (cell[1] - 0.5, cell[0] - 0.5)
            ax.add_patch(plt.Rectangle(corner, 1, 1, fill=False, ec="k", lw=2))
    return figure


def write_numbers(ax: Axes, values: Tensor, digits: int) -> None:
    """Write a map `[h, w]` of numbers into its cells, red above zero, blue below."""
    most = float(values.abs().max()) or 1.0
    ax.imshow(values.numpy(), cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto")
    for y, line in enumerate(values.tolist()):
        for x, number in enumerate(line):
            text = f"{number:z.{digits}f}"
            ink = "white" if abs(number) > 0.65 * most else "black"
            ax.text(x, y, text, ha="center", va="center", size=7, color=ink)
    ax.set(xticks=range(values.shape[1]), yticks=range(values.shape[0]))
    ax.tick_params(length=0, labelsize=7, labelcolor="0.45")


def triangles(tables: Mapping[str, Tensor], label: str) -> Figure:
    """Draw named tables `[Y, Y]` of shares: rows and columns are layers, from 1.

    As `analysis.triangle` makes them, in per cent; NaN stays blank. `label` says what
    the columns are; rows are the layers taken for the last. Built in
    chapters/11_sqr.ipynb.
    Raises: ValueError without any tables.
    """
    if not tables:
        raise ValueError("no tables to draw: give a name and a [Y, Y] for each")
    size = (2.7 * len(tables), 2.6)
    figure, axes = plt.subplots(1, len(tables), figsize=size, squeeze=False)
    most = max(float(table.nan_to_num().max()) for table in tables.values()) or 1.0
    for ax, (name, table) in zip(axes.flat, tables.items()):
        shares = 100 * table[1:, :-1]
        ax.imshow(shares.numpy(), cmap="Oranges", vmin=0, vmax=130 * most)
        for y, x in shares.isfinite().nonzero().tolist():
            text = f"{float(shares[y, x]):.0f}"
            ax.text(x, y, text, ha="center", va="center", size=8)
        ax.set(xticks=range(len(shares)), yticks=range(len(shares)), title=name)
        ax.set(xticklabels=range(1, len(table)), yticklabels=range(2, len(table) + 1))
        ax.tick_params(length=0, labelsize=8)
        ax.set_xlabel(label, size=8)
        ax.spines[:].set_visible(False)
    axes[0, 0].set_ylabel("taken for the last", size=8)
    return figure


def seed_rows(
    scores: Mapping[str, Sequence[float]],
    label: str = "AP",
    bases: Sequence[str] = (),
) -> Figure:
    """Draw scores of named runs: a dot for each seed, a line at their mean.

    The range of each of `bases` is shaded behind it and the rows that follow, up to the
    next. Runs without scores say so. A legend names the marks.
    Raises: KeyError for an unknown base.
    Built in chapters/10_conditional_attention.ipynb.
    """
    figure, ax = plt.subplots(figsize=(6, 0.8 + 0.3 * len(scores)))
    for row, values in enumerate(map(list, scores.values())):
        look = {"color": COLOURS[0], "alpha": 0.8, "clip_on": False}  # whole also at 0
        ax.plot(values, [row] * len(values), "o", **look)
        if values:
            ax.plot(sum(values) / len(values), row, "|", color="k", ms=14, mew=2)
        else:
            ax.text(0, row, " not measured yet", size=8, color="0.45", va="center")
    rows = {name: row for row, name in enumerate(scores)}
    starts = [rows[base] for base in bases]
    for base, start, end in zip(bases, starts, [*starts[1:], len(scores)]):
        if values := list(scores[base]):
            reach = {"x1": min(values), "x2": max(values), "color": COLOURS[1]}
            ax.fill_betweenx((start - 0.4, end - 0.6), alpha=0.3, lw=0, **reach)
    ax.set(yticks=range(len(scores)), yticklabels=list(scores), xlabel=label)
    highest = max((max(values, default=0) for values in scores.values()), default=0)
    ax.set(ylim=(len(scores) - 0.5, -0.5), xlim=(0, 1.06 * highest or 1))
    wide = any(len(scores[base]) > 1 for base in bases)
    _seed_legend(ax, [base for base in bases if len(scores[base])] if wide else [])
    return figure


def _seed_legend(ax: Axes, shaded: Sequence[str]) -> None:
    """What the marks of `seed_rows` mean, above the rows."""
    marks = [
        Line2D([], [], marker="o", ls="", color=COLOURS[0], alpha=0.8, label="a seed"),
        Line2D([], [], marker="|", ls="", color="k", ms=12, mew=2, label="their mean"),
    ]
    if shaded:
        one = len(shaded) == 1
        name = f"range of {shaded[0]}" if one else "range of the row where it begins"
        marks.append(Patch(color=COLOURS[1], alpha=0.3, lw=0, label=name))
    place = {"loc": "lower right", "bbox_to_anchor": (1, 1), "borderaxespad": 0}
    tight = {"handletextpad": 0.3, "columnspacing": 1.0, "handlelength": 1.2}
    ax.legend(handles=marks, ncols=3, frameon=False, fontsize=8, **place, **tight)
