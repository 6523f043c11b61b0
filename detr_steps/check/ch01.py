"""Checks of the exercises of chapters/01_attention.ipynb."""

import math

import torch

from ..nn.position import sine_features
from .trying import Trial, exercise, numbers, tensors, turned


def _cells(height: int, width: int, stride: int) -> int:
    return math.ceil(height / stride) * math.ceil(width / stride)


count_weights = exercise(__name__, "count_weights", """
    Check exercise 1, `mine(height, width, stride, heads)` -> weights; in pixels.""",
    named=True, praise="each head asks each pair of tokens.",
    cases=[(640, 480, 32, 8), (100, 133, 16, 4), (50, 70, 8, 1), (33, 65, 32, 2)],
    answer=lambda h, w, s, m: m * _cells(h, w, s) ** 2,
    mistakes={
        "that is one number for each token: but every token asks every token.":
            lambda h, w, s, m: m * _cells(h, w, s),
        "one map only: each head has a map of its own.":
            lambda h, w, s, m: _cells(h, w, s) ** 2,
        "pixels ask pixels: tokens are the cells of the map, one every `stride` pixels "
        "each way.": lambda h, w, s, m: m * (h * w) ** 2,
        "right when the stride divides the sides; if not, a cut cell at the edge "
        "counts too: round up.": lambda h, w, s, m: m * ((h // s) * (w // s)) ** 2,
        "a part of a cell at the edge is a whole token: round each side up.":
            lambda h, w, s, m: m * (h / s * w / s) ** 2,
        "the stride shrinks the height *and* the width: divide both by it.":
            lambda h, w, s, m: m * (h * w / s) ** 2,
    },
    convert=float, kind="one number is wanted, but {who} returns a {kind}.",
    otherwise=lambda value, truth, h, w, s, m:
        f"{h} x {w} pixels at stride {s} make {_cells(h, w, s)} tokens; with {m} heads "
        f"expected {truth}, got {value:g}.",
)  # fmt: skip


def _weights(q, k, v, size, radius, join=torch.maximum, far=-math.inf, dim=-1):
    """Weights `[B, S, S]`, right unless told to make a mistake."""
    cell = torch.arange(size[0] * size[1])
    row, column = cell // size[1], cell % size[1]
    moves = join((row[:, None] - row).abs(), (column[:, None] - column).abs())
    scores = q @ k.transpose(1, 2) / math.sqrt(8)
    return scores.masked_fill(moves > radius, far).softmax(dim)


QKV = tuple(4 * numbers(3, 2, 24, 8) - 2)  # of maps of 4 rows and 6 columns
TWO = {
    "convert": tensors(2),
    "kind": "return two things: what was read [B, S, D], and the weights.",
}
attend_near = exercise(__name__, "attend_near", """
    Check exercise 2, `mine(q, k, v [B, S, D], (h, w), radius)` -> read, weights.

    Attention `[B, S, S]` of each cell to the cells at most `radius` away.""",
    named=True, praise="every cell asks its neighbours, and only them.",
    cases=[(*QKV, (4, 6), 1)], answer=_weights,
    mistakes={
        "every cell still sees all cells: the mask has no effect.": {"radius": 9},
        "masked after the softmax: the rows no longer sum to 1. Fill the *scores* of "
        "far cells with -inf, then take the softmax.":
            lambda *case: _weights(*case[:4], 9) * (_weights(*case) > 0),
        "the mask is upside down: each cell sees only what is far.":
            {"join": lambda down, along: 3 - torch.maximum(down, along)},
        "far scores were set to 0, and exp(0) is 1: fill with -inf instead.":
            {"far": 0.0},
        "distance was counted along the row-by-row list: there the last cell of a row "
        "is next to the first of the next row. Compare rows and columns.":
            {"size": (1, 24)},
        "rows and columns are swapped: cell i is in row i // w and column i % w.":
            {"size": turned},
        "diagonal neighbours are missing: rows *and* columns differ by at most the "
        "radius; do not add the two.": {"join": torch.add},
        "whole rows and columns are still seen: a cell is too far when its row *or* "
        "its column is. `|` joins what is far, `&` what is near.":
            {"join": torch.minimum},
        "cells exactly `radius` away are missing: they are still near, so far is `> "
        "radius` and not `>=`.": {"radius": 0},
        "the window is right, but the scores are not divided by √D.":
            {"q": lambda q: q * math.sqrt(8)},
        "the softmax runs over the queries: each *row* sums to 1, so dim=-1.":
            {"dim": -2},
    },
    **TWO, part=1, shape="[B, S, S] = {}", unit="weight",
    nan="some row of the weights is masked wholly. A cell sees itself.",
    then=[
        Trial(
            [(*QKV, (4, 6), 1)],
            lambda q, k, v, size, radius: _weights(q, k, v, size, radius) @ v,
            part=0, shape="[B, S, D] = {}", **TWO,
            otherwise="the weights are right; what is read is weights @ v.",
        ),
        Trial(
            [(*QKV, (4, 6), 3)], _weights, part=1, **TWO,
            otherwise="right for radius 1 and wrong for radius 3: is 1 written in it?",
        ),
    ],
)  # fmt: skip

PADDING = torch.zeros(2, 5, 7, dtype=torch.bool)
PADDING[1, 3:], PADDING[1, :, 4:] = True, True


def _positions(padding, channels, first=1, last=0, turn=2 * math.pi, waves=8):
    """Positions of real cells, 0 elsewhere, right unless told to make a mistake.

    Counted from `first` to the last number + `last`, not at all stretched with `turn`
    None; `waves` channels have wavelengths of their own.
    """
    counted = (~padding).float()
    halves = []
    for axis in (1, 2):
        place = counted.cumsum(axis) - 1 + first
        end = (counted.sum(axis, keepdim=True) + last).clamp(min=1)
        share = place if turn is None else place / end * turn
        halves.append(sine_features(share, waves)[..., : channels // 2])
    return torch.cat(halves, -1) * ~PADDING[..., None]


positions = exercise(__name__, "positions", """
    Check exercise 3, `mine(padding [B, h, w], C)` -> positions `[B, h, w, C]`.

    Sines of a padded map's real cells. Source: Carion et al. 2020, appendix A.4.""",
    named=True, praise="y and x, each a share of the real image.",
    cases=[(PADDING, 16)], answer=_positions,
    mistakes={
        "x comes first: the first half of the channels is y, the second x.":
            {"result": lambda x: x.roll(8, -1)},
        "right without padding; with padding, count only real cells and divide by the "
        "last real one: (~padding).cumsum(...).": {"padding": torch.zeros_like},
        "counting starts at 0: the first cell is 1, so that the last is a full 2π.":
            {"first": 0},
        "counting starts at 0: the first cell is 1, and its share is 1 / last.":
            {"first": 0, "last": -1},
        "y and x are added: then nobody can tell (2, 5) from (5, 2). Give each C / 2 "
        "channels and lay them side by side: torch.cat(..., -1).":
            {"channels": 32, "waves": 16, "result": lambda x: sum(x.chunk(2, -1))},
        "the waves run over cell numbers: divide by the last number and multiply by "
        "2π, so that a position is a share of the image.": {"turn": None},
        "the share goes from 0 to 1: stretch it to 2π.": {"turn": 1.0},
        "all sines, then all cosines: they take turns, sin cos sin cos …":
            {"result": lambda x: x.unflatten(-1, (2, 4, 2)).mT.flatten(-3)},
        "the wavelengths are spread over C channels: each half has C / 2 of them.":
            {"waves": 16},
    },
    before={
        "C / 2 channels: y and x have C / 2 each. Do not add them, lay one behind the "
        "other: torch.cat(..., -1).": lambda value: value.shape == (*PADDING.shape, 8),
    },
    convert=lambda value: value.masked_fill(PADDING[..., None], 0)
    if value.shape[:-1] == PADDING.shape else value,
    shape="[B, h, w, C] = {}", unit="channel",
    then=[Trial([(PADDING, 16)], before={
        "right on real cells, NaN on padded ones: a wholly padded column counts to 0, "
        "and 0 / 0 is NaN. Weight 0 times NaN is NaN too: use .clamp(min=1) on the "
        "last count.": lambda value: value.isnan().any(),
    })],
)  # fmt: skip
