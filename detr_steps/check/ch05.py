"""Checks of the exercises of chapters/05_deformable_conv.ipynb."""

import torch
from torch import Tensor
from torch.nn import functional

from ..ops.sample import sample
from .trying import exercise, numbers, turned

PLACE = (0.25, 0.5)  # of exercise 1: (x, y), shares of a map of 5 rows and 7 columns

reading = exercise(__name__, "reading", """
    Check exercise 1, by hand: a 5 × 7 map of 10 · row + column, read at PLACE.""",
    praise="column 1.25, row 2: three quarters of 21 and one quarter of 22",
    blank="write the number that is read", by_hand=True,
    cases=[()], answer=21.25,
    mistakes={
        "half a pixel is missing: x · 7 − 0.5, for values sit in the centres": 26.75,
        "that is x · (7 − 1): as if the outer centres lay on the map's edge": 21.5,
        "x goes with the 7 columns, y with the 5 rows": 30.75,
        "(x, y): the first number goes to the right, the second one down": 10.5,
        "the row is right; columns count from 0": 22.25,
        "the column is right; rows count from 0": 31.25,
        "the wrong way round: the nearer column weighs more": 21.75,
        "that is the nearest pixel; mix it with its neighbour": 21.0,
        "that is the second nearest pixel; mix both": 22.0,
    },
    convert=float, kind="give one number",
    otherwise=lambda value, truth: (
        "the right two pixels; their weights: 1 − distance to column 1.25"
        if 21 < value < 22 else
        "not that. First the place in pixels: column x · 7 − 0.5, row y · 5 − 0.5. "
        "Then add up the pixels around it, each times 1 − its distance"
    ),
)  # fmt: skip


def _spread(dilation: int, h: int, w: int, missing: int = 1) -> Tensor:
    """Offsets `[1, 1, 9, h, w, 2]` (dx, dy) of a dilated kernel's taps, row by row."""
    steps = (dilation - missing) * torch.tensor([-1.0, 0.0, 1.0])
    grid = torch.cartesian_prod(steps, steps).flip(-1)  # [9, 2]
    return grid[:, None, None].expand(1, 1, 9, h, w, 2)


dilation = exercise(__name__, "dilation", """
    Check exercise 2, `mine(dilation, h, w)` -> offsets `[1, 1, 9, h, w, 2]`.

    (dx, dy) in pixels, with which a 3 × 3 kernel reads as a dilated one.""",
    praise="a dilated kernel is nine moves that every pixel shares",
    cases=[(3, 9, 11)], answer=_spread,
    mistakes={
        "taps already stand 1 apart: move them by what is missing": {"missing": 0},
        "right for a dilation of 2 only: use the number that is given": {"dilation": 2},
        "that is (dy, dx); here dx comes first": {"result": turned},
        "the taps move inwards: mind the sign": {"result": torch.neg},
        "those are shares of the map; offsets are in pixels of the input":
            {"result": lambda offsets: offsets / torch.tensor([11, 9])},
        "no tap moves": {"result": torch.zeros_like},
    },
    shape="[1, 1, 9, h, w, 2] = {}", unit="tap",
)  # fmt: skip


def _modulated(x, weight, offsets, mask, shift=0.5, size=(9, 6)):
    """Sum over nine taps, `[B, C, H, W]`, right unless told to make a mistake."""
    rows, columns = torch.arange(6.0)[:, None], torch.arange(9.0)
    out = 0
    for tap in range(9):
        column = columns + tap % 3 - 1 + offsets[:, 2 * tap + 1] + shift
        row = rows + tap // 3 - 1 + offsets[:, 2 * tap] + shift
        read = sample(x, torch.stack((column / size[0], row / size[1]), -1))
        kernel = weight[:, :, tap // 3, tap % 3]
        out = out + torch.einsum("bchw,oc->bohw", read * mask[:, tap, None], kernel)
    return out


from_torchvision = exercise(__name__, "from_torchvision", """
    Check exercise 3, `mine(x, weight, offsets, mask)` -> `[B, C, H, W]`.

    A 3 × 3 modulated deformable convolution with padding 1; `offsets [B, 18, H, W]` in
    torchvision's order: (dy, dx) of each tap; `mask [B, 9, H, W]`.""",
    cases=[(
        numbers(2, 4, 6, 9), numbers(5, 4, 3, 3),
        4 * numbers(2, 18, 6, 9) - 2, numbers(2, 9, 6, 9),
    )],
    answer=_modulated,
    mistakes={
        "the pairs are (dy, dx): turn them round for (x, y)":
            {"offsets": lambda o: o.unflatten(1, (9, 2)).flip(2).flatten(1, 2)},
        "channels are dy, dx, dy, dx …, not nine dy and then nine dx":
            {"offsets": lambda o: o.unflatten(1, (2, 9)).transpose(1, 2).flatten(1, 2)},
        "channels are dy, dx, dy, dx …, not nine dx and then nine dy":
            {"offsets":
             lambda o: o.unflatten(1, (2, 9)).transpose(1, 2).flip(2).flatten(1, 2)},
        "the mask is missing: it multiplies what each tap read":
            {"mask": torch.ones_like},
        "no sigmoid: the mask has had it already": {"mask": torch.sigmoid},
        "no softmax: each tap has its own mask, they need not sum to one":
            {"mask": lambda mask: mask.softmax(1)},
        "half a pixel is missing: centres lie at + 0.5": {"shift": 0.0},
        "one pixel too far: with padding 1 the first tap is at −1": {"shift": 1.5},
        "x is divided by the width, y by the height: not the other way":
            {"size": (6, 9)},
        "offsets are in pixels, not shares: add them before you divide":
            {"offsets": lambda o: o * torch.tensor([6.0, 9.0] * 9)[:, None, None]},
        "taps go row by row; yours go column by column":
            {"weight": lambda weight: weight.transpose(2, 3)},
        "the first tap is the upper left one":
            {"weight": lambda weight: weight.flip((2, 3))},
        "that is a plain convolution: the offsets do nothing":
            lambda x, w, o, m: functional.conv2d(x, w, padding=1),
    },
    unit="tap",
)  # fmt: skip
