"""Masks of COCO-format files: polygons and run lengths to pixels and back."""

from typing import Any

import numpy as np
from pycocotools import mask as coco_mask


def draw_mask(segmentation: Any, box: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Draw a mask as bool [H, W]; `size` (H, W) in pixels.

    `segmentation` is a list of polygons, an RLE (`counts` text or numbers), or None:
    then the box (x0 y0 x1 y1, pixels) is filled. So is it where a file's mask turns
    out unreadable.
    """
    if segmentation:
        try:
            return _decode(segmentation, *size)
        except (TypeError, ValueError, KeyError, IndexError):
            pass  # the kind "bad mask": the box takes its place
    mask = np.zeros(size, dtype=bool)
    x0, y0, x1, y1 = np.round(box).astype(int)
    mask[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = True
    return mask


def _decode(segmentation: Any, height: int, width: int) -> np.ndarray:
    if isinstance(segmentation, list):
        parts = coco_mask.frPyObjects(segmentation, height, width)
        runs = coco_mask.merge(parts)
    elif isinstance(segmentation["counts"], list):
        runs = coco_mask.frPyObjects(segmentation, height, width)
    else:
        runs = segmentation
    return coco_mask.decode(runs).astype(bool)


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Write a bool mask [H, W] as an RLE that fits into JSON."""
    runs = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": runs["counts"].decode("ascii")}


def is_segmentation(segmentation: Any, size: tuple[int, int]) -> bool:
    """Tell whether a mask is a list of polygons or an RLE of the picture's size."""
    if isinstance(segmentation, dict):
        counts = segmentation.get("counts")
        same = list(segmentation.get("size") or []) == list(size)
        return same and isinstance(counts, str | list) and len(counts) > 0
    return isinstance(segmentation, list) and all(
        isinstance(polygon, list)
        and len(polygon) >= 6
        and len(polygon) % 2 == 0
        and set(map(type, polygon)) <= {int, float}
        for polygon in segmentation
    )
