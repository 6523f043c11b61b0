"""Checks of the exercises of chapter 02 (DETR)."""

from collections.abc import Callable

import torch
from torch import Tensor

from . import Verdict, right, wrong
from .trying import call, compare

COST = [[0.7, 0.8], [0.2, 0.1], [0.9, 0.3]]  # of exercise 1: queries, objects


def assignment(answer: object) -> Verdict:
    """Exercise 1: match COST by hand; the query of object 0, the query of object 1."""
    cost = COST
    if answer is None:
        return wrong("not yet: write the query of object 0 and the query of object 1")
    pair = tuple(answer)
    if len(pair) != 2 or not all(isinstance(q, int) and 0 <= q < 3 for q in pair):
        return wrong("give two query numbers, 0 to 2: (for object 0, for object 1)")
    if pair[0] == pair[1]:
        return wrong(
            "one query cannot answer for both objects: that is the whole point"
        )
    best = sum(cost[q][o] for o, q in enumerate((1, 2)))
    mine = sum(cost[q][o] for o, q in enumerate(pair))
    if pair == (0, 1):
        return wrong(
            f"that is greedy: query 1 takes its best object first, and object 0 pays. "
            f"Your sum is {mine:.2f}; another pair has {best:.2f}"
        )
    if mine > best + 1e-9:
        return wrong(f"your sum is {mine:.2f}; another pair has {best:.2f}")
    return right(
        f"sum {best:.2f}: query 1 leaves its best object to 2, which is nearly as good"
    )


def balanced_loss(mine: Callable | None) -> Verdict:
    """Exercise 2: `mine(logits [Q, classes+1], wanted [Q])` -> scalar.

    All empty slots together weigh as much as all matched ones together.
    """
    torch.manual_seed(2)
    logits = torch.randn(9, 4)
    wanted = torch.tensor([3, 0, 3, 3, 2, 3, 3, 3, 1])
    value, fault = call(mine, logits, wanted, unwritten=_unwritten)
    if fault is not None:
        return fault
    value = torch.as_tensor(value)
    if value.shape != ():
        return wrong(f"one number is wanted, yours has shape {list(value.shape)}")
    surprise = -logits.log_softmax(-1)[torch.arange(9), wanted]
    empty = wanted == 3
    truth = (surprise[empty].mean() + surprise[~empty].mean()) / 2
    mistakes = _loss_mistakes(logits, wanted, surprise, empty)
    return compare(value, truth, mistakes, "query")


def _loss_mistakes(
    logits: Tensor, wanted: Tensor, surprise: Tensor, empty: Tensor
) -> tuple:
    def mean(weight: Tensor) -> Tensor:
        return (weight * surprise).sum() / weight.sum()

    share = (~empty).sum() / empty.sum()
    fair = torch.where(empty, share, 1.0)
    front = wanted == 0
    return (
        (mean(torch.where(empty, 0.1, 1.0)), "empty slots still weigh 0.1 each"),
        (surprise.mean(), "a plain mean: six empty slots outweigh three matched ones"),
        (
            mean(torch.where(empty, 1 / share, 1.0)),
            "the wrong way round: objects / empty",
        ),
        (
            mean(torch.where(empty, 1 / empty.sum(), 1.0)),
            "empties weigh 1 together: not 3",
        ),
        (
            (fair * surprise).mean(),
            "you divide by the number of queries; divide by the sum of the weights",
        ),
        ((fair * surprise).sum(), "this is the sum; divide by the sum of the weights"),
        (
            surprise[empty].mean() + surprise[~empty].mean(),
            "right up to a factor of 2: divide by the sum of the weights",
        ),
        (surprise[~empty].mean(), "the empty slots are missing: nobody learns ∅"),
        (
            (surprise[front].mean() + surprise[~front].mean()) / 2,
            "you took class 0 for “no object”: it is the last class",
        ),
        (
            _raw(logits, wanted, fair),
            "you used probabilities where −log of them is wanted",
        ),
    )


def _raw(logits: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    picked = -logits.softmax(-1)[torch.arange(len(wanted)), wanted]
    return (weight * picked).sum() / weight.sum()


def postprocess(mine: Callable | None) -> Verdict:
    """Exercise 3: `mine(logits [Q,C+1], boxes [Q,4], (H, W))` -> boxes, scores, labels.

    Boxes xyxy in pixels, in the order of the queries.
    """
    torch.manual_seed(3)
    logits, boxes = torch.randn(9, 5) * 2, torch.rand(9, 4) * 0.5 + 0.2
    logits[:4, -1] += 6  # several slots say "no object"
    height, width = 60, 200
    value, fault = call(mine, logits, boxes, (height, width), unwritten=_unwritten)
    if fault is not None:
        return fault
    if not isinstance(value, tuple | list) or len(value) != 3:
        return wrong("return three tensors: boxes, scores, labels")
    found, scores, labels = value
    if found.ndim != 2 or found.shape[-1] != 4:
        return wrong("the order is boxes, scores, labels")
    if len(found) != 9:
        return wrong(
            f"{len(found)} answers for 9 queries: keep all, AP likes low ones too"
        )
    faults = (
        _judge_classes(logits, scores, labels),
        _judge_boxes(boxes, found, height, width),
    )
    for fault in faults:
        if fault is not None:
            return fault
    return right("all nine slots answer, and no threshold was needed")


def _judge_classes(logits: Tensor, scores: Tensor, labels: Tensor) -> Verdict | None:
    probability = logits.softmax(-1)
    if not torch.equal(scores, scores.clamp(0, 1)):
        return wrong("scores are logits still: the softmax makes them probabilities")
    if torch.allclose(scores, probability[:, :-1].amax(-1).sort(descending=True)[0]):
        return wrong("you sorted by score: keep the order of the queries here")
    if (labels == 4).any():
        return wrong("label 4 is “no object”: drop that column before you take the max")
    best, wanted = probability[:, :-1].max(-1)
    if torch.allclose(scores, logits[:, :-1].softmax(-1).max(-1).values, atol=1e-5):
        return wrong(
            "you dropped “no object” before the softmax: then empty slots look sure"
        )
    if torch.allclose(scores, probability.max(-1).values, atol=1e-5):
        return wrong("your scores still include the “no object” column")
    if not torch.equal(labels.long(), wanted):
        return wrong("some labels differ: take the most probable class of each query")
    if not torch.allclose(scores, best, atol=1e-5):
        return wrong("the scores should be the probability of the chosen class")
    return None


def _judge_boxes(
    boxes: Tensor, found: Tensor, height: int, width: int
) -> Verdict | None:
    size = torch.tensor([width, height, width, height])
    cx, cy, w, h = boxes.unbind(-1)
    corners = torch.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), -1)
    swapped = torch.tensor([height, width, height, width])
    mistakes = (
        (corners, "boxes are still shares of the image: multiply by its size"),
        (boxes * size, "boxes are still centre and size: turn them into corners"),
        (corners * swapped, "x goes with the width: sizes come as (H, W)"),
        (
            torch.stack((cx, cy, cx + w, cy + h), -1) * size,
            "cx, cy is the centre, not the upper left corner",
        ),
    )
    verdict = compare(found, corners * size, mistakes, "query")
    return None if verdict else verdict


def _unwritten(value: object) -> bool:
    return value is None or (
        isinstance(value, tuple) and any(part is None for part in value)
    )
