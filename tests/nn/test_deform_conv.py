"""Deformable convolutions against conv2d and against loops written from the paper."""

import math

import pytest
import torch
from torch.nn import functional

from detr_steps.nn.deform_conv import DeformableConv2d, deformable_conv


def numbers(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def by_loops(x, weight, bias, offsets, mask, stride, padding, dilation):
    """The sum over taps, one number at a time; integers and bilinear hats, no grid."""
    b, c_in, height, width = x.shape
    c, per_group, k, _ = weight.shape
    _, moving_groups, _, h, w, _ = offsets.shape
    out = torch.zeros(b, c, h, w, dtype=x.dtype)

    def hat(a, b):
        return max(0.0, 1 - abs(a - b))

    def read(image, channel, y, x_):
        total = 0.0
        for i in range(max(0, math.floor(y)), min(height, math.floor(y) + 2)):
            for j in range(max(0, math.floor(x_)), min(width, math.floor(x_) + 2)):
                total += hat(y, i) * hat(x_, j) * x[image, channel, i, j].item()
        return total

    for n in range(b):
        for o in range(c):
            first = o // (c // (c_in // per_group)) * per_group
            for i in range(h):
                for j in range(w):
                    total = 0.0 if bias is None else bias[o].item()
                    for inner in range(per_group):
                        channel = first + inner
                        group = channel // (c_in // moving_groups)
                        for tap in range(k * k):
                            dx, dy = offsets[n, group, tap, i, j].tolist()
                            y = i * stride - padding + tap // k * dilation + dy
                            x_ = j * stride - padding + tap % k * dilation + dx
                            share = 1.0 if mask is None else mask[n, group, tap, i, j]
                            factor = weight[o, inner, tap // k, tap % k].item()
                            total += factor * share * read(n, channel, y, x_)
                    out[n, o, i, j] = total
    return out


CASES = [  # kernel, stride, padding, dilation, groups, offset groups
    (3, 1, 1, 1, 1, 1),
    (3, 2, 1, 1, 1, 2),
    (3, 1, 2, 2, 2, 1),
    (1, 1, 0, 1, 1, 4),
    (2, 2, 0, 1, 4, 2),
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("modulated", [False, True])
def test_against_loops(case, modulated):
    kernel, stride, padding, dilation, groups, moving = case
    x, weight = numbers(2, 4, 5, 6), numbers(4, 4 // groups, kernel, kernel, seed=1)
    out = functional.conv2d(
        x, weight, None, stride, padding, dilation, groups
    )  # for its shape
    shape = (2, moving, kernel**2, *out.shape[-2:])
    offsets = 1.5 * numbers(*shape, 2, seed=2)
    mask = numbers(*shape, seed=3).sigmoid() if modulated else None
    bias = numbers(4, seed=4)
    pairs = [(n, n) for n in (stride, padding, dilation)]
    found = deformable_conv(x, weight, bias, offsets, mask, *pairs)
    wanted = by_loops(x, weight, bias, offsets, mask, stride, padding, dilation)
    assert torch.allclose(found, wanted, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_taps_that_stay_are_conv2d(case, dtype):
    *place, groups, moving = case
    layer = DeformableConv2d(
        8, 12, *place, groups, offset_groups=moving, modulated=False
    )
    layer = layer.to(dtype)
    x = numbers(2, 8, 11, 14).to(dtype)
    tolerance = {torch.float32: 1e-5, torch.float64: 1e-13}[dtype]
    assert (layer(x) - layer.conv(x)).abs().max() < tolerance


def test_modulated_taps_start_at_one_half():
    layer = DeformableConv2d(4, 6, 3, padding=1, bias=False).double()
    x = numbers(1, 4, 7, 7)
    assert torch.allclose(2 * layer(x), layer.conv(x), atol=1e-12)
    offsets, mask = layer.look(x)
    assert offsets.shape == (1, 1, 9, 7, 7, 2) and (offsets == 0).all()
    assert mask.shape == (1, 1, 9, 7, 7) and (mask == 0.5).all()


def test_whole_pixels_shift_the_picture():
    """All taps one to the right and two down: the convolution of a shifted input."""
    x, weight = numbers(1, 3, 9, 9), numbers(2, 3, 3, 3, seed=1)
    offsets = torch.tensor([1.0, 2.0]).double().expand(1, 1, 9, 7, 7, 2)
    found = deformable_conv(x, weight, None, offsets)
    wanted = functional.conv2d(x, weight)
    assert torch.allclose(found[..., :5, :6], wanted[..., 2:, 1:], atol=1e-12)


def test_slopes_in_double_precision():
    x, weight, bias = numbers(1, 4, 4, 3), numbers(2, 2, 2, 2, seed=1), numbers(2)
    offsets = 0.8 * numbers(1, 2, 4, 3, 2, 2, seed=2)
    mask = numbers(1, 2, 4, 3, 2, seed=3).sigmoid()
    given = [v.clone().requires_grad_() for v in (x, weight, bias, offsets, mask)]
    assert torch.autograd.gradcheck(deformable_conv, given)


def test_every_part_learns():
    """Also the offsets, from zero: between pixels the map has a gradient.

    At whole pixels the derivative is one-sided, but it is there.
    """
    layer = DeformableConv2d(4, 6, 3, stride=2, padding=1, offset_groups=2).double()
    layer(numbers(2, 4, 8, 8)).square().sum().backward()
    for name, parameter in layer.named_parameters():
        assert (parameter.grad != 0).any(), name


@pytest.mark.parametrize(
    ("offsets", "mask", "words"),
    [
        ((1, 3, 9, 5, 5, 2), None, "3 groups of offsets do not divide 4 channels"),
        ((1, 1, 8, 5, 5, 2), None, "kernel of 9 taps"),
        ((1, 1, 9, 5, 5, 3), None, r"expected \[B, G, 9, h, w, 2\]"),
        ((1, 1, 9, 5, 5, 2), (1, 9, 5, 5), r"mask \[1, 9, 5, 5\] does not belong"),
    ],
)
def test_wrong_shapes_are_named(offsets, mask, words):
    x, weight = torch.zeros(1, 4, 7, 7), torch.zeros(2, 4, 3, 3)
    mask = None if mask is None else torch.zeros(mask)
    with pytest.raises(ValueError, match=words):
        deformable_conv(x, weight, None, torch.zeros(offsets), mask)


def test_an_offset_that_is_no_number_is_not_hidden():
    x, weight = torch.ones(1, 4, 7, 7), torch.ones(2, 4, 3, 3)
    offsets = torch.zeros(1, 1, 9, 5, 5, 2)
    offsets[0, 0, 4, 2, 3, 1] = float("nan")
    found = deformable_conv(x, weight, None, offsets)
    assert found.isnan()[0, 0].nonzero().tolist() == [[2, 3]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_the_cpu(dtype):
    """On a map so wide that the places of its pixels need more than half precision."""
    layer = DeformableConv2d(4, 6, 3, padding=1)
    x = torch.randn(1, 4, 3, 3000)
    found = layer.to(dtype)(x.to(dtype))
    assert found.dtype == dtype
    exact = layer.float()(x.to(dtype).float())
    assert torch.allclose(found.float(), exact, atol=0.03)
