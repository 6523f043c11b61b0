"""Pictures of boards and small maps (chapters/01_attention.ipynb)."""

import math
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from PIL import Image
from torch import Tensor

from ...data.twins import Boards
from ..engine.plots import COLOURS
from ..engine.sheet import ink_on

MARKERS = ("o", "s", "^", "P")  # disc, square, triangle, plus
LETTERS = "ABCDEFGH"  # one for each colour: two objects of a letter are twins
FRAME = "black"
LETTER_IN = {"^": (0.46, 0.07), "P": (0.36, 0.0)}  # its size, and how much lower
DASHES = ("-", "--", ":")  # two curves that coincide are both seen
DARK, DIM, PALE = "#3f454d", "#565d66", "#d9dde2"  # of board_picture
# as COLOURS, but a dark red that is not taken for orange, and black for grey
PAINTS = (*COLOURS[:3], "#8B1A1A", *COLOURS[4:7], "#111111")


def board(
    boards: Boards,
    index: int = 0,
    ax: Axes | None = None,
    asker: int | None = None,
    title: str = "",
) -> Axes:
    """Draw one board; a frame goes round the cell `asker`, a dashed one round its twin.

    Every colour has a letter, too.
    """
    rows, columns = boards.size
    ax = ax or plt.subplots(figsize=(0.7 * columns, 0.7 * rows))[1]
    _objects(ax, boards, index, width=24)
    ax.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), title=title)
    ax.set_xticks(range(columns), range(1, columns + 1))
    ax.set_yticks(range(rows), range(1, rows + 1))
    ax.set(aspect="equal")
    _cell_lines(ax, rows, columns)
    if asker is not None:
        _frame(ax, asker, columns, "-")
        if boards.twin[index, asker] >= 0:
            _frame(ax, int(boards.twin[index, asker]), columns, "--")
    return ax


def board_picture(boards: Boards, index: int = 0, cell: int = 44) -> np.ndarray:
    """Draw one board to lay attention over: uint8 `[H, W, 3]`, `cell` pixels a cell.

    Letters stand for the colours, which would be gone under the colours of a map; the
    board is dark, so that the map glows.
    """
    rows, columns = boards.size
    with plt.rc_context({"figure.constrained_layout.use": False}), plt.ioff():
        figure = plt.figure(figsize=(columns, rows), dpi=2 * cell, facecolor=DARK)
    ax = figure.add_axes((0, 0, 1, 1), xlim=(-0.5, columns - 0.5))
    ax.set(ylim=(rows - 0.5, -0.5))
    ax.axis("off")
    _objects(ax, boards, index, width=36, paint=PALE)
    ax.vlines(np.arange(1, columns) - 0.5, -0.5, rows - 0.5, color=DIM, lw=1, zorder=0)
    ax.hlines(np.arange(1, rows) - 0.5, -0.5, columns - 0.5, color=DIM, lw=1, zorder=0)
    figure.canvas.draw()
    drawn = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    plt.close(figure)
    drawn = Image.fromarray(np.ascontiguousarray(drawn))
    return np.asarray(drawn.resize((columns * cell, rows * cell), Image.Resampling.BOX))


def _objects(
    ax: Axes, boards: Boards, index: int, width: float, paint: str | None = None
) -> None:
    """Draw objects `width` points wide with letters; all in one paint, if given."""
    columns = boards.size[1]
    for cell in (boards.shape[index] >= 0).nonzero().flatten().tolist():
        row, column = divmod(cell, columns)
        colour, shape = (int(x[index, cell]) for x in (boards.colour, boards.shape))
        fill = paint or PAINTS[colour % len(PAINTS)]
        marker = MARKERS[shape % len(MARKERS)]
        look = {"color": fill, "marker": marker, "edgecolors": paint or "white"}
        ax.scatter(column, row, s=width**2, linewidths=0.8, **look)
        share, lower = LETTER_IN.get(marker, (0.46, 0.0))
        look = {"ha": "center", "va": "center_baseline", "weight": "bold"}
        look |= {"size": share * width, "color": ink_on(fill)}
        ax.text(column, row + lower, LETTERS[colour % len(LETTERS)], **look)


def _cell_lines(ax: Axes, rows: int, columns: int) -> None:
    ax.set_xticks([x - 0.5 for x in range(1, columns)], minor=True)
    ax.set_yticks([y - 0.5 for y in range(1, rows)], minor=True)
    ax.grid(which="minor", color="0.85", linewidth=0.8)
    ax.tick_params(which="both", length=0, labelsize=7, labelcolor="0.45")
    ax.spines[:].set(visible=True, color="0.7")


def _frame(ax: Axes, cell: int, columns: int, style: str) -> None:
    corner = (cell % columns - 0.47, cell // columns - 0.47)
    ax.add_patch(
        plt.Rectangle(corner, 0.94, 0.94, fill=False, ec=FRAME, lw=2.2, ls=style)
    )


def reach(
    boards: Boards,
    right: Mapping[str, Tensor],
    ax: Axes | None = None,
    answer: str = "shapes",
    guess: float = 0.25,
) -> Axes:
    """Plot how often players are right against how far the twin is.

    `right` names players: bool `[seeds, boards, S]`, which answers are right. The
    line is the mean over seeds, the band spans them; `guess` is drawn dotted.
    """
    ax = ax or plt.subplots(figsize=(5.6, 3))[1]
    steps = range(1, int(boards.distance.max()) + 1)
    for number, (name, answers) in enumerate(right.items()):
        shares = by_distance(boards, answers)  # [seeds, distances]
        look = {"lw": max(4.5 - number, 1.5), "ms": max(8 - 1.5 * number, 4)}
        look |= {"marker": "o", "ls": DASHES[number % len(DASHES)], "label": name}
        (line,) = ax.plot(steps, shares.mean(0), **look)
        low, high = shares.amin(0), shares.amax(0)
        ax.fill_between(steps, low, high, color=line.get_color(), alpha=0.25)
    ax.axhline(guess, color="0.6", ls=":", zorder=0)
    # beside the axes: over them it would lie on the curves of who guesses
    place = {"transform": ax.get_yaxis_transform(), "ha": "left", "va": "center"}
    ax.text(1.01, guess, "guessing", color="0.4", size=8, **place)
    ax.set(
        xlabel="cells to the twin (rows or columns, whichever is more)",
        ylabel=f"share of right {answer}",
        ylim=(0, 1.05),
    )
    ax.legend(loc="center right", bbox_to_anchor=(1, 0.7))
    return ax


def by_distance(boards: Boards, right: Tensor) -> Tensor:
    """Share of right answers at each distance: `[n, boards, S] -> [n, distances]`."""
    far = boards.distance
    steps = range(1, int(far.max()) + 1)
    return torch.stack([right[:, far == d].float().mean(1) for d in steps], dim=1)


def weights_on_map(
    ax: Axes,
    weights: Tensor,
    title: str,
    read: float,
    objects: Mapping[tuple[int, int], tuple[str, str]] | None = None,
) -> None:
    """Write weights `[h, w]` into their cells, and a line at the column `read`.

    `objects` are outlined: (row, column) -> (colour, marker), as matplotlib names them.
    """
    shown = weights.masked_fill(weights <= 0.01, math.nan)  # lets the line through
    ax.imshow(shown.numpy(), vmin=0, vmax=1, cmap="Greys")
    for (y, x), (colour, marker) in (objects or {}).items():
        ax.scatter(x, y, s=380, marker=marker, facecolors="none", edgecolors=colour)
    for y, x in (weights > 0.01).nonzero().tolist():
        look = {"color": "white", "ha": "center", "va": "center", "size": 8}
        ax.text(x, y, f"{weights[y, x]:.2f}", **look)
    ax.axvline(read, color=COLOURS[2], ls="--", zorder=-1)
    ax.set(title=title, xlabel=f"reads column {read:.0f}")
    ax.set(xticks=range(weights.shape[1]), yticks=range(weights.shape[0]))
    ax.xaxis.label.set_color(COLOURS[2])
    _cell_lines(ax, *weights.shape)
