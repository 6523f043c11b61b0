"""The exercises' checks: right answers pass, each known mistake gets its diagnosis."""

import pytest
import torch

from detr_steps.check import ch11
from detr_steps.systems.sqr import Recollect


def fibonacci(layers):
    a, b, found = 1, 2, []
    for _ in range(layers):
        found.append(a)
        a, b = b, a + b
    return found


COUNTS = {
    "that is DQR": lambda n: [2**i for i in range(n)],
    "that is inference": lambda n: [1] * n,
    "layer 2 has two sets already": lambda n: [1, *fibonacci(n - 1)],
    "are not a layer": lambda n: [1, *fibonacci(n)],
    "not of all layers up to it": lambda n: torch.tensor(fibonacci(n)).cumsum(0),
    "more than one": lambda n: range(1, n + 1),
    "two, not three": lambda n: [1, 2, 4, 7, 13, 24, 44, 81, 149][:n],
}


@pytest.mark.parametrize("says", COUNTS)
def test_wrong_counts(says):
    verdict = ch11.sets(COUNTS[says])
    assert not verdict and says in verdict.message, verdict


def test_right_counts():
    assert ch11.sets(fibonacci)
    assert ch11.sets(lambda n: Recollect().sets(n))  # the library agrees
    assert "list of whole numbers" in ch11.sets(lambda n: 3).message


def fades(score, overlap, hits, margin):
    """Query by query, layer by layer."""
    found = []
    for q in range(score.shape[1]):
        better = [
            hits[y, q]
            and score[y, q] - score[-1, q] > margin
            and overlap[y, q] > overlap[-1, q]
            for y in range(len(score) - 1)
        ]
        found.append(bool(hits[-1, q]) and any(better))
    return torch.tensor(found)


def changed(**given):
    def mine(score, overlap, hits, margin):
        y = given.get("only", slice(0, -1))
        higher = (score[y] - score[-1]) * given.get("sign", 1) > (
            0 if given.get("no_margin") else margin
        )
        room = margin if given.get("both") else 0
        nearer = (overlap[y] - overlap[-1]) * given.get("sign", 1) > room
        hit = hits[y] | given.get("any_hit", False)
        if given.get("apart"):
            found = (higher & hit).any(0) & (nearer & hit).any(0)
        else:
            found = getattr(higher & nearer & hit, given.get("join", "any"))(0)
        return found & (hits[-1] | given.get("lost", False))

    return mine


FADES = {
    "one and the same earlier layer": changed(apart=True),
    "must be a true positive in the last layer": changed(lost=True),
    "a hit in that earlier layer": changed(any_hit=True),
    "not only the one just before": changed(only=slice(-2, -1)),
    "margin is forgotten": changed(no_margin=True),
    "earlier minus last": changed(sign=-1),
    "one earlier layer is enough": changed(join="all"),
    "only the score does": changed(both=True),
    "the IoU must be higher": lambda s, o, h, m: (
        h[-1] & (h[:-1] & (s[:-1] - s[-1] > m)).any(0)
    ),
    "&, not |": lambda s, o, h, m: (
        h[-1] & (h[:-1] & ((s[:-1] - s[-1] > m) | (o[:-1] > o[-1]))).any(0)
    ),
    "not with the next one": lambda s, o, h, m: (
        h[-1] & (h[:-1] & (s[:-1] - s[1:] > m) & (o[:-1] > o[1:])).any(0)
    ),
    "equal is not enough": lambda s, o, h, m: (
        h[-1] & (h[:-1] & (s[:-1] - s[-1] >= m) & (o[:-1] >= o[-1])).any(0)
    ),
}


@pytest.mark.parametrize("says", FADES)
def test_wrong_fading(says):
    verdict = ch11.fading(FADES[says])
    assert not verdict and says in verdict.message, verdict


def test_right_fading():
    assert ch11.fading(fades)
    assert ch11.fading(changed())
    assert "shape" in ch11.fading(lambda s, o, h, m: h).message


def stops(label, score, overlap, sure=0.3, near=0.9, pair=max, classes=True, move=0):
    for y in range(1, len(label)):
        for q in range(label.shape[1]):
            if pair(float(score[y, q]), float(score[y - 1, q])) < sure:
                continue
            if classes and label[y, q] != label[y - 1, q]:
                break
            if overlap[y - 1, q] < near:
                break
        else:
            return y + 1 + move
    return len(label) + move


STOPS = {
    "not the one before it": {"move": -1},
    "one layer too late": {"move": 1},
    "leave out queries": {"sure": 0.0},
    "not only the later one": {"pair": lambda later, earlier: later},
    "not only the earlier one": {"pair": lambda later, earlier: earlier},
    "the class must be the same": {"classes": False},
    "must be 0.9 or more": {"near": 0.0},
    "not the minimum": {"pair": min},
    "0.3 and more": {"sure": 0.5},
    "exactly 0.9": {"near": 0.9001},
}


@pytest.mark.parametrize("says", STOPS)
def test_wrong_stops(says):
    verdict = ch11.stop(lambda *case: stops(*case, **STOPS[says]))
    assert not verdict and says in verdict.message, verdict


def test_right_stops():
    assert ch11.stop(stops)
    assert "not always at the last" in ch11.stop(lambda label, *_: len(label)).message
    assert "does not always agree" in ch11.stop(lambda *_: 2).message
    assert (
        "begin there"
        in ch11.stop(lambda *case: max(stops(*case), min(3, len(case[0])))).message
    )
    shifted = ch11.stop(lambda label, score, o: stops(label, score, o.roll(-1, 0)))
    assert "overlap[y - 1] goes with" in shifted.message
    early = ch11.stop(lambda *case: stops(*case) - (stops(*case) < len(case[0])))
    assert "not the one before it" in early.message
    assert "whole number" in ch11.stop(lambda *_: "three").message


ANSWERS = {
    "without the layers' axis": lambda p, b: (p, b[-1]),
    "boxes should be [Q, 4]": lambda p, b: (p[-1], b[-1, :, :2]),
    "lie between 0 and 1": lambda p, b: (p[-1].logit(), b[-1]),
    "width or height of 0 or less": lambda p, b: (p[-1], b[-1] * 0),
    "two tensors": lambda p, b: p[-1],
    "first p [Q, classes], then": lambda p, b: (b[-1], p[-1]),
    "make new tensors": lambda p, b: (p[-2], b.mul_(1.01)[-1]),
    "what the last layer says": lambda p, b: (p[-1], b[-1]),
    "answer all 5 queries": lambda p, b: (p[-1, :1], b[-1, :1]),
}


@pytest.mark.parametrize("says", ANSWERS)
def test_wrong_answers(says):
    verdict = ch11.answer(ANSWERS[says])
    assert not verdict and says in verdict.message, verdict


def test_right_answers():
    assert ch11.answer(lambda p, b: (p.mean(0), b.mean(0)))


def test_the_four_are_shown_as_what_they_check():
    for check in (ch11.sets, ch11.fading, ch11.stop, ch11.answer):
        assert check.__module__ == "detr_steps.check.ch11" and check.trials
        assert "not yet" in check(None).message
