"""Pictures: still plots for chapters, README and predictions."""

from .plots import (
    COLOURS,
    attention,
    boxes_on,
    curves,
    gallery,
    picture,
    style,
)

__all__ = [
    "COLOURS",
    "attention",
    "boxes_on",
    "curves",
    "gallery",
    "picture",
    "style",
]
