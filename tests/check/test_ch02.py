"""The exercises' checks: right answers pass, each known mistake gets its diagnosis."""

import pytest
import torch

from detr_steps.check import ch02


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (None, "not yet"),
        ((0, 2), "greedy"),
        ((0, 0), "cannot answer for both"),
        ((2, 1), "another pair"),
        ((0, 7), "0 to 2"),
    ],
)
def test_wrong_assignments(answer, says):
    verdict = ch02.assignment(answer)
    assert not verdict and says in verdict.message


def test_right_assignment():
    assert ch02.assignment((1, 0))
    assert ch02.truth_of_exercise_one() == [(0, 1), (1, 0)]


def weighted(logits, wanted, no_object):
    weight = torch.where(wanted == logits.shape[-1] - 1, no_object, 1.0)
    surprise = torch.nn.functional.cross_entropy(logits, wanted, reduction="none")
    return weight, surprise


MISTAKES = {
    "plain mean": lambda w, s: s.mean(),
    "number of queries": lambda w, s: (w * s).mean(),
    "number of objects": lambda w, s: (w * s).sum() / (w == 1).sum(),
    "this is the sum": lambda w, s: (w * s).sum(),
    "has shape": lambda w, s: w * s,
    "not a mistake I know": lambda w, s: s.max() * 3,
}


@pytest.mark.parametrize("says", MISTAKES)
def test_wrong_class_losses(says):
    verdict = ch02.class_loss(lambda *a: MISTAKES[says](*weighted(*a)))
    assert not verdict
    assert says.replace("not a", "not by a") in verdict.message


def test_right_class_loss():
    def loss(logits, wanted, no_object):
        weight, surprise = weighted(logits, wanted, no_object)
        return (weight * surprise).sum() / weight.sum()

    assert ch02.class_loss(loss)
    assert "not yet" in ch02.class_loss(None).message
    assert "not yet" in ch02.class_loss(lambda *a: None).message
    assert "ZeroDivisionError" in ch02.class_loss(lambda *a: 1 / 0).message


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
    theirs = ch02.library_postprocess(logits, boxes, (30, 40))
    order = mine[1].argsort(descending=True)
    torch.testing.assert_close(mine[0][order], theirs.boxes)


WRONG = {
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
}


@pytest.mark.parametrize("says", WRONG)
def test_wrong_postprocess(says):
    verdict = ch02.postprocess(WRONG[says])
    assert not verdict and says in verdict.message
