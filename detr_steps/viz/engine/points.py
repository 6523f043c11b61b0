"""Where deformable attention samples: points, their weights and their cells."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .figure import InteractiveFigure
from .maps import answers, as_picture, check_shape, names_for, truths

WEIGHT_NOT_WORTH = (
    "A dot is where a value is read, its area its weight. Much weight is not yet much "
    "effect: what is read there may be nothing new."
)
MOST_BYTES = 1_000_000  # of maps or points in one figure, before they are deflated
EVEN = 0.035  # a dot of handy size, where all points count alike


def sampling_points(
    references: Tensor,
    locations: Tensor,
    weights: Tensor | None,
    sizes: Sequence[tuple[int, int]],
    rgb: Tensor | np.ndarray,
    *,
    boxes: Tensor | None = None,
    scores: Tensor | None = None,
    labels: Tensor | None = None,
    matched: Tensor | None = None,
    truth: Tensor | None = None,
    truth_labels: Tensor | None = None,
    names: Sequence[str] | None = None,
    frames: Sequence[object] | None = None,
    frame_name: str = "layer",
    item_name: str = "query",
    head_name: str = "head",
    point_name: str = "point",
    caption: str = WEIGHT_NOT_WORTH,
    most: int | None = None,
    start: dict | None = None,
    cells: bool = False,
    title: str = "Sampling points: where each query reads",
) -> InteractiveFigure:
    """Show the points each query reads, by head and level, with their weights.

    `references [F, Q, L, 2]` (or 4: boxes, of which the centre counts), `locations [F,
    Q, M, L, K, 2]` as (x, y) in [0, 1] of the picture (may lie outside), `weights [F,
    Q, M, L, K]`, or None where nothing is weighed; without F there is one frame.
    `sizes` (h, w) of the L levels; `boxes [F, Q, 4]` and the rest as in
    `attention_maps`; `item_name` what a query is, "pixel" in an encoder, `head_name`
    and `point_name` likewise; `most` queries, the surest first (by default as many as
    fit into a megabyte); `caption` what the figure is no evidence of; `cells` outlines
    the `boxes` of all queries, as pixels have them.
    Raises: ValueError for shapes that disagree, negative or non-finite numbers.
    Source: Zhu et al. 2021, equation 3 and figure 6.
    """
    given, even = (boxes, scores, labels, matched), weights is None
    if even:
        weights = torch.full(locations.shape[:-1], EVEN)
    if locations.dim() == 5:  # one frame
        references, locations, weights = (
            references[None],
            locations[None],
            weights[None],
        )
        given = [None if x is None else x[None] for x in given]
    check_shape("locations", locations, "F", "Q", "M", "L", "K", "2")
    f, q, m, levels, k, _ = locations.shape
    references = references[..., :2]  # of a box its centre
    wanted = {
        "references": (references, (f, q, levels, 2)),
        "locations": (locations, (f, q, m, levels, k, 2)),
        "weights": (weights, (f, q, m, levels, k)),
    }
    arrays = {name: _checked(name, *pair) for name, pair in wanted.items()}
    if len(sizes) != levels:
        raise ValueError(f"{len(sizes)} sizes for {levels} levels: give (h, w) of each")
    keys = ("boxes", "scores", "labels", "matched")
    arrays |= answers(f, q, **dict(zip(keys, given)))
    each = 2 * f * (levels * 2 + m * levels * k * 3)  # bytes of a query
    room = max(1, MOST_BYTES // each) if most is None else most
    items = _choose(arrays.get("scores"), q, room)
    arrays = {name: array[:, items] for name, array in arrays.items()}
    frames = [str(x) for x in (frames or range(1, f + 1))]
    if len(frames) != f:
        raise ValueError(f"{len(frames)} names of frames for {f} frames")
    begin = {"frame": f - 1, "item": _surest(arrays), "head": -1} | (start or {})
    notes = {
        "levels": [[int(h), int(w)] for h, w in sizes],
        "frame_name": frame_name,
        "frames": frames,
        "pick": "box",
        "item_name": item_name,
        "head_name": head_name,
        "point_name": point_name,
        "even": even,
        "names": names_for(names, labels, truth_labels),
        "start": begin,
    }
    if len(items) < q:
        notes["items"] = items
    if cells:
        notes["cells"] = True
    return InteractiveFigure(
        "points",
        arrays | truths(truth, truth_labels),
        notes,
        picture=as_picture(rgb),
        title=title,
        summary=_summary(arrays, notes, items, begin),
        caption=caption,
    )


def _checked(name: str, values: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    if tuple(values.shape) != shape:
        raise ValueError(
            f"{name} {list(values.shape)} do not go with the locations: expected "
            f"{list(shape)}"
        )
    values = values.detach().float().cpu()
    if not values.isfinite().all() or (name == "weights" and (values < 0).any()):
        raise ValueError(f"{name} hold NaN, infinite or negative numbers")
    # far outside is outside: half precision ends at 65504
    return values.clamp(-1000, 1000).numpy().astype(np.float16)


def _choose(scores: np.ndarray | None, queries: int, most: int) -> list[int]:
    if most < 1:
        raise ValueError(f"most={most}: show at least one query")
    worth = np.zeros(queries) if scores is None else scores[-1]
    return sorted(np.argsort(-worth, kind="stable")[:most].tolist())


def _surest(arrays: dict[str, np.ndarray]) -> int:
    return int(arrays["scores"][-1].argmax()) if "scores" in arrays else 0


def _summary(arrays: dict, notes: dict, items: list[int], begin: dict) -> str:
    frame, item, name = begin["frame"], begin["item"], notes["item_name"]
    many = "queries" if name == "query" else f"{name}s"
    _, q, m, levels, k = arrays["weights"].shape
    weights = arrays["weights"][frame, item].astype(np.float64)  # [M, L, K]
    total = max(weights.sum(), 1e-30)
    shares = weights.sum((0, 2)) / total  # [L]
    where = arrays["locations"][frame, item].astype(np.float64)  # [M, L, K, 2]
    outside = ((where < 0) | (where > 1)).any(-1)
    by_level = "weight by level " + ", ".join(
        f"{share:.0%} of {h} × {w}" for share, (h, w) in zip(shares, notes["levels"])
    )
    return (
        f"{q} {many}, each with {m} {notes['head_name']}s × {levels} levels × {k} "
        f"{notes['point_name']}s. {name.capitalize()} {items[item]} in "
        f"{notes['frame_name']} {notes['frames'][frame]}: "
        f"{'' if notes['even'] else by_level + '; '}{int(outside.sum())} of "
        f"{outside.size} points lie outside the picture."
    )
