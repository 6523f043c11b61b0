"""Pictures of the twin game (chapters/01_attention.ipynb)."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from torch import Tensor

from ..data.twins import Boards
from .plots import COLOURS

MARKERS = ("o", "s", "^", "P")  # disc, square, triangle, plus


def board(
    boards: Boards,
    index: int = 0,
    ax: Axes | None = None,
    shade: Tensor | None = None,
    asker: int | None = None,
    twin: bool = False,
    title: str = "",
) -> Axes:
    """Draw one board: objects, a shade `[S]` on the cells, a frame round the asker.

    `twin` draws a dashed frame round the asker's twin. The largest shade is black.
    """
    rows, columns = boards.size
    ax = ax or plt.subplots(figsize=(0.5 * columns, 0.5 * rows))[1]
    if shade is not None:
        heat = shade.detach().view(rows, columns)
        ax.imshow(heat, cmap="Greys", vmin=0, vmax=float(heat.max()) or 1)
    for cell in (boards.shape[index] >= 0).nonzero().flatten().tolist():
        ax.scatter(
            cell % columns,
            cell // columns,
            s=110,
            color=COLOURS[int(boards.colour[index, cell]) % len(COLOURS)],
            marker=MARKERS[int(boards.shape[index, cell]) % len(MARKERS)],
            edgecolors="white",
            linewidths=0.8,
        )
    ax.set(xlim=(-0.5, columns - 0.5), ylim=(rows - 0.5, -0.5), title=title)
    ax.set(xticks=range(columns), yticks=range(rows), aspect="equal")
    ax.set_xticks([x - 0.5 for x in range(1, columns)], minor=True)
    ax.set_yticks([y - 0.5 for y in range(1, rows)], minor=True)
    ax.grid(which="minor", color="0.85", linewidth=0.8)
    ax.tick_params(which="both", length=0, labelsize=7, labelcolor="0.45")
    ax.spines[:].set(visible=True, color="0.7")
    if asker is not None:
        _frame(ax, asker, columns, "-")
        if twin and boards.twin[index, asker] >= 0:
            _frame(ax, int(boards.twin[index, asker]), columns, "--")
    return ax


def _frame(ax: Axes, cell: int, columns: int, style: str) -> None:
    corner = (cell % columns - 0.47, cell // columns - 0.47)
    ax.add_patch(
        plt.Rectangle(corner, 0.94, 0.94, fill=False, ec="#D55E00", lw=2.2, ls=style)
    )
