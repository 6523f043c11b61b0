"""The exercises' checks: right answers pass, each known mistake gets its diagnosis."""

import math

import pytest
import torch

from detr_steps.check import ch09
from detr_steps.nn.conditional import point_code
from detr_steps.nn.position import sine_features, sine_position


def find(number, channels, names=("cy", "cx", "w", "h"), share=2, move=(0, 0)):
    place, size = names.index(number), channels // share
    return place * size + move[0], (place + 1) * size + move[1]


CHANNELS = {
    "y comes before x": {"names": ("cx", "cy", "w", "h")},
    "2 · channels in all": {"share": 4},
    "channels / 2, not all": {"share": 1},
    "after the last": {"move": (0, -1)},
    "counted from 0": {"move": (1, 1)},
}


@pytest.mark.parametrize("says", CHANNELS)
def test_wrong_channels(says):
    verdict = ch09.channels(lambda *a: find(*a, **CHANNELS[says]))
    assert not verdict and says in verdict.message, verdict


def test_right_channels():
    assert ch09.channels(find)
    code = point_code(torch.rand(3, 4), 32)  # the library agrees with the answer
    moved = torch.rand(3, 4)
    for column, number in enumerate(("cx", "cy", "w", "h")):
        other = moved.clone()
        other[:, column] += 0.1
        changed = (point_code(moved, 32) != point_code(other, 32)).any(0).nonzero()
        first, end = find(number, 32)
        assert first <= int(changed.min()) and int(changed.max()) < end
    assert code.shape == (3, 64)
    assert "two whole numbers" in ch09.channels(lambda *a: 3).message
    assert "two whole numbers" in ch09.channels(lambda *a: (1, 2, 3)).message
    other = ch09.channels(lambda n, c: (7, 9) if (n, c) == ("cx", 32) else find(n, c))
    assert "is at (16, 32), yours (7, 9)" in other.message


def product(anchor, h, w, half=0.5, turn=2 * math.pi, t=20, swap=False, c=16):
    """By the library's own position code of a map, whose channels are 16 + 16."""
    y, x = ((torch.arange(n) + half) / n * turn for n in (h, w))
    cells = torch.cartesian_prod(y, x)
    at = anchor[:2] * turn if swap else anchor[:2].flip(0) * turn
    codes = [sine_features(z, c, t).flatten(-2) for z in (cells, at)]
    return (codes[0] @ codes[1]).view(h, w)


MAPS = {
    "x and y are swapped": lambda a, h, w: product(a, h, w, swap=True),
    "add half a cell": lambda a, h, w: product(a, h, w, half=0.0),
    "count from 1 here": lambda a, h, w: product(a, h, w, half=1.0),
    "times 2π": lambda a, h, w: product(a, h, w, turn=1.0),
    "half a turn is missing": lambda a, h, w: product(a, h, w, turn=math.pi),
    "temperature is 20": lambda a, h, w: product(a, h, w, t=10_000),
    "rows first": lambda a, h, w: product(a, h, w).T,
    "no softmax": lambda a, h, w: product(a, h, w).flatten().softmax(0).view(h, w),
    "nothing is divided": lambda a, h, w: product(a, h, w) / 32**0.5,
    "32 channels in all": lambda a, h, w: product(a, h, w, c=32),
}


@pytest.mark.parametrize("says", MAPS)
def test_wrong_maps(says):
    verdict = ch09.positional_map(MAPS[says])
    assert not verdict and says in verdict.message, verdict


def test_right_map():
    assert ch09.positional_map(product)
    flat = ch09.positional_map(lambda a, h, w: product(a, h, w).flatten())
    assert "[h, w]" in flat.message
    # the same as the library's positions of a map, counted from centres
    cells = sine_position(
        torch.zeros(1, 5, 7, dtype=torch.bool), 32, temperature=20, shift=-0.5
    )[0]
    anchor = torch.tensor([0.3, 0.7, 0.2, 0.4])
    code = point_code(anchor[:2], 32, temperature=20)
    assert torch.allclose(cells @ code, product(anchor, 5, 7), atol=1e-4)


def move(box, delta, smallest=1e-3):
    low, high = box.clamp(min=smallest), (1 - box).clamp(min=smallest)
    return ((low / high).log() + delta).sigmoid()


def one_step(anchor, below, reported, moved):
    following = move(anchor, moved)
    return move(below, reported), following.detach(), following


STEPS = {
    "`reported` is the step": lambda a, b, r, m: (
        move(b, m),
        move(a, m).detach(),
        move(a, m),
    ),
    "before the sigmoid": lambda a, b, r, m: (b + r, a, a),
    "undo the sigmoid": lambda a, b, r, m: ((b + r).sigmoid(), a, a),
    "missing its anchor": lambda a, b, r, m: (r.sigmoid(), a, a),
    "with `moved`": lambda a, b, r, m: (
        move(b, r),
        move(a, r).detach(),
        move(a, r),
    ),
    "same numbers": lambda a, b, r, m: (move(b, r), move(a, m).detach(), b),
    "not from the anchor": lambda a, b, r, m: (
        move(a, r),
        move(a, m).detach(),
        move(a, m),
    ),
    "detach the next anchor": lambda a, b, r, m: (
        move(b, r),
        move(a, m),
        move(a, m),
    ),
    "needs its gradient": lambda a, b, r, m: (
        move(b, r),
        move(a, m).detach(),
        move(a, m).detach(),
    ),
    "reach all layers": lambda a, b, r, m: (
        move(b, r),
        move(a, m).detach(),
        move(b, m),
    ),
    "logarithm is infinite": lambda a, b, r, m: (
        move(b, r, 0),
        move(a, m).detach(),
        move(a, m),
    ),
    "0.001 is the distance": lambda a, b, r, m: (
        move(b, r, 1e-2),
        move(a, m).detach(),
        move(a, m),
    ),
}


@pytest.mark.parametrize("says", STEPS)
def test_wrong_steps(says):
    verdict = ch09.step(STEPS[says])
    assert not verdict and says in verdict.message, verdict


def test_right_step():
    assert ch09.step(one_step)
    assert "three tensors" in ch09.step(lambda *a: one_step(*a)[:2]).message


def pair(p, a):
    return p.repeat_interleave(len(a), 0), a.repeat(len(p), 1)


PATTERNS = {
    "come first": lambda p, a: (p.repeat(len(a), 1), a.repeat_interleave(len(p), 0)),
    "pairs repeat": lambda p, a: (p.repeat(len(a), 1), a.repeat(len(p), 1)),
    "two tensors": lambda p, a: pair(p, a)[0],
    "first two axes": lambda p, a: tuple(x.view(3, 5, -1) for x in pair(p, a)),
    "side by side": lambda p, a: (pair(p, a)[0][:4], pair(p, a)[1][:4]),
}


@pytest.mark.parametrize("says", PATTERNS)
def test_wrong_patterns(says):
    verdict = ch09.patterns(PATTERNS[says])
    assert not verdict and says in verdict.message, verdict


def test_right_patterns():
    assert ch09.patterns(pair)
    uneven = ch09.patterns(lambda p, a: (p, a))
    assert not uneven and "two tensors of P·Q rows" in uneven.message
