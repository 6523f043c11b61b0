"""Which query is matched with which object, at what cost: a table to play with."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ...objective import matching as costs
from .answers import Answers, as_picture
from .figure import InteractiveFigure

RULES = ("hungarian", "none")
TITLE = "Matching: who answers for which object"
COST_NOT_QUALITY = (
    "The cost decides who is taught what, not who is right: a matched query can be a "
    "bad box that was only cheaper than the others."
)
AxisNames = tuple[Sequence[str] | None, Sequence[str] | None]


def matching(
    parts: Mapping[str, Tensor],
    answers: Answers,
    rgb: Tensor | np.ndarray | None = None,
    *,
    weights: Mapping[str, float] | None = None,
    limits: Mapping[str, tuple[float, float]] | None = None,
    rule: str = "hungarian",
    axes: AxisNames = (None, None),
    title: str = TITLE,
) -> InteractiveFigure:
    """Hover a cost to see both boxes; move a weight and see which queries match then.

    `parts {name: [Q, N]}` whose weighted sum is the cost, `weights` 1 each if not
    given, `limits` of their sliders (0 to twice the weight); `answers` with boxes
    `[Q, 4]`, truth `[N, 4]` and, if there are classes, `scores`, `labels [Q]` and
    truth_labels; `rule` "hungarian", or "none" for a bare table; `axes` names of rows
    and of columns. Raises: ValueError for shapes that disagree, non-finite costs, a
    weight without a part, an unknown rule. Built in chapters/02_detr.ipynb.
    """
    table = _table(parts)  # [P, Q, N]
    weights = _of_parts("weights", weights, {name: 1.0 for name in parts})
    twice = {name: (0.0, 2 * weight or 1.0) for name, weight in weights.items()}
    limits = _of_parts("limits", limits, twice)
    if rule not in RULES:
        raise ValueError(f"rule {rule!r}: one of {', '.join(RULES)}")
    notes = _axes(table, answers, axes) | {
        "parts": list(parts),
        "weights": [float(weight) for weight in weights.values()],
        "limits": [[float(x) for x in limit] for limit in limits.values()],
        "rule": rule,
        "names": answers.class_names,
        "start": _start(table, weights, answers.truth),
    }
    return InteractiveFigure(
        "matching",
        {"parts": table.numpy()} | answers.arrays,
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
    table, answers = _table({"IoU": ious}), Answers(boxes=boxes, truth=truth)
    best, column = divmod(int(table.argmax()), table.shape[2])
    notes = _axes(table, answers, (row_names, column_names)) | {
        "parts": ["IoU"],
        "rule": "none",
        "better": "high",
        "digits": 2,
        "start": {"item": best, "column": column},
    }
    return InteractiveFigure(
        "matching",
        {"parts": table.numpy()} | answers.arrays,
        notes,
        picture=as_picture(rgb),
        title=title,
        summary=f"{len(boxes)} detections and {len(truth)} objects. The best pair is "
        f"{row_names[best]} with {column_names[column]}, IoU {table.max():.2f}.",
        caption="IoU compares boxes only: it knows neither class nor shape, and a box "
        "around two objects overlaps both.",
    )


def _axes(table: Tensor, answers: Answers, axes: AxisNames) -> dict[str, list[str]]:
    """Names of rows and columns; ValueError unless the table, too, has so many."""
    _, q, n = table.shape
    rows, columns = axes
    rows = rows or [f"query {i}" for i in range(q)]
    if columns is None and answers.truth_labels is not None:
        names = answers.class_names
        columns = [f"{i} {names[x]}" for i, x in enumerate(answers.truth_labels)]
    columns = columns or [f"object {i}" for i in range(n)]
    given = (len(answers.boxes), len(rows), len(answers.truth), len(columns))
    if given != (q, q, n, n):
        raise ValueError(
            f"a table of {q} x {n} for {given[0]} boxes with {given[1]} names and "
            f"{given[2]} objects with {given[3]} names"
        )
    return {"row_names": list(rows), "column_names": list(columns)}


def _table(parts: Mapping[str, Tensor]) -> Tensor:
    """The parts of a cost in one tensor `[P, Q, N]`."""
    tensors = [torch.as_tensor(p).detach().float().cpu() for p in parts.values()]
    shapes = {tuple(part.shape) for part in tensors}
    if len(shapes) != 1 or any(len(shape) != 2 or 0 in shape for shape in shapes):
        raise ValueError(
            f"parts of the shapes {sorted(map(list, shapes))}: give {{name: cost "
            "[Q, N]} of the same queries and objects"
        )
    table = torch.stack(tensors)
    if not table.isfinite().all():
        raise ValueError("a cost is NaN or infinite: the predictions have diverged")
    return table


def _of_parts(what: str, given: Mapping | None, otherwise: Mapping) -> dict:
    """Something for each part of the cost, in their order."""
    if unknown := sorted(set(given or {}) - set(otherwise)):
        raise ValueError(f"{what} for {unknown[0]!r}: the parts are {list(otherwise)}")
    return {**otherwise, **(given or {})}


def _start(table: Tensor, weights: dict, truth: Tensor) -> dict[str, int]:
    """The cheapest query of the largest object."""
    column = int(truth[:, 2:].prod(-1).argmax())
    cost = sum(weight * part for weight, part in zip(weights.values(), table))
    return {"item": int(cost[:, column].argmin()), "column": column}


def _summary(table: Tensor, notes: dict) -> str:
    rows, columns = notes["row_names"], notes["column_names"]
    weights = torch.tensor(notes["weights"])[:, None, None]
    cost = (weights * table).sum(0)  # [Q, N]
    pairs = zip(notes["weights"], notes["parts"])
    formula = " + ".join(f"{weight:g} · ({part})" for weight, part in pairs)
    text = f"{len(rows)} queries and {len(columns)} objects; cost = {formula}."
    if notes["rule"] == "none":
        return text
    matched = costs.assign(cost[None, None], [cost.shape[1]])[0, 0]  # [N]
    pairs = [
        f"{columns[n]} to {rows[q]} at {cost[q, n]:z.2f}"
        for n, q in enumerate(matched.tolist())
        if q >= 0
    ]
    return f"{text} Cheapest pairs: {'; '.join(pairs)}."
