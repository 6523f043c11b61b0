"""Pictures: still plots, figures with sliders, tables, the map of the course."""

from .family import family_map
from .inline import small_png
from .overlap import two_boxes
from .play import play
from .plots import (
    COLOURS,
    attention,
    boxes_on,
    curves,
    gallery,
    picture,
    style,
)
from .table import claims, table

__all__ = [
    "COLOURS",
    "attention",
    "boxes_on",
    "claims",
    "curves",
    "family_map",
    "gallery",
    "picture",
    "play",
    "small_png",
    "style",
    "table",
    "two_boxes",
]
