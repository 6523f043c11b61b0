"""Figures that ask the model again while you play: they need a running kernel.

The front end is figure.mjs, through anywidget where that is installed. A saved
notebook, and one without anywidget, keeps the ordinary figure.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ...analysis.attention import Extent
from ...images import ImageBatch
from ..engine.answers import Words
from ..engine.figure import HIGH, WIDE, InteractiveFigure, module
from ..engine.play import VIEW
from .attention import map_bytes, query_maps
from .opened import Batch, Opened, open_up, resolve

COVERED = (
    "A box that changes when something is covered depends on it: a test, which bright "
    "cells are not. But the patch is also something new to see."
)
ALONE = (
    "A box that changes when something is covered depends on it. To drag the patch, "
    "run this in a notebook with anywidget (pip install anywidget)."
)
SIDE = 0.22  # of the patch, as a share of the picture's shorter side


def cover(
    model: nn.Module,
    batch: Batch,
    image: int = 0,
    *,
    at: tuple[float, float] = (0.5, 0.5),
    names: Sequence[str] | None = None,
    targets: list[dict] | None = None,
    max_queries: int | None = None,
    query: int | None = None,
) -> "Cover":
    """Drag a grey patch over a picture: the model looks again, wherever it lies.

    Shows maps, boxes and scores as `decoder_attention` does (of sampling points their
    density), and takes the same arguments, but for an Output: it is the model that is
    asked again. The patch begins `at` (x, y), shares of the picture. Without a running
    kernel, or without anywidget, the figure stays as it begins and says so.
    Raises: as `decoder_attention`, and TypeError for an Output.
    Built in chapters/02_detr.ipynb.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"got {type(model).__name__}: ask the model itself, again")
    batch, targets, names = resolve(batch, targets, names)
    opened = open_up(model, batch, image, names, targets)
    only = slice(image, image + 1)
    one = ImageBatch(batch.pixels[only], batch.padding[only], batch.padded)
    items = opened.answers.choose(map_bytes(opened), max_queries, query)
    known = None if targets is None else targets[only]
    return Cover(model, one, opened, known, items, at, query)


class Cover:
    """A picture with a grey patch on it, and what a model makes of that.

    `point (x, y)` the middle of the patch, `widget` the live figure (None without
    anywidget), `title` of both. Made by `cover`.
    """

    title = "Cover a part of the picture"

    def __init__(
        self,
        model: nn.Module,
        one: ImageBatch,
        opened: Opened,
        targets: list[dict] | None,
        items: list[int],
        at: tuple[float, float],
        query: int | None = None,
    ) -> None:
        self.model, self.one, self.targets = model, one, targets
        self.items, self.query = items, query
        self.names, self.real = opened.answers.names, opened.real
        side = SIDE * min(self.real.height, self.real.width)
        self.patch = (side / self.real.width, side / self.real.height)
        self.point = _within(at)
        self.widget = self._make_widget()

    @property
    def figure(self) -> InteractiveFigure:
        """The picture with the patch as it lies now, for places without a kernel."""
        return self._look(ALONE)

    def move(self, x: float, y: float) -> None:
        """Lay the patch around (x, y), shares of the picture, and look again."""
        self.point = _within((x, y))
        if self.widget is not None:
            self.widget.bundle = self._live_bundle()

    def _live_bundle(self) -> dict:
        figure = self._look(COVERED)
        figure.notes["live"] = {"patch": [*self.point, *self.patch]}
        return figure.bundle

    def _look(self, caption: str) -> InteractiveFigure:
        batch = grey_patch(self.one, self.point, self.patch, self.real)
        opened = open_up(self.model, batch, 0, self.names, self.targets)
        words = Words(self.title, caption=caption)
        return query_maps(opened, self.items, self.query, words)

    def _make_widget(self) -> Any:
        """The live figure; None where anywidget is not installed."""
        try:
            import anywidget
            import traitlets
        except ImportError:
            return None

        class Live(anywidget.AnyWidget):
            _esm = module("attention")
            bundle = traitlets.Dict().tag(sync=True)
            point = traitlets.List().tag(sync=True)

        look = {"height": f"{HIGH}px", "max_width": f"{WIDE}px"}
        widget = Live(bundle=self._live_bundle(), point=list(self.point), layout=look)
        # while the kernel works, the front end keeps only the latest point: no queue
        widget.observe(lambda change: self.move(*change["new"]), "point")
        return widget

    def __repr__(self) -> str:
        return repr(self.figure)

    def _repr_mimebundle_(self, include=None, exclude=None) -> tuple[dict, dict]:
        # the still beside the view: it is what stays once the kernel is gone
        data, metadata = dict(self.figure._repr_mimebundle_()), {}
        if self.widget is not None:
            live, metadata = self.widget._repr_mimebundle_()
            data[VIEW] = live[VIEW]
        return data, metadata


def _within(point: Sequence[float]) -> tuple[float, float]:
    x, y = (min(max(float(value), 0.0), 1.0) for value in point)
    return x, y


def grey_patch(
    one: ImageBatch,
    point: tuple[float, float],
    patch: tuple[float, float],
    real: Extent,
) -> ImageBatch:
    """Lay a patch of ImageNet's mean colour over one picture.

    `point` its middle and `patch` its width and height, in shares of the real picture.
    """
    height, width = one.pixels.shape[-2:]
    x = (torch.arange(width) + 0.5) / real.width - point[0]  # [W] from the middle
    y = (torch.arange(height) + 0.5) / real.height - point[1]
    inside = (y.abs() < patch[1] / 2)[:, None] & (x.abs() < patch[0] / 2)  # [H, W]
    pixels = one.pixels.masked_fill(inside.to(one.pixels.device), 0.0)
    return ImageBatch(pixels, one.padding, one.padded)
