"""Checks of the exercises of chapters/10_conditional_attention.ipynb."""

import math

import torch

from ..nn.conditional import split_heads
from ..nn.position import sine_features
from .trying import exercise, numbers


def _cut(x, heads):
    """`[S, C] -> [M, S, D]`."""
    return split_heads(x[None], heads)[0]


def _stacked(x, heads):
    """The wrong cut: rows are torn, and tokens mixed."""
    return x.reshape(heads, len(x), -1)


def _scores(
    c_q, p_q, c_k, p_k, heads, cut=_cut, root=lambda d: math.sqrt(2 * d), keep=(1, 1)
):
    """Scores `[M, Q, S]`, right unless told to make a mistake."""
    d = c_q.shape[-1] // heads
    pairs = ((c_q, c_k), (p_q, p_k))
    both = [cut(q, heads) @ cut(k, heads).mT for q, k in pairs]
    return (keep[0] * both[0] + keep[1] * both[1]) / root(d)


def _concat_first(c_q, p_q, c_k, p_k, heads):
    """All content in the first heads, all place in the last."""
    q, k = (_cut(torch.cat(pair, -1), heads) for pair in ((c_q, p_q), (c_k, p_k)))
    return q @ k.mT / math.sqrt(q.shape[-1])


def _added(c_q, p_q, c_k, p_k, heads, times=1):
    """The scores of DETR: a product of sums."""
    q, k = _cut(c_q + p_q, heads), _cut(c_k + p_k, heads)
    return q @ k.mT / math.sqrt(times * q.shape[-1])


scores = exercise(__name__, "scores", """
    Check exercise 1, `mine(c_q, p_q [Q, C], c_k, p_k [S, C], heads)` -> `[M, Q, S]`.

    Source: Meng et al. 2021, section 3.3.""",
    praise="what is compared with what, where with where, in every head",
    cases=[(*(numbers(i, n, 8)[0] for i, n in enumerate((3, 3, 5, 5), 1)), 2)],
    answer=_scores,
    mistakes={
        "these heads know only what, or only where: cut into heads first, then "
        "concatenate": _concat_first,
        "this adds place to content: two of the four products should be gone":
            [_added, lambda *a: _added(*a, times=2)],
        "divide by the root of 2·D: the vectors that are compared are twice as wide":
            {"root": math.sqrt},
        "D is the width of one head, C / M: divide by √(2·D), not √(2·C)":
            lambda *a: _scores(*a, root=lambda d: math.sqrt(2 * d * a[4])),
        "divide by √(2·D), or the softmax is too hard":
            {"root": lambda d: 1.0},
        "place is missing: this is content alone": {"keep": (1, 0)},
        "content is missing: this is place alone": {"keep": (0, 1)},
        "content of the query meets place of the key: compare what with what":
            lambda c_q, p_q, c_k, p_k, m: _scores(c_q, p_q, p_k, c_k, m),
        "view(heads, S, D) tears the rows: first [S, M, D], then swap": {
            "cut": _stacked},
        "scores are wanted, before the softmax":
            {"result": lambda right: right.softmax(-1)},
        "queries and keys are swapped: [M, Q, S]": {"result": lambda right: right.mT},
        "one map for each head: do not add the heads up":
            [{"result": lambda right: right.sum(0)},
             {"result": lambda right: right.mean(0)}],
    },
    shape="[M, Q, S] = {}", unit="score",
)  # fmt: skip


def _modulated(code, anchor, expected, swap=0, power=1, size=slice(2, 4)):
    """A code scaled by width and height, right unless told to make a mistake."""
    ratio = (expected / anchor[:, size]) ** power  # width, height
    order = ratio if swap else ratio.flip(-1)
    return code * order.repeat_interleave(code.shape[-1] // 2, -1)


CODE = 2 * numbers(5, 8) - 1
ANCHOR, EXPECTED = 0.2 + 0.6 * numbers(5, 4), 0.1 + 0.8 * numbers(5, 2)
modulated = exercise(__name__, "modulated", """
    Check exercise 2, `mine(code [Q, C], anchor [Q, 4], expected [Q, 2])` -> `[Q, C]`.

    y first in the code, (cx, cy, w, h), (w_ref, h_ref).
    Source: Liu et al. 2022, section 4.4.""",
    praise="a narrow anchor looks narrowly, a flat one flatly",
    cases=[(CODE, ANCHOR, EXPECTED)], answer=_modulated,
    mistakes={
        "the first half of the code is y: it goes with the height": {"swap": 1},
        "upside down: a narrow anchor needs a large factor, w_ref / w": {"power": -1},
        "upside down, and swapped: y comes first, and the factor is w_ref / w":
            {"power": -1, "swap": 1},
        "the anchor is (cx, cy, w, h): these are its centre's numbers":
            [{"size": slice(0, 2)}, {"size": slice(0, 2), "swap": 1}],
        "no root here: σ ∝ √(w / w_ref) is what the softmax makes of the factor":
            {"power": 0.5},
        "the content's w_ref is missing: the factor is w_ref / w":
            {"expected": torch.ones_like},
        "the anchor's size is missing: the factor is w_ref / w":
            {"anchor": torch.ones_like},
        "adding makes a code of no place: multiply":
            lambda code, a, e: code + (e / a[:, 2:]).flip(-1).repeat_interleave(4, -1),
        "both factors on all channels: each half has its own":
            lambda code, a, e: code * (e / a[:, 2:]).prod(-1, keepdim=True),
        "halves, not every other channel: all of y comes first":
            lambda code, a, e: code * (e / a[:, 2:]).flip(-1).repeat(1, 4),
        "both halves alike: y goes with the height, x with the width":
            lambda code, a, e: code * (e / a[:, 2:]).prod(-1, keepdim=True) ** 0.5,
        "the halves came back in the other order: y stays first":
            {"result": lambda right: right.roll(4, -1)},
    },
    kept="the code itself was changed, and it also made the position embedding: "
    "multiply into a new tensor, no *= and no code[…] =",
    shape="[Q, C] = {}", unit="anchor",
)  # fmt: skip


def _law(factor, temperature, hands, d, turn=2 * math.pi, step=1.0, power=2, mean=0):
    """σ of a spot as a share of the picture, right unless told to make a mistake."""
    omega = turn / temperature ** (step * torch.arange(hands) / hands)
    c = (omega**power).mean() if mean else (omega**power).sum()
    return 1 / math.sqrt(factor * c / math.sqrt(d))


def _square_of_sum(factor, temperature, hands, d):
    """σ, were the sum squared and not its parts."""
    omega = 2 * math.pi / temperature ** (torch.arange(hands) / hands)
    return 1 / math.sqrt(factor * omega.sum() ** 2 / math.sqrt(d))


law = exercise(__name__, "law", """
    Check exercise 3, `mine(factor, temperature, hands, d)` -> σ, a share of a picture.

    Hand i turns by 2π / temperature^(i / hands) over it; scores are divided by √d.
    Source: the second derivative of the scores at the anchor.""",
    praise="width ∝ √(w / w_ref), and the temperature sets the unit",
    cases=[(1.0, 20.0, 64, 64), (4.0, 20.0, 16, 32), (0.5, 10_000.0, 64, 64)],
    answer=_law,
    mistakes={
        "that is 1 / (a · κ): a Gaussian's σ is its root":
            {"result": lambda right: right**2},
        "upside down: that is √(a · κ)": {"result": lambda right: 1 / right},
        "a large factor narrows: it belongs below the fraction's line": lambda f, *rest:
            _law(1 / f, *rest),
        "hands turn by 2π over the picture: 2π is missing": {"turn": 1.0},
        "there is one i for each hand, not for each channel: T^(i / hands)":
            [{"step": 2.0}, {"step": 0.5}],
        "cos(ωΔ) falls like ω²Δ²/2: sum the squares of ω":
            [{"power": 1}, _square_of_sum],
        "sum over the hands: their scores add up, they are not averaged": {"mean": 1},
        "scores are divided by √d, so κ is, too": lambda f, t, n, d: _law(f, t, n, 1),
        "divide κ by √d, not by d": lambda f, t, n, d: _law(f, t, n, d * d),
        "the factor is missing": lambda f, *rest: _law(1.0, *rest),
        "slow hands turn *less*: divide by the power of the temperature":
            lambda f, t, n, d: _law(f, 1 / t, n, d),
    },
    convert=float, kind="one number is wanted: σ", unit="case",
)  # fmt: skip


def _angles(shift, temperature, channels):
    return (
        2
        * math.pi
        * shift
        / temperature ** (torch.arange(channels // 2) * 2 / channels)
    )


def _turned(code, shift, temperature, angles=_angles, blocks=0, pull=1):
    """The code of a place `shift` further, right unless told to make a mistake."""
    angle = angles(shift, temperature, code.shape[-1])
    s, c = code.chunk(2, -1) if blocks else (code[..., 0::2], code[..., 1::2])
    new = s * angle.cos() + pull * c * angle.sin(), c * angle.cos() - s * angle.sin()
    return torch.cat(new, -1) if blocks else torch.stack(new, -1).flatten(-2)


PLACES = sine_features(2 * math.pi * numbers(6), 8, 20.0)
turned = exercise(__name__, "turned", """
    Check exercise 4, `mine(code [Q, C], shift, temperature)` -> `[Q, C]`.

    Codes of one axis, sine and cosine in turn, hand i turning by
    2π / temperature^(2i / C) over the picture. Source: sine and cosine of a sum.""",
    praise="each hand turned by its own angle: the same spot, further on",
    cases=[(PLACES, 0.25, 20.0), (PLACES, -0.1, 20.0)], answer=_turned,
    mistakes={
        "the wrong way round: a positive shift goes to larger places. Or did you take "
        "cosine for sine? Sine comes first in each pair":
            lambda code, shift, t: _turned(code, -shift, t),
        "every hand has its own speed: all of yours turn by one angle":
            {"angles": lambda shift, t, c: torch.full((c // 2,), 2 * math.pi * shift)},
        "the shift is a share of the picture: times 2π":
            {"angles": lambda shift, t, c: _angles(shift, t, c) / (2 * math.pi)},
        "pairs lie side by side: sine, cosine, sine, cosine": {"blocks": 1},
        "one sign is wrong: sin(a + b) = sin a cos b + cos a sin b, and "
        "cos(a + b) = cos a cos b − sin a sin b": {"pull": -1},
        "two channels make one hand: the power is 2i / C":
            {"angles": lambda shift, t, c:
                2 * math.pi * shift / t ** (torch.arange(c // 2) / c)},
        "adding two codes is no code of the sum: turn each hand":
            lambda code, shift, t:
                code + sine_features(torch.tensor([2 * math.pi * shift]), 8, t),
        "a shift of the place is no number to add to its code: turn each hand":
            lambda code, shift, t: code + shift,
        "that is ⊙: it stretches the hands, and cannot turn them":
            lambda code, shift, t:
                code * sine_features(torch.tensor([2 * math.pi * shift]), 8, t),
    },
    shape="[Q, C] = {}", unit="code",
)  # fmt: skip
