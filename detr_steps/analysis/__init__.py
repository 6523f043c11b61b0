"""What the chapters measure on a trained model."""

from .layers import ap_by_layer, predictions
from .slots import slot_boxes

__all__ = ["ap_by_layer", "predictions", "slot_boxes"]
