"""Where the items of a scene lie, and which of their pixels can be seen.

Built in chapters/00_start_here.ipynb; only exact operations, as drawing.py explains.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from . import drawing, hashing

if TYPE_CHECKING:
    from .scenes import Scenes

DISTRACTORS = 3  # at most; they lie behind all objects and have no label
WORDS = 16  # random words for each item


@dataclass
class Items:
    """What lies in the scenes, back to front: distractors, then objects, `[B, I]`."""

    exists: Tensor  # bool
    label: Tensor  # index into SHAPES
    centre: Tensor  # [B, I, 2] x, y in pixels
    half: Tensor  # [B, I, 2] half extents in pixels
    turn: Tensor  # index of the rotation
    words: Tensor  # [B, I, WORDS] for the colours


def lay_out(scenes: "Scenes", keys: Tensor) -> Items:
    """Choose what lies where in the scenes with these keys `[B]`."""
    most = scenes.objects[1]
    head = hashing.words(keys, 4)  # [B, 4]
    words = hashing.words(keys ^ 0x51CE, (DISTRACTORS + most) * WORDS)
    words = words.view(len(keys), DISTRACTORS + most, WORDS)
    fewest = scenes.objects[0]
    counts = fewest + hashing.pick(head[:, 0], most - fewest + 1)  # [B]
    order = torch.arange(DISTRACTORS + most, device=keys.device)
    is_object = order >= DISTRACTORS
    exists = torch.where(
        is_object,
        order - DISTRACTORS < counts[:, None],
        order < hashing.pick(head[:, 1], DISTRACTORS + 1)[:, None],
    )
    scale = scenes.size / 128
    table = drawing.size_table(scenes.lengths[0] * scale, scenes.lengths[1] * scale)
    length = table.to(keys.device)[hashing.pick(words[..., 0], 256)]  # [B, I]
    label = hashing.pick(words[..., 2], len(drawing.SHAPES))
    label = torch.where(is_object, label, 1 + label % 2)
    # the length is the geometric mean of the sides, so a stretch keeps the area
    stretch = drawing.stretch_table().to(keys.device)
    longer = stretch[hashing.pick(words[..., 1], 256)]  # [B, I] 1 … √2
    half = torch.stack((length * longer, length / longer), dim=-1) / 2  # [B, I, 2]
    # look-alikes are splinters, six times longer than wide
    splinter = torch.stack((length, length * 0.15625), dim=-1) / 2
    half = torch.where(is_object[:, None], half, splinter)
    swap = (words[..., 3] & 1).bool()[..., None] & is_object[:, None]
    half = torch.where(swap, half.flip(-1), half)
    margin = length * 0.375  # a shape may stick out of the picture a little
    place = hashing.uniform(words[..., 4:6])
    centre = margin[..., None] + place * (scenes.size - 2 * margin)[..., None]
    turn = hashing.pick(words[..., 6], drawing.ANGLES)
    return Items(exists, label, centre, half, turn, words)


@dataclass
class Patch:
    """The pixels around `k` items: windows of `P x P`, and which pixels they fill."""

    scene: Tensor  # [k]
    item: Tensor  # [k]
    pixel: Tensor  # [k, P, P] flat index into [B * S * S]
    filled: Tensor  # bool [k, P, P], within the picture
    pixels: Tensor  # [k] the whole shape, what lies outside the picture included
    origin: Tensor  # [k, 2] x, y of the window's corner


def cut_patches(items: Items, size: int) -> list[Patch]:
    """Rasterise each item in the smallest window that holds it: not in all pixels."""
    reach = items.half.square().sum(-1)  # squared half diagonal
    patches, lower = [], -1.0
    for share in (8, 4, 2, 1):  # windows of S/8 … S/1 pixels
        window = max(size // share, 8)
        upper = float((window / 2 - 1.5) ** 2) if share > 1 else float("inf")
        chosen = items.exists & (reach > lower) & (reach <= upper)
        scene, item = chosen.nonzero(as_tuple=True)
        if len(scene):
            patches.append(_rasterise(items, scene, item, window, size))
        lower = upper
    return patches


def _rasterise(
    items: Items, scene: Tensor, item: Tensor, window: int, size: int
) -> Patch:
    centre, half = items.centre[scene, item], items.half[scene, item]  # [k, 2]
    origin = centre.floor().long() - window // 2  # [k, 2]
    steps = torch.arange(window, device=scene.device)
    x, y = origin[:, :1] + steps, origin[:, 1:] + steps  # [k, P] each
    dx = (x + 0.5 - centre[:, :1])[:, None, :]  # [k, 1, P]
    dy = (y + 0.5 - centre[:, 1:])[:, :, None]  # [k, P, 1]
    cos, sin = (t[:, None, None] for t in drawing.directions(items.turn[scene, item]))
    u = (dx * cos + dy * sin) / half[:, 0, None, None]  # [k, P, P]
    v = (dy * cos - dx * sin) / half[:, 1, None, None]
    mask = drawing.inside_shape(u, v, items.label[scene, item])
    seen = ((x >= 0) & (x < size))[:, None, :] & ((y >= 0) & (y < size))[:, :, None]
    flat = y.clamp(0, size - 1)[:, :, None] * size + x.clamp(0, size - 1)[:, None, :]
    flat = flat + (scene * size * size)[:, None, None]
    return Patch(scene, item, flat, mask & seen, mask.sum((1, 2)), origin)


def paint_order(patches: list[Patch], kept: Tensor, size: int) -> Tensor:
    """Item number + 1 of whatever is on top at each pixel: `[B, S, S]`, 0 for none."""
    # bytes: the item numbers are small, and memory is what this waits for
    top = torch.zeros(len(kept) * size * size, dtype=torch.uint8, device=kept.device)
    for patch in patches:
        height = (patch.item + 1) * kept[patch.scene, patch.item]
        value = height.byte()[:, None, None] * patch.filled
        top.scatter_reduce_(0, patch.pixel.flatten(), value.flatten(), "amax")
    return top.view(len(kept), size, size)


def visible_pixels(patch: Patch, top: Tensor) -> Tensor:
    """Say which pixels of each window show its item: bool `[k, P, P]`."""
    owner = top.view(-1)[patch.pixel]
    return patch.filled & (owner == (patch.item + 1).byte()[:, None, None])


def take_out_hidden(
    patches: list[Patch], exists: Tensor, size: int, hidden: float
) -> Tensor:
    """Drop objects covered too much. Taking one out only uncovers others: one pass."""
    top = paint_order(patches, exists, size)
    kept = exists.clone()
    for patch in patches:
        shown = visible_pixels(patch, top).sum((1, 2))
        enough = shown >= patch.pixels * (1 - hidden)
        kept[patch.scene, patch.item] = enough & (shown > 0)
    return kept


def measure(patches: list[Patch], top: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Tight boxes of what is visible, xyxy pixels `[B, I, 4]`, and areas `[B, I]`."""
    boxes = torch.zeros(*kept.shape, 4, dtype=torch.int64, device=kept.device)
    areas = torch.zeros_like(kept, dtype=torch.int64)
    for patch in patches:
        visible = visible_pixels(patch, top)
        areas[patch.scene, patch.item] = visible.sum((1, 2))
        corners = []
        for axis, used in ((0, visible.any(1)), (1, visible.any(2))):  # [k, P] each
            used = used.int()
            low = patch.origin[:, axis] + used.argmax(1)
            high = patch.origin[:, axis] + used.shape[1] - used.flip(1).argmax(1)
            corners.append((low, high))
        (x0, x1), (y0, y1) = corners
        boxes[patch.scene, patch.item] = torch.stack((x0, y0, x1, y1), dim=-1)
    return boxes, areas
