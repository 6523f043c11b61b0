"""Average precision of masks as COCO defines it.

Used in chapters/03_panoptic.ipynb.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..data.masks import encode_mask, tight_box
from ..detections import Instances
from .coco import average_precision

Rows = list[dict[str, Any]]  # COCO records of one image


def found_rows(found: Instances) -> Rows:
    """Instances of one image as records; empty masks are left out."""
    rows = _rows(found.masks, found.labels)
    for row in rows:
        row["score"] = float(found.scores[row.pop("number")])
    return rows


def true_rows(target: dict, things: int) -> Rows:
    """Objects of one image as records: `masks`, `labels`, where known `iscrowd`.

    Stuff, the labels from `things` on, is no object.
    """
    rows = _rows(target["masks"], target["labels"])
    crowds = target.get("iscrowd", [0] * len(target["labels"]))
    for row in rows:
        row["iscrowd"] = int(crowds[row.pop("number")])
    return [row for row in rows if row["category_id"] < things]


def mask_ap(
    truth: Sequence[Rows],
    found: Sequence[Rows],
    class_names: Sequence[str],
    *,
    area_limits: tuple[float, float] = (32, 96),
) -> dict[str, Any]:
    """Score rows of a list of images: the numbers that `coco_ap` gives for boxes.

    `class_names` of the things, in label order. Raises: ValueError for lists of
    different length. Source: cocodataset.org, detection evaluation.
    """
    if len(truth) != len(found):
        raise ValueError(f"{len(found)} images with masks, {len(truth)} with targets")
    numbered = [
        [[row | {"image_id": i} for row in rows] for i, rows in enumerate(each)]
        for each in (truth, found)
    ]
    return average_precision(*numbered, class_names, area_limits, "segm")


def _rows(masks: Tensor, labels: Tensor) -> Rows:
    rows = []
    for number, (mask, label) in enumerate(zip(masks, labels.tolist())):
        pixels = np.asarray(mask.cpu())
        if not pixels.any():
            continue
        rows.append(
            {
                "number": number,
                "category_id": label,
                "segmentation": encode_mask(pixels),
                "bbox": tight_box(pixels),
                "area": int(pixels.sum()),
                "iscrowd": 0,
            }
        )
    return rows
