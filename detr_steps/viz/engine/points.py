"""Where deformable attention samples: points, their weights and their cells."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .answers import MOST_BYTES, Answers, Words, as_picture
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
    (locations, weights), even = points, points[1] is None
    if even:
        weights = torch.full(locations.shape[:-1], EVEN)
    parts = {"references": references[..., :2], "weights": weights}
    parts["locations"] = locations.clamp(-FAR, FAR)
    if locations.dim() == 5:  # one frame
        parts = {name: values[None] for name, values in parts.items()}
        answers = answers.of(None)
    arrays = {k: x.detach().cpu().numpy().astype(np.float16) for k, x in parts.items()}
    arrays |= answers.arrays
    check_arrays("points", arrays)
    if len(sizes) != arrays["weights"].shape[3] or (arrays["weights"] < 0).any():
        raise ValueError(
            f"{len(sizes)} sizes for {arrays['weights'].shape[3]} levels, or negative "
            "weights: give (h, w) of each level, and weights after the softmax"
        )
    items = _choose(arrays, max_queries)
    for name in arrays.keys() - {"truth", "truth_labels"}:
        arrays[name] = arrays[name][:, items]
    frames = len(arrays["weights"])
    surest = int(arrays["scores"][-1].argmax()) if "scores" in arrays else 0
    notes = words.notes(frames) | answers.select(items).notes(len(items))
    notes |= {
        "levels": [[int(h), int(w)] for h, w in sizes],
        "pick": "box",
        "head_name": words.head,
        "point_name": words.point,
        "even": even,
        "start": {"frame": frames - 1, "item": surest, "head": -1} | (start or {}),
    }
    texts = words.texts(title=TITLE, summary=_summary(arrays, notes), caption=CAPTION)
    return InteractiveFigure("points", arrays, notes, picture=as_picture(rgb), **texts)


def _choose(arrays: dict[str, np.ndarray], most: int | None) -> list[int]:
    """Numbers of the surest items: so many, or as many as fit."""
    count = arrays["weights"].shape[1]
    if most is None:
        names = ("references", "locations", "weights")
        most = MOST_BYTES // (sum(arrays[name].nbytes for name in names) // count)
    elif most < 1:
        raise ValueError(f"max_queries={most}: show at least one query")
    worth = arrays["scores"][-1] if "scores" in arrays else np.zeros(count)
    return sorted(np.argsort(-worth, kind="stable")[: max(1, most)].tolist())


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
