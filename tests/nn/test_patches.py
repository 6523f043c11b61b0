"""A patch projection is a convolution, and the order of the flattened patch matters."""

import math

import pytest
import torch

from detr_steps import DETR, DETRConfig, ImageBatch
from detr_steps.nn.patches import PatchConfig, patches_by_hand


@pytest.fixture
def stem():
    torch.manual_seed(0)
    return PatchConfig(patch=4, channels=10).build().double()


@pytest.mark.parametrize("size", [(8, 12), (9, 11), (1, 1)])
def test_convolution_is_linear_on_patches(stem, size):
    pixels = torch.randn(2, 3, *size, dtype=torch.float64)
    (grid,) = stem(pixels)
    by_hand = patches_by_hand(pixels, stem.project.weight, stem.project.bias)
    assert torch.allclose(grid.flatten(2).transpose(1, 2), by_hand, atol=1e-12)


def test_reshaping_gives_another_order(stem):
    """The trap: (ph, pw, c) instead of (c, ph, pw)."""
    pixels = torch.randn(1, 3, 8, 12, dtype=torch.float64)
    naive = pixels.permute(0, 2, 3, 1).reshape(1, 2, 4, 3, 4, 3)
    naive = naive.permute(0, 1, 3, 2, 4, 5).reshape(1, 6, -1)  # [B, S, (ph, pw, c)]
    weight, bias = stem.project.weight, stem.project.bias
    right = patches_by_hand(pixels, weight, bias)
    assert not torch.allclose(naive @ weight.flatten(1).T + bias, right)
    reordered = weight.permute(0, 2, 3, 1).flatten(1)  # the weights in that order
    assert torch.allclose(naive @ reordered.T + bias, right)


def test_sides_are_padded_at_the_bottom_and_the_right(stem):
    pixels = torch.randn(1, 3, 9, 11, dtype=torch.float64)
    (grid,) = stem(pixels)
    assert grid.shape == (1, 10, 3, 3)
    (inner,) = stem(pixels[:, :, :8, :8])
    assert torch.allclose(grid[:, :, :2, :2], inner)


def test_tokens_do_not_see_each_other(stem):
    pixels = torch.randn(1, 3, 8, 8, dtype=torch.float64)
    (before,) = stem(pixels)
    pixels[:, :, :4, :4] += 1
    (after,) = stem(pixels)
    changed = (before != after).any(1)[0]
    assert changed.tolist() == [[True, False], [False, False]]


def test_says_what_it_makes(stem):
    assert stem.channels == (10,) and stem.strides == (4,)


def test_starts_as_the_linear_layer_it_is():
    """Xavier's fans are 3·P·P and C; those of a convolution would count P·P·C."""
    torch.manual_seed(0)
    project = PatchConfig(patch=4, channels=100).build().project
    bound = math.sqrt(6 / (3 * 4 * 4 + 100))
    assert 0.99 * bound < project.weight.abs().max() <= bound
    assert (project.bias == 0).all()


def test_is_a_backbone_for_detr():
    torch.manual_seed(0)
    config = DETRConfig.tiny(backbone=PatchConfig(patch=8, channels=32))
    model = DETR(config)
    batch = ImageBatch.from_list([torch.randn(3, 30, 41), torch.randn(3, 24, 24)])
    output = model(batch, trace=True)
    assert output.trace.sizes == ((4, 6),)
    targets = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0).long()}] * 2
    model.loss(output, targets)["total"].backward()
    assert model.backbone.project.weight.grad.abs().sum() > 0
