"""Checks of the exercises of chapters/01_attention.ipynb."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..nn.position import sine_features, sine_position
from . import Verdict, right, wrong

NOT_YET = "not yet: {} still returns None. Write it, then run this cell again."


def _close(a: object, b: Tensor) -> bool:
    if not isinstance(a, Tensor) or a.shape != b.shape:
        return False
    return torch.allclose(a.double(), b.double(), atol=1e-4, equal_nan=True)


def count_weights(answer: Callable[[int, int, int, int], int]) -> Verdict:
    """Check exercise 1: weights of self-attention for height, width, stride, heads."""
    trials = ((640, 480, 32, 8), (100, 133, 16, 4), (50, 70, 8, 1), (33, 65, 32, 2))
    results = [answer(*trial) for trial in trials]
    if any(result is None for result in results):
        return wrong(NOT_YET.format("count_weights"))
    for slip, name in COUNT_SLIPS:
        if all(abs(r - slip(*t)) < 0.5 for r, t in zip(results, trials)):
            return wrong(name) if name else right("each head asks each pair of tokens.")
    return wrong(_first_count(results, trials))


def _cells(height: int, width: int, stride: int) -> int:
    return math.ceil(height / stride) * math.ceil(width / stride)


COUNT_SLIPS = (
    (lambda h, w, s, m: m * _cells(h, w, s) ** 2, ""),
    (
        lambda h, w, s, m: m * _cells(h, w, s),
        "that is one number for each token: but every token asks every token.",
    ),
    (
        lambda h, w, s, m: _cells(h, w, s) ** 2,
        "one map only: each head has a map of its own.",
    ),
    (
        lambda h, w, s, m: m * (h * w) ** 2,
        "pixels ask pixels: tokens are the cells of the map, one every `stride` "
        "pixels each way.",
    ),
    (
        lambda h, w, s, m: m * ((h // s) * (w // s)) ** 2,
        "right when the stride divides the sides; if not, a cut cell at the edge "
        "counts too: round up.",
    ),
    (
        lambda h, w, s, m: m * (h * w / s) ** 2,
        "the stride shrinks the height *and* the width: divide both by it.",
    ),
)


def _first_count(results: list, trials: tuple) -> str:
    for found, (height, width, stride, heads) in zip(results, trials):
        cells = _cells(height, width, stride)
        if abs(found - heads * cells**2) >= 0.5:
            return (
                f"{height} x {width} pixels at stride {stride} make {cells} tokens; "
                f"with {heads} heads expected {heads * cells**2}, got {found}."
            )
    return "another result on a second run: is something random in it?"


def attend_near(answer: Callable) -> Verdict:
    """Check exercise 2: attention `(q, k, v, size, radius)` to cells within reach."""
    generator = torch.Generator().manual_seed(0)
    size, radius = (4, 6), 1
    q, k, v = torch.randn(3, 2, 24, 8, generator=generator).unbind()
    try:
        result = answer(q.clone(), k.clone(), v.clone(), size, radius)
    except (RuntimeError, IndexError) as error:
        return wrong(f"it stops with: {error}")
    if result is None:
        return wrong(NOT_YET.format("attend_near"))
    if not isinstance(result, tuple) or len(result) != 2:
        return wrong("return two things: what was read [B, S, D], and the weights.")
    read, weights = result
    scores = q @ k.transpose(1, 2)
    near = _near(size, radius)
    wanted = _near_weights(scores, near)
    if not _close(weights, wanted):
        return wrong(_name_of_near_fault(weights, scores, size, radius))
    if not _close(read, wanted @ v):
        return wrong("the weights are right; what is read is weights @ v.")
    wide = answer(q, k, v, size, 3)
    if not _close(wide[1], _near_weights(scores, _near(size, 3))):
        return wrong("right for radius 1 and wrong for radius 3: is 1 written in it?")
    return right("every cell asks its neighbours, and only them.")


def _near(size: tuple[int, int], radius: int) -> Tensor:
    """Which cells are at most `radius` king's moves apart, bool `[S, S]`."""
    rows = torch.arange(size[0]).repeat_interleave(size[1])
    columns = torch.arange(size[1]).repeat(size[0])
    down = (rows[:, None] - rows).abs()
    along = (columns[:, None] - columns).abs()
    return torch.maximum(down, along) <= radius


def _near_weights(scores: Tensor, near: Tensor, channels: int = 8) -> Tensor:
    scores = scores / math.sqrt(channels)
    return scores.masked_fill(~near, float("-inf")).softmax(-1)


def _name_of_near_fault(
    weights: object, scores: Tensor, size: tuple[int, int], radius: int
) -> str:
    near = _near(size, radius)
    flat = torch.arange(size[0] * size[1])
    steps = (flat[:, None] - flat).abs()
    rows, columns = flat // size[1], flat % size[1]
    down = (rows[:, None] - rows).abs()
    along = (columns[:, None] - columns).abs()
    moves = down + along
    free = (scores / math.sqrt(8)).softmax(-1)
    slips = (
        (free, "every cell still sees all cells: the mask has no effect."),
        (
            free * near,
            "masked after the softmax: the rows no longer sum to 1. Fill the *scores* "
            "of far cells with -inf, then take the softmax.",
        ),
        (
            _near_weights(scores, ~near),
            "the mask is upside down: each cell sees only what is far.",
        ),
        (
            ((scores / math.sqrt(8)) * near).softmax(-1),
            "far scores were set to 0, and exp(0) is 1: fill with -inf instead.",
        ),
        (
            _near_weights(scores, steps <= radius),
            "distance was counted along the row-by-row list: there the last cell of a "
            "row is next to the first of the next row. Compare rows and columns.",
        ),
        (
            _near_weights(scores, _near((size[1], size[0]), radius)),
            "rows and columns are swapped: cell i is in row i // w and column i % w.",
        ),
        (
            _near_weights(scores, moves <= radius),
            "diagonal neighbours are missing: rows *and* columns differ by at most "
            "the radius; do not add the two.",
        ),
        (
            _near_weights(scores, (down <= radius) | (along <= radius)),
            "whole rows and columns are still seen: a cell is too far when its row "
            "*or* its column is. `|` joins what is far, `&` what is near.",
        ),
        (
            _near_weights(scores, _near(size, radius - 1)),
            "cells exactly `radius` away are missing: they are still near, so far is "
            "`> radius` and not `>=`.",
        ),
        (
            _near_weights(scores, near, channels=1),
            "the window is right, but the scores are not divided by √D.",
        ),
        (
            (scores / math.sqrt(8)).masked_fill(~near, float("-inf")).softmax(-2),
            "the softmax runs over the queries: each *row* sums to 1, so dim=-1.",
        ),
    )
    for slip, name in slips:
        if _close(weights, slip):
            return name
    if not isinstance(weights, Tensor) or weights.shape != scores.shape:
        got = list(weights.shape) if isinstance(weights, Tensor) else type(weights)
        return f"weights are {got}, expected [B, S, S] = {list(scores.shape)}."
    if weights.isnan().any():
        return "NaN among the weights: some row is masked wholly. A cell sees itself."
    wanted = _near_weights(scores, near)
    at = tuple(int(i) for i in ((weights - wanted).abs() > 1e-4).nonzero()[0])
    return f"weights{list(at)}: expected {wanted[at]:.3f}, got {weights[at]:.3f}."


def positions(answer: Callable[[Tensor, int], Tensor]) -> Verdict:
    """Check exercise 3: sine positions `[B, h, w, C]` of `padding [B, h, w]`, `C`."""
    padding = torch.zeros(2, 5, 7, dtype=torch.bool)
    padding[1, 3:], padding[1, :, 4:] = True, True
    channels = 16
    try:
        result = answer(padding.clone(), channels)
    except (RuntimeError, IndexError, TypeError) as error:
        return wrong(f"it stops with: {error}")
    if result is None:
        return wrong(NOT_YET.format("positions"))
    wanted = sine_position(padding, channels)
    real = ~padding
    if isinstance(result, Tensor) and result.shape == wanted.shape:
        if _close(result[real], wanted[real]):
            if result.isnan().any():
                return wrong(
                    "right on real cells, NaN on padded ones: a wholly padded column "
                    "counts to 0, and 0 / 0 is NaN. Weight 0 times NaN is NaN too: use "
                    ".clamp(min=1) on the last count."
                )
            return right("y and x, each a share of the real image.")
        return wrong(_name_of_position_fault(result, padding, channels))
    if isinstance(result, Tensor) and result.shape == wanted[..., ::2].shape:
        return wrong(
            "C / 2 channels: y and x have C / 2 each. Do not add them, lay one behind "
            "the other: torch.cat(..., -1)."
        )
    got = list(result.shape) if isinstance(result, Tensor) else type(result).__name__
    return wrong(f"expected [B, h, w, C] = {list(wanted.shape)}, got {got}.")


def _place(
    padding: Tensor,
    channels: int,
    first: int = 1,
    turn: float = 2 * math.pi,
    stretch: bool = True,
) -> Tensor:
    """`sine_position` with knobs for what goes wrong."""
    real = (~padding).float()
    halves = []
    for axis in (1, 2):
        count = real.cumsum(axis)
        last = count.amax(axis, keepdim=True) if stretch else 1
        share = (count - 1 + first) / (last + 1e-6) * (turn if stretch else 1)
        halves.append(sine_features(share, channels // 2))
    return torch.cat(halves, -1)


def _blocks(halves: Tensor) -> Tensor:
    """All sines first, then all cosines, in each half."""
    y, x = halves.chunk(2, -1)
    parts = (y[..., 0::2], y[..., 1::2], x[..., 0::2], x[..., 1::2])
    return torch.cat(parts, -1)


def _from_zero(padding: Tensor, channels: int) -> Tensor:
    """Counted 0, 1, … and divided by the last of these."""
    halves = []
    for axis in (1, 2):
        count = ((~padding).float().cumsum(axis) - 1).clamp(min=0)
        share = count / count.amax(axis, keepdim=True).clamp(min=1) * 2 * math.pi
        halves.append(sine_features(share, channels // 2))
    return torch.cat(halves, -1)


def _summed(padding: Tensor, channels: int) -> Tensor:
    """All channels for y plus all channels for x."""
    real = (~padding).float()
    parts = []
    for axis in (1, 2):
        count = real.cumsum(axis)
        share = count / (count.amax(axis, keepdim=True) + 1e-6) * 2 * math.pi
        parts.append(sine_features(share, channels))
    return parts[0] + parts[1]


def _slow_waves(padding: Tensor, channels: int) -> Tensor:
    """Wavelengths counted over all channels and not over each half."""
    real = (~padding).float()
    halves = []
    for axis in (1, 2):
        count = real.cumsum(axis)
        share = count / (count.amax(axis, keepdim=True) + 1e-6) * 2 * math.pi
        halves.append(sine_features(share, channels)[..., : channels // 2])
    return torch.cat(halves, -1)


def _name_of_position_fault(result: Tensor, padding: Tensor, channels: int) -> str:
    wanted = sine_position(padding, channels)
    nothing = torch.zeros_like(padding)
    slips = (
        (
            torch.cat(wanted.chunk(2, -1)[::-1], -1),
            "x comes first: the first half of the channels is y, the second x.",
        ),
        (
            sine_position(nothing, channels),
            "right without padding; with padding, count only real cells and divide by "
            "the last real one: (~padding).cumsum(...).",
        ),
        (
            _place(padding, channels, first=0),
            "counting starts at 0: the first cell is 1, so that the last is a full 2π.",
        ),
        (
            _from_zero(padding, channels),
            "counting starts at 0: the first cell is 1, and its share is 1 / last.",
        ),
        (
            _summed(padding, channels),
            "y and x are added: then nobody can tell (2, 5) from (5, 2). Give each "
            "C / 2 channels and lay them side by side: torch.cat(..., -1).",
        ),
        (
            _place(padding, channels, stretch=False),
            "the waves run over cell numbers: divide by the last number and multiply "
            "by 2π, so that a position is a share of the image.",
        ),
        (
            _place(padding, channels, turn=1.0),
            "the share goes from 0 to 1: stretch it to 2π.",
        ),
        (
            _blocks(wanted),
            "all sines, then all cosines: they take turns, sin cos sin cos …",
        ),
        (
            _slow_waves(padding, channels),
            "the wavelengths are spread over C channels: each half has C / 2 of them.",
        ),
    )
    real = ~padding
    for slip, name in slips:
        if _close(result[real], slip[real]):
            return name
    off = ((result - wanted).abs() > 1e-4) & real[..., None]
    b, row, column, channel = (int(i) for i in off.nonzero()[0])
    return (
        f"image {b}, row {row}, column {column}, channel {channel}: expected "
        f"{wanted[b, row, column, channel]:.3f}, got "
        f"{result[b, row, column, channel]:.3f}."
    )
