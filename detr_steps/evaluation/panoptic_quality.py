"""Panoptic quality with COCO's rules for void and crowds.

Built in chapters/03_panoptic.ipynb.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

VOID = 0  # the id of pixels that belong to no segment
MOST_IDS = 1 << 24  # ids are colours of a PNG, R + 256 G + 65536 B


class PanopticPair(NamedTuple):
    """One image: what was predicted and what is true.

    `predicted`, `true` integers [H, W], the id of the segment of every pixel, 0 for
    void; `classes` of the predicted ids, `truth` (class, iscrowd) of the true ones.
    """

    predicted: np.ndarray
    classes: Mapping[int, int]
    true: np.ndarray
    truth: Mapping[int, tuple[int, bool]]


@dataclass
class Count:
    """Of one class: IoU summed over the hits, hits, false alarms, misses."""

    iou: float = 0.0
    tp: int = 0
    fp: int = 0
    fn: int = 0

    def add(self, other: "Count") -> None:
        """Take in what was counted elsewhere."""
        self.iou += other.iou
        self.tp += other.tp
        self.fp += other.fp
        self.fn += other.fn

    @property
    def weight(self) -> float:
        """What the summed IoU is divided by; 0 where there was nothing at all."""
        return self.tp + (self.fp + self.fn) / 2

    def quality(self) -> dict[str, float | int | None]:
        """`pq`, `sq`, `rq` in [0, 1] and the counts; None where there was nothing."""
        known = self.weight > 0
        return {
            "pq": self.iou / self.weight if known else None,
            "sq": (self.iou / self.tp if self.tp else 0.0) if known else None,
            "rq": self.tp / self.weight if known else None,
            "tp": self.tp,
            "fp": self.fp,
            "fn": self.fn,
        }


Counts = dict[int, Count]  # by class


def panoptic_quality(
    images: Iterable[PanopticPair | tuple], things: Collection[int]
) -> dict[str, Any]:
    """Score segments of all pixels: `pq` = `sq` · `rq`, per class, then the mean.

    `images` as `PanopticPair`, or such a tuple; they are read one by one. `things` the
    classes that can be counted, all others are stuff. Returns `"all"`, `"things"` and
    `"stuff"`: `{"pq", "sq", "rq", "n"}`, means over the n classes that had anything to
    count (None for n = 0), and `"per_class"`: `{class: {"pq", "sq", "rq", "tp", "fp",
    "fn"}}`.

    A hit is a pair of one class with IoU above 0.5, so no segment can have two. COCO's
    rules: predicted pixels on void leave the union; a crowd is never hit and never
    missed; a prediction without a hit is no false alarm if more than half of it lies on
    void and on crowds of its own class.
    Raises: ValueError that names the image and the fault.
    Source: Kirillov et al. 2019, section 4; cocodataset.org, panoptic evaluation.
    Built in chapters/03_panoptic.ipynb.
    """
    total: Counts = {}
    for index, image in enumerate(images):
        merge(total, count(PanopticPair(*image), f"image {index}"))
    return summarise(total, things)


def merge(total: Counts, more: Counts) -> None:
    """Add the counts of other images to a total."""
    for number, counted in more.items():
        total.setdefault(number, Count()).add(counted)


def summarise(total: Counts, things: Collection[int]) -> dict[str, Any]:
    """Qualities of counts over all images, as `panoptic_quality` returns them."""
    per_class = {number: total[number].quality() for number in sorted(total)}
    known = {k: v for k, v in per_class.items() if v["pq"] is not None}
    return {
        "all": _mean(list(known.values())),
        "things": _mean([v for k, v in known.items() if k in things]),
        "stuff": _mean([v for k, v in known.items() if k not in things]),
        "per_class": per_class,
    }


def _mean(rows: list[dict]) -> dict[str, float | int | None]:
    keys = ("pq", "sq", "rq")
    means = {k: sum(r[k] for r in rows) / len(rows) if rows else None for k in keys}
    return means | {"n": len(rows)}


def count(image: PanopticPair, name: str = "this image") -> Counts:
    """Hits, false alarms and misses of one image, by class.

    `name` stands in errors. Raises: ValueError as `panoptic_quality`.
    """
    overlap = _overlap(image, name)  # [P + 1, T + 1] pixels, row and column 0: void
    guessed = np.array([*image.classes.values()], dtype=np.int64)  # [P]
    classes = np.array([c for c, _ in image.truth.values()], dtype=np.int64)  # [T]
    crowd = np.array([bool(c) for _, c in image.truth.values()], dtype=bool)  # [T]
    on_void = overlap[1:, 0]  # [P]
    areas = overlap[1:].sum(1)  # [P]
    both = overlap[1:, 1:]  # [P, T]
    union = (areas - on_void)[:, None] + overlap[:, 1:].sum(0) - both
    same = guessed[:, None] == classes  # [P, T]
    # 2 · intersection > union, in whole numbers: exactly one half is no hit
    hit = same & ~crowd & (2 * both > union)
    ignored = on_void + (both * (same & crowd)).sum(1)
    false = ~hit.any(1) & (2 * ignored <= areas)
    missed = ~hit.any(0) & ~crowd
    found = {int(number): Count() for number in {*guessed, *classes}}
    for p, t in np.argwhere(hit):
        found[int(guessed[p])].tp += 1
        found[int(guessed[p])].iou += float(both[p, t] / union[p, t])
    for number in guessed[false]:
        found[int(number)].fp += 1
    for number in classes[missed]:
        found[int(number)].fn += 1
    return found


def _overlap(image: PanopticPair, name: str) -> np.ndarray:
    """Pixels that each predicted segment shares with each true one."""
    predicted, true = (np.asarray(x) for x in (image.predicted, image.true))
    if predicted.shape != true.shape or true.ndim != 2:
        raise ValueError(
            f"{name}: predicted segments {list(predicted.shape)}, true ones "
            f"{list(true.shape)}: both [H, W], of one size"
        )
    rows = _numbered(predicted, image.classes, f"{name}, prediction")
    columns = _numbered(true, image.truth, f"{name}, ground truth")
    across = len(image.truth) + 1
    pair = rows.astype(np.intp)  # the one copy; from here on in place
    pair *= across
    pair += columns
    pixels = np.bincount(pair.ravel(), minlength=(len(image.classes) + 1) * across)
    pixels = pixels.reshape(-1, across)
    for listed, counts, who in (
        (image.classes, pixels.sum(1), "prediction"),
        (image.truth, pixels.sum(0), "ground truth"),
    ):
        empty = [number for number, n in zip(listed, counts[1:]) if n == 0]
        if empty:
            raise ValueError(
                f"{name}, {who}: segment {empty[0]} is listed and has no pixel; take "
                "it off the list"
            )
    return pixels


def _numbered(ids: np.ndarray, listed: Mapping[int, Any], name: str) -> np.ndarray:
    """Ids [H, W] as places in the list, from 1; 0 for void."""
    if ids.dtype.kind not in "iu":
        raise ValueError(f"{name}: ids are {ids.dtype}, not whole numbers")
    if VOID in listed:
        raise ValueError(f"{name}: {VOID} means void and cannot be listed as a segment")
    numbers = [*listed, 0, int(ids.max(initial=0)), int(ids.min(initial=0))]
    if min(numbers) < 0 or max(numbers) >= MOST_IDS:
        raise ValueError(f"{name}: ids must lie from 0 to {MOST_IDS - 1}")
    # a table of all ids up to the largest: zeros cost nothing until they are read,
    # and looking up is several times faster than sorting the pixels
    table = np.zeros(max(numbers) + 1, dtype=np.int32)
    table[[*listed]] = np.arange(1, len(listed) + 1)
    places = table[ids]
    if np.count_nonzero(places) != np.count_nonzero(ids):  # void alone may be nowhere
        unknown = ids[(places == 0) & (ids != VOID)]
        raise ValueError(
            f"{name}: {unknown.size} pixels have the id {unknown[0]}, which is not "
            "listed: each id of the map needs its class"
        )
    return places
