"""Pictures: still plots, figures to hover over, figures with sliders, tables."""

from .chapters import roofline
from .chapters.adds import block_adds
from .chapters.clocks import clocks
from .chapters.family import family_map
from .chapters.overlap import two_boxes
from .chapters.padding import padded_levels
from .chapters.reads import reads, sectors, warp_loads
from .chapters.roofline import floors
from .chapters.segment_maps import segment_map
from .chapters.small_maps import number_maps, seed_rows, triangles
from .chapters.threads import butterfly, threads
from .chapters.travelled import reads_of_map, star_points, travelled
from .engine.answers import Answers, Words
from .engine.figure import InteractiveFigure
from .engine.inline import small_png
from .engine.maps import attention_maps
from .engine.matching import matching, overlaps
from .engine.play import play
from .engine.plots import (
    COLOURS,
    attention,
    bar_values,
    boxes_on,
    curves,
    gallery,
    picture,
    style,
)
from .engine.points import sampling_points
from .engine.table import claims, table
from .models import live
from .models.attention import decoder_attention, encoder_attention, layers
from .models.bench import anchor_bench
from .models.film import time_lapse
from .models.matching import matching_of
from .models.points import (
    Pixels,
    decoder_points,
    encoder_points,
    points_since_start,
)
from .models.recollection import recollection
from .models.segments import segments

__all__ = [
    "COLOURS",
    "Answers",
    "InteractiveFigure",
    "Pixels",
    "Words",
    "anchor_bench",
    "attention",
    "attention_maps",
    "bar_values",
    "block_adds",
    "boxes_on",
    "butterfly",
    "claims",
    "clocks",
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
    "number_maps",
    "overlaps",
    "padded_levels",
    "picture",
    "play",
    "points_since_start",
    "reads",
    "reads_of_map",
    "recollection",
    "roofline",
    "sampling_points",
    "sectors",
    "seed_rows",
    "segment_map",
    "segments",
    "small_png",
    "star_points",
    "style",
    "table",
    "threads",
    "time_lapse",
    "travelled",
    "triangles",
    "two_boxes",
    "warp_loads",
]
