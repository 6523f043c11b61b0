"""Scenes with every pixel in a segment: things and stuff.

Used throughout chapters/03_panoptic.ipynb.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..describable import describable
from . import drawing
from .scenes import SceneBatch, Scenes


@describable
@dataclass(frozen=True)
class PanopticScenes(Scenes):
    """The same pictures, and all that is in them: objects, then stuff.

    Labels from `things` on are stuff, one segment for each texture that can be seen
    between the objects, with the box around it. Targets carry `masks [n, S, S]` bool of
    what is visible: each pixel is in exactly one of them.
    """

    @property
    def class_names(self) -> list[str]:
        """Names of the things, then of the stuff, in label order."""
        return [*drawing.SHAPES, *drawing.STUFF]

    @property
    def classes(self) -> int:
        """Number of classes, stuff included."""
        return self.things + len(drawing.STUFF)

    @property
    def things(self) -> int:
        """How many classes, the first ones, can be counted."""
        return len(drawing.SHAPES)

    def draw(self, indices, device: torch.device | str = "cpu") -> SceneBatch:
        """Draw the scenes with these indices on a device, all at once."""
        scenes = super().draw(indices, device)
        return replace(scenes, targets=with_stuff(scenes))


def with_stuff(scenes: SceneBatch) -> list[dict]:
    """The targets of drawn scenes with their masks, and with the stuff behind."""
    kinds = torch.arange(len(drawing.STUFF), device=scenes.owner.device)
    background = (scenes.owner == 0)[:, None]  # [B, 1, S, S]
    stuff = background & (scenes.stuff[:, None] == kinds[:, None, None])  # [B, K, S, S]
    areas, boxes = stuff.sum((2, 3)).cpu(), boxes_of(stuff).cpu()  # [B, K], [B, K, 4]
    targets = []
    for index, target in enumerate(scenes.targets):
        seen = areas[index].nonzero()[:, 0]
        things = scenes.masks(index)
        more = {
            "boxes": boxes[index, seen],
            "labels": len(drawing.SHAPES) + seen,
            "area": areas[index, seen].float(),
            "masks": stuff[index, seen.to(stuff.device)],
        }
        both = target | {"masks": things}
        targets.append(target | {k: torch.cat((both[k], more[k])) for k in more})
    return targets


def boxes_of(masks: Tensor) -> Tensor:
    """The box around each mask: bool `[..., H, W]` to cxcywh in [0, 1] `[..., 4]`.

    Of an empty mask all is 0.
    """
    sides = []
    for used in (masks.any(-2), masks.any(-1)):  # columns: x, rows: y
        size, used = used.shape[-1], used.int()
        low = used.argmax(-1)
        high = size - used.flip(-1).argmax(-1)
        high = torch.where(used.any(-1), high, low)
        sides += [((low + high) / 2 / size, (high - low) / size)]
    (cx, w), (cy, h) = sides
    return torch.stack((cx, cy, w, h), dim=-1)
