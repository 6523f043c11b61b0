"""Where deformable attention samples: points, their weights and their cells."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from .answers import Answers, Words, as_picture
from .figure import InteractiveFigure, check_arrays

TITLE = "Sampling points: where each query reads"
CAPTION = (
    "A dot is where a value is read, its area its weight. Much weight is not yet much "
    "effect: what is read there may be nothing new."
)
EVEN = 0.035  # a dot of handy size, where all points count alike
FAR = 1000.0  # outside is outside: half precision ends at 65504


def sampling_points(
    points: tuple[Tensor, Tensor | None],
    references: Tensor,
    sizes: Sequence[tuple[int, int]],
    rgb: Tensor | np.ndarray,
    answers: Answers | None = None,
    words: Words | None = None,
    *,
    max_queries: int | None = None,
    start: dict | None = None,
) -> InteractiveFigure:
    """Show the points each query samples, by head and level, with their weights.

    `points` locations `[F, Q, M, L, K, 2]` as (x, y) in [0, 1] of the picture (may lie
    outside) and weights `[F, Q, M, L, K]`, or None where nothing is weighed; without F
    there is one frame. `references [F, Q, L, 2]` (or 4: boxes, of which the centre
    counts); `sizes` (h, w) of the L levels; `max_queries` the surest first (by default
    as many as fit into a megabyte); `start` frame, item, head and point to begin with.
    Raises: ValueError for shapes that disagree, negative or non-finite numbers.
    Source: Zhu et al. 2021, equation 3 and figure 6.
    """
    answers, words = answers or Answers(), words or Words()
    if points[0].dim() == 5:  # one frame
        points = [None if x is None else x[None] for x in points]
        references, answers = references[None], answers.of(None)
    arrays = _pack(*points, references) | answers.arrays
    check_arrays("points", arrays)
    frames, count, _, levels, _ = arrays["weights"].shape
    if len(sizes) != levels:
        raise ValueError(f"{len(sizes)} sizes for {levels} levels: give (h, w) of each")
    if answers.scores is None:  # all alike: the first ones are shown
        answers = replace(answers, scores=torch.zeros(frames, count))
    items = answers.choose(6 * arrays["weights"][:, 0].size, max_queries)
    answers = answers.select(items)
    for name in arrays.keys() - {"truth", "truth_labels"}:
        arrays[name] = arrays[name][:, items]
    notes = words.notes(frames) | answers.notes(len(items))
    notes |= {
        "levels": [[int(h), int(w)] for h, w in sizes],
        "pick": "box",
        "head_name": words.head,
        "point_name": words.point,
        "even": points[1] is None,
        "start": {"frame": frames - 1, "item": answers.surest, "head": -1},
    }
    notes["start"] |= start or {}
    texts = words.texts(title=TITLE, summary=_summary(arrays, notes), caption=CAPTION)
    return InteractiveFigure("points", arrays, notes, picture=as_picture(rgb), **texts)


def _pack(
    locations: Tensor, weights: Tensor | None, references: Tensor
) -> dict[str, np.ndarray]:
    if weights is None:
        weights = torch.full(locations.shape[:-1], EVEN)
    if (weights < 0).any():
        raise ValueError("weights hold negative numbers: give them after the softmax")
    parts = {
        "references": references[..., :2],
        "locations": locations.clamp(-FAR, FAR),
        "weights": weights,
    }
    return {k: x.detach().cpu().numpy().astype(np.float16) for k, x in parts.items()}


def _summary(arrays: dict, notes: dict) -> str:
    begin, name = notes["start"], notes["item_name"]
    frame, item = begin["frame"], begin["item"]
    many = "queries" if name == "query" else f"{name}s"
    _, q, m, levels, k = arrays["weights"].shape
    weights = arrays["weights"][frame, item].astype(np.float64)  # [M, L, K]
    shares = weights.sum((0, 2)) / max(weights.sum(), 1e-30)  # [L]
    where = arrays["locations"][frame, item].astype(np.float64)  # [M, L, K, 2]
    outside = ((where < 0) | (where > 1)).any(-1)
    by_level = "weight by level " + ", ".join(
        f"{share:.0%} of {h} × {w}" for share, (h, w) in zip(shares, notes["levels"])
    )
    return (
        f"{q} {many}, each with {m} {notes['head_name']}s × {levels} levels × {k} "
        f"{notes['point_name']}s. {name.capitalize()} "
        f"{notes.get('items', range(q))[item]} in {notes['frame_name']} "
        f"{notes['frames'][frame]}: {'' if notes['even'] else by_level + '; '}"
        f"{int(outside.sum())} of {outside.size} points lie outside the picture."
    )
