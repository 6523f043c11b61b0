"""Sine positions: the formula, the mask, and the traps around them."""

import math

import pytest
import torch

from detr_steps.nn.position import sine_features, sine_position


def padding(*sizes: tuple[int, int]) -> torch.Tensor:
    height, width = (max(size[i] for size in sizes) for i in (0, 1))
    mask = torch.ones(len(sizes), height, width, dtype=torch.bool)
    for image, (h, w) in enumerate(sizes):
        mask[image, :h, :w] = False
    return mask


def test_features_by_hand():
    x = torch.tensor([0.7])
    expected = [
        math.sin(0.7),
        math.cos(0.7),
        math.sin(0.7 / 100.0),  # 10000 ** (2 / 4)
        math.cos(0.7 / 100.0),
    ]
    assert torch.allclose(sine_features(x, 4)[0], torch.tensor(expected))


def test_one_cell_by_hand():
    """Row 2 of 3 and column 1 of 4: shares of the image, y before x."""
    found = sine_position(padding((3, 4)), 8, dtype=torch.float64)[0, 1, 0]
    y, x = (2 * math.pi * share for share in (2 / (3 + 1e-6), 1 / (4 + 1e-6)))
    halves = [sine_features(torch.tensor(v, dtype=torch.float64), 4) for v in (y, x)]
    assert torch.allclose(found, torch.cat(halves))


def test_the_first_half_is_y_and_the_second_x():
    positions = sine_position(padding((3, 4)), 8)  # [1, 3, 4, 8]
    assert torch.equal(positions[0, :, 0, :4], positions[0, :, 3, :4])
    assert torch.equal(positions[0, 0, :, 4:], positions[0, 2, :, 4:])
    assert not torch.equal(positions[0, 0, 0, :4], positions[0, 1, 0, :4])
    assert not torch.equal(positions[0, 0, 0, 4:], positions[0, 0, 1, 4:])


def test_positions_depend_on_the_mask():
    """An image has the same positions alone as padded beside a larger one."""
    alone = sine_position(padding((3, 4)), 16)
    padded = sine_position(padding((3, 4), (6, 8)), 16)
    assert torch.equal(padded[0, :3, :4], alone[0])
    ignorant = sine_position(padding((6, 8)), 16)  # as if nothing were padded
    assert not torch.allclose(ignorant[0, :3, :4], alone[0], atol=0.1)


def test_the_last_real_cell_is_at_two_pi():
    last = sine_position(padding((3, 4), (6, 8)), 8)[0, 2, 3]
    whole = sine_features(torch.tensor(2 * math.pi), 4)
    assert torch.allclose(last, torch.cat((whole, whole)), atol=1e-5)


def test_shift_counts_from_cell_centres():
    found = sine_position(padding((1, 2)), 4, shift=-0.5, dtype=torch.float64)
    x = torch.tensor([0.5, 1.5], dtype=torch.float64) / (2 + 1e-6) * 2 * math.pi
    assert torch.allclose(found[0, 0, :, 2:], sine_features(x, 2))


def test_temperature_is_the_longest_wave():
    # with a low temperature the slowest pair still turns
    slow, fast = (
        sine_features(torch.tensor([6.0]), 64, temperature=t)[0, -2]
        for t in (10000.0, 20.0)
    )
    assert slow.abs() < 1e-3 < fast.abs()


def test_half_precision_rounds_the_result_not_the_counting():
    mask = padding((2, 300))
    exact = sine_position(mask, 8)
    half = sine_position(mask, 8, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).abs().max() < 1 / 128


def test_channels_must_hold_four_kinds():
    with pytest.raises(ValueError, match="6 channels"):
        sine_position(padding((2, 2)), 6)
