"""Pictures: still plots, figures to hover over, figures with sliders, tables."""

from . import live
from .costs import matching, matching_of, overlaps
from .family import family_map
from .figure import InteractiveFigure
from .film import time_lapse
from .inline import small_png
from .inside import decoder_attention, encoder_attention, layers
from .looking import decoder_points, encoder_points
from .maps import attention_maps
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
from .points import sampling_points
from .reads import reads, sectors, warp_loads
from .roofline import floors
from .table import claims, table
from .threads import butterfly, threads

__all__ = [
    "COLOURS",
    "InteractiveFigure",
    "attention",
    "attention_maps",
    "boxes_on",
    "butterfly",
    "claims",
    "curves",
    "decoder_attention",
    "decoder_points",
    "encoder_attention",
    "encoder_points",
    "family_map",
    "floors",
    "gallery",
    "layers",
    "live",
    "matching",
    "matching_of",
    "overlaps",
    "picture",
    "play",
    "reads",
    "sampling_points",
    "sectors",
    "small_png",
    "style",
    "table",
    "threads",
    "time_lapse",
    "two_boxes",
    "warp_loads",
]
