"""The exercises' checks: right answers pass, each known mistake gets its diagnosis."""

import pytest
import torch

from detr_steps.check import ch03
from detr_steps.detections import Detections
from detr_steps.evaluation.panoptic_quality import Count
from detr_steps.objective.masks import dice_loss
from detr_steps.systems.segmentation import Frame
from detr_steps.systems.segmentation import paint as library_paint


def summed(pictures):
    """One list of IoUs, false alarms, misses of all pictures."""
    ious = [x for each, _, _ in pictures for x in each]
    return ious, *(sum(each[i] for each in pictures) for i in (1, 2))


def of_sums(ious, alarms, misses):
    if not ious:
        return 0.0, 0.0, 0.0
    sq = sum(ious) / len(ious)
    rq = len(ious) / (len(ious) + (alarms + misses) / 2)
    return sq * rq, sq, rq


def quality(pictures):
    return of_sums(*summed(pictures))


def by_counts(pictures):
    """The library adds up the counts of pictures, then divides."""
    total = Count()
    for ious, alarms, misses in pictures:
        total.add(Count(sum(ious), len(ious), alarms, misses))
    if not total.tp:
        return 0.0, 0.0, 0.0
    found = total.quality()
    return found["pq"], found["sq"], found["rq"]


def with_ratio(rule):
    """A quality whose RQ follows another rule."""

    def mine(pictures):
        ious, alarms, misses = summed(pictures)
        sq = quality(pictures)[1]
        rq = len(ious) and len(ious) / rule(len(ious), alarms, misses)
        return sq * rq, sq, rq

    return mine


def reordered(*order):
    return lambda pictures: tuple(quality(pictures)[i] for i in order)


def mean_of(pictures, skip):
    each = [quality([p]) for p in pictures if p[0] or not skip] or [(0.0, 0.0, 0.0)]
    return tuple(sum(x) / len(each) for x in zip(*each))


def sums_for_means(pictures):
    ious, (_, _, rq) = summed(pictures)[0], quality(pictures)
    return sum(ious) * rq, sum(ious), rq


def careless(pictures):
    ious, alarms, misses = summed(pictures)
    return (sum(ious) / len(ious),) * 3


QUALITIES = {
    "mean of the pictures' qualities": lambda p: mean_of(p, skip=False),
    "sum first, divide then": lambda p: mean_of(p, skip=True),
    "the first alone": lambda pictures: quality(pictures[:1]),
    "count half each": with_ratio(lambda n, a, m: n + a + m),
    "false alarms are forgotten": with_ratio(lambda n, a, m: n + m / 2),
    "misses are forgotten": with_ratio(lambda n, a, m: n + a / 2),
    "in this order": reordered(1, 0, 2),
    "yours ends with SQ": reordered(0, 2, 1),
    "mean over hits alone": reordered(0, 0, 2),
    "product of SQ and RQ": lambda p: (sum(quality(p)[1:]) / 2, *quality(p)[1:]),
    "not their sum": sums_for_means,
    "without a hit": careless,
    "three numbers": lambda pictures: 1.0,
    "not yet: your function returns None. First": lambda pictures: None,
}


@pytest.mark.parametrize("says", QUALITIES)
def test_wrong_qualities(says):
    verdict = ch03.quality(QUALITIES[says])
    assert not verdict and says in verdict.message, verdict


@pytest.mark.parametrize("mine", [quality, by_counts])
def test_right_qualities(mine):
    assert ch03.quality(mine)


def dice(p, mask, known):
    p, mask = p[known], mask[known]
    return 1 - (2 * (p * mask).sum() + 1) / (p.sum() + mask.sum() + 1)


def ratio(top, below):
    return lambda p, m, known: 1 - top(p * known, m * known) / below(p, m, known)


def both(p, m):
    return 2 * (p * m).sum() + 1


def areas(p, m, known):
    return (p * known).sum() + (m * known).sum() + 1


DICES = {
    "not the areas": ratio(both, lambda p, m, known: p.sum() + m.sum() + 1),
    "`known` is not used": lambda p, m, known: dice(p, m, torch.ones_like(known)),
    "left out the other pixels": lambda p, m, known: dice(p, m, ~known),
    "counts twice": ratio(lambda p, m: (p * m).sum() + 1, areas),
    "ones are missing": ratio(
        lambda p, m: both(p, m) - 1 + 1e-9, lambda *x: areas(*x) - 1 + 1e-9
    ),
    "add 1 above and below": ratio(
        lambda p, m: both(p, m) - 1, lambda *x: areas(*x) - 1
    ),
    "one minus that": lambda p, m, known: 1 - dice(p, m, known),
    "1 minus IoU": ratio(
        lambda p, m: (p * m).sum() + 1,
        lambda p, m, known: areas(p, m, known) - (p * m * known).sum(),
    ),
    "still counts as found": lambda p, m, known: dice(
        torch.where(known, p, m), m, torch.ones_like(known)
    ),
    "multiply p and mask": lambda p, m, known: dice(
        torch.where(known, p, 0.5), m, torch.ones_like(known)
    ),
    "one number": lambda p, m, known: p * m,
}


@pytest.mark.parametrize("says", DICES)
def test_wrong_dices(says):
    verdict = ch03.dice(DICES[says])
    assert not verdict and says in verdict.message, verdict


def test_right_dices():
    assert ch03.dice(dice)
    # an index of known pixels, and the library's loss on logits
    assert ch03.dice(
        lambda p, m, known: dice_loss(p[known].logit()[None], m[known][None])[0]
    )


def paint(logits, labels, things, least, merge=None, again=True, strict=False):
    """Pixel by pixel."""
    k = len(labels)
    first = list(range(k))
    for i in range(k):
        for j in range(i):
            if labels[j] == labels[i] and (
                labels[i] >= things if merge is None else merge
            ):
                first[i] = j
                break

    def owners(alive):
        found = torch.zeros(logits.shape[1:], dtype=torch.int64)
        for y in range(found.shape[0]):
            for x in range(found.shape[1]):
                best = max(alive, key=lambda q: float(logits[q, y, x]), default=None)
                found[y, x] = 0 if best is None else first[best] + 1
        return found

    ids = owners(list(range(k)))
    areas = [int((ids == first[q] + 1).sum()) for q in range(k)]
    alive = [q for q in range(k) if areas[q] > least or (strict and areas[q] == least)]
    if again:
        return owners(alive)
    kept = torch.tensor([first[q] + 1 for q in alive], dtype=torch.int64)
    return ids.where(torch.isin(ids, kept), 0)


PAINTS = {
    "the first of them": {"merge": False},
    "things of one class stay apart": {"merge": True},
    "not void": {"again": False},
    "exactly `least`": {"strict": True},
}


@pytest.mark.parametrize("says", PAINTS)
def test_wrong_paints(says):
    verdict = ch03.paint(lambda *case: paint(*case, **PAINTS[says]))
    assert not verdict and says in verdict.message, verdict


def merged_late(logits, labels, things, least):
    ids = paint(logits, labels, things, least, merge=False)
    for i in range(len(labels)):
        same = [j for j in range(i) if labels[j] == labels[i] >= things]
        there = [j for j in same if (ids == j + 1).any()]
        if there:
            ids[ids == i + 1] = there[0] + 1
    return ids


def renumbered(*case):
    """Ids that count what is left: the library's, before they are turned back."""
    ids, found = paint(*case), 0
    new = torch.zeros_like(ids)
    for number in range(1, len(case[1]) + 1):
        if (ids == number).any():
            found += 1
            new[ids == number] = found
    return new


def test_other_wrong_paints():
    def says(mine):
        verdict = ch03.paint(mine)
        assert not verdict
        return verdict.message

    assert "ids start with 1" in says(lambda *case: (paint(*case) - 1).clamp(min=0))
    assert "splinters are left in" in says(lambda a, b, c, d: paint(a, b, c, 0))
    assert "whole stuff" in says(merged_late)
    assert ">=, not >" in says(lambda a, b, things, d: paint(a, b, things + 1, d))
    assert "what you were given" in says(renumbered)
    assert "First `logits.argmax(0) + 1`" in says(lambda *case: None)
    classes = torch.cat((torch.zeros(1, dtype=torch.int64), ch03.LABELS))
    assert "class of each pixel" in says(lambda *case: classes[paint(*case)])
    assert "return zeros" in says(
        lambda logits, labels, things, least: logits.argmax(0) + 1
    )


def by_library(logits, labels, things, least):
    """The library numbers its segments from 1: back to the numbers of the queries."""
    size = tuple(logits.shape[1:])
    scores = torch.linspace(0.9, 0.1, len(labels)) if len(labels) else torch.zeros(0)
    found = Detections(torch.zeros(len(labels), 4), scores, labels)
    answer = library_paint(logits, found, Frame(size, size, size), things, least)
    table = torch.zeros(len(answer.segments) + 1, dtype=torch.int64)
    taken = -1
    for segment in answer.segments:
        taken = next(
            q
            for q in range(taken + 1, len(labels))
            if labels[q] == segment.label
            and (segment.label >= things or abs(scores[q] - segment.score) < 1e-6)
        )
        table[segment.id] = taken + 1
    return table[answer.ids]


@pytest.mark.parametrize("mine", [paint, by_library])
def test_right_paints(mine):
    assert ch03.paint(mine)


def test_the_three_are_shown_as_what_they_check():
    for check in (ch03.quality, ch03.dice, ch03.paint):
        assert check.__module__ == "detr_steps.check.ch03" and check.trials
        assert "not yet" in check(None).message
