"""Chapter 01's checks: right answers pass, each slip gets its own diagnosis."""

import math

import pytest
import torch

from detr_steps.check import ch01
from detr_steps.nn.position import sine_features, sine_position


def cells(h, w, s):
    return math.ceil(h / s) * math.ceil(w / s)


def test_count_right():
    assert ch01.count_weights(lambda h, w, s, m: m * cells(h, w, s) ** 2)


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (lambda h, w, s, m: None, "not yet"),
        (lambda h, w, s, m: m * cells(h, w, s), "every token asks"),
        (lambda h, w, s, m: cells(h, w, s) ** 2, "each head"),
        (lambda h, w, s, m: m * (h * w) ** 2, "pixels ask pixels"),
        (lambda h, w, s, m: m * ((h // s) * (w // s)) ** 2, "round up"),
        (lambda h, w, s, m: m * (h * w / s) ** 2, "divide both"),
        (lambda h, w, s, m: m * (h / s * w / s) ** 2, "round each side up"),
        (lambda h, w, s, m: "many", "returns a str"),
        (lambda h, w, s, m: 7, "expected"),
    ],
)
def test_count_slips(answer, word):
    verdict = ch01.count_weights(answer)
    assert not verdict and word in verdict.message


def near(size, radius):
    rows = torch.arange(size[0]).repeat_interleave(size[1])
    columns = torch.arange(size[1]).repeat(size[0])
    return ((rows[:, None] - rows).abs() <= radius) & (
        (columns[:, None] - columns).abs() <= radius
    )


def attend(q, k, v, mask, scale=True, dim=-1):
    scores = q @ k.transpose(-2, -1)
    if scale:
        scores = scores / math.sqrt(q.shape[-1])
    weights = scores.masked_fill(~mask, -math.inf).softmax(dim)
    return weights @ v, weights


def after(q, k, v, size, radius):
    weights = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).softmax(-1)
    weights = weights * near(size, radius)
    return weights @ v, weights


def with_zeros(q, k, v, size, radius):
    scores = q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]) * near(size, radius)
    return scores.softmax(-1) @ v, scores.softmax(-1)


def along_the_list(q, k, v, size, radius):
    flat = torch.arange(size[0] * size[1])
    return attend(q, k, v, (flat[:, None] - flat).abs() <= radius)


def diamond(q, k, v, size, radius):
    flat = torch.arange(size[0] * size[1])
    rows, columns = flat // size[1], flat % size[1]
    moves = (rows[:, None] - rows).abs() + (columns[:, None] - columns).abs()
    return attend(q, k, v, moves <= radius)


def cross(size, radius):
    flat = torch.arange(size[0] * size[1])
    rows, columns = flat // size[1], flat % size[1]
    down, along = (rows[:, None] - rows).abs(), (columns[:, None] - columns).abs()
    return ~((down > radius) & (along > radius))


def test_near_right():
    assert ch01.attend_near(lambda q, k, v, s, r: attend(q, k, v, near(s, r)))


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (lambda q, k, v, s, r: None, "not yet"),
        (lambda q, k, v, s, r: q, "two things"),
        (lambda q, k, v, s, r: attend(q, k, v, near(s, 9)), "no effect"),
        (after, "after the softmax"),
        (lambda q, k, v, s, r: attend(q, k, v, ~near(s, r)), "upside down"),
        (with_zeros, "-inf instead"),
        (along_the_list, "row-by-row"),
        (lambda q, k, v, s, r: attend(q, k, v, near(s[::-1], r)), "swapped"),
        (diamond, "diagonal"),
        (lambda q, k, v, s, r: attend(q, k, v, cross(s, r)), "`|` joins"),
        (lambda q, k, v, s, r: attend(q, k, v, near(s, r - 1)), "not `>=`"),
        (lambda q, k, v, s, r: attend(q, k, v, near(s, r), scale=False), "√D"),
        (lambda q, k, v, s, r: attend(q, k, v, near(s, r), dim=-2), "queries"),
        (lambda q, k, v, s, r: attend(q, k, v, near(s, 1)), "radius 3"),
        (lambda q, k, v, s, r: (v, attend(q, k, v, near(s, r))[1]), "weights @ v"),
        (lambda q, k, v, s, r: (v, v), "expected [B, S, S]"),
        (lambda q, k, v, s, r: (v, torch.zeros(2, 24, 24)), "expected"),
        (lambda q, k, v, s, r: attend(q, k, v, near(s, -1)), "NaN"),
    ],
)
def test_near_slips(answer, word):
    verdict = ch01.attend_near(answer)
    assert not verdict and word in verdict.message


def place(padding, channels, first=1, turn=2 * math.pi, half=None):
    halves = []
    for axis in (1, 2):
        count = (~padding).float().cumsum(axis)
        share = (count - 1 + first) / (count.amax(axis, keepdim=True) + 1e-6) * turn
        halves.append(sine_features(share, half or channels // 2)[..., : channels // 2])
    return torch.cat(halves, -1)


def cell_numbers(padding, channels):
    counts = [(~padding).float().cumsum(axis) for axis in (1, 2)]
    return torch.cat([sine_features(count, channels // 2) for count in counts], -1)


def blocks(padding, channels):
    y, x = place(padding, channels).chunk(2, -1)
    return torch.cat((y[..., 0::2], y[..., 1::2], x[..., 0::2], x[..., 1::2]), -1)


def from_zero(padding, channels):
    halves = []
    for axis in (1, 2):
        count = ((~padding).float().cumsum(axis) - 1).clamp(min=0)
        share = count / count.amax(axis, keepdim=True) * 2 * math.pi
        halves.append(sine_features(share, channels // 2))
    return torch.cat(halves, -1)


def plain(padding, channels):
    """As asked, without a guard against dividing by zero."""
    counts = [(~padding).float().cumsum(axis) for axis in (1, 2)]
    shares = [c / c.amax(a, True) * 2 * math.pi for a, c in zip((1, 2), counts)]
    return torch.cat([sine_features(share, channels // 2) for share in shares], -1)


def summed(padding, channels):
    y, x = place(padding, 2 * channels).chunk(2, -1)
    return y + x


@pytest.mark.parametrize("answer", [sine_position, place])
def test_positions_right(answer):
    assert ch01.positions(answer)


def test_positions_of_the_padding_do_not_matter():
    assert ch01.positions(lambda p, c: sine_position(p, c) * ~p[..., None])


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (lambda p, c: None, "not yet"),
        (lambda p, c: torch.cat(place(p, c).chunk(2, -1)[::-1], -1), "x comes first"),
        (lambda p, c: sine_position(torch.zeros_like(p), c), "only real cells"),
        (lambda p, c: place(p, c, first=0), "starts at 0"),
        (from_zero, "1 / last"),
        (plain, "0 / 0"),
        (summed, "are added"),
        (lambda p, c: summed(p, c // 2), "Do not add"),
        (cell_numbers, "cell numbers"),
        (lambda p, c: place(p, c, turn=1.0), "2π"),
        (blocks, "take turns"),
        (lambda p, c: place(p, c, half=c), "each half"),
        (lambda p, c: place(p, c)[0], "expected [B, h, w, C]"),
        (lambda p, c: place(p, c) + 1, "expected"),
        (lambda p, c: p.view(3), "it stops"),
    ],
)
def test_positions_slips(answer, word):

    verdict = ch01.positions(answer)
    assert not verdict and word in verdict.message
