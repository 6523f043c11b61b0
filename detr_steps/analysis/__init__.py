"""What the chapters measure on a trained model."""

from .duplicates import Duplicates, duplicates
from .fading import examples, rates, triangle
from .frozen_points import freeze_points
from .layers import ap_by_layer, predictions
from .looking import (
    answering,
    before_layers,
    judge_maps,
    share_by_step,
    share_on_object,
    shares_by_layer,
    touched,
    widths,
)
from .slots import slot_boxes

__all__ = [
    "Duplicates",
    "answering",
    "ap_by_layer",
    "before_layers",
    "duplicates",
    "examples",
    "freeze_points",
    "judge_maps",
    "predictions",
    "rates",
    "share_by_step",
    "share_on_object",
    "shares_by_layer",
    "slot_boxes",
    "touched",
    "triangle",
    "widths",
]
