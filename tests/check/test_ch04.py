"""The exercises' checks: right answers pass, each known mistake gets its diagnosis."""

import pytest
import torch

from detr_steps.analysis.attention import effective_cells
from detr_steps.analysis.matching_stability import instability
from detr_steps.check import ch04
from detr_steps.objective.points import cheapest_allowed


def entropy(w, axis=-1, log=torch.log):
    return -torch.where(w > 0, w * log(w.clamp(min=1e-30)), 0.0).sum(axis)


SPREADS = {
    "that is the entropy": entropy,
    "that is the negative entropy": lambda w: -entropy(w),
    "the sign": lambda w: (-entropy(w)).exp(),
    "their average calls": lambda w: (entropy(w) / w.shape[-1]).exp(),
    "log2 and exp": lambda w: entropy(w, log=torch.log2).exp(),
    "average over heads later": lambda w: entropy(w).exp().mean(0),
    "not over the queries": lambda w: entropy(w, 1).exp(),
    "have had their softmax": lambda w: entropy(w.softmax(-1)).exp(),
    "not a whole one": lambda w: (w > 0).sum(-1),
    "another measure": lambda w: 1 / (w**2).sum(-1),
    "xlogy": lambda w: (-(w * w.log()).sum(-1)).exp(),
}


@pytest.mark.parametrize("says", SPREADS)
def test_wrong_spread(says):
    verdict = ch04.spread(SPREADS[says])
    assert not verdict and says in verdict.message, verdict


def test_right_spread():
    assert ch04.spread(lambda w: entropy(w).exp())
    assert ch04.spread(lambda w: effective_cells(w[..., None]))  # the library agrees


def pairs(looks):
    return {(int(q), n) for n, q in enumerate(looks) if q >= 0}


def changed(before, after, skip=(), none=False):
    """Query by query."""
    count = 0
    for query in range(-1 if none else 0, 9):
        at = [[n for n, q in enumerate(look) if q == query] for look in (before, after)]
        if at[0] != at[1] and not (skip and not at[skip[0]]):
            count += 1
    return count


CHANGES = {
    "two queries change": lambda a, b: int((a != b).sum()),
    "twice the objects": lambda a, b: 2 * int((a != b).sum()),
    "-1 is no query": lambda a, b: changed(a, b, none=True),
    "counts once": lambda a, b: len(pairs(a) ^ pairs(b)),
    "has lost its object": lambda a, b: changed(a, b, skip=(1,)),
    "an object at last": lambda a, b: changed(a, b, skip=(0,)),
    "which one counts": lambda a, b: len(({*a.tolist()} ^ {*b.tolist()}) - {-1}),
}


@pytest.mark.parametrize("says", CHANGES)
def test_wrong_changes(says):
    verdict = ch04.changes(CHANGES[says])
    assert not verdict and says in verdict.message, verdict


def test_right_changes():
    assert ch04.changes(changed)
    assert ch04.changes(lambda a, b: instability(torch.stack((a, b))[:, None], 9)[0])
    assert "queries change, yours: 3" in ch04.changes(lambda a, b: 3).message
    assert "whole number" in ch04.changes(lambda a, b: "two").message


CHOICES = {
    "0 is cheap": lambda c, a: (c * a).argmin(0),
    "is forgotten": lambda c, a: c.argmin(0),
    "-1 where no query": lambda c, a: c.where(a, torch.inf).argmin(0),
    "min over axis 0": lambda c, a: c.where(a, torch.inf).argmin(1).where(a.any(1), -1),
    "not the dearest": lambda c, a: (
        c.where(a, -torch.inf).argmax(0).where(a.any(0), -1)
    ),
    "the first allowed": lambda c, a: a.int().argmax(0).where(a.any(0), -1),
    "which query has it": lambda c, a: c.where(a, torch.inf).min(0).values,
}


@pytest.mark.parametrize("says", CHOICES)
def test_wrong_choices(says):
    verdict = ch04.choice(CHOICES[says])
    assert not verdict and says in verdict.message, verdict


def test_right_choices():
    assert ch04.choice(lambda c, a: cheapest_allowed(c[None], a[None])[0])


def test_the_three_are_shown_as_what_they_check():
    for check in (ch04.spread, ch04.changes, ch04.choice):
        assert check.__module__ == "detr_steps.check.ch04" and check.trials
        assert "not yet" in check(None).message
