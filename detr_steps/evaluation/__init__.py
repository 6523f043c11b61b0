"""How good detections are."""

from .coco import coco_ap, detect, evaluate, score
from .mask_ap import mask_ap
from .panoptic import evaluate_panoptic, pairs_at
from .panoptic_quality import panoptic_quality
from .relabelled import Relabelled
from .results import result_rows, results_of, write_results

__all__ = [
    "Relabelled",
    "coco_ap",
    "detect",
    "evaluate",
    "evaluate_panoptic",
    "mask_ap",
    "pairs_at",
    "panoptic_quality",
    "result_rows",
    "results_of",
    "score",
    "write_results",
]
