"""Levels from a backbone's maps, and beyond them."""

import math

import pytest
import torch
from torch.nn import functional

from detr_steps.nn.pyramid import Pyramid


def test_sizes_and_what_each_level_is_made_from():
    pyramid = Pyramid((6, 10), 32, 4)
    maps = [torch.randn(2, 6, 9, 12), torch.randn(2, 10, 5, 6)]
    levels = pyramid(maps)
    shapes = [tuple(level.shape) for level in levels]
    sizes = [(9, 12), (5, 6), (3, 3), (2, 2)]
    assert shapes == [(2, 32, *size) for size in sizes]
    third = functional.conv2d(
        maps[1], pyramid.levels[2][0].weight, None, stride=2, padding=1
    )  # from the map as it came, not from level 2
    assert torch.allclose(pyramid.levels[2][1](third), levels[2], atol=1e-5)
    fourth = functional.conv2d(
        levels[2], pyramid.levels[3][0].weight, None, stride=2, padding=1
    )
    assert torch.allclose(pyramid.levels[3][1](fourth), levels[3], atol=1e-5)


def test_start():
    for conv, norm in Pyramid((16, 48), 64, 3).levels:
        fans = conv.weight[0].numel() + conv.weight[:, 0].numel()
        bound = math.sqrt(6 / fans)
        assert 0.9 * bound < conv.weight.abs().max() <= bound
        assert (conv.bias == 0).all() and norm.num_groups == 32


def test_one_pixel_stays_one_pixel():
    levels = Pyramid((4,), 64, 3)([torch.randn(1, 4, 1, 1)])
    assert [tuple(level.shape[2:]) for level in levels] == [(1, 1)] * 3


@pytest.mark.parametrize(("maps", "levels"), [((), 1), ((4, 4), 1), ((4,), 0)])
def test_levels_that_cannot_be(maps, levels):
    with pytest.raises(ValueError, match=f"{len(maps)} maps for {levels} levels"):
        Pyramid(maps, 32, levels)
