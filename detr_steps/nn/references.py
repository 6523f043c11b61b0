"""Where queries start: points and boxes as shares of an image (chapter 08)."""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from ..ops.backend import recording
from ..ops.read_points import Sizes


def inverse_sigmoid(share: Tensor, smallest: float = 1e-5) -> Tensor:
    """Undo `sigmoid`: `[0, 1]` to a number; shares are cut to be at least `smallest`.

    The cut matters for boxes at the border: systems differ in it.
    Built in chapters/08_multi_scale.ipynb.
    """
    share = share.clamp(0, 1)
    return (share.clamp(min=smallest) / (1 - share).clamp(min=smallest)).log()


def refine_boxes(references: Tensor, deltas: Tensor, smallest: float = 1e-5) -> Tensor:
    """Predict boxes from where queries look: `[..., 2 or 4], [..., 4] -> [..., 4]`.

    The delta is added before the sigmoid, so boxes stay in [0, 1] and far from the
    border a delta means the same everywhere. A point has no size: there width and
    height come from the delta alone. cxcywh, float32 or better.
    Source: Zhu et al. 2020, appendix A.3. Built in chapters/08_multi_scale.ipynb.
    """
    start = inverse_sigmoid(references, smallest)
    return (functional.pad(start, (0, 4 - start.shape[-1])) + deltas).sigmoid()


def shrink_padding(padding: Tensor, size: tuple[int, int]) -> Tensor:
    """Padding `[B, H, W]` at the size of a feature map: `[B, h, w]`, nearest pixel."""
    if recording():
        # runtimes divide by the scale where torch multiplies: 10 · 7.8 may fall on 77
        rows, columns = map(_nearest, size, padding.shape[1:], (padding, padding))
        return padding.index_select(1, rows).index_select(2, columns)
    return functional.interpolate(padding[:, None].float(), size=size)[:, 0].bool()


def _nearest(count: int, pixels: int, like: Tensor) -> Tensor:
    """Which of so many pixels `interpolate` takes for each of `count` cells."""
    full = partial(like.new_full, (), dtype=torch.float32)
    cells = torch.arange(count, device=like.device, dtype=torch.float32)
    return (cells * (full(pixels) / full(count))).long().clamp(max=pixels - 1)


def valid_share(padding: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """How much of a padded map is image: `[B, h, w] -> [B, 2]`, along x and y.

    At least one pixel, so that nothing is divided by zero if all is padding.
    Built in chapters/08_multi_scale.ipynb.
    """
    _, h, w = padding.shape
    columns, rows = (~padding[:, 0]).sum(-1), (~padding[:, :, 0]).sum(-1)  # [B]
    counts = torch.stack((columns, rows), -1).clamp(min=1).to(dtype)
    return counts / level_extents(((h, w),), counts)


def level_extents(sizes: Sizes, like: Tensor) -> Tensor:
    """Width and height of each level as numbers: `[L, 2]`, dtype and device of `like`.

    A tensor made of Python numbers is a constant to `torch.jit.trace` and
    `torch.export`: a file for pictures of any size needs operators, which would be
    slower than one copy everywhere else.
    """
    if not recording():
        return like.new_tensor([(w, h) for h, w in sizes])
    sides = [like.new_full((), side) for h, w in sizes for side in (w, h)]
    return torch.stack(sides).unflatten(0, (-1, 2))


def token_centres(sizes: Sizes, valid: Tensor) -> Tensor:
    """Centres of all pixels of all levels: `[B, S, 2]` (x, y), shares of the image.

    `valid [B, L, 2]` the share of each level that is image: padding lies beyond 1.
    Source: Zhu et al. 2020, section 4.1; valid shares from the official code only.
    Built in chapters/08_multi_scale.ipynb.
    """
    centres = []
    for level, (h, w) in enumerate(sizes):
        y = (torch.arange(h, device=valid.device, dtype=valid.dtype) + 0.5) / h
        x = (torch.arange(w, device=valid.device, dtype=valid.dtype) + 0.5) / w
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)  # [h, w, 2]
        centres.append(grid.flatten(0, 1) / valid[:, level, None])  # [B, h·w, 2]
    return torch.cat(centres, 1)


def on_levels(references: Tensor, valid: Tensor) -> Tensor:
    """Turn shares of the image into shares of each padded level.

    `references [B, Q, 2 or 4]`, `valid [B, L, 2]` -> `[B, Q, L, 2 or 4]`.
    """
    scale = valid.repeat(1, 1, references.shape[-1] // 2)  # [B, L, 2 or 4]
    return references[:, :, None] * scale[:, None]
