"""Where a token is: sine positions on a map (built in chapters/01_attention.ipynb)."""

import math

import torch
from torch import Tensor


def sine_features(
    positions: Tensor, channels: int, temperature: float = 10000.0
) -> Tensor:
    """Turn numbers into waves: `[...] -> [..., channels]`, sine and cosine in turn.

    Wavelengths grow from 2π to 2π · temperature. Raises: ValueError for an odd number
    of channels, or a temperature that is not positive.
    Source: Vaswani et al. 2017, section 3.5. Built in chapters/01_attention.ipynb.
    """
    if channels % 2:
        raise ValueError(f"{channels} channels do not make pairs of sine and cosine")
    if not temperature > 0:
        raise ValueError(f"temperature {temperature}: must be positive")
    pair = torch.arange(channels, device=positions.device) // 2
    wavelength = temperature ** (2 * pair.to(positions.dtype) / channels)
    angle = positions[..., None] / wavelength  # [..., channels]
    return torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), -1).flatten(-2)


def sine_position(
    padding: Tensor,
    channels: int,
    temperature: float = 10000.0,
    shift: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Positions of a padded map's cells: `padding [B, h, w] -> [B, h, w, channels]`.

    Rows and columns are counted over the real part of each image and stretched to
    (0, 2π], so a position means a share of the image, not of the padded batch. The
    first half of the channels holds y, the second half x. `shift` -0.5 counts from
    pixel centres (Deformable DETR). Counted in float32 or better: half precision
    cannot count to 300. Source: Carion et al. 2020, appendix A.4.
    Built in chapters/01_attention.ipynb.
    """
    if channels % 4:
        raise ValueError(f"{channels} channels do not make sine and cosine of y and x")
    real = (~padding).to(torch.promote_types(dtype, torch.float32))  # [B, h, w]
    halves = []
    for axis in (1, 2):
        count = real.cumsum(axis)  # 1, 2, … and constant over the padding
        last = count.narrow(axis, count.shape[axis] - 1, 1)
        share = (count + shift) / (last + 1e-6) * (2 * math.pi)
        halves.append(sine_features(share, channels // 2, temperature))
    return torch.cat(halves, dim=-1).to(dtype)
