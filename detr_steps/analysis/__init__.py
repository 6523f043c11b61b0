"""What the chapters measure on a trained model."""

from .layers import ap_by_layer, predictions
from .looking import answering, share_by_step, share_on_object, touched, widths
from .slots import slot_boxes

__all__ = [
    "answering",
    "ap_by_layer",
    "predictions",
    "share_by_step",
    "share_on_object",
    "slot_boxes",
    "touched",
    "widths",
]
