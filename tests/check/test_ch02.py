"""The exercises' checks: right answers pass, each known mistake gets its diagnosis."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment

from detr_steps.check import ch02
from detr_steps.detections import best_class_per_query


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (None, "not yet"),
        ((0, 1), "greedy"),
        ((0, 0), "cannot answer for both"),
        ((2, 1), "another pair"),
        ((2, 1), "turned round"),
        ((0, 2), "another pair"),
        (1, "two query numbers"),
        ((0, 7), "0 to 2"),
    ],
)
def test_wrong_assignments(answer, says):
    verdict = ch02.assignment(answer)
    assert not verdict and says in verdict.message


def test_right_assignment():
    assert ch02.assignment((1, 2))
    queries, objects = linear_sum_assignment(ch02.COST)
    assert list(zip(queries.tolist(), objects.tolist())) == [(1, 0), (2, 1)]


def weigh(logits, wanted, weight_of_empty, kind="log"):
    empty = wanted == logits.shape[-1] - 1
    surprise = torch.nn.functional.cross_entropy(logits, wanted, reduction="none")
    if kind == "probability":
        surprise = -logits.softmax(-1)[torch.arange(len(wanted)), wanted]
    weight = torch.where(empty, weight_of_empty(empty), 1.0)
    return weight, surprise


def balance(empty):
    return (~empty).sum() / empty.sum()


def mean_of(weight, surprise):
    return (weight * surprise).sum() / weight.sum()


MISTAKES = {
    "still weigh 0.1": lambda *a: mean_of(*weigh(*a, lambda e: 0.1)),
    "plain mean": lambda *a: mean_of(*weigh(*a, lambda e: 1.0)),
    "wrong way round": lambda *a: mean_of(*weigh(*a, lambda e: 1 / balance(e))),
    "together: not 3": lambda *a: mean_of(*weigh(*a, lambda e: 1 / e.sum())),
    "number of queries": lambda *a: torch.stack(weigh(*a, balance)).prod(0).mean(),
    "this is the sum": lambda *a: torch.stack(weigh(*a, balance)).prod(0).sum(),
    "factor of 2": lambda *a: 2 * mean_of(*weigh(*a, balance)),
    "nobody learns": lambda *a: mean_of(*weigh(*a, lambda e: 0.0)),
    "it is the last class": lambda logits, wanted: mean_of(
        torch.where(wanted == 0, (wanted != 0).sum() / (wanted == 0).sum(), 1.0),
        weigh(logits, wanted, balance)[1],
    ),
    "probabilities where": lambda *a: mean_of(*weigh(*a, balance, "probability")),
    "has shape": lambda *a: weigh(*a, balance)[1],
    "not by a mistake I know": lambda *a: weigh(*a, balance)[1].max() * 3,
}


@pytest.mark.parametrize("says", MISTAKES)
def test_wrong_class_losses(says):
    verdict = ch02.balanced_loss(MISTAKES[says])
    assert not verdict and says in verdict.message, verdict


def test_right_class_loss():
    assert ch02.balanced_loss(lambda *a: mean_of(*weigh(*a, balance)))
    assert "not yet" in ch02.balanced_loss(None).message
    assert "not yet" in ch02.balanced_loss(lambda *a: None).message
    assert "ZeroDivisionError" in ch02.balanced_loss(lambda *a: 1 / 0).message


def good(logits, boxes, size):
    scores, labels = logits.softmax(-1)[:, :-1].max(-1)
    cx, cy, w, h = boxes.unbind(-1)
    height, width = size
    corners = torch.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), -1)
    return corners * torch.tensor([width, height, width, height]), scores, labels


def test_right_postprocess():
    assert ch02.postprocess(good)


def test_postprocess_agrees_with_the_library():
    logits, boxes = torch.randn(5, 4), torch.rand(5, 4)
    mine = good(logits, boxes, (30, 40))
    probabilities = logits.softmax(-1)[None, :, :-1]
    theirs = best_class_per_query(probabilities, boxes[None], [(30, 40)])[0]
    order = mine[1].argsort(descending=True)
    torch.testing.assert_close(mine[0][order], theirs.boxes)


def size_of(size):
    return torch.tensor([size[1], size[0], size[1], size[0]])


def by_score(logits, boxes, size):
    found, scores, labels = good(logits, boxes, size)
    order = scores.argsort(descending=True)
    return found[order], scores[order], labels[order]


WRONG = {
    "order of the queries": by_score,
    "order is boxes": lambda lo, b, s: (*good(lo, b, s)[1:], good(lo, b, s)[0]),
    "logits still": lambda lo, b, s: (good(lo, b, s)[0], *(lo[:, :-1] * 9).max(-1)),
    "drop that column": lambda lo, b, s: (
        good(lo, b, s)[0],
        *lo.softmax(-1).max(-1),
    ),
    "before the softmax": lambda lo, b, s: (
        good(lo, b, s)[0],
        *lo[:, :-1].softmax(-1).max(-1),
    ),
    "(H, W)": lambda lo, b, s: good(lo, b, s[::-1]),
    "upper left": lambda lo, b, s: good(
        lo, torch.cat((b[:, :2] + b[:, 2:] / 2, b[:, 2:]), 1), s
    ),
    "shares of the image": lambda lo, b, s: good(lo, b, (1, 1)),
    "keep all": lambda lo, b, s: tuple(x[:3] for x in good(lo, b, s)),
    "centre and size": lambda lo, b, s: (b * size_of(s), *good(lo, b, s)[1:]),
    "twice too large": lambda lo, b, s: good(lo, b * torch.tensor([1, 1, 2, 2]), s),
    "least probable": lambda lo, b, s: (
        good(lo, b, s)[0],
        *lo.softmax(-1)[:, :-1].min(-1),
    ),
    "share one softmax": lambda lo, b, s: (
        good(lo, b, s)[0],
        *lo.sigmoid()[:, :-1].max(-1),
    ),
    "“no object” column": lambda lo, b, s: (
        good(lo, b, s)[0],
        lo.softmax(-1).amax(-1),
        good(lo, b, s)[2],
    ),
    "some labels differ": lambda lo, b, s: (
        *good(lo, b, s)[:2],
        3 - good(lo, b, s)[2],
    ),
    "return three tensors": lambda lo, b, s: good(lo, b, s)[0],
    "not by a mistake I know": lambda lo, b, s: (
        good(lo, b, s)[0] + 1,
        *good(lo, b, s)[1:],
    ),
}


@pytest.mark.parametrize("says", WRONG)
def test_wrong_postprocess(says):
    verdict = ch02.postprocess(WRONG[says])
    assert not verdict and says in verdict.message
