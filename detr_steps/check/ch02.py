"""Checks of the exercises of chapters/02_detr.ipynb."""

import torch

from .ch00 import in_pixels
from .trying import Trial, exercise, numbers, tensors, turned

COST = [[0.7, 0.8], [0.2, 0.1], [0.9, 0.3]]  # of exercise 1: queries, objects
BEST = (1, 2)  # its answer: the query of object 0, of object 1


def _sums(pair: tuple[int, int]) -> str:
    mine, best = (sum(COST[q][o] for o, q in enumerate(p)) for p in (pair, BEST))
    return f"our sum is {mine:.2f}; another pair has {best:.2f}"


QUERIES = "give two query numbers, 0 to 2: (for object 0, for object 1)"
assignment = exercise(__name__, "assignment", """
    Check exercise 1, COST matched by hand -> (query of object 0, of object 1).""",
    praise="sum 0.50: query 1 leaves its best object to 2, which is nearly as good",
    blank="write the query of object 0 and the query of object 1",
    by_hand=True, cases=[()], answer=BEST,
    mistakes={
        "that is greedy: query 1 takes its best object first, and object 0 pays. "
        f"Y{_sums((0, 1))}": (0, 1),
        "the right two queries, turned round: object 0's comes first. "
        f"Y{_sums((2, 1))}": (2, 1),
    },
    before={
        QUERIES: lambda pair:
            len(pair) != 2 or not all(isinstance(q, int) and 0 <= q < 3 for q in pair),
        "one query cannot answer for both objects: that is the whole point":
            lambda pair: pair[0] == pair[1],
    },
    convert=tuple, kind=QUERIES,
    otherwise=lambda pair, best: f"y{_sums(pair)}",
)  # fmt: skip


def _loss(logits, wanted, weight=None, no_object=3, log=torch.log, divide=torch.sum):
    """The weighted mean of −log of the wanted probability, or a mistake with it.

    `weight(empty [Q])` what an empty slot weighs; matched ones weigh 1.
    """
    surprise = -log(logits.softmax(-1))[torch.arange(len(wanted)), wanted]
    empty = wanted == no_object
    balance = (~empty).sum() / empty.sum()
    weights = torch.where(empty, weight(empty) if weight else balance, 1.0)
    return (weights * surprise).sum() / divide(weights)


balanced_loss = exercise(__name__, "balanced_loss", """
    Check exercise 2, `mine(logits [Q, classes + 1], wanted [Q])` -> a scalar.

    The class loss in which all empty slots together weigh as much as all matched.""",
    cases=[(6 * numbers(9, 4) - 3, torch.tensor([3, 0, 3, 3, 2, 3, 3, 3, 1]))],
    answer=_loss,
    mistakes={
        "empty slots still weigh 0.1 each": {"weight": lambda empty: 0.1},
        "a plain mean: six empty slots outweigh three matched ones":
            {"weight": lambda empty: 1.0},
        "the wrong way round: objects / empty":
            {"weight": lambda empty: empty.sum() / (~empty).sum()},
        "empties weigh 1 together: not 3": {"weight": lambda empty: 1 / empty.sum()},
        "you divide by the number of queries; divide by the sum of the weights":
            {"divide": len},
        "this is the sum; divide by the sum of the weights":
            {"divide": lambda weights: 1},
        "right up to a factor of 2: divide by the sum of the weights":
            {"divide": lambda weights: weights.sum() / 2},
        "the empty slots are missing: nobody learns ∅": {"weight": lambda empty: 0.0},
        "you took class 0 for “no object”: it is the last class": {"no_object": 0},
        "you used probabilities where −log of them is wanted":
            {"log": lambda probability: probability},
    },
    convert=torch.as_tensor, unit="query",
    kind="one number is wanted, yours is a {kind}",
)  # fmt: skip

OUTPUTS = [(8 * numbers(9, 5) - 4, 0.5 * numbers(9, 4) + 0.2, (60, 200))]
OUTPUTS[0][0][:4, -1] += 6  # several slots say "no object"
LABELS = Trial(
    OUTPUTS, lambda logits, boxes, size: logits[:, :-1].argmax(-1),
    convert=tensors(3), part=2,
    otherwise="some labels differ: take the most probable class of each query",
)  # fmt: skip
BOXES = Trial(
    OUTPUTS, lambda logits, boxes, size, **how: in_pixels(boxes, size, **how),
    mistakes={
        "boxes are still shares of the image: multiply by its size": {"size": (1, 1)},
        "boxes are still centre and size: turn them into corners":
            lambda logits, boxes, size: boxes * torch.tensor([size[1], size[0]] * 2),
        "x goes with the width: sizes come as (H, W)": {"size": turned},
        "cx, cy is the centre, not the upper left corner": {"back": 0, "on": 1},
        "twice too large: from the centre to a side is half the width":
            {"back": 1, "on": 1},
    },
    convert=tensors(3), part=0, unit="query",
)  # fmt: skip
postprocess = exercise(__name__, "postprocess", """
    Check exercise 3, `mine(logits [Q, C + 1], boxes [Q, 4], (H, W))`.

    Returns boxes (xyxy in pixels), scores and labels in the order of the queries.""",
    praise="all nine slots answer, and no threshold was needed",
    cases=OUTPUTS,
    answer=lambda logits, boxes, size: logits.softmax(-1)[:, :-1].amax(-1),
    mistakes={
        "you sorted by score: keep the order of the queries here":
            {"result": lambda scores: scores.sort(descending=True).values},
        "you dropped “no object” before the softmax: then empty slots look sure":
            lambda logits, boxes, size: logits[:, :-1].softmax(-1).amax(-1),
        "your scores still include the “no object” column":
            lambda logits, boxes, size: logits.softmax(-1).amax(-1),
        "these are the least probable classes: take the maximum":
            lambda logits, boxes, size: logits.softmax(-1)[:, :-1].amin(-1),
        "each class is judged by itself: DETR's classes share one softmax":
            lambda logits, boxes, size: logits.sigmoid()[:, :-1].amax(-1),
    },
    before={
        "the order is boxes, scores, labels":
            lambda value: value[0].ndim != 2 or value[0].shape[-1] != 4,
        "{} answers for 9 queries: keep all, AP likes low ones too":
            lambda value: len(value[0]) != 9 and str(len(value[0])),
        "scores are logits still: the softmax makes them probabilities":
            lambda value: not ((value[1] >= 0) & (value[1] <= 1)).all(),
        "label 4 is “no object”: drop that column before you take the max":
            lambda value: (value[2] == 4).any(),
    },
    convert=tensors(3), kind="return three tensors: boxes, scores, labels", part=1,
    otherwise="the scores should be the probability of the chosen class",
    then=[LABELS, BOXES],
)  # fmt: skip
