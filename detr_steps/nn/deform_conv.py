"""Convolutions whose taps move: DCN v1 and v2 (chapters/05_deformable_conv.ipynb)."""

import torch
from torch import Tensor, nn

from ..ops.sample import sample


def tap_locations(
    offsets: Tensor,
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
) -> Tensor:
    """Where each tap of each output pixel reads the input, as shares of its map.

    `offsets [B, G, T, h, w, 2]` (dx, dy) in input pixels, from where an ordinary
    convolution would read; T taps row by row; `size (H, W)` of the input; all other
    pairs (vertical, horizontal), as torch has them. Returns the same shape, in
    float32 or better: half precision cannot count the pixels of a wide map.
    Source: Dai et al. 2017, equation 2. Built in chapters/05_deformable_conv.ipynb.
    """
    starts = []
    for axis in (0, 1):  # where output pixels begin in the input, and taps in a kernel
        out = torch.arange(offsets.shape[3 + axis], device=offsets.device)
        tap = torch.arange(kernel[axis], device=offsets.device) * dilation[axis]
        starts.append(tap[:, None] + out * stride[axis] - padding[axis])  # [k, h]
    rows, columns = starts
    shape = offsets.shape[2:-1]  # T, h, w
    y = rows[:, None, :, None].expand(*kernel, *shape[1:]).reshape(shape)
    x = columns[None, :, None, :].expand(*kernel, *shape[1:]).reshape(shape)
    exact = torch.promote_types(offsets.dtype, torch.float32)
    pixels = torch.stack((x, y), -1) + 0.5 + offsets.to(exact)  # centres, moved
    return pixels / pixels.new_tensor((size[1], size[0]))


def deformable_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    offsets: Tensor,
    mask: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
) -> Tensor:
    """Convolve `x [B, C_in, H, W]` with taps that are moved and, in v2, weakened.

    `weight [C, C_in / groups, k, k]`; `offsets [B, G, T, h, w, 2]` (dx, dy) in input
    pixels for G groups of input channels and T = k·k taps, row by row (torchvision
    orders them (dy, dx)); `mask [B, G, T, h, w]` in [0, 1] or None. Returns
    `[B, C, h, w]`; offsets of 0 give `conv2d`.
    Raises: ValueError for offsets or a mask of another shape.
    Source: Dai et al. 2017, equation 2; Zhu et al. 2019, equation 1.
    Built in chapters/05_deformable_conv.ipynb.
    """
    kernel = weight.shape[2:]
    _check(x, kernel, offsets, mask)
    b, groups = offsets.shape[:2]
    size = tuple(x.shape[-2:])
    places = tap_locations(offsets, size, kernel, stride, padding, dilation)
    value = x.unflatten(1, (groups, -1)).flatten(0, 1)  # [B·G, C_in / G, H, W]
    taps = sample(value, places.flatten(0, 1))  # [B·G, C_in / G, T, h, w]
    if mask is not None:
        taps = taps * mask.flatten(0, 1)[:, None]
    taps = taps.view(b, -1, weight[0].numel(), *places.shape[3:5])  # [B, g, c·T, h, w]
    filters = weight.flatten(1).unflatten(0, (taps.shape[1], -1))  # [g, C / g, c·T]
    out = torch.einsum("bgthw,gct->bgchw", taps, filters).flatten(1, 2)
    return out if bias is None else out + bias[:, None, None]


def _check(x: Tensor, kernel: tuple, offsets: Tensor, mask: Tensor | None) -> None:
    groups, taps = offsets.shape[1], kernel[0] * kernel[1]
    if x.shape[1] % groups:
        raise ValueError(
            f"{groups} groups of offsets do not divide {x.shape[1]} channels evenly"
        )
    if offsets.shape[2] != taps or offsets.shape[-1] != 2:
        raise ValueError(
            f"offsets {list(offsets.shape)} for a kernel of {taps} taps: expected "
            f"[B, G, {taps}, h, w, 2] with (dx, dy) last"
        )
    if mask is not None and mask.shape != offsets.shape[:-1]:
        raise ValueError(
            f"mask {list(mask.shape)} does not belong to offsets "
            f"{list(offsets.shape)}: expected {list(offsets.shape[:-1])}"
        )


class DeformableConv2d(nn.Module):
    """A convolution that looks at the input to decide where its taps go.

    An ordinary convolution `conv` does the mixing; a second one, `offsets`, starts at
    zero and says for each output pixel how far each tap moves and, if `modulated` (v2),
    how much it counts: 0.5 at first, as in the paper (its authors' code doubles the
    mask). Each of `offset_groups` groups of input channels has offsets of its own.
    v1 trains `offsets` at the full rate, v2 at a tenth: `lr_factors={"offsets": 0.1}`
    in a recipe. Source: Dai et al. 2017, section 2.1; Zhu et al. 2019, section 3.2.
    Built in chapters/05_deformable_conv.ipynb.
    """

    def __init__(
        self,
        channels_in: int,
        channels: int,
        kernel: int = 3,
        stride: int = 1,
        padding: int = 0,
        dilation: int = 1,
        groups: int = 1,
        offset_groups: int = 1,
        modulated: bool = True,
        bias: bool = True,
    ) -> None:
        super().__init__()
        place = (kernel, stride, padding, dilation)
        numbers = offset_groups * kernel**2 * (3 if modulated else 2)
        self.offset_groups = offset_groups
        self.conv = nn.Conv2d(channels_in, channels, *place, groups, bias)
        self.offsets = nn.Conv2d(channels_in, numbers, *place)
        nn.init.zeros_(self.offsets.weight)
        nn.init.zeros_(self.offsets.bias)

    def look(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Decide where to read `x [B, C_in, H, W]`: offsets and, in v2, the mask.

        Offsets `[B, G, T, h, w, 2]` (dx, dy) in input pixels, mask `[B, G, T, h, w]`.
        """
        taps = self.conv.kernel_size[0] * self.conv.kernel_size[1]
        moves = self.offsets(x).unflatten(1, (self.offset_groups, taps, -1))
        moves = moves.movedim(3, -1)  # [B, G, T, h, w, 2 or 3]
        mask = moves[..., 2].sigmoid() if moves.shape[-1] == 3 else None
        return moves[..., :2], mask

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C_in, H, W] -> [B, C, h, w]`."""
        conv = self.conv
        place = (conv.stride, conv.padding, conv.dilation)
        return deformable_conv(x, conv.weight, conv.bias, *self.look(x), *place)
