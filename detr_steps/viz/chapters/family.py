"""The map of the course: which chapter stands on which, and where the reader is."""

from typing import NamedTuple

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from ..engine.plots import COLOURS

WIDE, HIGH = 1.3, 0.62  # a box of the map, on a grid of columns and rows


class Stop(NamedTuple):
    """One chapter on the map."""

    name: str
    column: float
    row: float
    after: tuple[str, ...]  # numbers of the chapters it stands on


CHAPTERS = {
    "00": Stop("boxes\nand AP", 0, 0, ()),
    "01": Stop("attention", 1, 0, ("00",)),
    "02": Stop("DETR", 2, 0, ("01",)),
    "03": Stop("panoptic\nmasks", 2, 1, ("02",)),
    "04": Stop("why so\nslow?", 2, -1, ("02",)),
    "05": Stop("moving\ntaps", 3, 1, ("02",)),
    "06": Stop("deformable\nattention", 4, 1, ("05",)),
    "07": Stop("CUDA\nkernel", 5, 1.75, ("06",)),
    "08": Stop("multi-scale", 5, 1, ("06",)),
    "09": Stop("anchors\n(DAB)", 3, 0, ("02",)),
    "10": Stop("conditional\nattention", 4, 0, ("09",)),
    "11": Stop("SQR", 3, -1, ("02",)),
    "12": Stop("more\nqueries", 4, -1, ("11",)),
    "13": Stop("the real\nthing", 6, 0, ("08", "10", "12")),
}
# the three answers to chapter 04, over the rows that give them
ROADS = (
    (1, "look at few points"),
    (0, "say where to look"),
    (-1, "teach more queries"),
)


def family_map(here: str = "00") -> Figure:
    """Draw the chapters as a map with the place of one of them, `here`, marked.

    Raises: KeyError for a number that is no chapter.
    Built in chapters/00_start_here.ipynb.
    """
    if here not in CHAPTERS:
        raise KeyError(f"no chapter {here!r}: one of {', '.join(CHAPTERS)}")
    figure, ax = plt.subplots(figsize=(9.6, 3.6))
    for stop in CHAPTERS.values():
        for before in stop.after:
            _road(ax, CHAPTERS[before], stop)
    for number, stop in CHAPTERS.items():
        _box(ax, number, stop, number == here, number < here)
    for row, answer in ROADS:  # close above its box: below the one over it is `_mark`
        look = {"size": 8.5, "style": "italic", "c": "#555"}
        ax.text(3 * 1.6 - WIDE / 2, row + 0.34, answer, **look)
    ax.set(xlim=(-0.8, 6 * 1.6 + 0.8), ylim=(-1.5, 2.15))
    ax.axis("off")
    return figure


def _road(ax: Axes, start: Stop, end: Stop) -> None:
    x0, x1 = start.column * 1.6, end.column * 1.6
    if start.column == end.column:
        side = 1 if end.row > start.row else -1
        places = ((x0, start.row + side * HIGH / 2), (x1, end.row - side * HIGH / 2))
    else:
        places = ((x0 + WIDE / 2, start.row), (x1 - WIDE / 2, end.row))
    arrow = {"arrowstyle": "-|>", "color": "#888"}
    ax.annotate("", places[1], places[0], arrowprops=arrow)


def _box(ax: Axes, number: str, stop: Stop, here: bool, done: bool) -> None:
    x, y = stop.column * 1.6, stop.row
    face = COLOURS[1] if here else "#dbe9f4" if done else "white"
    look = {"fc": face, "ec": "#444" if here or done else "#999", "lw": 1 + here}
    corner, style = (x - WIDE / 2, y - HIGH / 2), "round,pad=0,rounding_size=0.1"
    ax.add_patch(FancyBboxPatch(corner, WIDE, HIGH, boxstyle=style, **look))
    ax.text(x - WIDE / 2 + 0.1, y, number, size=9, weight="bold", va="center")
    ax.text(x + 0.15, y, stop.name, size=8.5, ha="center", va="center")
    if here:
        _mark(ax, stop)


def _mark(ax: Axes, stop: Stop) -> None:
    """Say "you are here" below the box, and hide neither a box nor an arrow.

    Where another box is close, beside it; where an arrow is, on the arrow's left.
    """
    below = [
        stop.row - other.row
        for other in CHAPTERS.values()
        if other.column == stop.column and other.row < stop.row
    ]
    x, y = stop.column * 1.6, stop.row
    place, side = (x, y - HIGH / 2 - 0.1), "center"
    if min(below, default=2) < 1:
        place, side = (x + WIDE / 2 + 0.12, y), "left"
    elif min(below, default=2) == 1:
        place, side = (x - 0.08, place[1]), "right"
    look = {"ha": side, "va": "center", "weight": "bold"}
    plate = {"fc": "white", "ec": "none", "pad": 1}
    ax.text(*place, "you are here", size=9, bbox=plate, **look)
