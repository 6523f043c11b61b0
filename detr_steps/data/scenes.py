"""Scenes: drawn detection data, endless and exact (chapters/00_start_here.ipynb).

A picture is a few coloured shapes over textured stuff, partly hidden by one another,
with look-alikes that are no objects. Every index is a pure function of the seed, so
there is nothing to download and no two epochs are alike.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..describable import describable
from ..images import ImageBatch, normalise
from . import drawing, hashing
from .layout import (
    DISTRACTORS,
    Items,
    cut_patches,
    lay_out,
    measure,
    paint_order,
    take_out_hidden,
)

SPLITS = {"train": 1_000_000, "val": 2_000, "test": 2_000}


@dataclass(frozen=True)
class SceneBatch:
    """Drawn scenes with everything known about them.

    `rgb [B, 3, S, S]` in [0, 1]; `owner [B, S, S]` 0 for background, i + 1 where object
    i of that image is visible; `stuff [B, S, S]` texture index under every pixel;
    `targets` one dict per image on the CPU: `boxes` cxcywh in [0, 1], `labels`, `area`
    (visible pixels), `image_id`, `size`.
    """

    rgb: Tensor
    owner: Tensor
    stuff: Tensor
    targets: list[dict]

    @property
    def images(self) -> ImageBatch:
        """The pictures, normalised, as a batch for a model."""
        return ImageBatch.from_pixels(normalise(self.rgb))

    def masks(self, index: int) -> Tensor:
        """Visible masks of the objects of one image: bool `[n, S, S]`."""
        if "masks" in self.targets[index]:
            return self.targets[index]["masks"]
        count = len(self.targets[index]["labels"])
        ids = torch.arange(1, count + 1, device=self.owner.device)
        return self.owner[index] == ids[:, None, None]


@describable
@dataclass(frozen=True)
class Scenes:
    """An endless, exact detection data set.

    `split` train, val or test; `size` side of the pictures in pixels (32 to 512; all
    lengths scale with it); `seed` which world; `objects` fewest and most objects;
    `lengths` shortest and longest object at 128 px; `hidden` the largest share of an
    object that may be covered: what is hidden more is taken out of the picture.
    Raises: ValueError for an unknown split or a parameter out of range.
    """

    split: str = "train"
    size: int = 128
    seed: int = 0
    objects: tuple[int, int] = (1, 8)
    lengths: tuple[float, float] = (6.0, 64.0)
    hidden: float = 0.6

    def __post_init__(self) -> None:
        if self.split not in SPLITS:
            raise ValueError(f"unknown split {self.split!r}: one of {list(SPLITS)}")
        if not 32 <= self.size <= 512:
            raise ValueError(f"size {self.size} px: Scenes are drawn from 32 to 512 px")
        if not 1 <= self.objects[0] <= self.objects[1] <= 8:
            raise ValueError(f"objects {self.objects}: 1 <= fewest <= most <= 8")

    @property
    def class_names(self) -> list[str]:
        """Names of the thing classes, in label order."""
        return list(drawing.SHAPES)

    @property
    def stuff_names(self) -> list[str]:
        """Names of the stuff classes, in the order of the stuff map."""
        return list(drawing.STUFF)

    @property
    def classes(self) -> int:
        """Number of thing classes."""
        return len(drawing.SHAPES)

    @property
    def area_limits(self) -> tuple[float, float]:
        """Sides in pixels that part small, medium and large: 16 and 32 at 128 px."""
        return self.size / 8, self.size / 4

    def __len__(self) -> int:
        return SPLITS[self.split]

    def __getitem__(self, index: int) -> tuple[Tensor, dict]:
        if not 0 <= index < len(self):
            raise IndexError(f"scene {index} of {len(self)}")
        batch = self.draw([index])
        return normalise(batch.rgb[0]), batch.targets[0]

    def draw(
        self, indices: Sequence[int], device: torch.device | str = "cpu"
    ) -> SceneBatch:
        """Draw the scenes with these indices on a device, all at once."""
        with torch.no_grad():
            return _draw(self, torch.as_tensor(list(indices), device=device))

    def batches(
        self,
        batch: int,
        start: int = 0,
        *,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
    ) -> Iterator[tuple[ImageBatch, list[dict]]]:
        """Yield training batches for ever, from step `start`.

        Step s is the same whether the run came through or was resumed; process `rank`
        of `world` gets its slice of the same global batch.
        """
        first = hashing.key(seed, 77) % len(self)
        step = start
        while True:
            begin = first + step * batch
            indices = [(begin + i) % len(self) for i in range(rank, batch, world)]
            scenes = self.draw(indices, device)
            yield scenes.images, scenes.targets
            step += 1

    def evaluation_batches(
        self,
        batch: int,
        limit: int | None = None,
        *,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
    ) -> Iterator[tuple[ImageBatch, list[dict]]]:
        """Yield each of the first `limit` scenes once, in order."""
        indices = range(rank, min(limit or len(self), len(self)), world)
        for begin in range(0, len(indices), batch):
            scenes = self.draw(indices[begin : begin + batch], device)
            yield scenes.images, scenes.targets


def _draw(scenes: Scenes, indices: Tensor) -> SceneBatch:
    size = scenes.size
    split = list(SPLITS).index(scenes.split)
    keys = hashing.mix((indices ^ hashing.key(scenes.seed, split)) & hashing.MASK)
    items = lay_out(scenes, keys)
    patches = cut_patches(items, size)
    kept = take_out_hidden(patches, items.exists, size, scenes.hidden)
    top = paint_order(patches, kept, size)
    boxes, areas = measure(patches, top, kept)
    top = top.long()
    stuff = _stuff_map(keys, size)
    rgb = _colour(items, keys, top, stuff)
    kept[:, :DISTRACTORS] = False
    numbers = torch.cumsum(kept, 1) * kept  # [B, I] 1, 2, … for kept objects
    numbers = torch.cat((torch.zeros_like(numbers[:, :1]), numbers), dim=1)
    owner = numbers.gather(1, top.flatten(1)).view_as(top)
    return SceneBatch(
        rgb, owner, stuff, _targets(indices, kept, items.label, boxes, areas, size)
    )


def _targets(indices, kept, labels, boxes, areas, size) -> list[dict]:
    # one transfer to the host: targets live there until the loss packs them
    table = torch.cat((kept[..., None], labels[..., None], areas[..., None], boxes), -1)
    table, indices = table.cpu(), indices.cpu()
    targets = []
    for index, rows in zip(indices.tolist(), table, strict=True):
        rows = rows[rows[:, 0] == 1]  # [n, 7]
        x0, y0, x1, y1 = rows[:, 3:].float().div(size).unbind(1)
        corners = ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
        targets.append(
            {
                "boxes": torch.stack(corners, dim=1),
                "labels": rows[:, 1].clone(),
                "area": rows[:, 2].float(),
                "image_id": index,
                "size": (size, size),
            }
        )
    return targets


def _stuff_map(keys: Tensor, size: int) -> Tensor:
    """Three regions parted by two straight lines, a texture in each: `[B, S, S]`."""
    words = hashing.words(keys ^ 0x57FF, 9)
    step = torch.arange(size, device=keys.device) + 0.5
    side = []
    for line in range(2):
        cos, sin = drawing.directions(hashing.pick(words[:, 3 * line], drawing.ANGLES))
        through = (
            0.2 + 0.6 * hashing.uniform(words[:, 3 * line + 1 : 3 * line + 3])
        ) * size
        across = cos[:, None] * (step - through[:, :1])  # [B, S]
        down = sin[:, None] * (step - through[:, 1:])
        side.append(across[:, None, :] + down[:, :, None] > 0)  # [B, S, S]
    kinds = hashing.pick(words[:, 6:9], len(drawing.STUFF))[:, :, None, None]
    return torch.where(
        side[0], kinds[:, 0], torch.where(side[1], kinds[:, 1], kinds[:, 2])
    )


def _colour(items: Items, keys: Tensor, top: Tensor, stuff: Tensor) -> Tensor:
    """Colours of everything, `[B, 3, S, S]` in [0, 1]."""
    size = top.shape[-1]
    words = hashing.words(keys ^ 0xC010, 6 + 4 * len(drawing.STUFF))
    grain = drawing.noise(hashing.pick(words[:, :2], drawing.TILE), size)  # [B,4,S,S]
    fields = drawing.texture_fields(words[:, 2:6], grain[:, 3], grain[:, 0])
    base = drawing.muted_colours(words[:, 6:].view(len(keys), -1, 4))  # [B, kinds, 3]
    paint = drawing.saturated_colours(items.words[..., 7:11])  # [B, I, 3]
    contrast = hashing.uniform(items.words[..., 11:12]) * -0.2  # of a thing's texture
    # one table for all: rows of the stuff, then rows of the things
    ground = torch.cat((base, torch.full_like(base[..., :1], 0.12)), dim=-1)
    table = torch.cat((ground, torch.cat((paint, contrast), dim=-1)), dim=1)
    row = torch.where(top > 0, top + (len(drawing.STUFF) - 1), stuff)
    look = _look_up(table, row)  # [B, 4, S, S] colour and contrast
    # things borrow the checks
    field = fields.gather(1, torch.where(top > 0, 1, stuff)[:, None])  # [B, 1, S, S]
    rgb = torch.addcmul(look[:, :3], look[:, 3:], field)
    return rgb.add_(grain[:, :3], alpha=0.06).clamp_(0, 1)


def _look_up(table: Tensor, index: Tensor) -> Tensor:
    """Look rows of each scene's table up: `[B, R, C], [B, S, S] -> [B, C, S, S]`."""
    b, rows, _ = table.shape
    first = torch.arange(b, device=table.device)[:, None, None] * rows
    rows = functional.embedding(index + first, table.flatten(0, 1))  # [B, S, S, C]
    return rows.permute(0, 3, 1, 2)
