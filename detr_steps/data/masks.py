"""Masks of COCO-format files: polygons and run lengths to pixels and back.

pycocotools trusts its input: a polygon with NaN ends the process, run lengths of too
few pixels leave the rest of the mask uninitialised. So everything is checked first.
"""

import math
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from .transforms import nearest

Size = tuple[int, int]  # H, W in pixels

MOST_RUNS_PIXELS = 2**32  # every tool writes run lengths as 32-bit numbers


class BadMask(ValueError):
    """A segmentation that no tool can have meant."""


def draw_mask(
    segmentation: Any, box: np.ndarray, annotated: Size, size: Size | None = None
) -> np.ndarray:
    """Draw a mask as bool [H, W] for a picture of `size` (by default `annotated`).

    `segmentation` is a list of polygons or an RLE (`counts` text or numbers) for a
    picture of the size `annotated` (H, W), or None: then the box (x0 y0 x1 y1, pixels
    of `annotated`) is filled. Memory is needed for `size` only.

    Raises: BadMask.
    """
    height, width = size = size or annotated
    scale = np.divide((width, height), annotated[::-1])
    if not segmentation:
        x0, y0, x1, y1 = np.round(box * np.tile(scale, 2)).astype(int)
        mask = np.zeros(size, dtype=bool)
        mask[y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)] = True
        return mask
    if isinstance(segmentation, dict):
        return _draw_runs(run_lengths(segmentation, annotated), annotated, size)
    check_polygons(segmentation, annotated)
    scaled = [(np.reshape(p, (-1, 2)) * scale).ravel().tolist() for p in segmentation]
    runs = coco_mask.merge(coco_mask.frPyObjects(scaled, height, width))
    return coco_mask.decode(runs).astype(bool)


def _draw_runs(lengths: list[int], annotated: Size, size: Size) -> np.ndarray:
    """Runs of 0, 1, 0, … go down the columns; each pixel takes the nearest one."""
    rows, columns = (nearest(new, old) for new, old in zip(size, annotated))
    places = columns[:, None] * annotated[0] + rows  # [W, H]
    run = np.searchsorted(np.cumsum(lengths), places.ravel(), side="right")
    return (run % 2 == 1).reshape(places.shape).T


def encode_mask(mask: np.ndarray) -> dict[str, Any]:
    """Write a bool mask [H, W] as an RLE that fits into JSON."""
    runs = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": runs["counts"].decode("ascii")}


def tight_box(mask: np.ndarray) -> list[int]:
    """The box around a mask: [x, y, width, height] in pixels."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    x, y = int(columns[0]), int(rows[0])
    return [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y]


def check_segmentation(segmentation: Any, size: Size) -> None:
    """Check that a segmentation can be drawn on a picture of `size` (H, W).

    Raises: BadMask that says why not.
    """
    if isinstance(segmentation, dict):
        run_lengths(segmentation, size)
    else:
        check_polygons(segmentation, size)


def check_polygons(polygons: Any, size: Size) -> None:
    """Check a list of polygons [x, y, x, y, …] in pixels.

    Raises: BadMask.
    """
    if not isinstance(polygons, list) or not polygons:
        raise BadMask("neither a list of polygons nor run lengths")
    for polygon in polygons:
        if not isinstance(polygon, list) or not set(map(type, polygon)) <= {int, float}:
            raise BadMask("a polygon is a list of numbers")
        if len(polygon) < 6 or len(polygon) % 2:
            raise BadMask(f"a polygon of {len(polygon)} numbers: it takes 6, 8, …")
        for values, side in ((polygon[0::2], size[1]), (polygon[1::2], size[0])):
            # a sum is NaN where a value is, which no comparison finds for sure
            inside = -side <= min(values) and max(values) <= 2 * side
            if not inside or not math.isfinite(sum(values)):
                raise BadMask("a polygon reaches far beyond the picture")


def run_lengths(runs: dict[str, Any], size: Size) -> list[int]:
    """Check run lengths of a picture of `size` (H, W) and return them as numbers.

    Raises: BadMask.
    """
    height, width = size
    if not isinstance(runs.get("size"), list) or runs["size"] != [height, width]:
        raise BadMask(f"its size is not {height} x {width}, the picture's")
    counts = runs.get("counts")
    if isinstance(counts, str):
        counts = _read_text(counts)
    if not isinstance(counts, list) or not set(map(type, counts)) <= {int}:
        raise BadMask("its counts are neither whole numbers nor a text")
    if min(counts, default=0) < 0:
        raise BadMask("a run of less than no pixel")
    if sum(counts) != height * width or height * width >= MOST_RUNS_PIXELS:
        raise BadMask(f"its runs do not add up to {height} x {width} pixels")
    return counts


def _read_text(text: str) -> list[int]:
    """Run lengths from COCO's text: 5 bits a character, least first, the sixth: go on.

    From the fourth number on, each is the difference to the last but one before it.
    Source: the format of pycocotools, `rleToString` in maskApi.c.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise BadMask("its text is no run lengths")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift  # the highest bit is the sign
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
        value = shift = 0
    if shift:
        raise BadMask("its text ends within a number")
    return lengths
