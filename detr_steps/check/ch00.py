"""Checks of the exercises of chapters/00_start_here.ipynb."""

from functools import partial

import torch
from torch import Tensor

from .. import boxes
from .trying import Trial, exercise, numbers, turned


def in_pixels(cxcywh, size, back=0.5, on=0.5):
    """Corners in pixels; `back`, `on` how many sides they lie from the centre."""
    centre, side = cxcywh[:, :2], cxcywh[:, 2:]
    corners = torch.cat((centre - back * side, centre + on * side), 1)
    return corners * torch.tensor([size[1], size[0]] * 2)


def _short(boxes: Tensor) -> list[float]:
    return [round(number, 2) for number in boxes[0].tolist()]


A_TUPLE = (
    "a tensor cannot be multiplied by the tuple (H, W): make a tensor of it, "
    "(W, H, W, H), one number for each of x0, y0, x1, y1."
)
to_pixels = exercise(__name__, "to_pixels", """
    Check exercise 1, `mine(cxcywh [n, 4], (H, W))` -> corners in pixels.""",
    named=True, praise="corners in pixels, x with the width and y with the height.",
    cases=[  # a size with which no side comes out whole
        (torch.tensor([[0.52, 0.47, 0.23, 0.41], [0.26, 0.53, 0.11, 0.18]]), (83, 157))
    ],
    answer=in_pixels,
    mistakes={
        "still in [0, 1]: multiply by the size of the picture.": {"size": (1, 1)},
        "width and height are swapped: size is (H, W), but x comes first in a box.":
            {"size": turned},
        "in pixels, but still centre and size: turn it into corners too.":
            lambda b, size: b * torch.tensor([size[1], size[0]] * 2),
        "the first two numbers are the centre, not the corner: go half a side back and "
        "half a side on.": {"back": 0, "on": 1},
        "the box is twice too large: go *half* a side each way from the centre.":
            {"back": 1, "on": 1},
        "rounded to whole pixels: keep the fractions, edges lie between pixels too.":
            [{"result": torch.round}, {"result": torch.floor}],
    },
    errors={
        "converted to an index": A_TUPLE,
        "tuple": A_TUPLE,
        "must match the size":
            "a box has four numbers and size has two: multiply by (W, H, W, H).",
    },
    otherwise=lambda value, truth, given, size:
        f"for the box {_short(given)} in a picture {size[0]} high and {size[1]} wide, "
        f"expected {_short(truth)}, got {_short(value)}.",
)  # fmt: skip


def _shares(a, b, rule=lambda shared, a, b: shared / (a + b - shared)):
    """What `rule` makes of the counts of pixels: shared `[n, m]`, a's, b's."""
    shared = (a[:, None] & b).sum((-1, -2))
    return rule(shared, a.sum((-1, -2))[:, None], b.sum((-1, -2))[None])


def _tight_boxes(masks: Tensor) -> Tensor:
    inside = [mask.nonzero().flip(1) for mask in masks]  # [pixels, 2] (x, y)
    return torch.stack([torch.cat((p.amin(0), p.amax(0) + 1)) for p in inside]).float()


def _masks() -> tuple[Tensor, Tensor]:
    a, b = numbers(3, 8, 9) > 0.5, numbers(4, 8, 9) > 0.6
    a[0, :3], b[1, :, 5:], b[2, 4:] = False, False, False  # boxes of several sizes
    return a, b


mask_iou = exercise(__name__, "mask_iou", """
    Check exercise 2, `mine(a [n, H, W], b [m, H, W])` -> IoU of masks `[n, m]`.""",
    named=True, praise="each mask against each mask, empty ones too.",
    cases=[_masks()], answer=_shares,
    mistakes={
        "that is the IoU of the boxes around the masks: count pixels instead.":
            lambda a, b: boxes.iou(_tight_boxes(a), _tight_boxes(b)),
        "divided by the smaller mask: IoU divides by what *either* covers.":
            {"rule": lambda s, a, b: s / torch.minimum(a, b)},
        "divided by the larger mask: IoU divides by what *either* covers.":
            {"rule": lambda s, a, b: s / torch.maximum(a, b)},
        "divided by a's pixels only: IoU divides by the union.":
            {"rule": lambda s, a, b: s / a},
        "divided by b's pixels only: IoU divides by the union.":
            {"rule": lambda s, a, b: s / b},
        "the shared pixels count twice below the line: union = a + b − shared.":
            {"rule": lambda s, a, b: s / (a + b)},
        "that is the Dice score, 2·shared / (a + b): IoU divides by the union.":
            {"rule": lambda s, a, b: 2 * s / (a + b)},
        "those are the shared pixels: divide by the union.":
            {"rule": lambda s, a, b: s},
        "rows and columns are swapped: a's masks are the rows.": {"result": torch.t},
        "whole-number division: the pixel counts are integers, use / and not //.":
            {"rule": lambda s, a, b: s // (a + b - s)},
    },
    before={
        "each pair gets True or False: IoU is a share. Count the pixels with .sum(), "
        "then divide the counts.": lambda value: value.dtype == torch.bool,
    },
    errors={
        "must match the size": "3 masks do not line up with 4: give `a` a new axis, "
        "a[:, None], so that each mask meets each other one."
    },
    shape="{} for 3 and 4 masks: sum over the last two axes only",
    unit="pair",
    then=[Trial(
        [(torch.zeros(1, 8, 9, dtype=torch.bool),) * 2],
        before={"two empty masks give 0 / 0: keep the union at least 1.":
                lambda value: not value.isfinite().all()},
        when="with two empty masks",
    )],
)  # fmt: skip


def _suppress(xyxy, scores, threshold, by="kept", best_first=False):
    """Greedy suppression by those kept, or, as mistakes, by `all` or the `last` kept.

    `equal`: those kept, but a box exactly at the threshold goes too.
    """
    order = scores.argsort(descending=True, stable=True).tolist()
    overlap, kept = boxes.iou(xyxy, xyxy), []
    for place, index in enumerate(order):
        rivals = {"all": order[:place], "last": kept[-1:]}.get(by, kept)
        most = max((overlap[index, other].item() for other in rivals), default=-1.0)
        if most < threshold or (most == threshold and by != "equal"):
            kept.append(index)
    return kept if best_first else sorted(kept)


def _one_of_boxes(value, truth, xyxy, scores, threshold):
    """Point at the first box that is wrongly gone or wrongly kept."""
    found, count = value.tolist(), len(xyxy)
    if not set(found) <= set(range(count)):
        return f"an index lies outside 0 to {count - 1}: {found}."
    wrong = [i for i in truth if i not in found] + [i for i in found if i not in truth]
    if not wrong:
        return f"of {count} boxes: expected {truth}, got {found}: each box only once."
    index = wrong[0]
    rivals = [other for other in truth if other != index]
    overlap = boxes.iou(xyxy[[index]], xyxy[rivals])[0].tolist()
    most, rival = max(zip(overlap, rivals), default=(0.0, index))
    if index in truth:
        return (
            f"of {count} boxes, box {index} is gone. It should be kept: its IoU with "
            f"the other kept boxes is at most {most:.2f}, the threshold {threshold}."
        )
    return (
        f"of {count} boxes, box {index} is kept. It should go: its IoU with the kept "
        f"box {rival} is {most:.2f}, above {threshold}."
    )


def _suppressions() -> list[tuple[Tensor, Tensor, float]]:
    """Boxes, scores, threshold of each call."""
    # neighbours overlap 0.43, the ends 0.11
    chain = torch.tensor([[0, 0, 10, 10.0], [4, 0, 14, 10], [8, 0, 18, 10]])
    halves = torch.tensor([[0, 0, 10, 10.0], [0, 0, 5, 10]])  # IoU 0.5, exactly
    cases = [
        (chain, torch.tensor([0.7, 0.8, 0.9]), 0.4),
        (halves, torch.tensor([0.6, 0.5]), 0.5),
    ]
    for count in (6, 12, 30):
        corner, side, scores = numbers(5, count).split((2, 2, 1))
        xyxy = torch.cat((60 * corner, 60 * corner + 4 + 40 * side)).T
        cases.append((xyxy, scores[0], 0.3))
    return cases


nms = exercise(__name__, "nms", """
    Check exercise 3, `mine(xyxy [n, 4], scores [n], threshold)` -> indices.

    Of the boxes that greedy suppression keeps, best first: a tensor or a list.""",
    named=True, praise="best first, and only kept boxes suppress others.",
    cases=_suppressions(), answer=_suppress,
    mistakes={
        "nothing is kept: does a box suppress itself? Its IoU with itself is 1, so "
        "compare only with boxes kept before it.": lambda *case: [],
        "all are kept: drop a box whose IoU with a kept one is above the threshold.":
            lambda xyxy, scores, threshold: list(range(len(scores))),
        "the worst score goes first: sort with descending=True.": {"scores": torch.neg},
        "the boxes are taken as they come: sort by score first, best first.":
            {"scores": lambda scores: -torch.arange(len(scores))},
        "a box that is gone still suppresses others: compare with kept ones only.":
            {"by": "all"},
        "compared with the last kept box only: compare with *every* box kept so far.":
            {"by": "last"},
        "a box exactly at the threshold goes: drop it only *above*, keep with <=.":
            {"by": "equal"},
        "these are places in the sorted list: look up the index in the input.":
            lambda xyxy, scores, threshold: scores.argsort(descending=True).argsort()[
                _suppress(xyxy, scores, threshold)].sort().values,
    },
    before={
        "that is a mask: return the *indices* of the kept, best first.":
            lambda value: value.dtype == torch.bool,
        "those are boxes: return their *indices*, best first.":
            lambda value: value.ndim == 2 and value.shape[-1] == 4,
        "the shape is {}: return a list of indices.":
            lambda value: value.ndim != 1 and str(list(value.shape)),
        "those are no whole numbers: return indices, not scores.":
            lambda value: len(value) and value.is_floating_point(),
    },
    convert=lambda value: torch.as_tensor(value).sort(0).values, shape="",
    kind="{who} returns a {kind}: return indices.", otherwise=_one_of_boxes,
    then=[
        Trial(
            _suppressions(), partial(_suppress, best_first=True),
            convert=torch.as_tensor,
            otherwise="the right boxes in another order: return them best first.",
        ),
        Trial(
            [(torch.zeros(0, 4), torch.zeros(0), 0.5)],
            before={"no boxes in, no indices out: return an empty list or tensor.":
                    torch.numel},
            convert=torch.as_tensor, when="without any box",
        ),
    ],
)  # fmt: skip
