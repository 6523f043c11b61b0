"""Checks of the exercises of chapters/00_start_here.ipynb."""

from collections.abc import Callable

import torch
from torch import Tensor

from .. import boxes
from . import Verdict, right, wrong

NOT_YET = "not yet: {} still returns None. Write it, then run this cell again."


def _random_corners(count: int, generator: torch.Generator) -> Tensor:
    corner = torch.rand(count, 2, generator=generator) * 60
    side = 4 + torch.rand(count, 2, generator=generator) * 40
    return torch.cat((corner, corner + side), dim=1)


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), atol=1e-3)


def _fault_of_kind(result: object, name: str) -> Verdict | None:
    if result is None:
        return wrong(NOT_YET.format(name))
    if not isinstance(result, Tensor):
        return wrong(f"{name} returns a {type(result).__name__}; return a tensor.")
    return None


def to_pixels(answer: Callable[[Tensor, tuple[int, int]], Tensor]) -> Verdict:
    """Check exercise 1: `cxcywh [n, 4]` in [0, 1] and `(H, W)` to pixel corners."""
    given = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.25, 0.5, 0.1, 0.2]])
    height, width = 80, 160
    result = answer(given.clone(), (height, width))
    if (fault := _fault_of_kind(result, "to_pixels")) is not None:
        return fault
    scale = torch.tensor([width, height, width, height])
    corners = boxes.cxcywh_to_xyxy(given)
    if _close(result, corners * scale):
        return right("corners in pixels, x with the width and y with the height.")
    return wrong(_name_of_pixel_fault(result, given, corners, scale))


def _name_of_pixel_fault(
    result: Tensor, given: Tensor, corners: Tensor, scale: Tensor
) -> str:
    slips = (
        (corners, "still in [0, 1]: multiply by the size of the picture."),
        (
            corners * scale.flip(0),
            "width and height are swapped: size is (H, W), but x comes first in a box.",
        ),
        (
            given * scale,
            "in pixels, but still centre and size: turn it into corners too.",
        ),
        (
            torch.cat((given[:, :2], given[:, :2] + given[:, 2:]), 1) * scale,
            "the first two numbers are the centre, not the corner: go half a side back "
            "and half a side on.",
        ),
        (
            torch.cat((given[:, :2] - given[:, 2:], given[:, :2] + given[:, 2:]), 1)
            * scale,
            "the box is twice too large: go *half* a side each way from the centre.",
        ),
    )
    for slip, name in slips:
        if _close(result, slip):
            return name
    if result.shape != given.shape:
        return f"the shape is {list(result.shape)}, expected {list(given.shape)}."
    return (
        f"for the box {given[0].tolist()} in a picture 80 high and 160 wide, expected "
        f"{(corners * scale)[0].round().tolist()}, got {result[0].tolist()}."
    )


def mask_iou(answer: Callable[[Tensor, Tensor], Tensor]) -> Verdict:
    """Check exercise 2: pairwise IoU of bool masks `[n, H, W], [m, H, W]`."""
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(3, 8, 9, generator=generator) > 0.5
    b = torch.rand(4, 8, 9, generator=generator) > 0.7
    try:
        result = answer(a.clone(), b.clone())
    except RuntimeError as error:
        return wrong(_name_of_mask_error(str(error)))
    if (fault := _fault_of_kind(result, "mask_iou")) is not None:
        return fault
    shared = (a[:, None] & b).sum((-1, -2))  # [3, 4]
    both = a.sum((-1, -2))[:, None] + b.sum((-1, -2))
    union = both - shared
    if not _close(result, shared / union):
        return wrong(_name_of_mask_fault(result, shared, both, union))
    return _with_empty_masks(answer)


def _name_of_mask_error(error: str) -> str:
    if "must match the size" in error:
        return (
            "3 masks do not line up with 4: give `a` a new axis, a[:, None], so that "
            "each mask meets each other one."
        )
    return f"it stops with: {error}"


def _name_of_mask_fault(
    result: Tensor, shared: Tensor, both: Tensor, union: Tensor
) -> str:
    slips = (
        (
            shared / both,
            "the shared pixels count twice below the line: union = a + b − shared.",
        ),
        (
            2 * shared / both,
            "that is the Dice score, 2·shared / (a + b): IoU divides by the union.",
        ),
        (shared, "those are the shared pixels: divide by the union."),
        ((shared / union).T, "rows and columns are swapped: a's masks are the rows."),
        (
            shared // union,
            "whole-number division: the pixel counts are integers, use / and not //.",
        ),
    )
    for slip, name in slips:
        if _close(result, slip):
            return name
    if result.shape != shared.shape:
        return (
            f"the shape is {list(result.shape)}, expected [3, 4] for 3 and 4 masks: "
            "sum over the last two axes only."
        )
    wanted, got = (shared / union)[0, 0], result[0, 0]
    return f"for the first pair: expected {wanted:.3f}, got {got:.3f}."


def _with_empty_masks(answer: Callable[[Tensor, Tensor], Tensor]) -> Verdict:
    none = torch.zeros(1, 8, 9, dtype=torch.bool)
    if not torch.isfinite(answer(none, none)).all():
        return wrong("two empty masks give 0 / 0: keep the union at least 1.")
    return right("each mask against each mask, empty ones too.")


def nms(answer: Callable[[Tensor, Tensor, float], Tensor]) -> Verdict:
    """Check exercise 3: indices that greedy suppression keeps, best first."""
    trials = _nms_trials()
    results = [answer(xyxy.clone(), some.clone(), t) for xyxy, some, t in trials]
    if any(result is None for result in results):
        return wrong(NOT_YET.format("nms"))
    kept = [torch.as_tensor(result).long().flatten().tolist() for result in results]
    if kept != [_suppress(*trial) for trial in trials]:
        return wrong(_name_of_nms_fault(kept, trials))
    empty = answer(torch.zeros(0, 4), torch.zeros(0), 0.5)
    if empty is None or torch.as_tensor(empty).numel():
        return wrong("no boxes in, no indices out: return an empty list or tensor.")
    return right("best first, and only kept boxes suppress others.")


def _nms_trials() -> list[tuple[Tensor, Tensor, float]]:
    chain = torch.tensor([[0, 0, 10, 10.0], [4, 0, 14, 10], [8, 0, 18, 10]])
    # neighbours overlap 0.43, the ends 0.11
    trials = [(chain, torch.tensor([0.7, 0.8, 0.9]), 0.4)]
    generator = torch.Generator().manual_seed(0)
    for count in (6, 12, 30):
        scores = torch.rand(count, generator=generator)
        trials.append((_random_corners(count, generator), scores, 0.3))
    return trials


def _suppress(
    xyxy: Tensor, scores: Tensor, threshold: float, by_all: bool = False
) -> list[int]:
    """Greedy suppression; `by_all` lets suppressed boxes suppress too (a mistake)."""
    order = scores.argsort(descending=True, stable=True).tolist()
    overlap = boxes.iou(xyxy, xyxy)
    kept: list[int] = []
    for place, index in enumerate(order):
        rivals = order[:place] if by_all else kept
        if all(overlap[index, other] <= threshold for other in rivals):
            kept.append(index)
    return kept


def _places(xyxy: Tensor, scores: Tensor, threshold: float) -> list[int]:
    """Where the kept boxes stand in the sorted list (a mistake)."""
    order = scores.argsort(descending=True, stable=True).tolist()
    return [order.index(index) for index in _suppress(xyxy, scores, threshold)]


def _as_they_come(xyxy: Tensor, scores: Tensor, threshold: float) -> list[int]:
    return _suppress(xyxy, -torch.arange(len(scores)).float(), threshold)


NMS_SLIPS = (
    (
        lambda xyxy, scores, t: [],
        "nothing is kept: does a box suppress itself? Its IoU with itself is 1, so "
        "compare only with boxes kept before it.",
    ),
    (
        lambda xyxy, scores, t: list(range(len(scores))),
        "all are kept: drop a box whose IoU with a kept one is above the threshold.",
    ),
    (
        lambda xyxy, scores, t: _suppress(xyxy, -scores, t),
        "the worst score goes first: sort with descending=True.",
    ),
    (
        _as_they_come,
        "the boxes are taken as they come: sort by score first, best first.",
    ),
    (
        lambda xyxy, scores, t: _suppress(xyxy, scores, t, by_all=True),
        "a box that is gone still suppresses others: compare with kept ones only.",
    ),
    (
        _places,
        "these are places in the sorted list: look up the index in the input.",
    ),
    (_suppress, "the right boxes in another order: return them best first."),
)


def _short(values: Tensor) -> list[float]:
    return [round(value, 2) for value in values.tolist()]


def _name_of_nms_fault(kept: list[list[int]], trials: list[tuple]) -> str:
    for slip, name in NMS_SLIPS:
        if all(sorted(k) == sorted(slip(*trial)) for k, trial in zip(kept, trials)):
            return name
    for found, (xyxy, scores, threshold) in zip(kept, trials):
        expected = _suppress(xyxy, scores, threshold)
        if found != expected:
            return (
                f"boxes {xyxy.int().tolist()}, scores {_short(scores)}, threshold "
                f"{threshold}: expected {expected}, got {found}."
            )
    return "another result on a second run: is something random in it?"
