"""The paper's augmentation: flip, resize and crop pictures with boxes and masks."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch import Tensor

SMALLEST_SIDE = 1e-2  # pixels: what a crop leaves of a box must be larger than this


@dataclass(frozen=True)
class Sample:
    """A picture and its `n` objects on the way through the transforms.

    `picture` RGB, (W, H) pixels; `boxes` [n, 4] float64 x0 y0 x1 y1 in pixels of this
    picture; `kept` [n] rows of the original objects that are still in it; `masks`
    [n, H, W] bool or None.
    """

    picture: Image.Image
    boxes: np.ndarray
    kept: np.ndarray
    masks: np.ndarray | None = None

    @classmethod
    def start(
        cls, picture: Image.Image, boxes: np.ndarray, masks: np.ndarray | None = None
    ) -> "Sample":
        """Wrap a picture with all of its objects."""
        boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
        return cls(picture, boxes, np.arange(len(boxes)), masks)

    def stretched_from(self, size: tuple[int, int]) -> "Sample":
        """Fit boxes and masks made for a picture of `size` (H, W) to this picture."""
        (height, width), picture = size, self.picture
        if picture.size == (width, height):
            return self
        scale = np.tile(np.divide(picture.size, (width, height)), 2)
        masks = self.masks
        if masks is not None:
            masks = resize_masks(masks, (picture.height, picture.width))
        return replace(self, boxes=self.boxes * scale, masks=masks)

    def relative_boxes(self) -> Tensor:
        """Boxes as the model wants them: `[n, 4]` float32 cx cy w h in [0, 1]."""
        corners = self.boxes / np.tile(self.picture.size, 2)  # [n, 4]
        low, high = corners[:, :2].clip(0, 1), corners[:, 2:].clip(0, 1)
        boxes = np.concatenate(((low + high) / 2, high - low), axis=1)
        return torch.from_numpy(boxes.astype(np.float32))


def flip(sample: Sample) -> Sample:
    """Mirror left and right."""
    width = sample.picture.width
    x0, y0, x1, y1 = sample.boxes.T
    return replace(
        sample,
        picture=sample.picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        boxes=np.stack((width - x1, y0, width - x0, y1), axis=1),
        masks=None if sample.masks is None else sample.masks[:, :, ::-1],
    )


def resize(sample: Sample, size: tuple[int, int]) -> Sample:
    """Scale to `size` (H, W) pixels, bilinear for the picture, nearest for masks."""
    height, width = size
    if (width, height) == sample.picture.size:
        return sample
    picture = sample.picture.resize((width, height), Image.Resampling.BILINEAR)
    before = sample.picture.height, sample.picture.width
    return replace(sample, picture=picture).stretched_from(before)


def resize_masks(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Scale masks [n, h, w] to [n, H, W], each pixel from the nearest one."""
    masks = masks[:, nearest(size[0], masks.shape[1])]
    return masks[:, :, nearest(size[1], masks.shape[2])]


def nearest(new: int, old: int) -> np.ndarray:
    """The old pixel under the centre of each of `new` ones: [new] indices."""
    return ((np.arange(new) + 0.5) * old / new).astype(np.int64).clip(max=old - 1)


def crop(sample: Sample, top: int, left: int, height: int, width: int) -> Sample:
    """Cut out a rectangle (pixels); objects outside are dropped, others clipped."""
    picture = sample.picture.crop((left, top, left + width, top + height))
    boxes = sample.boxes - (left, top, left, top)
    boxes = np.concatenate(
        (boxes[:, :2].clip(min=0), boxes[:, 2:].clip(max=(width, height))), axis=1
    )
    inside = (boxes[:, 2:] - boxes[:, :2] > SMALLEST_SIDE).all(1)
    masks = sample.masks
    if masks is not None:
        masks = masks[:, top : top + height, left : left + width]
        inside &= masks.any((1, 2))
        masks = masks[inside]
    return Sample(picture, boxes[inside], sample.kept[inside], masks)


def fitting_size(
    size: tuple[int, int], short: int, longest: int | None
) -> tuple[int, int]:
    """(H, W) scaled so that the short side is `short` and no side above `longest`.

    Rounds as the official code does, so that AP of its checkpoints is not touched.
    """
    low, high = min(size), max(size)
    if longest is not None and short * high / low > longest:
        short = round(longest * low / high)
    if low == short:
        return size
    # one product and one division, rounded down: the official order; a picture so
    # flat that its short side would vanish becomes one pixel wide
    long = int(short * high / low) if short > 0 else longest
    short = max(short, 1)
    return (short, long) if size[0] <= size[1] else (long, short)


@dataclass(frozen=True)
class Augment:
    """Random changes of a training picture; the generator given makes every choice.

    Source: DETR, section 4 and appendix A.4. Presets: `paper()`, `small(size)`,
    `none()`. Built in chapters/02_detr.ipynb.
    """

    flip: float = 0.5  # probability of mirroring
    short_sides: tuple[int, ...] = tuple(range(480, 801, 32))  # pixels; () = as it is
    longest: int | None = 1333  # pixels, no side above
    crop: float = 0.5  # probability of cropping before the resize
    crop_short_sides: tuple[int, ...] = (400, 500, 600)  # pixels, resize before a crop
    crop_sides: tuple[int, int] = (384, 600)  # pixels, sides of the crop, both included

    @classmethod
    def paper(cls) -> "Augment":
        """The paper's augmentation for COCO."""
        return cls()

    @classmethod
    def small(cls, size: int) -> "Augment":
        """The same scaled to small pictures: `size` pixels take the place of 800."""

        def scaled(*sides: int) -> tuple[int, ...]:
            return tuple(max(round(side * size / 800), 1) for side in sides)

        whole = cls()
        return cls(
            short_sides=scaled(*whole.short_sides),
            longest=scaled(1333)[0],
            crop_short_sides=scaled(*whole.crop_short_sides),
            crop_sides=(scaled(384)[0], scaled(600)[0]),
        )

    @classmethod
    def none(cls, short: int | None = 800, longest: int | None = 1333) -> "Augment":
        """No chance at all: only scale to `short` (None: leave the size as it is)."""
        sides = () if short is None else (short,)
        return cls(flip=0, short_sides=sides, longest=longest, crop=0)

    def still(self) -> "Augment":
        """What evaluation does: the largest size of this augmentation, no chance."""
        largest = max(self.short_sides) if self.short_sides else None
        return Augment.none(largest, self.longest)

    def __call__(self, sample: Sample, random: np.random.Generator) -> Sample:
        """Change a sample; the same generator state gives the same change."""
        if random.random() < self.flip:
            sample = flip(sample)
        if random.random() < self.crop:
            sample = self._resize(sample, self.crop_short_sides, None, random)
            sample = self._crop(sample, random)
        return self._resize(sample, self.short_sides, self.longest, random)

    def _resize(
        self,
        sample: Sample,
        sides: tuple[int, ...],
        longest: int | None,
        random: np.random.Generator,
    ) -> Sample:
        width, height = sample.picture.size
        short = int(random.choice(sides)) if sides else min(width, height)
        return resize(sample, fitting_size((height, width), short, longest))

    def _crop(self, sample: Sample, random: np.random.Generator) -> Sample:
        low, high = self.crop_sides
        width, height = (
            int(random.integers(min(low, side), min(high, side) + 1))
            for side in sample.picture.size
        )
        left = int(random.integers(sample.picture.width - width + 1))
        top = int(random.integers(sample.picture.height - height + 1))
        return crop(sample, top, left, height, width)
