"""ResNet-50 and -101 as DETR uses them: frozen batch norm, names as in torchvision.

He et al. 2015, with the stride in the 3 x 3 convolution.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..describable import added, describable


class FrozenBatchNorm2d(nn.Module):
    """Batch norm whose four statistics are constants: a scale and a shift.

    Detection batches are too small to estimate them (DETR, section 4).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in (
            ("weight", 1.0),
            ("bias", 0.0),
            ("running_mean", 0.0),
            ("running_var", 1.0),
        ):
            self.register_buffer(name, torch.full((channels,), value))

    def train_affine(self) -> None:
        """Make weights of scale and shift; the statistics still stand."""
        for name in ("weight", "bias"):
            value = getattr(self, name)
            delattr(self, name)
            setattr(self, name, nn.Parameter(value))

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """All that batch norm does once its statistics stand still: `[C], [C]`."""
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, H, W] -> [B, C, H, W]`."""
        scale, shift = self.scale_and_shift()
        return x * scale[:, None, None] + shift[:, None, None]

    def _load_from_state_dict(self, state_dict, prefix, *args) -> None:
        # checkpoints of an ordinary batch norm also count batches: of no use here
        state_dict.pop(prefix + "num_batches_tracked", None)
        super()._load_from_state_dict(state_dict, prefix, *args)


def convolve(conv: nn.Conv2d, norm: FrozenBatchNorm2d, x: Tensor) -> Tensor:
    """`norm(conv(x))` in one pass: scaling the weights scales what they compute.

    Weights are small and maps are large, so this saves two trips over each map.
    """
    scale, shift = norm.scale_and_shift()
    weight = conv.weight * scale[:, None, None, None]
    return functional.conv2d(x, weight, shift, conv.stride, conv.padding, conv.dilation)


class Bottleneck(nn.Module):
    """1 x 1 down, 3 x 3, 1 x 1 up, and a shortcut."""

    def __init__(
        self, channels_in: int, width: int, stride: int, dilation: int, widen: bool
    ) -> None:
        super().__init__()
        channels = 4 * width
        self.conv1 = nn.Conv2d(channels_in, width, 1, bias=False)
        self.bn1 = FrozenBatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False)
        self.bn2 = FrozenBatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, channels, 1, bias=False)
        self.bn3 = FrozenBatchNorm2d(channels)
        self.downsample = None
        if widen:
            shortcut = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
            self.downsample = nn.Sequential(shortcut, FrozenBatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C_in, H, W] -> [B, 4 width, H / stride, W / stride]`."""
        y = convolve(self.conv1, self.bn1, x).relu_()
        y = convolve(self.conv2, self.bn2, y).relu_()
        y = convolve(self.conv3, self.bn3, y)
        return y.add_(self.shortcut(x)).relu_()

    def shortcut(self, x: Tensor) -> Tensor:
        """The input itself, or a projection of it where the shape changes."""
        return x if self.downsample is None else convolve(*self.downsample, x)


@describable
@dataclass(frozen=True)
class ResNetConfig:
    """A ResNet with bottleneck blocks."""

    depths: tuple[int, int, int, int] = (3, 4, 6, 3)  # blocks per stage: ResNet-50
    dilate_last: bool = False  # "DC5": stride 16 instead of 32
    freeze: int = 1  # stages that stay as pretrained, the stem included; 0 trains all
    train_norms: bool = added(
        False
    )  # scale and shift of those that do not stay (AdaMixer)

    def build(self) -> "ResNet":
        """Make the module; its weights are to be loaded."""
        return ResNet(self)


class ResNet(nn.Module):
    """ResNet without its classifier; returns the maps of stages 1 to 4.

    `forward(pixels [B, 3, H, W])` -> maps with 256, 512, 1024, 2048 channels at strides
    4, 8, 16, 32 (16 where the last stage is dilated).
    """

    channels = (256, 512, 1024, 2048)

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.strides = (4, 8, 16, 16 if config.dilate_last else 32)
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = FrozenBatchNorm2d(64)
        strides = (1, 2, 2, 1 if config.dilate_last else 2)
        channels_in = 64
        for stage, (depth, stride) in enumerate(zip(config.depths, strides)):
            dilated = config.dilate_last and stage == 3
            blocks = _stage(channels_in, 64 * 2**stage, depth, stride, dilated)
            self.add_module(f"layer{stage + 1}", blocks)
            channels_in = 256 * 2**stage
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, FrozenBatchNorm2d) and config.train_norms:
                module.train_affine()
        self._freeze(config.freeze)

    def _freeze(self, stages: int) -> None:
        stem = [self.conv1, self.bn1]
        frozen = stem + [getattr(self, f"layer{i + 1}") for i in range(stages)]
        for module in frozen if stages else []:
            module.requires_grad_(False)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return the maps of all four stages, finest first."""
        x = convolve(self.conv1, self.bn1, pixels).relu_()
        x = functional.max_pool2d(x, 3, 2, 1)
        maps = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            maps.append(x)
        return maps


def _stage(
    channels_in: int, width: int, depth: int, stride: int, dilated: bool
) -> nn.Sequential:
    # the first block keeps the dilation of the stage before it, as in torchvision
    blocks = [Bottleneck(channels_in, width, stride, 1, widen=True)]
    for _ in range(depth - 1):
        dilation = 2 if dilated else 1
        blocks.append(Bottleneck(4 * width, width, 1, dilation, widen=False))
    return nn.Sequential(*blocks)
