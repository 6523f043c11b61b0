"""The exercises' checks: right answers pass, each known mistake gets its diagnosis."""

import pytest
import torch
from torch.nn import functional

from detr_steps.check import ch05
from detr_steps.nn.deform_conv import deformable_conv
from detr_steps.ops.sample import sample


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (None, "not yet"),
        ("somewhere", "one number"),
        (26.75, "half a pixel"),
        (21.5, "outer centres"),
        (30.75, "7 columns"),
        (10.5, "to the right"),
        (21.75, "wrong way round"),
        (21, "nearest pixel"),
        (21.4, "1 − distance"),
        (3.0, "First the place in pixels"),
    ],
)
def test_wrong_readings(answer, says):
    verdict = ch05.reading(answer)
    assert not verdict and says in verdict.message, verdict


def test_right_reading():
    numbers = 10.0 * torch.arange(5)[:, None] + torch.arange(7)  # [5, 7]
    read = sample(numbers[None, None], torch.tensor([[ch05.PLACE]]))
    assert ch05.reading(read)


def test_known_readings_are_what_the_mistakes_give():
    """What each slip reads, worked out with the library on a map, not by hand."""
    numbers = 10.0 * torch.arange(5)[:, None] + torch.arange(7)
    x, y = ch05.PLACE

    def read(column, row):
        place = torch.tensor([[[(column + 0.5) / 7, (row + 0.5) / 5]]])
        return sample(numbers[None, None], place).item()

    slips = {
        "half a pixel": (x * 7, y * 5),
        "outer centres": (x * 6, y * 4),
        "7 columns": (x * 5 - 0.5, y * 7 - 0.5),
        "to the right": (y * 7 - 0.5, x * 5 - 0.5),
    }
    for says, place in slips.items():
        assert says in ch05.reading(read(*place)).message, says


def grid(times, h, w):
    """Nine taps row by row, (dx, dy)."""
    taps = [[dx, dy] for dy in (-1.0, 0.0, 1.0) for dx in (-1.0, 0.0, 1.0)]
    return times * torch.tensor(taps)[None, None, :, None, None].expand(
        1, 1, 9, h, w, 2
    )


def test_right_dilation():
    assert ch05.dilation(lambda d, h, w: grid(d - 1, h, w))
    x, weight = torch.randn(1, 2, 6, 7), torch.randn(3, 2, 3, 3)
    moved = deformable_conv(x, weight, None, grid(1, 6, 7), padding=(1, 1))
    wanted = functional.conv2d(x, weight, padding=2, dilation=2)
    torch.testing.assert_close(moved, wanted)


DILATIONS = {
    "not yet: give": None,
    "not yet: your function": lambda d, h, w: None,
    "raised ZeroDivisionError": lambda d, h, w: d / 0,
    "return a tensor": lambda d, h, w: [1.0],
    "shape": lambda d, h, w: grid(d - 1, w, h),
    "already stand 1 apart": grid,
    "2 only": lambda d, h, w: grid(1, h, w),
    "dx comes first": lambda d, h, w: grid(d - 1, h, w).flip(-1),
    "inwards": lambda d, h, w: grid(1 - d, h, w),
    "shares of the map": lambda d, h, w: grid(d - 1, h, w) / torch.tensor([w, h]),
    "no tap moves": lambda d, h, w: grid(0, h, w),
    "not by a mistake I know": lambda d, h, w: grid(7, h, w),
}


@pytest.mark.parametrize("says", DILATIONS)
def test_wrong_dilations(says):
    verdict = ch05.dilation(DILATIONS[says])
    assert not verdict and says in verdict.message, verdict


def pairs(offsets):
    """`[B, 18, H, W]` (dy, dx) of each tap -> `[B, 1, 9, H, W, 2]` (dx, dy)."""
    return offsets.unflatten(1, (9, 2)).movedim(2, -1).flip(-1)[:, None]


def convolve(x, weight, moves, mask):
    mask = None if mask is None else mask[:, None]
    return deformable_conv(x, weight, None, moves, mask, padding=(1, 1))


def test_right_from_torchvision():
    assert ch05.from_torchvision(lambda x, w, o, m: convolve(x, w, pairs(o), m))


def halves(offsets):
    return offsets.unflatten(1, (2, 9)).movedim(1, -1)[:, None]


FORWARDS = {
    "not yet": lambda x, w, o, m: None,
    "raised": lambda x, w, o, m: convolve(x, w, o, m),
    "turn them round": lambda x, w, o, m: convolve(x, w, pairs(o).flip(-1), m),
    "nine dy and then": lambda x, w, o, m: convolve(x, w, halves(o).flip(-1), m),
    "nine dx and then": lambda x, w, o, m: convolve(x, w, halves(o), m),
    "mask is missing": lambda x, w, o, m: convolve(x, w, pairs(o), None),
    "no sigmoid": lambda x, w, o, m: convolve(x, w, pairs(o), m.sigmoid()),
    "no softmax": lambda x, w, o, m: convolve(x, w, pairs(o), m.softmax(1)),
    "half a pixel": lambda x, w, o, m: convolve(x, w, pairs(o) - 0.5, m),
    "one pixel too far": lambda x, w, o, m: convolve(x, w, pairs(o) + 1, m),
    "before you divide": lambda x, w, o, m: convolve(
        x, w, pairs(o) * torch.tensor([9.0, 6.0]), m
    ),
    "column by column": lambda x, w, o, m: convolve(x, w.transpose(2, 3), pairs(o), m),
    "upper left": lambda x, w, o, m: convolve(x, w.flip((2, 3)), pairs(o), m),
    "do nothing": lambda x, w, o, m: functional.conv2d(x, w, padding=1),
    "shape": lambda x, w, o, m: functional.conv2d(x, w),
    "not by a mistake I know": lambda x, w, o, m: x[:, :1].expand(-1, 5, -1, -1),
}


@pytest.mark.parametrize("says", FORWARDS)
def test_wrong_forwards(says):
    verdict = ch05.from_torchvision(FORWARDS[says])
    assert not verdict and says in verdict.message, verdict


def test_swapped_sizes_are_recognised():
    """x divided by the height and y by the width."""

    def swapped(x, weight, offsets, mask):
        h, w = x.shape[-2:]
        moves, out = pairs(offsets)[:, 0], 0
        for tap in range(9):
            column = torch.arange(w) + tap % 3 - 0.5 + moves[:, tap, ..., 0]
            row = torch.arange(h)[:, None] + tap // 3 - 0.5 + moves[:, tap, ..., 1]
            read = sample(x, torch.stack((column / h, row / w), -1))
            mix = weight[:, :, tap // 3, tap % 3]
            out = out + torch.einsum("bchw,oc->bohw", read * mask[:, tap, None], mix)
        return out

    verdict = ch05.from_torchvision(swapped)
    assert not verdict and "divided by the width" in verdict.message
