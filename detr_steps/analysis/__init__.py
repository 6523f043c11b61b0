"""What the chapters measure on a trained model."""

from .fading import examples, rates, triangle
from .layers import ap_by_layer, predictions
from .slots import slot_boxes

__all__ = [
    "ap_by_layer",
    "examples",
    "predictions",
    "rates",
    "slot_boxes",
    "triangle",
]
