"""Who answers for which object, and what it costs: a table to play with."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ...objective import matching as costs
from .figure import InteractiveFigure
from .maps import answers, as_picture, check_shape, names_for, truths

RULES = ("hungarian", "none")
COST_NOT_QUALITY = (
    "The cost decides who is taught what, not who is right: a matched query can be a "
    "bad box that was only cheaper than the others."
)


def matching(
    parts: Mapping[str, Tensor],
    *,
    boxes: Tensor,
    truth: Tensor,
    rgb: Tensor | np.ndarray | None = None,
    weights: Mapping[str, float] | None = None,
    limits: Mapping[str, tuple[float, float]] | None = None,
    rule: str = "hungarian",
    names: Sequence[str] | None = None,
    scores: Tensor | None = None,
    labels: Tensor | None = None,
    truth_labels: Tensor | None = None,
    row_names: Sequence[str] | None = None,
    column_names: Sequence[str] | None = None,
    title: str = "Matching: who answers for which object",
) -> InteractiveFigure:
    """Hover a cost to see both boxes; move a weight and see who is matched then.

    `parts {name: [Q, N]}` whose weighted sum is the cost, `weights` 1 each if not
    given, `limits` of their sliders (0 to twice the weight); `boxes [Q, 4]` and `truth
    [N, 4]` cxcywh in [0, 1]; class `names` with `labels`, `scores [Q]`, `truth_labels
    [N]` if there are classes; `rule` "hungarian", or "none" for a bare table.
    Raises: ValueError for shapes that disagree, non-finite costs, a weight without a
    part, an unknown rule.
    Built in chapters/02_detr.ipynb.
    """
    table = _table(parts)  # [P, Q, N]
    _, q, n = table.shape
    weights = _of_parts("weights", weights or {}, parts, lambda name: 1.0)
    limits = _of_parts(
        "limits", limits or {}, parts, lambda name: (0.0, 2 * weights[name] or 1.0)
    )
    if rule not in RULES:
        raise ValueError(f"rule {rule!r}: one of {', '.join(RULES)}")
    found = answers(q, boxes=boxes, scores=scores, labels=labels)
    if len(truth) != n:
        raise ValueError(f"parts of {n} objects, but {len(truth)} true boxes")
    names = names_for(names, labels, truth_labels)
    column_names = column_names or _objects(n, names, truth_labels)
    row_names = row_names or [f"query {i}" for i in range(q)]
    if len(row_names) != q or len(column_names) != n:
        raise ValueError(
            f"{len(row_names)} row names and {len(column_names)} column names for a "
            f"table of {q} x {n}"
        )
    notes = {
        "parts": list(parts),
        "weights": [float(weights[name]) for name in parts],
        "limits": [[float(x) for x in limits[name]] for name in parts],
        "rule": rule,
        "names": names,
        "row_names": list(row_names),
        "column_names": list(column_names),
        "start": _start(table, weights, truth),
    }
    return InteractiveFigure(
        "matching",
        {"parts": table.numpy()} | found | truths(truth, truth_labels),
        notes,
        picture=as_picture(rgb),
        title=title,
        summary=_summary(table, notes),
        caption=COST_NOT_QUALITY,
    )


def overlaps(
    ious: Tensor,
    *,
    boxes: Tensor,
    truth: Tensor,
    rgb: Tensor | np.ndarray,
    row_names: Sequence[str],
    column_names: Sequence[str],
    title: str = "IoU of every detection with every object",
) -> InteractiveFigure:
    """Hover an IoU and see the two boxes it compares.

    `ious [n, m]` in [0, 1]; `boxes [n, 4]` and `truth [m, 4]` cxcywh in [0, 1], each
    with its name; `rgb` the picture. Raises: ValueError for shapes that disagree.
    Built in chapters/00_start_here.ipynb.
    """
    table = _table({"IoU": ious})[0]  # [n, m]
    n, m = table.shape
    if (len(row_names), len(column_names)) != (n, m) or (len(boxes), len(truth)) != (
        n,
        m,
    ):
        raise ValueError(
            f"a table of {n} x {m} for {len(boxes)} boxes with {len(row_names)} names "
            f"and {len(truth)} objects with {len(column_names)} names"
        )
    best, column = divmod(int(table.argmax()), m) if table.numel() else (0, 0)
    notes = {
        "parts": ["IoU"],
        "rule": "none",
        "better": "high",
        "digits": 2,
        "row_names": list(row_names),
        "column_names": list(column_names),
        "start": {"item": best, "column": column},
    }
    found = answers(n, boxes=boxes, scores=None, labels=None)
    return InteractiveFigure(
        "matching",
        {"parts": table[None].numpy()} | found | truths(truth, None),
        notes,
        picture=as_picture(rgb),
        title=title,
        summary=f"{n} detections and {m} objects. The best pair is {row_names[best]} "
        f"with {column_names[column]}, IoU {table[best, column]:.2f}.",
        caption="IoU compares boxes only: it knows neither class nor shape, and a box "
        "around two objects overlaps both.",
    )


def _table(parts: Mapping[str, Tensor]) -> Tensor:
    if not parts:
        raise ValueError("no parts: give {name: cost [Q, N]}")
    for name, part in parts.items():
        check_shape(f"part {name!r}", torch.as_tensor(part), "Q", "N")
    shapes = {name: list(part.shape) for name, part in parts.items()}
    if len({tuple(shape) for shape in shapes.values()}) > 1:
        raise ValueError(f"the parts have different shapes: {shapes}")
    stacked = [torch.as_tensor(p).detach().float().cpu() for p in parts.values()]
    table = torch.stack(stacked)  # [P, Q, N]
    if not table.isfinite().all():
        raise ValueError("a cost is NaN or infinite: the predictions have diverged")
    return table


def _of_parts(what: str, given: Mapping, parts: Mapping, other) -> dict:
    if unknown := sorted(set(given) - set(parts)):
        raise ValueError(f"{what} for {unknown[0]!r}: the parts are {list(parts)}")
    return {name: given.get(name, other(name)) for name in parts}


def _objects(n: int, names: list[str], labels: Tensor | None) -> list[str]:
    if labels is None:
        return [f"object {i}" for i in range(n)]
    return [f"{i} {names[label]}" for i, label in enumerate(labels.tolist())]


def _start(table: Tensor, weights: dict, truth: Tensor) -> dict[str, int]:
    """The cheapest query of the largest object."""
    column = int(truth[:, 2:].prod(-1).argmax())
    cost = sum(weight * part for weight, part in zip(weights.values(), table))
    return {"item": int(cost[:, column].argmin()), "column": column}


def _summary(table: Tensor, notes: dict) -> str:
    weights = torch.tensor(notes["weights"])[:, None, None]
    cost = (weights * table).sum(0)  # [Q, N]
    rows, columns = notes["row_names"], notes["column_names"]
    formula = " + ".join(
        f"{w:g} · ({p})" for w, p in zip(notes["weights"], notes["parts"])
    )
    text = f"{len(rows)} queries and {len(columns)} objects; cost = {formula}."
    if notes["rule"] == "none":
        return text
    matched = costs.assign(cost[None, None], [cost.shape[1]])[0, 0]  # [N]
    pairs = [
        f"{columns[n]} to {rows[q]} at {cost[q, n]:.2f}"
        for n, q in enumerate(matched.tolist())
        if q >= 0
    ]
    return f"{text} Cheapest pairs: {'; '.join(pairs)}."
