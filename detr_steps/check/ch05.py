"""Checks of the exercises of chapter 05 (convolutions whose taps move)."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ..nn.deform_conv import deformable_conv
from ..ops.sample import sample
from . import Verdict, right, wrong
from .trying import call, compare

PLACE = (0.25, 0.5)  # of exercise 1: (x, y), shares of a map of 5 rows and 7 columns


def reading(answer: float | None) -> Verdict:
    """Exercise 1: what a 5 × 7 map of 10 · row + column reads at PLACE, by hand."""
    if answer is None:
        return wrong("not yet: write the number that is read")
    try:
        value = float(answer)
    except (TypeError, ValueError):
        return wrong("give one number")
    known = (
        (26.75, "half a pixel is missing: x · 7 − 0.5, for values sit in the centres"),
        (21.5, "that is x · (7 − 1): as if the outer centres lay on the map's edge"),
        (30.75, "x goes with the 7 columns, y with the 5 rows"),
        (10.5, "(x, y): the first number goes to the right, the second one down"),
        (22.25, "the row is right; columns count from 0"),
        (31.25, "the column is right; rows count from 0"),
        (21.75, "the wrong way round: the nearer column has the larger share"),
        (21.0, "that is the nearest pixel; mix it with its neighbour"),
        (22.0, "that is the second nearest pixel; mix both"),
    )
    for number, diagnosis in known:
        if abs(value - number) < 1e-3:
            return wrong(diagnosis)
    if abs(value - 21.25) > 1e-3 and 21 < value < 22:
        return wrong("the right two pixels; their shares: 1 − distance to column 1.25")
    if abs(value - 21.25) > 1e-3:
        return wrong(
            "not that. First the place in pixels: column x · 7 − 0.5, row y · 5 − 0.5. "
            "Then add up the pixels around it, each times 1 − its distance"
        )
    return right("column 1.25, row 2: three quarters of 21 and one quarter of 22")


def dilation(mine: Callable | None) -> Verdict:
    """Exercise 2: `mine(dilation, h, w)` -> offsets `[1, 1, 9, h, w, 2]` (dx, dy).

    With them a 3 × 3 kernel whose taps are neighbours reads as a dilated one.
    """
    h, w, times = 9, 11, 3
    value, fault = call(mine, times, h, w)
    if fault is not None:
        return fault
    if not isinstance(value, Tensor):
        return wrong("return a tensor of offsets")
    if value.shape != (1, 1, 9, h, w, 2):
        return wrong(f"shape {list(value.shape)}, expected [1, 1, 9, {h}, {w}, 2]")
    x, weight = torch.randn(1, 2, h, w), torch.randn(3, 2, 3, 3)
    out = deformable_conv(x, weight, None, value.float(), padding=(1, 1))
    if torch.allclose(out, functional.conv2d(x, weight, None, 1, 3, 3), atol=1e-4):
        return right("a dilated kernel is nine moves that every pixel shares")
    steps = torch.tensor([-1.0, 0.0, 1.0])
    y, x_ = torch.meshgrid(steps, steps, indexing="ij")
    grid = torch.stack((x_, y), -1).flatten(0, 1)[:, None, None].expand(9, h, w, 2)
    size = torch.tensor([w, h])
    return compare(
        value[0, 0].float(),
        (times - 1) * grid,
        (
            (times * grid, "taps already stand 1 apart: move them by what is missing"),
            (grid, "right for a dilation of 2 only: use the number that is given"),
            ((times - 1) * grid.flip(-1), "that is (dy, dx); here dx comes first"),
            (-(times - 1) * grid, "the taps move inwards: mind the sign"),
            (
                (times - 1) * grid / size,
                "those are shares of the map; offsets are in pixels of the input",
            ),
            (torch.zeros_like(grid), "no tap moves"),
        ),
        "tap",
    )


def from_torchvision(mine: Callable | None) -> Verdict:
    """Exercise 3: `mine(x, weight, offsets [B, 18, H, W], mask [B, 9, H, W])`.

    A 3 × 3 modulated deformable convolution with padding 1, its offsets in
    torchvision's order: (dy, dx) of the first tap, (dy, dx) of the second …; returns
    `[B, C, H, W]`.
    """
    x, weight = torch.randn(2, 4, 6, 9), torch.randn(5, 4, 3, 3)
    offsets, mask = torch.randn(2, 18, 6, 9), torch.rand(2, 9, 6, 9)
    value, fault = call(mine, x, weight, offsets, mask)
    if fault is not None:
        return fault
    if not isinstance(value, Tensor):
        return wrong("return a tensor")
    pairs = offsets.unflatten(1, (9, 2)).movedim(2, -1)  # [B, 9, H, W, 2] (dy, dx)
    moves = pairs.flip(-1)
    halves = offsets.unflatten(1, (2, 9)).movedim(1, -1).flip(-1)

    def by(given=moves, share=mask, shift=0.5, size=(9, 6), filters=weight) -> Tensor:
        return _taps(x, given, share, shift, size, filters)

    turned = torch.tensor([9.0, 6.0])
    return compare(
        value,
        by(),
        (
            (by(pairs), "the pairs are (dy, dx): turn them round for (x, y)"),
            (by(halves), "channels are dy, dx, dy, dx …, not nine dy and then nine dx"),
            (
                by(halves.flip(-1)),
                "channels are dy, dx, dy, dx …, not nine dx and then nine dy",
            ),
            (by(share=None), "the mask is missing: it multiplies what each tap read"),
            (by(share=mask.sigmoid()), "the mask is a share already: no sigmoid"),
            (
                by(share=mask.softmax(1)),
                "no softmax: each tap has its own share, they need not sum to one",
            ),
            (by(shift=0.0), "half a pixel is missing: centres lie at + 0.5"),
            (by(shift=1.5), "one pixel too far: with padding 1 the first tap is at −1"),
            (
                by(size=(6, 9)),
                "x is divided by the width, y by the height: not the other way",
            ),
            (
                by(moves * turned),
                "offsets are in pixels, not shares: add them before you divide",
            ),
            (
                by(filters=weight.transpose(2, 3)),
                "taps go row by row; yours go column by column",
            ),
            (by(filters=weight.flip((2, 3))), "the first tap is the upper left one"),
            (
                functional.conv2d(x, weight, padding=1),
                "that is a plain convolution: the offsets do nothing",
            ),
        ),
        "tap",
    )


def _taps(
    x: Tensor,
    moves: Tensor,
    mask: Tensor | None,
    shift: float,
    size: tuple,
    filters: Tensor,
) -> Tensor:
    """Sum over nine taps, with whatever is wrong with the places of the taps."""
    rows, columns = torch.arange(6.0)[:, None], torch.arange(9.0)
    out = 0
    for tap in range(9):
        column = columns + tap % 3 - 1 + moves[:, tap, ..., 0] + shift
        row = rows + tap // 3 - 1 + moves[:, tap, ..., 1] + shift
        read = sample(x, torch.stack((column / size[0], row / size[1]), -1))
        if mask is not None:
            read = read * mask[:, tap, None]
        out = out + torch.einsum(
            "bchw,oc->bohw", read, filters[:, :, tap // 3, tap % 3]
        )
    return out
