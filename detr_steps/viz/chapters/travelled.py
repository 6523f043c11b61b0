"""Sampling points by hand: a small map's, the star, and where they went since."""

import math

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..engine.plots import COLOURS

BINS = [0.5 * edge - 0.25 for edge in range(26)]  # whole pixels inside, not on an edge


def travelled(offsets: Tensor, star: Tensor, title: str = "") -> Figure:
    """Draw offsets `[n, M, K, 2]` of queries around their star `[M, K, 2]`, in pixels.

    On the left each as a dot in the colour of its head, crosses the star; on the right
    how far from the reference they lie, beside the star. Built in
    chapters/06_deformable_attention.ipynb.
    Raises: ValueError where the star has other heads or points.
    """
    if offsets.shape[1:] != star.shape:
        raise ValueError(
            f"offsets {tuple(offsets.shape)} and a star {tuple(star.shape)}: give "
            "[n, M, K, 2] and [M, K, 2]"
        )
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.6))
    most = float(offsets.abs().flatten().quantile(0.995))
    wide = 1.3 * max(most, float(star.abs().max()))
    _around_the_star(left, offsets, star, wide)
    left.set_title(f"{title} · x: the star".removeprefix(" · "), size=10)
    _distances(right, offsets.norm(dim=-1).flatten(), star.norm(dim=-1).flatten())
    right.set(xlim=(0, 1.3 * wide))
    return figure


def _around_the_star(ax: Axes, offsets: Tensor, star: Tensor, wide: float) -> None:
    for head, (dots, tip) in enumerate(zip(offsets.unbind(1), star[:, -1])):
        ax.plot(*dots.reshape(-1, 2).T, ".", ms=1.5, c=COLOURS[head % len(COLOURS)])
        edge = tip * 0.93 * wide / tip.abs().max()
        name = {"ha": "center", "va": "center", "size": 10, "weight": "bold"}
        ax.text(*edge, head + 1, color=COLOURS[head % len(COLOURS)], **name)
    ax.plot(*star.reshape(-1, 2).T, "kx", ms=5, mew=1.2)
    # whole pixels, alike on both axes
    _offset_axes(ax, wide, range(-2 * int(wide / 2), int(wide) + 1, 2))


def _offset_axes(ax: Axes, wide: float, ticks: range) -> None:
    """Axes of offsets (dx, dy) from their reference in the middle; y goes down."""
    ax.set(xlim=(-wide, wide), ylim=(wide, -wide), aspect="equal")
    ax.set(xticks=ticks, yticks=ticks, xlabel="dx, pixels", ylabel="dy, pixels")


def _distances(ax: Axes, trained: Tensor, star: Tensor) -> None:
    bins = [*BINS, max(BINS[-1] + 1, float(trained.max()))]  # the rest in the last one
    grey = {"alpha": 0.4, "color": "#888", "rwidth": 0.6}  # apart, so that each is seen
    ax.hist(star, bins, density=True, label="star", **grey)
    look = {"histtype": "step", "color": COLOURS[0], "lw": 2}
    ax.hist(trained, bins, density=True, label="trained", **look)
    ax.set(
        xlabel="distance from the reference, pixels", ylabel="share of points per pixel"
    )
    ax.legend(fontsize=8)


def star_points(star: Tensor, title: str = "") -> Axes:
    """Draw the offsets `[M, K, 2]` that heads start with, a line and a number for each.

    Built in chapters/06_deformable_attention.ipynb.
    """
    _, ax = plt.subplots(figsize=(3.4, 3.4))
    for head, points in enumerate(star):
        ax.plot(*points.T, "o-", color=COLOURS[head % len(COLOURS)], ms=7, lw=1)
        ax.text(*(points[-1] * 1.17), head + 1, ha="center", va="center", size=9)
    ax.plot(0, 0, "kx", ms=8)
    wide = math.ceil(float(star.abs().max()))
    _offset_axes(ax, 1.3 * wide, range(-wide, wide + 1))
    ax.set_title(title, size=10)
    ax.grid(color="#8884")
    return ax


def reads_of_map(
    values: Tensor, references: Tensor, locations: Tensor, weights: Tensor
) -> Axes:
    """Draw a few queries' reads of a small map `[h, w]`, its numbers in their cells.

    A cross is a reference of `[Q, 2]`, a dot one of its `locations [Q, K, 2]` (both in
    shares), as large as its weight of `[Q, K]`; queries are lettered. Built in
    chapters/06_deformable_attention.ipynb.
    """
    h, w = values.shape
    extent = torch.tensor([w, h])
    _, ax = plt.subplots(figsize=(0.74 * w, 0.68 * h))
    for (row, column), number in np.ndenumerate(values.numpy()):
        # below the centre, where a point may lie
        at = (column + 0.5, row + 0.86)
        ax.text(*at, f"{number:.0f}", color="#888", ha="center", size=8)
    for q, start in enumerate((references * extent).tolist()):
        look = {"color": COLOURS[3 * q % len(COLOURS)]}
        ends = locations[q] * extent
        ax.plot(*start, "x", ms=9, mew=2.5, **look)
        name = chr(ord("A") + q)
        ax.text(start[0] - 0.3, start[1] - 0.2, name, weight="bold", **look)
        ax.scatter(*ends.T, s=300 * weights[q], alpha=0.75, **look)
        for end in ends.tolist():
            ax.plot(*zip(start, end), lw=1, **look)
    ax.set(xlim=(0, w), ylim=(h, 0), xticks=range(w + 1), yticks=range(h + 1))
    ax.set(xlabel="x, pixels from the left edge", ylabel="y, from the top")
    ax.set_title("x: reference; dot: point, as large as its weight", size=10)
    ax.set_aspect("equal")
    ax.grid(color="#8884")
    return ax
