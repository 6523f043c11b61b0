"""How good detections are."""

from .coco import coco_ap, evaluate

__all__ = ["coco_ap", "evaluate"]
