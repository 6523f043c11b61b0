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

from ..images import ImageBatch, normalise
from . import drawing, hashing

SPLITS = {"train": 1_000_000, "val": 2_000, "test": 2_000}
DISTRACTORS = 3  # at most; they lie behind all objects and have no label
WORDS = 16  # random words for each item


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
        count = len(self.targets[index]["labels"])
        ids = torch.arange(1, count + 1, device=self.owner.device)
        return self.owner[index] == ids[:, None, None]


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


@dataclass
class _Items:
    """What lies in the scenes, back to front: distractors, then objects, `[B, I]`."""

    exists: Tensor  # bool
    label: Tensor  # index into SHAPES
    centre: Tensor  # [B, I, 2] x, y in pixels
    half: Tensor  # [B, I, 2] half extents in pixels
    turn: Tensor  # index of the rotation
    words: Tensor  # [B, I, WORDS] for the colours


def _lay_out(scenes: Scenes, keys: Tensor) -> _Items:
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
    return _Items(exists, label, centre, half, turn, words)


@dataclass
class _Patch:
    """The pixels around `k` items: windows of `P x P`, and which pixels they fill."""

    scene: Tensor  # [k]
    item: Tensor  # [k]
    pixel: Tensor  # [k, P, P] flat index into [B * S * S]
    filled: Tensor  # bool [k, P, P], within the picture
    pixels: Tensor  # [k] the whole shape, what lies outside the picture included
    origin: Tensor  # [k, 2] x, y of the window's corner


def _cut_patches(items: _Items, size: int) -> list[_Patch]:
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
    items: _Items, scene: Tensor, item: Tensor, window: int, size: int
) -> _Patch:
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
    return _Patch(scene, item, flat, mask & seen, mask.sum((1, 2)), origin)


def _paint_order(patches: list[_Patch], kept: Tensor, size: int) -> Tensor:
    """Item number + 1 of whatever is on top at each pixel: `[B, S, S]`, 0 for none."""
    top = torch.zeros(len(kept) * size * size, dtype=torch.int64, device=kept.device)
    for patch in patches:
        height = (patch.item + 1) * kept[patch.scene, patch.item]
        value = height[:, None, None] * patch.filled
        top.scatter_reduce_(0, patch.pixel.flatten(), value.flatten(), "amax")
    return top.view(len(kept), size, size)


def _visible(patch: _Patch, top: Tensor) -> Tensor:
    owner = top.view(-1)[patch.pixel]
    return patch.filled & (owner == (patch.item + 1)[:, None, None])


def _take_out_hidden(
    patches: list[_Patch], exists: Tensor, size: int, hidden: float
) -> Tensor:
    """Drop objects covered too much. Taking one out only uncovers others: one pass."""
    top = _paint_order(patches, exists, size)
    kept = exists.clone()
    for patch in patches:
        shown = _visible(patch, top).sum((1, 2))
        enough = shown >= patch.pixels * (1 - hidden)
        kept[patch.scene, patch.item] = enough & (shown > 0)
    return kept


def _measure(patches: list[_Patch], top: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    """Tight boxes of what is visible, xyxy pixels `[B, I, 4]`, and areas `[B, I]`."""
    boxes = torch.zeros(*kept.shape, 4, dtype=torch.int64, device=kept.device)
    areas = torch.zeros_like(kept, dtype=torch.int64)
    for patch in patches:
        visible = _visible(patch, top)
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


def _draw(scenes: Scenes, indices: Tensor) -> SceneBatch:
    size = scenes.size
    split = list(SPLITS).index(scenes.split)
    keys = hashing.mix((indices ^ hashing.key(scenes.seed, split)) & hashing.MASK)
    items = _lay_out(scenes, keys)
    patches = _cut_patches(items, size)
    kept = _take_out_hidden(patches, items.exists, size, scenes.hidden)
    top = _paint_order(patches, kept, size)
    boxes, areas = _measure(patches, top, kept)
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


def _colour(items: _Items, keys: Tensor, top: Tensor, stuff: Tensor) -> Tensor:
    """Colours of everything, `[B, 3, S, S]` in [0, 1]."""
    size = top.shape[-1]
    words = hashing.words(keys ^ 0xC010, 6 + 4 * len(drawing.STUFF))
    grain = drawing.noise(hashing.pick(words[:, :2], drawing.TILE), size)  # [B,4,S,S]
    fields = drawing.texture_fields(words[:, 2:6], grain[:, 3], grain[:, 0])
    base = drawing.muted_colours(words[:, 6:].view(len(keys), -1, 4))  # [B, kinds, 3]
    rgb = _look_up(base, stuff) + 0.12 * fields.gather(1, stuff[:, None])
    paint = drawing.saturated_colours(items.words[..., 7:11])  # [B, I, 3]
    shade = hashing.uniform(items.words[..., 11:12]) * 0.2  # strength of the texture
    paint = torch.cat((paint, shade), -1)
    paint = torch.cat((torch.zeros_like(paint[:, :1]), paint), dim=1)  # item 0: none
    over = _look_up(paint, top)  # [B, 4, S, S]
    thing = over[:, :3] - over[:, 3:] * fields[:, 1:2]  # things borrow the checks
    rgb = torch.where((top > 0)[:, None], thing, rgb)
    return rgb.add_(grain[:, :3], alpha=0.06).clamp_(0, 1)


def _look_up(table: Tensor, index: Tensor) -> Tensor:
    """Look rows of each scene's table up: `[B, R, C], [B, S, S] -> [B, C, S, S]`."""
    b, rows, _ = table.shape
    first = torch.arange(b, device=table.device)[:, None, None] * rows
    rows = functional.embedding(index + first, table.flatten(0, 1))  # [B, S, S, C]
    return rows.permute(0, 3, 1, 2).contiguous()
