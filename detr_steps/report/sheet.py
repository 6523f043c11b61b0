"""The same as one picture: curves above, validation pictures below."""

import textwrap
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from .. import viz
from .curves import Panel, panels
from .figures import SIZE, house_style
from .page import MARK, facts, said
from .pictures import Gallery
from .story import Story

COLUMNS = 3
DPI = 100
WIDE = SIZE[0] * COLUMNS  # inches
CELLS = 5  # of a row of validation pictures, at least: no picture is too large


def save(path: Path, story: Story, gallery: Gallery | str) -> None:
    """Write the PNG."""
    with house_style():
        figure = _figure(story, panels(story), gallery)
        figure.savefig(path, format="png", dpi=DPI, metadata={"Software": MARK})


def _figure(story: Story, drawn: list[Panel], gallery: Gallery | str) -> Figure:
    rows = [drawn[i : i + COLUMNS] for i in range(0, len(drawn), COLUMNS)]
    heights = [SIZE[1] * max(panel.rows for panel in row) for row in rows]
    pictures = gallery.pictures if isinstance(gallery, Gallery) else []
    heights += [_height(gallery, picture.rgb.shape) for picture in pictures]
    figure = Figure((WIDE, 0.9 + sum(heights)), layout="constrained")
    told = " · ".join(f"{name}: {value}" for name, value in facts(story).items())
    figure.suptitle("\n".join([story.name, *textwrap.wrap(told, 120)]), fontsize=11)
    if not heights:
        return figure
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)
    for part, row in zip(parts[:, 0], rows):
        axes = part.subplots(1, COLUMNS, squeeze=False)[0]
        for ax, panel in zip(axes, row):
            panel.draw(ax)
        for ax in axes[len(row) :]:
            ax.set_visible(False)
    for number, part in enumerate(parts[len(rows) :, 0]):
        _moments(part, gallery, number)
    return figure


def _height(gallery: Gallery, shape: tuple[int, ...]) -> float:
    height, width = shape[-2:]
    return WIDE / _cells(gallery) * height / width + 0.4


def _cells(gallery: Gallery) -> int:
    return max(CELLS, len(gallery.moments) + 1)


def _moments(part, gallery: Gallery, number: int) -> None:
    picture = gallery.pictures[number]
    axes = part.subplots(1, _cells(gallery), squeeze=False)[0]
    for ax in axes[len(gallery.moments) + 1 :]:
        ax.set_visible(False)
    names = [gallery.name(int(label)) for label in picture.labels]
    viz.picture(picture.rgb, axes[0], "ground truth")
    viz.boxes_on(axes[0], picture.truth, names, style="--")
    for index, (ax, moment) in enumerate(zip(axes[1:], gallery.moments)):
        title = f"step {moment.step:,} ({moment.what})\n{said(picture, index)}"
        viz.picture(picture.rgb, ax, title)
        boxes, scores, labels = picture.found[index]
        names = [f"{gallery.name(int(n))} {s:.2f}" for n, s in zip(labels, scores)]
        colours = [viz.COLOURS[int(n) % len(viz.COLOURS)] for n in labels]
        viz.boxes_on(ax, boxes, names, colours)


def is_ours(path: Path) -> bool:
    """Has this tool made a picture?"""
    try:
        with Image.open(path) as image:
            return image.info.get("Software") == MARK
    except OSError:
        return False
