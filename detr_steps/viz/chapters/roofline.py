"""Floors: what each resource of a card needs for a kernel, were it alone."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..engine.plots import COLOURS

NAMES = {  # what each resource is called in a figure, in the order of its bars
    "dram": "memory",
    "l2": "L2 to L1",
    "l1": "L1 to threads",
    "issue": "instructions",
    "reductions": "adds in the L2",
}
LOOK = dict(zip(NAMES, COLOURS))

Seconds = Mapping[str, float]  # of each resource
Steps = Mapping[str, Seconds]


def floors(
    panels: Mapping[str, Steps],
    measured: Mapping[tuple[str, str], float] | None = None,
    card: str = "",
) -> Figure:
    """Draw rooflines as times: what each resource needs, for each kernel of a panel.

    `panels` by title, kernels by name, seconds by resource; the longest is the floor
    that the kernel cannot get below, and is named. `measured` seconds by (title, name),
    where a card has run it: a black line. `card` names it in the titles; each panel has
    a scale of its own, and says so. Built in chapters/07_cuda_kernel.ipynb.
    """
    lengths = [len(steps) for steps in panels.values()]
    figure, axes = plt.subplots(
        len(panels),
        1,
        figsize=(7.6, 0.6 * sum(lengths) + 0.8 * len(panels)),
        height_ratios=lengths,
        squeeze=False,
    )
    used = [set(each) for steps in panels.values() for each in steps.values()]
    kinds = [kind for kind in NAMES if any(kind in some for some in used)]
    scale = " (scale of this panel)" if len(panels) > 1 else ""
    for ax, (title, steps) in zip(axes[:, 0], panels.items()):
        for row, seconds in enumerate(steps.values()):
            _bars(ax, row, seconds, kinds)
        ax.set(yticks=range(len(steps)), yticklabels=list(steps))
        ax.set(ylim=(len(steps) - 0.5, -0.5), xlabel=f"µs, at least{scale}")
        ax.set_title(f"{title}, {card}" if card else title)
        ax.margins(x=0.1)
        _measured(ax, [(measured or {}).get((title, step)) for step in steps])
    handles = [plt.Rectangle((0, 0), 1, 1, color=LOOK[kind]) for kind in kinds]
    names = [NAMES[kind] for kind in kinds]
    if measured:
        handles.append(plt.Line2D([], [], color="k", lw=2))
        names.append("measured")
    axes[0, 0].legend(handles, names, loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure


def _bars(ax: Axes, row: int, seconds: Seconds, kinds: list[str]) -> None:
    highest, thick = max(seconds, key=seconds.__getitem__), 0.8 / len(kinds)
    for place, kind in enumerate(kinds):
        if kind in seconds:
            y, length = row - 0.4 + (place + 0.5) * thick, 1e6 * seconds[kind]
            alpha = 1.0 if kind == highest else 0.4
            ax.barh(y, length, thick, color=LOOK[kind], alpha=alpha)
            if kind == highest:
                ax.text(length, y, f" {length:,.0f} µs", va="center", size=8)


def _measured(ax: Axes, found: list[float | None]) -> None:
    for row, seconds in enumerate(found):
        if seconds is not None:
            ax.plot([1e6 * seconds] * 2, [row - 0.42, row + 0.42], "k-", lw=2)
