"""From pixels to a feature map: the small backbone for Scenes.

A backbone takes pixels `[B, 3, H, W]` and returns a list of maps, finest first; its
`channels` and `strides` say what they are. (The ResNets are in resnet.py, the patch
stem of ViT in patches.py.) Built in chapters/01_attention.ipynb.
"""

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor, nn

from ..describable import describable


class Backbone(Protocol):
    """What a system needs of a backbone: maps `[B, C_l, h, w]`, finest first."""

    channels: tuple[int, ...]
    strides: tuple[int, ...]

    def __call__(self, pixels: Tensor) -> list[Tensor]:
        """`[B, 3, H, W]` to one map for each entry of `channels`."""


class BackboneConfig(Protocol):
    """A frozen dataclass that makes a backbone."""

    def build(self) -> Backbone:
        """Make the module with fresh weights."""


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut; group norm, so batches do not matter."""

    def __init__(
        self, channels_in: int, channels: int, stride: int = 1, dilation: int = 1
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(
            channels_in, channels, 3, stride, dilation, dilation, bias=False
        )
        self.first_norm = nn.GroupNorm(8, channels)
        self.second = nn.Conv2d(
            channels, channels, 3, 1, dilation, dilation, bias=False
        )
        self.second_norm = nn.GroupNorm(8, channels)
        self.shortcut = (
            nn.Identity()
            if stride == 1 and channels_in == channels
            else nn.Conv2d(channels_in, channels, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C_in, H, W] -> [B, C, H / stride, W / stride]`."""
        y = self.first_norm(self.first(x)).relu()
        return (self.second_norm(self.second(y)) + self.shortcut(x)).relu()


@describable
@dataclass(frozen=True)
class SmallConfig:
    """The small backbone: what ResNet-50 is to COCO, for Scenes."""

    channels: tuple[int, ...] = (32, 64, 128)  # of the maps at stride 4, 8, 16 …
    blocks: int = 2  # residual blocks at each stride
    dilate_last: bool = False  # keep the last map at the stride before it ("DC5")

    def build(self) -> "SmallBackbone":
        """Make the module with fresh weights."""
        return SmallBackbone(self)


class SmallBackbone(nn.Module):
    """A small residual network; the first convolution already halves the picture.

    `forward(pixels [B, 3, H, W])` returns one map `[B, C_l, H / s_l, W / s_l]` for each
    entry of `channels`, with strides 4, 8, 16 … (the last one halved if dilated).
    """

    def __init__(self, config: SmallConfig) -> None:
        super().__init__()
        self.channels = config.channels
        self.strides = tuple(4 * 2**i for i in range(len(config.channels)))
        if config.dilate_last:
            self.strides = (*self.strides[:-1], self.strides[-2])
        width = config.channels[0]
        self.stem = nn.Conv2d(3, width, 3, 2, 1, bias=False)
        self.stem_norm = nn.GroupNorm(8, width)
        self.stages = nn.ModuleList()
        for index, channels in enumerate(config.channels):
            last = config.dilate_last and index == len(config.channels) - 1
            first = ResidualBlock(width, channels, stride=1 if last else 2)
            rest = [
                ResidualBlock(channels, channels, dilation=2 if last else 1)
                for _ in range(config.blocks - 1)
            ]
            self.stages.append(nn.Sequential(first, *rest))
            width = channels
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return all maps, finest first."""
        x = self.stem_norm(self.stem(pixels)).relu()
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps
