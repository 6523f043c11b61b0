"""Levels of a padded picture, and where the same place lies on each."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from ..engine.plots import COLOURS

PADDING = "#ddd"
LABELS = "its place", "by the rule", "without it"
LOOKS = (
    {"marker": "o", "ms": 13, "mfc": "none", "mec": "k"},
    {"marker": "+", "ms": 10, "c": COLOURS[3]},
    {"marker": "x", "ms": 10, "c": COLOURS[3]},
)

Places = tuple[float, Sequence[float], float]


def padded_levels(
    sizes: Sequence[tuple[int, int]],
    shares: Tensor,
    batch: tuple[int, int],
    end: float,
    places: Mapping[str, Places],
) -> Figure:
    """Draw levels `(h, w)` of a batch whose picture is narrower, side by side.

    `shares [L]` of the width that counts as picture, `batch` (width, height) and `end`
    of the picture in pixels; `places` by the name of their row, in pixels: the true
    one, that by the rule on each level, that without the rule.
    Built in chapters/08_multi_scale.ipynb.
    """
    size = (4.25 * len(sizes), 2.8)
    figure, axes = plt.subplots(1, len(sizes), figsize=size, sharey=True, squeeze=False)
    for level, (ax, share) in enumerate(zip(axes[0], shares.tolist())):
        _level(ax, sizes[level], share, batch)
        ax.axvline(end, color="k", lw=2, ls="--")
        rows = _rows(len(places), batch[1])
        for y, (true, by_rule, without) in zip(rows, places.values()):
            marks = zip((true, by_rule[level], without), LABELS, LOOKS)
            for x, label, look in marks:
                ax.plot(float(x), y, ls="", mew=2, label=label, **look)
    axes[0, 0].set(yticks=_rows(len(places), batch[1]), yticklabels=list(places))
    handles, labels = (each[:3] for each in axes[0, -1].get_legend_handles_labels())
    axes[0, -1].legend(handles, labels, loc="lower right")
    return figure


def _rows(count: int, height: float) -> list[float]:
    return [height * (row + 1) / (count + 1) for row in range(count)]


def _level(
    ax: Axes, size: tuple[int, int], share: float, batch: tuple[int, int]
) -> None:
    (h, w), (width, height) = size, batch
    ax.add_patch(Rectangle((0, 0), width, height, fc=PADDING))
    ax.add_patch(Rectangle((0, 0), width * share, height, fc=COLOURS[5]))
    ax.vlines([width * n / w for n in range(w + 1)], 0, height, color="k", lw=0.4)
    ax.set(xlim=(0, width), ylim=(height, 0), xlabel="px", aspect="equal")
    ax.set(
        title=f"{h} × {w}: {share:.4f} valid", xticks=range(0, width + 1, width // 4)
    )
