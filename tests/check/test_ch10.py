"""The exercises' checks: right answers pass, each known mistake gets its diagnosis."""

import math

import pytest
import torch

from detr_steps.check import ch10
from detr_steps.nn.conditional import Concat, split_heads
from detr_steps.nn.position import sine_features


def cut(x, heads):
    return x.unflatten(-1, (heads, -1)).transpose(0, 1)  # [M, S, D]


def library(c_q, p_q, c_k, p_k, heads, by=2):
    """As ConditionalCrossAttention compares them."""
    c_q, p_q, c_k, p_k = (split_heads(x[None], heads) for x in (c_q, p_q, c_k, p_k))
    q, k = Concat()(c_q, p_q), Concat()(c_k, p_k)
    return (q @ k.mT)[0] / math.sqrt(by * c_q.shape[-1])


def added(c_q, p_q, c_k, p_k, heads):
    q, k = cut(c_q + p_q, heads), cut(c_k + p_k, heads)
    return q @ k.mT / math.sqrt(q.shape[-1])


def concat_first(c_q, p_q, c_k, p_k, heads):
    q, k = (cut(torch.cat(x, -1), heads) for x in ((c_q, p_q), (c_k, p_k)))
    return q @ k.mT / math.sqrt(q.shape[-1])


def torn(c_q, p_q, c_k, p_k, heads):
    parts = [x.view(heads, len(x), -1) for x in (c_q, p_q, c_k, p_k)]
    q, k = torch.cat(parts[:2], -1), torch.cat(parts[2:], -1)
    return q @ k.mT / math.sqrt(q.shape[-1])


def zero(x):
    return torch.zeros_like(x)


SCORES = {
    "only what, or only where": concat_first,
    "this adds place to content": added,
    "twice as wide": lambda *a: library(*a, by=1),
    "width of one head": lambda *a: library(*a, by=4),
    "too hard": lambda *a: library(*a) * math.sqrt(8),
    "content alone": lambda a, b, c, d, m: library(a, zero(b), c, zero(d), m),
    "place alone": lambda a, b, c, d, m: library(zero(a), b, zero(c), d, m),
    "meets place": lambda a, b, c, d, m: library(a, b, d, c, m),
    "tears the rows": torn,
    "before the softmax": lambda *a: library(*a).softmax(-1),
    "swapped": lambda *a: library(*a).mT,
    "add the heads up": lambda *a: library(*a).sum(0),
    "[M, Q, S] = [2, 3, 5]": lambda *a: library(*a)[:, :2],
    "not by a mistake I know": lambda *a: library(*a) ** 2,
    "not yet": lambda *a: None,
}


@pytest.mark.parametrize("says", SCORES)
def test_wrong_scores(says):
    verdict = ch10.scores(SCORES[says])
    assert not verdict and says in verdict.message, verdict


def test_right_scores():
    assert ch10.scores(library)


def modulated(code, anchor, expected, flip=True, size=slice(2, 4)):
    ratio = expected / anchor[:, size]
    ratio = ratio.flip(-1) if flip else ratio
    return (code.unflatten(-1, (2, -1)) * ratio[..., None]).flatten(-2)


def inverted(code, anchor, expected, flip=True):
    turned = torch.cat((anchor[:, :2], expected), -1)
    return modulated(code, turned, anchor[:, 2:], flip)


def in_place(code, anchor, expected):
    code *= (expected / anchor[:, 2:]).flip(-1).repeat_interleave(4, -1)
    return code


MODULATED = {
    "goes with the height": lambda *a: modulated(*a, flip=False),
    "upside down: a narrow": inverted,
    "upside down, and swapped": lambda *a: inverted(*a, flip=False),
    "these are its centre's": lambda *a: modulated(*a, size=slice(0, 2)),
    "no root here": lambda c, a, e: c * (modulated(c, a, e) / c).sqrt(),
    "w_ref is missing": lambda c, a, e: modulated(c, a, torch.ones_like(e)),
    "anchor's size is missing": lambda c, a, e: modulated(c, torch.ones_like(a), e),
    "adding makes a code": lambda c, a, e: c + modulated(torch.ones_like(c), a, e),
    "each half has its own": lambda c, a, e: c * (e / a[:, 2:]).prod(-1)[:, None],
    "not every other channel": lambda c, a, e: (
        c * modulated(torch.ones(5, 2), a, e).repeat(1, 4)
    ),
    "both halves alike": lambda c, a, e: c * (e / a[:, 2:]).prod(-1)[:, None].sqrt(),
    "y stays first": lambda *a: torch.cat(modulated(*a).chunk(2, -1)[::-1], -1),
    "no *=": in_place,
    "[Q, C] = [5, 8]": lambda *a: modulated(*a)[:, :4],
    "not yet": lambda *a: None,
}


@pytest.mark.parametrize("says", MODULATED)
def test_wrong_modulation(says):
    verdict = ch10.modulated(MODULATED[says])
    assert not verdict and says in verdict.message, verdict


def test_right_modulation():
    assert ch10.modulated(modulated)


def law(a, t, hands, d, turn=2 * math.pi, square=2, step=1.0):
    omega = [turn / t ** (step * i / hands) for i in range(hands)]
    return 1 / math.sqrt(a * sum(w**square for w in omega) / math.sqrt(d))


LAWS = {
    "σ is its root": lambda *a: law(*a) ** 2,
    "√(a · κ)": lambda *a: 1 / law(*a),
    "below the fraction's": lambda a, *rest: law(1 / a, *rest),
    "2π is missing": lambda *a: law(*a, turn=1),
    "one i for each hand": lambda *a: law(*a, step=2),
    "sum the squares": lambda *a: law(*a, square=1),
    "falls like": lambda f, t, n, d: (
        d**0.25 / f**0.5 / sum(2 * math.pi / t ** (i / n) for i in range(n))
    ),
    "not averaged": lambda a, t, n, d: law(a, t, n, d) * math.sqrt(n),
    "so κ is, too": lambda a, t, n, d: law(a, t, n, 1),
    "not by d": lambda a, t, n, d: law(a, t, n, d**2),
    "the factor is missing": lambda a, *rest: law(1, *rest),
    "turn *less*": lambda a, t, n, d: law(a, 1 / t, n, d),
    "one number is wanted": lambda *a: [1, 2],
    "not yet": lambda *a: None,
}


@pytest.mark.parametrize("says", LAWS)
def test_wrong_laws(says):
    verdict = ch10.law(LAWS[says])
    assert not verdict and says in verdict.message, verdict


def test_the_right_law_is_what_softmax_does():
    assert ch10.law(law) and ch10.law(lambda *a: torch.tensor(law(*a)))
    line = (torch.arange(256) + 0.5) / 256
    waves = sine_features(2 * math.pi * line, 128, 20.0).double()
    middle = sine_features(torch.tensor([math.pi]), 128, 20.0)[0].double()
    weights = (16 * waves @ middle / 8).softmax(0)  # a spot of a thirtieth
    width = float((weights * (line - 0.5) ** 2).sum().sqrt())
    assert width == pytest.approx(law(16, 20, 64, 64), rel=0.02)


def turned(code, shift, t, way=1):
    """Turned as complex numbers: cosine + i · sine."""
    c = code.shape[-1]
    hands = torch.complex(code[..., 1::2], code[..., 0::2])
    angle = 2 * math.pi * way * shift / t ** (torch.arange(c // 2) * 2 / c)
    new = hands * torch.polar(torch.ones(c // 2), angle)
    return torch.stack((new.imag, new.real), -1).flatten(-2)


def one_angle(code, shift, t):
    return turned(code, shift, 1.0)


def blocks(code, shift, t):
    """Sines in the first half, cosines in the second."""
    mixed = torch.stack(code.chunk(2, -1), -1).flatten(-2)
    new = turned(mixed, shift, t)
    return torch.cat((new[..., 0::2], new[..., 1::2]), -1)


def flipped(code, shift, t):
    pairs = code.unflatten(-1, (-1, 2)).flip(-1).flatten(-2)
    return turned(pairs, shift, t).unflatten(-1, (-1, 2)).flip(-1).flatten(-2)


def wrong_sign(code, shift, t):
    right, back = turned(code, shift, t), turned(code, -shift, t)
    new = right.clone()
    new[..., 0::2] = back[..., 0::2]
    return new


def step(shift, t):
    return sine_features(torch.tensor([2 * math.pi * shift]), 8, t)


TURNED = {
    "wrong way round": lambda *a: turned(*a, way=-1),
    "its own speed": one_angle,
    "times 2π": lambda code, s, t: turned(code, s / (2 * math.pi), t),
    "Sine comes first": flipped,
    "side by side": blocks,
    "one sign is wrong": wrong_sign,
    "two channels make": lambda code, s, t: turned(code, s, math.sqrt(t)),
    "adding two codes": lambda code, s, t: code + step(s, t),
    "no number to add": lambda code, s, t: code + s,
    "that is ⊙": lambda code, s, t: code * step(s, t),
    "[Q, C] = [6, 8]": lambda *a: turned(*a)[:, :4],
    "not yet": lambda *a: None,
}


@pytest.mark.parametrize("says", TURNED)
def test_wrong_turns(says):
    verdict = ch10.turned(TURNED[says])
    assert not verdict and says in verdict.message, verdict


def test_right_turn():
    assert ch10.turned(turned)
    place, shift = torch.tensor([0.2, 0.5]), 0.3
    codes = [sine_features(2 * math.pi * x, 16, 20.0) for x in (place, place + shift)]
    assert torch.allclose(turned(codes[0], shift, 20.0), codes[1], atol=1e-5)
