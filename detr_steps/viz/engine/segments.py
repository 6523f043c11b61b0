"""Segments of a picture and how their masks were made, from nothing but numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .answers import Answers, Words, as_picture
from .figure import InteractiveFigure

PAINTED_NOT_WHY = (
    "Maps and stages: each scaled to its brightest cell; %: a map's share of the "
    "query's weight. Stages: where it differs from the mean of all queries. Bars: "
    "scores, pale below the threshold. White: segments; orange (button): true ones."
)


@dataclass(frozen=True)
class Painted:
    """Who owns which pixel at each of F thresholds, and what the masks were made of.

    `owner [F, H, W]` 1 + the query of each pixel, 0 for void; `overlap [F, Q]` IoU with
    the best true segment of the same class; `maps [Q, M, h, w]` attention, or
    None; `stages [Q, S, a, b]` of the head, none negative, with their names; `true
    [H, W]` ids of the true segments, 0 for void, or None; `quality [F]` the picture's
    PQ, or None.
    """

    thresholds: Sequence[float]
    owner: np.ndarray
    overlap: np.ndarray
    maps: Tensor | None
    stages: Tensor
    stage_names: Sequence[str]
    true: np.ndarray | None = None
    quality: Sequence[float] | None = None


def segments_of_queries(
    painted: Painted,
    rgb: Tensor | np.ndarray,
    answers: Answers,
    things: int,
    words: Words,
    *,
    start: dict | None = None,
    cover: tuple[float, float] = (1.0, 1.0),
) -> InteractiveFigure:
    """Hover a segment: its query, the attention maps and the stages of its mask.

    `answers` scores and labels `[F, Q]`; labels from `things` on are stuff; `cover` as
    of `attention_maps`. Raises: ValueError for shapes that disagree.
    """
    names = [f"{threshold:g}" for threshold in painted.thresholds]
    told = answers.notes(painted.overlap.shape[1])
    told |= {"frame_name": "threshold", "frames": names, "item_name": "query"}
    told |= {"frame_x": [float(t) for t in painted.thresholds], "things": things}
    told |= {"stages": list(painted.stage_names), "start": {"head": -1} | (start or {})}
    if tuple(cover) != (1.0, 1.0):
        told["cover"] = [round(float(x), 5) for x in cover]
    arrays = {k: answers.arrays[k] for k in ("scores", "labels")}
    arrays |= {"owner": painted.owner, "overlap": painted.overlap.astype(np.float16)}
    arrays["stages"] = _bytes(painted.stages)
    if painted.maps is not None:
        arrays["maps"] = _bytes(painted.maps)
        arrays["shares"] = _shares(painted.maps)
    if painted.true is not None:
        arrays["true"] = painted.true
    if painted.quality is not None:
        pairs = np.stack([painted.thresholds, painted.quality])
        arrays["curve"] = pairs.astype(np.float32)
        reach = [round(float(f(painted.quality)), 2) for f in (min, max)]
        told["curve"] = {"x": "threshold", "y": "PQ", "reach": reach}
    texts = words.texts(title="Who paints which pixel", caption=PAINTED_NOT_WHY)
    return InteractiveFigure("segments", arrays, told, picture=as_picture(rgb), **texts)


def _shares(maps: Tensor) -> np.ndarray:
    """Each map's part of the weight of its query: `[Q, M, h, w] -> [Q, M]`.

    Scaled to their own brightest cells, a map that is nearly silent and one that holds
    nearly all look alike.
    """
    weight = maps.sum((-2, -1))
    whole = weight.sum(-1, keepdim=True).clamp(min=1e-12)
    return (weight / whole).half().cpu().numpy()


def _bytes(maps: Tensor) -> np.ndarray:
    """Each map scaled to its own maximum: `[Q, K, h, w]` in 0..255."""
    most = maps.amax((-2, -1), keepdim=True).clamp(min=1e-12)
    return (255 * maps / most).round().byte().cpu().numpy()
