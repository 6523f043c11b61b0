"""Images as patches: the tokenizer of ViT (built in chapters/01_attention.ipynb)."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from ..describable import describable


@describable
@dataclass(frozen=True)
class PatchConfig:
    """A patch stem in place of a CNN: no pretraining, no pyramid, one projection."""

    patch: int = 16  # side of a patch in pixels
    channels: int = 256  # C of the map that comes out

    def build(self) -> "PatchStem":
        """Make the module with fresh weights."""
        return PatchStem(self)


class PatchStem(nn.Module):
    """Cut the image into squares and project each: a convolution with stride P.

    `forward(pixels [B, 3, H, W])` returns one map `[B, C, ⌈H / P⌉, ⌈W / P⌉]`; sides
    that P does not divide are padded with zeros (the mean colour), bottom and right.
    Source: Dosovitskiy et al. 2020, equation 1. Built in chapters/01_attention.ipynb.
    """

    def __init__(self, config: PatchConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.channels = (config.channels,)
        self.strides = (config.patch,)
        self.project = nn.Conv2d(3, config.channels, config.patch, config.patch)
        nn.init.xavier_uniform_(self.project.weight.flatten(1))  # as the Linear it is
        nn.init.zeros_(self.project.bias)

    def forward(self, pixels: Tensor) -> list[Tensor]:
        """Return the one map there is, in a list as every backbone does."""
        return [self.project(pad_to_multiple(pixels, self.patch))]


def pad_to_multiple(pixels: Tensor, patch: int) -> Tensor:
    """Pad `[B, C, H, W]` with zeros, bottom and right, to multiples of `patch`."""
    height, width = pixels.shape[-2:]
    return functional.pad(pixels, (0, -width % patch, 0, -height % patch))


def patches_by_hand(
    pixels: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    """What `PatchStem` computes, as a linear layer on flattened patches.

    `pixels [B, 3, H, W]`, `weight [C, 3, P, P]` of the convolution, `bias [C]`; returns
    tokens `[B, S, C]`, row by row. A patch is flattened colour first: (c, ph, pw), the
    order of the convolution's own weight. Reshaping an image [B, h, P, w, P, 3] gives
    (ph, pw, c): the same numbers in another order, so weights would meet the wrong
    pixels. Source: Dosovitskiy et al. 2020, equation 1.
    Built in chapters/01_attention.ipynb.
    """
    patch = weight.shape[-1]
    pixels = pad_to_multiple(pixels, patch)
    flat = functional.unfold(pixels, patch, stride=patch).transpose(1, 2)  # [B, S, 3PP]
    return functional.linear(flat, weight.flatten(1), bias)
