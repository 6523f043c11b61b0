"""Padded batches of differently sized images (chapters/00_start_here.ipynb)."""

from dataclasses import dataclass

import torch
from torch import Tensor

# Channel means and deviations of ImageNet: what every ResNet checkpoint was trained on.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalise(rgb: Tensor) -> Tensor:
    """Turn colours in [0, 1] `[..., 3, H, W]` into what the backbones expect."""
    mean, std = rgb.new_tensor(MEAN), rgb.new_tensor(STD)
    return (rgb - mean[:, None, None]) / std[:, None, None]


def denormalise(pixels: Tensor) -> Tensor:
    """Undo `normalise`: `[..., 3, H, W]` back to colours in [0, 1], for drawing."""
    mean, std = pixels.new_tensor(MEAN), pixels.new_tensor(STD)
    return (pixels * std[:, None, None] + mean[:, None, None]).clamp(0, 1)


@dataclass(frozen=True)
class ImageBatch:
    """Images of different sizes in one tensor, padded at the bottom and the right.

    `pixels` [B, 3, H, W] normalised colours; `padding` [B, H, W] True where padded;
    `padded` says, without asking the device, whether there is any padding.
    Built in chapters/00_start_here.ipynb.
    """

    pixels: Tensor
    padding: Tensor
    padded: bool = True

    @classmethod
    def from_list(cls, images: list[Tensor]) -> "ImageBatch":
        """Pad images `[C, H, W]` to the largest height and width of the list.

        Raises: ValueError for an empty list, a wrong shape, an empty side or mixed
        channel counts; TypeError for something that is no float tensor.
        """
        _check_images(images)
        height = max(image.shape[-2] for image in images)
        width = max(image.shape[-1] for image in images)
        channels = images[0].shape[0]
        pixels = images[0].new_zeros(len(images), channels, height, width)
        padding = torch.ones(
            len(images), height, width, dtype=torch.bool, device=pixels.device
        )
        for index, image in enumerate(images):
            h, w = image.shape[-2:]
            pixels[index, :, :h, :w] = image
            padding[index, :h, :w] = False
        padded = any(image.shape[-2:] != (height, width) for image in images)
        return cls(pixels, padding, padded)

    @classmethod
    def from_pixels(cls, pixels: Tensor) -> "ImageBatch":
        """Wrap images that share one size, `[B, 3, H, W]`: nothing is padded.

        Raises: as `from_list`.
        """
        _check_images(list(pixels))
        b, _, height, width = pixels.shape
        padding = torch.zeros(b, height, width, dtype=torch.bool, device=pixels.device)
        return cls(pixels, padding, padded=False)

    def to(self, device: torch.device | str) -> "ImageBatch":
        """Move to a device; returns a new batch."""
        return ImageBatch(
            self.pixels.to(device, non_blocking=True),
            self.padding.to(device, non_blocking=True),
            self.padded,
        )

    def __len__(self) -> int:
        return self.pixels.shape[0]


def _check_images(images: list[Tensor]) -> None:
    if len(images) == 0:
        raise ValueError("an empty list of images: give at least one [3, H, W] tensor")
    for index, image in enumerate(images):
        _check_image(image, f"image {index}")
    channels = {image.shape[0] for image in images}
    if len(channels) > 1:
        raise ValueError(
            f"images with different channel counts {sorted(channels)}: convert to RGB"
        )


def _check_image(image: Tensor, name: str) -> None:
    if not isinstance(image, Tensor):
        raise TypeError(
            f"{name} is a {type(image).__name__}, not a tensor: use "
            "torch.from_numpy(array).permute(2, 0, 1).float() / 255"
        )
    if not image.is_floating_point():
        raise TypeError(
            f"{name} has dtype {image.dtype}: divide by 255 and call normalise(...)"
        )
    if image.dim() != 3:
        raise ValueError(f"{name} has shape {list(image.shape)}, expected [3, H, W]")
    if 0 in image.shape:
        raise ValueError(f"{name} has an empty side: {list(image.shape)}")
