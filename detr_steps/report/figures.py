"""Plots as SVG that takes its colours from the page, so that it follows the theme."""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import matplotlib
from matplotlib.figure import Figure

from .. import viz
from .curves import Panel

INK = "#010203"  # no other colour of a plot: it becomes the colour of the text
SIZE = 4.4, 2.9  # inches of a plot in the page; at 390 px its letters have 11 px
INKED = "text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"
HEAD = re.compile(r"^.*?(?=<svg)|<metadata>.*?</metadata>", re.DOTALL)
# names of parts that nothing refers to: the same in every plot of a page
IDS = re.compile(r' id="[\w.]+_\d+"')
SIZES = re.compile(r' (?:width|height)="[^"]*pt"')  # of the whole: the page decides


@contextmanager
def house_style(**changes: object) -> Iterator[None]:
    """The course's look, inside; outside nothing changes."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        viz.style()
        matplotlib.rcParams.update(changes)
        # names of classes in any script: browsers have the letters, matplotlib says so
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def svg(panel: Panel, number: int) -> str:
    """One plot as an SVG element; `number` tells its parts from those of others."""
    ink = dict.fromkeys(INKED, INK)
    salt = {"svg.fonttype": "none", "svg.hashsalt": f"panel {number}"}
    with house_style(**ink, **salt):
        figure = Figure((SIZE[0], SIZE[1] * panel.rows), layout="constrained")
        panel.draw(figure.subplots())
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = SIZES.sub("", IDS.sub("", HEAD.sub("", file.getvalue())))
    return _themed(text).replace("<svg ", '<svg role="img" aria-hidden="true" ', 1)


def _themed(text: str) -> str:
    """The page's colours in place of those that matplotlib drew with."""
    text = text.replace(INK, "currentColor")
    for index, colour in enumerate(viz.COLOURS):
        text = re.sub(colour, f"var(--c{index})", text, flags=re.IGNORECASE)
    return text
