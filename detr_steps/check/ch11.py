"""Checks of the exercises of chapters/11_sqr.ipynb."""

import torch

from .trying import Trial, exercise, numbers, same_numbers, tensors


def _counts(layers, reach=2, first=1, back=0):
    """Sets of each layer, right unless told to make a mistake."""
    counts = [first]
    for layer in range(layers):
        counts.append(sum(counts[max(0, layer + 1 - (reach or layer + 1)) :]) + back)
    return counts[1:]


sets = exercise(__name__, "sets", """
    Check exercise 1, `mine(layers)` -> how many sets each decoder layer refines (SQR).

    Source: Chen et al. 2023, section 4.2.""",
    praise="each layer has the sets of the two before it: Fibonacci",
    cases=[(1,), (2,), (6,), (9,)], answer=_counts,
    mistakes={
        "that is DQR: a layer of SQR recollects the outputs of the two layers before "
        "it, not of all": {"reach": 0},
        "that is inference: in training a layer also refines what the layer before "
        "the last one made": {"reach": 1},
        "a layer before is one too many: two, not three": {"reach": 3},
        "layer 2 has two sets already: the output of layer 1, and the queries at the "
        "start": lambda layers: [1, *_counts(layers - 1)],
        "the queries at the start are not a layer: begin with layer 1":
            lambda layers: [1, *_counts(layers)],
        "it grows by more than one: add up the sets of the two layers before":
            lambda layers: range(1, layers + 1),
        "the sets of each layer, not of all layers up to it": lambda layers:
            torch.tensor(_counts(layers)).cumsum(0),
    },
    convert=lambda value: torch.as_tensor([int(x) for x in value]),
    kind="return a list of whole numbers, one for each layer",
    shape="one number for each layer, {}", unit="layer",
)  # fmt: skip

# Queries: one fades; one only by a little; one is better in score in one layer and in
# IoU in another; one was no hit where it was better; one is lost in the last layer; one
# was better two layers before; one fell, but rose again; of one the score was the same,
# of one the IoU.
SCORE = torch.tensor([
    [0.5, 0.50, 0.9, 0.9, 0.9, 0.8, 0.5, 0.6, 0.9],
    [0.9, 0.62, 0.3, 0.2, 0.9, 0.3, 0.3, 0.2, 0.2],
    [0.6, 0.60, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6, 0.6],
])  # fmt: skip
OVERLAP = torch.tensor([
    [0.6, 0.60, 0.6, 0.9, 0.9, 0.9, 0.7, 0.9, 0.8],
    [0.9, 0.90, 0.9, 0.7, 0.9, 0.6, 0.6, 0.6, 0.6],
    [0.8, 0.80, 0.8, 0.8, 0.4, 0.8, 0.8, 0.8, 0.8],
])  # fmt: skip
HITS = torch.tensor([
    [1, 1, 1, 0, 1, 1, 1, 1, 1],
    [1, 1, 1, 1, 1, 1, 1, 1, 1],
    [1, 1, 1, 1, 0, 1, 1, 1, 1],
]).bool()  # fmt: skip


def _fading(score, overlap, hits, margin, first=0, count=1, lost=0, apart=0, sign=1):
    """`[Q]` bool, right unless told to make a mistake."""
    earlier = slice(first, len(score) - 1)
    higher = sign * (score[earlier] - score[-1]) > margin
    nearer = sign * (overlap[earlier] - overlap[-1]) > 0
    hit = hits[earlier] if count else torch.ones_like(hits[earlier])
    if apart:
        found = (higher & hit).any(0) & (nearer & hit).any(0)
    else:
        found = (higher & nearer & hit).any(0)
    return found if lost else found & hits[-1]


def _next(score, overlap, hits, margin):
    higher = score[:-1] - score[1:] > margin
    return hits[-1] & (hits[:-1] & higher & (overlap[:-1] > overlap[1:])).any(0)


def _as_high(score, overlap, hits, margin):
    higher = score[:-1] - score[-1] >= margin
    return hits[-1] & (hits[:-1] & higher & (overlap[:-1] >= overlap[-1])).any(0)


fading = exercise(__name__, "fading", """
    Check exercise 2, `mine(score, overlap, hits, margin)` -> which queries fade `[Q]`.

    `[Y, Q]` each, `hits` bool; a fall of the score by more than `margin` counts.""",
    praise="only where one and the same earlier layer was better in both",
    cases=[(SCORE, OVERLAP, HITS, margin) for margin in (0.1, 0.0)],
    answer=_fading,
    mistakes={
        "one and the same earlier layer must be better in both": {"apart": 1},
        "the query must be a true positive in the last layer: hits[-1]": {"lost": 1},
        "it must have been a hit in that earlier layer, too": {"count": 0},
        "all earlier layers count, not only the one just before": {"first": 1},
        "margin is forgotten: the score must fall by more than it": {"margin": 0.0},
        "earlier minus last, not last minus earlier": {"sign": -1},
        "any(0): one earlier layer is enough, not all of them":
            lambda score, overlap, hits, margin: hits[-1] & (
                hits[:-1] & (score[:-1] - score[-1] > margin)
                & (overlap[:-1] > overlap[-1])).all(0),
        "the score is not enough: the IoU must be higher, too":
            {"overlap": lambda overlap: -torch.arange(3.0)[:, None].expand(3, 9)},
        "both must be higher, score and IoU: &, not |":
            lambda score, overlap, hits, margin: hits[-1] & (
                hits[:-1] & ((score[:-1] - score[-1] > margin)
                | (overlap[:-1] > overlap[-1]))).any(0),
        "compare with the last layer, not with the next one": _next,
        "higher means higher: equal is not enough": _as_high,
        "a gain in IoU needs no margin, only the score does":
            lambda score, overlap, hits, margin: hits[-1] & (
                hits[:-1] & (score[:-1] - score[-1] > margin)
                & (overlap[:-1] - overlap[-1] > margin)).any(0),
    },
    shape="one for each query, {}", unit="query",
)  # fmt: skip

AGREE = torch.tensor([[0.5, 0.95, 0.2], [0.95, 0.95, 0.3], [0.96, 0.97, 0.1]])
LABEL = torch.tensor([[1, 0, 2], [1, 2, 3], [1, 2, 0], [1, 2, 1]])
SURE = torch.tensor([[0.9, 0.5, 0.1], [0.9, 0.6, 0.2], [0.9, 0.7, 0.1], [0.9, 0.7, 0]])
LATE = torch.tensor([[0.9, 0.1, 0.1], [0.9, 0.6, 0.1], [0.9, 0.6, 0.1], [0.9, 0.6, 0]])
FADE = torch.tensor([[0.9, 0.6, 0.1], [0.9, 0.1, 0.1], [0.9, 0.1, 0.1], [0.9, 0.1, 0]])
DOUBT = torch.tensor([[0.9, 0.4, 0.1], [0.9, 0.4, 0.1], [0.9, 0.4, 0.1], [0.9, 0.4, 0]])
EDGE = torch.tensor([[0.9, 0.2, 0.2], [0.9, 0.9, 0.3], [0.9, 0.9, 0.1]])
NEAR = torch.tensor([[0.95, 0.2, 0.2], [0.95, 0.95, 0.3], [0.96, 0.97, 0.1]])


def _stop(
    label,
    score,
    overlap,
    move=1,
    sure=0.3,
    near=0.9,
    which=None,
    classes=1,
    one=0,
    first=1,
):
    """The layer to stop at, from 1, right unless told to make a mistake."""
    layers = len(label)
    for layer in range(first, layers):
        says = (which or torch.maximum)(score[layer], score[layer - 1])
        same = overlap[layer - 1] >= near
        if classes:
            same = same & (label[layer] == label[layer - 1])
        enough = (same & (says >= sure)).any() if one else (same | (says < sure)).all()
        if bool(enough):
            return layer + move
    return layers - 1 + move


stop = exercise(__name__, "stop", """
    Check exercise 3, `mine(label [Y, Q], score [Y, Q], overlap [Y - 1, Q])` -> a layer.

    The first layer, from 1, that agrees with the one before it on all queries of which
    either is at least 0.3 sure: same class, IoU of at least 0.9; else the last.""",
    praise="the layer that agrees has been computed: it is the cost",
    cases=[
        (LABEL, SURE, AGREE),
        (LABEL, LATE, NEAR),
        (LABEL, FADE, NEAR),
        (LABEL, SURE, AGREE - 0.5),
        (LABEL, DOUBT, NEAR),
        (LABEL, SURE, EDGE),
        (LABEL[[2, 3, 3]], SURE[[2, 3, 3]], AGREE[[2, 2]]),
        (LABEL[:, :1], SURE[:, :1], AGREE[:, :1]),
        (LABEL[:, 1:2], SURE[:, 1:2], AGREE[:, 1:2]),
    ],
    answer=_stop,
    mistakes={
        "count layers from 1, and return the one that agrees, not the one before it":
            [{"move": 0}, lambda *case: _stop(*case) - (_stop(*case) < len(case[0]))],
        "that is one layer too late: the one that agrees has been computed already":
            {"move": 2},
        "leave out queries of which neither layer is 0.3 sure": {"sure": 0.0},
        "a query counts where either layer is sure, not only the later one":
            {"which": lambda later, earlier: later},
        "a query counts where either layer is sure, not only the earlier one":
            {"which": lambda later, earlier: earlier},
        "a query counts where either layer is sure: the maximum, not the minimum":
            {"which": torch.minimum},
        "sure is 0.3 and more": {"sure": 0.5},
        "an IoU of exactly 0.9 agrees": {"near": 0.9 + 1e-4},
        "all of these queries must agree, not one of them": {"one": 1},
        "`overlap[0]` compares layer 2 with layer 1: overlap[y - 1] goes with label[y]":
            {"overlap": lambda overlap: overlap.roll(-1, 0)},
        "layer 2 can agree with layer 1: begin there": {"first": 2},
        "the class must be the same, too": {"classes": 0},
        "the IoU must be 0.9 or more": {"near": 0.0},
        "stop at the first layer that agrees, not always at the last":
            lambda label, score, overlap: len(label),
        "layer 2 does not always agree with layer 1":
            lambda label, score, overlap: 2,
    },
    convert=int, kind="return one whole number: a layer, from 1",
    otherwise=lambda value, truth, *case: f"expected layer {truth}, yours is {value}",
)  # fmt: skip

P, BOXES = numbers(4, 5, 3), 0.2 + 0.3 * numbers(4, 5, 4)
ONE = P[:, :1], BOXES[:, :1]
answer = exercise(__name__, "answer", """
    Check exercise 4, `mine(p [Y, Q, classes], boxes [Y, Q, 4])` -> one answer a query.

    Any `p [Q, classes]` and `boxes [Q, 4]` will do, if they are probabilities and boxes
    and if a query's answer is its own. How good it is, the leaderboard says.""",
    praise="an answer for each query; now the leaderboard",
    cases=[(P, BOXES), ONE],
    before={
        "first p [Q, classes], then boxes [Q, 4]":
            lambda value: value[0].shape[-1] == 4 and value[1].shape[-1] == P.shape[-1],
        "p should be [Q, classes]: one answer for each query, without the layers' axis":
            lambda value: value[0].ndim != 2 or value[0].shape[-1] != P.shape[-1],
        "boxes should be [Q, 4], cxcywh": lambda value:
            value[1].shape != (len(value[0]), 4),
        "probabilities lie between 0 and 1":
            lambda value: not ((value[0] >= 0) & (value[0] <= 1)).all(),
        "a box has NaN, or a width or height of 0 or less":
            lambda value: not (value[1][:, 2:] > 0).all(),
    },
    convert=tensors(2), kind="return two tensors: p [Q, classes], boxes [Q, 4]",
    kept="leave `p` and `boxes` as they are: make new tensors",
    then=[Trial(
        [(P, BOXES)],
        before={
            "answer all 5 queries, in their order":
                lambda value: len(value[0]) != P.shape[1],
            "that is what the last layer says: what can the other five add?":
                lambda value: same_numbers(value[0], P[-1])
                and same_numbers(value[1], BOXES[-1]),
        },
        convert=tensors(2),
    )],
)  # fmt: skip
