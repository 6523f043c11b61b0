"""Two boxes, the hull around them, and what measures of overlap say along a path."""

from collections.abc import Callable, Mapping

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..engine.plots import COLOURS

WIDTH, HEIGHT = 20, 10  # of the plane the boxes lie in


def two_boxes(
    a: Tensor, b: Tensor, measures: Mapping[str, Callable[[Tensor, Tensor], Tensor]]
) -> Figure:
    """Draw boxes `a`, `b [1, 4]` xyxy, and `measures` as b moves left and right.

    `measures` names functions of boxes `[n, 4], [m, 4] -> [n, m]`. The plane is
    20 wide and 10 high. Built in chapters/00_start_here.ipynb.
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(8.5, 3.1))
    hull = torch.cat((torch.minimum(a, b)[:, :2], torch.maximum(a, b)[:, 2:]), dim=1)
    _outline(left, hull, "#777777", ls="--", fill=False)
    for box, colour, name in ((a, COLOURS[0], "A"), (b, COLOURS[3], "B")):
        _outline(left, box, colour)
        x, y = box[0, :2].tolist()
        left.text(x + 0.2, y + 0.2, name, weight="bold", va="top")
    left.set(xlim=(0, WIDTH), ylim=(HEIGHT, 0), aspect="equal")
    left.set(xticks=range(0, 21, 5), yticks=range(0, 11, 5), title="dashed: the hull")
    _along_a_path(right, a, b, measures)
    return figure


def _outline(ax: Axes, box: Tensor, colour: str, **look: object) -> None:
    x0, y0, x1, y1 = box[0].tolist()
    ax.fill([x0, x1, x1, x0], [y0, y0, y1, y1], fc=colour + "33", ec=colour, **look)


def _along_a_path(
    ax: Axes, a: Tensor, b: Tensor, measures: Mapping[str, Callable]
) -> None:
    here = b[0, 0].item()
    path = torch.linspace(0, 0.7 * WIDTH, 141)
    shift = torch.stack((path - here, torch.zeros_like(path)), dim=1).repeat(1, 2)
    said = []
    for name, measure in measures.items():
        (line,) = ax.plot(path, measure(a, b + shift)[0], label=name)
        now = measure(a, b).item()
        ax.plot([here], [now], "o", color=line.get_color())
        said.append(f"{name} {now:.2f}")
    ax.axhline(0, color="#bbbbbb", lw=0.8, zorder=0)
    ax.set(xlabel="left edge of B", ylim=(-1, 1.05), title=", ".join(said))
    ax.legend(loc="upper right")
