"""Backbones: names, strides, what is frozen, and that padding stays where it is."""

import pytest
import torch
from torch import nn

from detr_steps.nn.backbone import SmallConfig
from detr_steps.nn.references import shrink_padding
from detr_steps.nn.resnet import FrozenBatchNorm2d, ResNetConfig, convolve

STATISTICS = ("weight", "bias", "running_mean", "running_var")


def torchvision_names(depths: tuple[int, ...]) -> set[str]:
    """Keys of torchvision's ResNet with bottlenecks, without classifier."""
    names = {"conv1.weight"} | {f"bn1.{s}" for s in STATISTICS}
    for stage, depth in enumerate(depths, 1):
        for block in range(depth):
            for part in (1, 2, 3):
                names.add(f"layer{stage}.{block}.conv{part}.weight")
                names |= {f"layer{stage}.{block}.bn{part}.{s}" for s in STATISTICS}
        names.add(f"layer{stage}.0.downsample.0.weight")
        names |= {f"layer{stage}.0.downsample.1.{s}" for s in STATISTICS}
    return names


@pytest.fixture(scope="module")
def shallow() -> nn.Module:
    torch.manual_seed(0)
    return ResNetConfig(depths=(1, 1, 1, 1)).build()


@pytest.mark.parametrize("depths", [(3, 4, 6, 3), (3, 4, 23, 3)])
def test_resnet_has_torchvision_names(depths):
    with torch.device("meta"):
        model = ResNetConfig(depths=depths).build()
    assert set(model.state_dict()) == torchvision_names(depths)


def test_resnet_50_has_as_many_weights_as_everywhere():
    with torch.device("meta"):
        model = ResNetConfig().build()
    norms = sum(
        m.weight.numel() + m.bias.numel()
        for m in model.modules()
        if isinstance(m, FrozenBatchNorm2d)
    )
    # torchvision's 25,557,032 less its classifier's 2,049,000
    assert sum(p.numel() for p in model.parameters()) + norms == 23_508_032
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(p.numel() for p in model.parameters()) - trained == 222_400


@pytest.mark.parametrize(
    ("freeze", "first_trained"), [(0, "conv1"), (1, "layer2"), (2, "layer3")]
)
def test_early_stages_are_frozen(freeze, first_trained):
    with torch.device("meta"):
        model = ResNetConfig(depths=(1, 1, 1, 1), freeze=freeze).build()
    trained = [n for n, p in model.named_parameters() if p.requires_grad]
    assert trained[0].startswith(first_trained)


@pytest.mark.parametrize(("dilate", "stride"), [(False, 32), (True, 16)])
def test_maps_have_the_promised_strides_and_channels(dilate, stride):
    model = ResNetConfig(depths=(1, 1, 1, 2), dilate_last=dilate).build()
    assert model.strides == (4, 8, 16, stride)
    with torch.no_grad():
        maps = model(torch.randn(1, 3, 64, 96))
    for found, channels, s in zip(maps, model.channels, model.strides):
        assert found.shape == (1, channels, 64 // s, 96 // s)


def test_dc5_keeps_the_first_block_undilated():
    """As torchvision does: weights trained with one rule are wrong under another."""
    stage = ResNetConfig(dilate_last=True).build().layer4
    assert [block.conv2.dilation for block in stage] == [(1, 1), (2, 2), (2, 2)]
    assert all(block.conv2.stride == (1, 1) for block in stage)
    assert stage[0].downsample[0].stride == (1, 1)


def test_stride_is_in_the_three_by_three_convolution(shallow):
    block = shallow.layer2[0]
    assert block.conv1.stride == (1, 1) and block.conv2.stride == (2, 2)


def fill(norm: FrozenBatchNorm2d) -> None:
    for name in ("weight", "bias", "running_mean"):
        getattr(norm, name).normal_()
    norm.running_var.uniform_(0.1, 2)


def test_frozen_norm_is_batch_norm_in_eval_mode():
    mine, other = FrozenBatchNorm2d(5), nn.BatchNorm2d(5).eval()
    fill(mine)
    other.load_state_dict(mine.state_dict() | {"num_batches_tracked": torch.tensor(0)})
    x = torch.randn(2, 5, 3, 4)
    assert torch.allclose(mine(x), other(x), atol=1e-5)
    assert not list(mine.parameters())
    mine.train()
    assert torch.allclose(mine(x), other(x), atol=1e-5)


def test_frozen_norm_accepts_the_count_of_an_ordinary_one():
    mine, other = FrozenBatchNorm2d(5), nn.BatchNorm2d(5)
    other.running_mean.fill_(3)
    assert "num_batches_tracked" in other.state_dict()
    mine.load_state_dict(other.state_dict())
    assert (mine.running_mean == 3).all()


def test_norm_inside_the_convolution_is_norm_after_it():
    conv, norm = nn.Conv2d(3, 5, 3, 2, 2, 2, bias=False).double(), FrozenBatchNorm2d(5)
    norm = norm.double()
    fill(norm)
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    grads = []
    for y in (convolve(conv, norm, x), norm(conv(x))):
        conv.zero_grad()
        y.square().sum().backward()
        grads.append((y.detach(), conv.weight.grad.clone()))
    for inside, after in zip(*grads):
        assert torch.allclose(inside, after, rtol=1e-10)


def test_small_backbone_strides_and_channels():
    for dilate, last in ((False, 16), (True, 8)):
        model = SmallConfig(channels=(8, 16, 24), dilate_last=dilate).build()
        assert model.strides == (4, 8, last)
        maps = model(torch.randn(1, 3, 64, 32))
        for found, channels, s in zip(maps, model.channels, model.strides):
            assert found.shape == (1, channels, 64 // s, 32 // s)


@pytest.mark.parametrize("build", [SmallConfig().build, ResNetConfig().build])
def test_one_pixel_is_enough(build):
    with torch.no_grad():
        for found in build()(torch.randn(1, 3, 1, 1)):
            assert found.shape[-2:] == (1, 1) and found.isfinite().all()


@pytest.mark.parametrize("side", [33, 47, 64, 65])
def test_padding_shrinks_to_the_size_of_the_map(shallow, side):
    """Every image keeps at least one real cell, and its cells are at the top left."""
    with torch.no_grad():
        size = tuple(shallow(torch.randn(1, 3, side, 2 * side))[-1].shape[-2:])
    padding = torch.ones(2, side, 2 * side, dtype=torch.bool)
    padding[0] = False
    padding[1, :1, :1] = False  # a single pixel beside a large image
    small = shrink_padding(padding, size)
    assert small.dtype == torch.bool and small.shape == (2, *size)
    assert not small[0].any()
    assert not small[1, 0, 0] and small[1].sum() == small[1].numel() - 1
