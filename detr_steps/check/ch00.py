"""Checks of the exercises of chapters/00_start_here.ipynb."""

from collections.abc import Callable

import torch
from torch import Tensor

from .. import boxes
from . import Verdict, right, wrong

ROUNDED = "rounded to whole pixels: keep the fractions, edges lie between pixels too."
NOT_YET = "not yet: {} still returns None. Write it, then run this cell again."


def _random_corners(count: int, generator: torch.Generator) -> Tensor:
    corner = torch.rand(count, 2, generator=generator) * 60
    side = 4 + torch.rand(count, 2, generator=generator) * 40
    return torch.cat((corner, corner + side), dim=1)


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), atol=1e-3)


def _call(answer: Callable, *arguments: object) -> tuple[object, str]:
    """Call the reader's function; what it returns, or with what error it stops."""
    try:
        return answer(*arguments), ""
    except Exception as error:  # whatever a beginner's function may raise
        return None, f"{type(error).__name__}: {error}"


def _fault_of_kind(result: object, name: str) -> Verdict | None:
    if result is None:
        return wrong(NOT_YET.format(name))
    if not isinstance(result, Tensor):
        return wrong(f"{name} returns a {type(result).__name__}; return a tensor.")
    return None


def to_pixels(answer: Callable[[Tensor, tuple[int, int]], Tensor]) -> Verdict:
    """Check exercise 1: `cxcywh [n, 4]` in [0, 1] and `(H, W)` to pixel corners."""
    given = torch.tensor([[0.52, 0.47, 0.23, 0.41], [0.26, 0.53, 0.11, 0.18]])
    height, width = 83, 157  # so that no side comes out whole
    result, error = _call(answer, given.clone(), (height, width))
    if error:
        return wrong(_name_of_pixel_error(error))
    if (fault := _fault_of_kind(result, "to_pixels")) is not None:
        return fault
    scale = torch.tensor([width, height, width, height])
    corners = boxes.cxcywh_to_xyxy(given)
    if _close(result, corners * scale):
        return right("corners in pixels, x with the width and y with the height.")
    return wrong(_name_of_pixel_fault(result, given, corners, scale))


def _name_of_pixel_error(error: str) -> str:
    if "converted to an index" in error or "tuple" in error:
        return (
            "a tensor cannot be multiplied by the tuple (H, W): make a tensor of it, "
            "(W, H, W, H), one number for each of x0, y0, x1, y1."
        )
    if "must match the size" in error:
        return "a box has four numbers and size has two: multiply by (W, H, W, H)."
    return f"it stops with {error}"


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
        ((corners * scale).round(), ROUNDED),
        ((corners * scale).floor(), ROUNDED),
    )
    for slip, name in slips:
        if _close(result, slip):
            return name
    if result.shape != given.shape:
        return f"the shape is {list(result.shape)}, expected {list(given.shape)}."
    return (
        f"for the box {_short(given[0])} in a picture 83 high and 157 wide, expected "
        f"{_short((corners * scale)[0])}, got {_short(result[0])}."
    )


def mask_iou(answer: Callable[[Tensor, Tensor], Tensor]) -> Verdict:
    """Check exercise 2: pairwise IoU of bool masks `[n, H, W], [m, H, W]`."""
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(3, 8, 9, generator=generator) > 0.5
    b = torch.rand(4, 8, 9, generator=generator) > 0.6
    a[0, :3], b[1, :, 5:], b[2, 4:] = False, False, False  # boxes of several sizes
    result, error = _call(answer, a.clone(), b.clone())
    if error:
        return wrong(_name_of_mask_error(error))
    if (fault := _fault_of_kind(result, "mask_iou")) is not None:
        return fault
    shared = (a[:, None] & b).sum((-1, -2))  # [3, 4]
    both = a.sum((-1, -2))[:, None] + b.sum((-1, -2))
    union = both - shared
    if not _close(result, shared / union):
        if result.dtype == torch.bool:
            return wrong(
                "each pair gets True or False: IoU is a share. Count the pixels with "
                ".sum(), then divide the counts."
            )
        slips = _other_shares(a, b, shared)
        return wrong(_name_of_mask_fault(result, shared, both, union, slips))
    return _with_empty_masks(answer)


def _name_of_mask_error(error: str) -> str:
    if "must match the size" in error:
        return (
            "3 masks do not line up with 4: give `a` a new axis, a[:, None], so that "
            "each mask meets each other one."
        )
    return f"it stops with {error}"


def _other_shares(a: Tensor, b: Tensor, shared: Tensor) -> tuple:
    """What else one may divide by, or measure, with the name of the mistake."""
    of_a, of_b = a.sum((-1, -2))[:, None], b.sum((-1, -2))[None]
    return (
        (
            shared / torch.minimum(of_a, of_b),
            "divided by the smaller mask: IoU divides by what *either* covers.",
        ),
        (
            shared / torch.maximum(of_a, of_b),
            "divided by the larger mask: IoU divides by what *either* covers.",
        ),
        (shared / of_a, "divided by a's pixels only: IoU divides by the union."),
        (shared / of_b, "divided by b's pixels only: IoU divides by the union."),
        (
            boxes.iou(_tight_boxes(a), _tight_boxes(b)),
            "that is the IoU of the boxes around the masks: count pixels instead.",
        ),
    )


def _tight_boxes(masks: Tensor) -> Tensor:
    corners = []
    for mask in masks:
        y, x = mask.nonzero(as_tuple=True)
        corners.append(torch.stack((x.min(), y.min(), x.max() + 1, y.max() + 1)))
    return torch.stack(corners).float()


def _name_of_mask_fault(
    result: Tensor, shared: Tensor, both: Tensor, union: Tensor, more_slips: tuple
) -> str:
    slips = (
        *more_slips,
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
    result, error = _call(answer, none, none)
    if error:
        return wrong(f"with two empty masks it stops with {error}")
    if not torch.isfinite(result).all():
        return wrong("two empty masks give 0 / 0: keep the union at least 1.")
    return right("each mask against each mask, empty ones too.")


def nms(answer: Callable[[Tensor, Tensor, float], Tensor]) -> Verdict:
    """Check exercise 3: indices that greedy suppression keeps, best first."""
    trials = _nms_trials()
    calls = [_call(answer, xyxy.clone(), some.clone(), t) for xyxy, some, t in trials]
    kept = []
    for (result, error), (xyxy, _, _) in zip(calls, trials):
        if error:
            return wrong(f"it stops with {error}")
        if (fault := _fault_of_indices(result, len(xyxy))) is not None:
            return fault
        kept.append(torch.as_tensor(result).long().tolist())
    if kept != [_suppress(*trial) for trial in trials]:
        return wrong(_name_of_nms_fault(kept, trials))
    empty, error = _call(answer, torch.zeros(0, 4), torch.zeros(0), 0.5)
    if error:
        return wrong(f"without any box it stops with {error}")
    if empty is None or torch.as_tensor(empty).numel():
        return wrong("no boxes in, no indices out: return an empty list or tensor.")
    return right("best first, and only kept boxes suppress others.")


def _fault_of_indices(result: object, count: int) -> Verdict | None:
    """What is returned instead of indices of `count` boxes."""
    if result is None:
        return wrong(NOT_YET.format("nms"))
    try:
        result = torch.as_tensor(result)
    except (TypeError, ValueError, RuntimeError):
        return wrong(f"nms returns a {type(result).__name__}: return indices.")
    if result.dtype == torch.bool:
        return wrong("that is a mask: return the *indices* of the kept, best first.")
    if result.ndim == 2 and result.shape[-1] == 4:
        return wrong("those are boxes: return their *indices*, best first.")
    if result.ndim != 1:
        return wrong(f"the shape is {list(result.shape)}: return a list of indices.")
    if len(result) and result.is_floating_point():
        return wrong("those are no whole numbers: return indices, not scores.")
    if len(result) and not 0 <= result.min() <= result.max() < count:
        return wrong(f"an index lies outside 0 to {count - 1}: {result.tolist()}.")
    return None


def _nms_trials() -> list[tuple[Tensor, Tensor, float]]:
    chain = torch.tensor([[0, 0, 10, 10.0], [4, 0, 14, 10], [8, 0, 18, 10]])
    # neighbours overlap 0.43, the ends 0.11
    trials = [(chain, torch.tensor([0.7, 0.8, 0.9]), 0.4)]
    halves = torch.tensor([[0, 0, 10, 10.0], [0, 0, 5, 10]])  # IoU 0.5, exactly
    trials.append((halves, torch.tensor([0.6, 0.5]), 0.5))
    generator = torch.Generator().manual_seed(0)
    for count in (6, 12, 30):
        scores = torch.rand(count, generator=generator)
        trials.append((_random_corners(count, generator), scores, 0.3))
    return trials


def _suppress(
    xyxy: Tensor, scores: Tensor, threshold: float, by: str = "kept"
) -> list[int]:
    """Greedy suppression by those kept, or, as mistakes, by `all` or the `last` kept.

    `equal`: those kept, but a box exactly at the threshold goes too.
    """
    order = scores.argsort(descending=True, stable=True).tolist()
    overlap = boxes.iou(xyxy, xyxy)
    kept: list[int] = []
    for place, index in enumerate(order):
        rivals = {"all": order[:place], "last": kept[-1:]}.get(by, kept)
        most = max((overlap[index, other].item() for other in rivals), default=-1.0)
        if most < threshold or (most == threshold and by != "equal"):
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
        lambda xyxy, scores, t: _suppress(xyxy, scores, t, by="all"),
        "a box that is gone still suppresses others: compare with kept ones only.",
    ),
    (
        lambda xyxy, scores, t: _suppress(xyxy, scores, t, by="last"),
        "compared with the last kept box only: compare with *every* box kept so far.",
    ),
    (
        lambda xyxy, scores, t: _suppress(xyxy, scores, t, by="equal"),
        "a box exactly at the threshold goes: drop it only *above*, keep with <=.",
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
            return _name_of_one_box(found, expected, xyxy, threshold)
    return "another result on a second run: is something random in it?"


def _name_of_one_box(
    found: list[int], expected: list[int], xyxy: Tensor, threshold: float
) -> str:
    """Point at the first box that is wrongly gone or wrongly kept."""
    trial, overlap = f"of {len(xyxy)} boxes", boxes.iou(xyxy, xyxy)
    for index in expected:
        if index not in found:
            rivals = [other for other in expected if other != index]
            most = overlap[index, rivals].max().item() if rivals else 0.0
            return (
                f"{trial}, box {index} is gone. It should be kept: its IoU with the "
                f"other kept boxes is at most {most:.2f}, the threshold {threshold}."
            )
    for index in found:
        if index not in expected:
            rival = max(expected, key=lambda other: overlap[index, other].item())
            return (
                f"{trial}, box {index} is kept. It should go: its IoU with the kept "
                f"box {rival} is {overlap[index, rival]:.2f}, above {threshold}."
            )
    return f"{trial}: expected {expected}, got {found}."
