"""Losses of masks: focal and dice on matched queries.

Boxes alone decide who answers for which object; a mask is compared with the one that
its query's box was matched with, at the full resolution of the ground truth.
Built in chapters/03_panoptic.ipynb.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ..describable import describable
from . import classification

ALPHA, GAMMA = 0.25, 2.0  # of the focal loss; the official code's
PIXELS_AT_ONCE = 1 << 22  # of upsampled masks: what is computed anew in backward


@describable
@dataclass(frozen=True)
class MaskLossWeights:
    """How much each term of the masks counts (Carion et al. 2020, official code)."""

    focal: float = 1.0
    dice: float = 1.0


class Pairs(NamedTuple):
    """Which query answers for which object: three rows of numbers, `[n]` each."""

    image: Tensor
    query: Tensor
    object: Tensor


def matched_pairs(matched: Tensor) -> Pairs:
    """The pairs of one set's matching `[B, N]`, image by image, -1 for none."""
    image, number = (matched >= 0).nonzero(as_tuple=True)
    return Pairs(image, matched[image, number], number)


def check_masks(targets: list[dict], size: tuple[int, int]) -> None:
    """Check that every object has a mask, of a size that the batch has room for.

    `size` (H, W) of the padded batch in pixels. Raises: ValueError that names the image
    and the fault.
    """
    for index, target in enumerate(targets):
        name, masks = f"target of image {index}", target.get("masks")
        if masks is None:
            raise ValueError(
                f"{name} has no masks: give bool [n, H, W], one for each object"
            )
        if masks.dim() != 3 or len(masks) != len(target["labels"]):
            raise ValueError(
                f"{name}: masks {list(masks.shape)} for {len(target['labels'])} "
                "objects, expected [n, H, W]"
            )
        if masks.dtype != torch.bool:
            raise ValueError(f"{name}: masks are {masks.dtype}, not bool")
        if masks.shape[1] > size[0] or masks.shape[2] > size[1]:
            raise ValueError(
                f"{name}: masks of {masks.shape[1]} x {masks.shape[2]} pixels, the "
                f"batch has {size[0]} x {size[1]}: scale them as the picture was"
            )


def gather_masks(targets: list[dict], pairs: Pairs, size: tuple[int, int]) -> Tensor:
    """Masks of the matched objects, padded to `size` (H, W): bool `[n, H, W]`."""
    device = pairs.image.device
    gathered = torch.zeros(len(pairs.image), *size, dtype=torch.bool, device=device)
    image, number = pairs.image.tolist(), pairs.object.tolist()
    for place, (b, n) in enumerate(zip(image, number)):
        mask = targets[b]["masks"][n]
        height, width = mask.shape
        gathered[place, :height, :width] = mask.to(device, non_blocking=True)
    return gathered


def mask_losses(
    logits: Tensor, masks: Tensor, objects: Tensor
) -> tuple[Tensor, Tensor]:
    """Focal and dice loss of matched masks, summed and divided by `objects`.

    `logits [n, h, w]` of the matched queries only, of any resolution: they are
    upsampled to that of `masks`, bool `[n, H, W]`, in portions whose full resolution is
    computed again in the backward pass, so that few pixels are in memory at once.
    Padding counts as background. No pair at all gives two zeros that have a gradient.
    Source: Carion et al. 2020, section 4.4; official code.
    """
    portion = max(1, PIXELS_AT_ONCE // masks[0:1].numel()) if len(masks) else 1
    focal = dice = logits.sum() * 0
    for some, true in zip(logits.split(portion), masks.split(portion)):
        terms = checkpoint(_focal_and_dice, some, true, use_reentrant=False)
        focal, dice = focal + terms[0], dice + terms[1]
    return focal / objects, dice / objects


def _focal_and_dice(logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Both losses at full resolution, summed over the masks."""
    logits = upsample(logits, masks.shape[-2:]).flatten(1)  # [n, H·W]
    masks = masks.flatten(1)
    return focal_loss(logits, masks).sum(), dice_loss(logits, masks).sum()


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear, edges as in all of the library: `[n, h, w] -> [n, H, W]`."""
    logits = logits[:, None]
    options = dict(mode="bilinear", align_corners=False)
    return functional.interpolate(logits, size=tuple(size), **options)[:, 0]


def focal_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Focal loss of every pixel, the mean of each mask: `[n, pixels] -> [n]`.

    Source: Lin et al. 2017, equation 5. Built in chapters/03_panoptic.ipynb.
    """
    return classification.focal_loss(logits, masks.to(logits.dtype), ALPHA, GAMMA).mean(
        1
    )


def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """One minus twice the overlap over both areas: `[n, pixels] -> [n]`.

    Soft, and the same for small and large objects; one pixel is added above and below,
    so that nothing predicted for an empty mask costs nothing.
    Source: Milletari et al. 2016; Carion et al. 2020, equation 12.
    Built in chapters/03_panoptic.ipynb.
    """
    inside, masks = logits.sigmoid(), masks.to(logits.dtype)
    overlap, areas = (inside * masks).sum(1), inside.sum(1) + masks.sum(1)
    return 1 - (2 * overlap + 1) / (areas + 1)
