"""Attention maps of one image: run quietly, cut to the picture, packed small.

Built in chapters/02_detr.ipynb.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..images import ImageBatch
from ..nn.attention import Trace
from ..systems.detr import Output, shrink_padding


@dataclass(frozen=True)
class Extent:
    """The real part of an image in a padded batch.

    `height, width` in pixels, `rows, columns` in cells of the feature map; `cover
    (x, y)` how much of the picture these cells span: above 1 where the last ones
    stick out, because its side is no multiple of the stride.
    """

    height: int
    width: int
    rows: int
    columns: int
    cover: tuple[float, float]


@contextmanager
def quiet(model: nn.Module) -> Iterator[None]:
    """Run a model without dropout and gradients; afterwards it is as it was before."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def look(source: nn.Module | Output, batch: ImageBatch, image: int = 0) -> Output:
    """See what a model says and where it looks in one image of a batch.

    `source` the model, or what it returned for this batch with `trace=True`. Returns
    an `Output` of one image, float32 on the CPU, with its trace.
    Raises: ValueError for an image beyond the batch, an Output without a trace or of
    another batch; TypeError for something else.
    """
    if not 0 <= image < len(batch):
        raise ValueError(
            f"image {image} of a batch of {len(batch)}: count from 0 to "
            f"{len(batch) - 1}"
        )
    if isinstance(source, nn.Module):
        weight = next(source.parameters())
        pixels = batch.pixels[image : image + 1].to(weight.device, weight.dtype)
        padding = batch.padding[image : image + 1].to(weight.device)
        with quiet(source):
            output = source(ImageBatch(pixels, padding, batch.padded), trace=True)
        return _one(output, 0)
    if not isinstance(source, Output):
        raise TypeError(
            f"expected a model or its Output, got {type(source).__name__}: give the "
            "model itself, or model(batch, trace=True)"
        )
    _check(source, batch)
    return _one(source, image)


def _check(output: Output, batch: ImageBatch) -> None:
    if output.trace is None:
        raise ValueError(
            "this Output has no trace: call model(batch, trace=True), or give the "
            "model itself"
        )
    if output.logits.shape[1] != len(batch):
        raise ValueError(
            f"this Output is of {output.logits.shape[1]} images, the batch has "
            f"{len(batch)}: give the batch that the model was run on"
        )


def _one(output: Output, image: int) -> Output:
    def take(values: Tensor) -> Tensor:  # second dimension: images
        if values.dim() < 2:
            return values  # no layers, no maps
        return values[:, image : image + 1].detach().float().cpu()

    seen = output.trace
    maps = (take(seen.encoder_self), take(seen.decoder_self), take(seen.decoder_cross))
    return Output(take(output.logits), take(output.boxes), Trace(*maps, seen.size))


def extent(batch: ImageBatch, image: int, size: tuple[int, int]) -> Extent:
    """Find what is real of an image, in pixels and in cells of a map `size (h, w)`."""
    padding = batch.padding[image].cpu()  # [H, W]
    real = ~padding
    height, width = int(real.any(1).sum()), int(real.any(0).sum())
    cells = ~shrink_padding(padding[None], size)[0]  # [h, w]
    rows, columns = int(cells.any(1).sum()), int(cells.any(0).sum())
    down, right = strides(padding.shape, size)
    cover = (columns * right / width, rows * down / height)
    return Extent(height, width, rows, columns, cover)


def strides(pixels: tuple[int, int], cells: tuple[int, int]) -> tuple[float, float]:
    """Height and width of a cell in pixels.

    A backbone halves the sides and rounds up, so a power of two that explains both
    sides is taken; else the cells share the picture evenly.
    """
    for stride in (2**power for power in range(12)):
        if all(-(-n // stride) == c for n, c in zip(pixels, cells)):
            return float(stride), float(stride)
    return pixels[0] / cells[0], pixels[1] / cells[1]


def decoder_maps(seen: Output, real: Extent) -> Tensor:
    """Cut cross-attention to the picture: `[Y, Q, M, rows, columns]`."""
    return _cut(seen.trace.decoder_cross[:, 0].transpose(1, 2), seen.trace.size, real)


def encoder_maps(seen: Output, real: Extent) -> Tensor:
    """Cut self-attention of the tokens to the picture: `[Ye, S, M, rows, columns]`.

    S = rows · columns, the real cells, row by row.
    Raises: ValueError for a model without encoder layers.
    """
    if seen.trace.encoder_self.numel() == 0:
        raise ValueError("this model has no encoder layers: nothing to look at")
    asking = seen.trace.encoder_self[:, 0].transpose(1, 2)  # [Ye, S, M, S]
    asking = asking.unflatten(1, seen.trace.size)[:, : real.rows, : real.columns]
    return _cut(asking.flatten(1, 2), seen.trace.size, real)


def _cut(weights: Tensor, size: tuple[int, int], real: Extent) -> Tensor:
    return weights.unflatten(-1, size)[..., : real.rows, : real.columns]


def pack(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Scale each map `[..., h, w]` to 0 … 255 of its own maximum.

    Returns uint8 maps and the `peaks [...]`, the weight that 255 stands for: what
    comes back differs by at most 1/510 of the peak.
    Raises: ValueError for negative or non-finite weights.
    """
    maps = maps.detach().float().cpu()
    if not (maps.isfinite().all() and (maps >= 0).all()):
        raise ValueError(
            "attention maps hold negative, NaN or infinite weights: give weights "
            "after the softmax"
        )
    peaks = maps.amax((-2, -1))  # [...]
    scaled = maps / peaks.clamp(min=1e-30)[..., None, None]
    return scaled.mul(255).round().to(torch.uint8), peaks


def unpack(maps: Tensor, peaks: Tensor) -> Tensor:
    """Undo `pack`, up to rounding: float weights `[..., h, w]`."""
    return maps.float() / 255 * peaks[..., None, None]


def spread(maps: Tensor) -> Tensor:
    """Over how many cells is the weight of each map `[..., h, w]` spread?

    The exponential of the entropy: as many cells as would have this entropy if they
    shared the weight evenly. 1 for a single cell, h · w for a flat map.
    """
    weights = maps.detach().double().cpu().flatten(-2)
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=1e-300)
    return torch.special.entr(weights).sum(-1).exp().float()


def by_query(matched: Tensor, queries: int) -> Tensor:
    """Turn the query of each object `[..., N]` into the object of each query.

    Returns `[..., Q]`, -1 for a query without an object.
    """
    objects = torch.full((*matched.shape[:-1], queries), -1)
    for n in range(matched.shape[-1]):
        query = matched[..., n : n + 1].cpu()  # [..., 1]
        before = objects.gather(-1, query.clamp(min=0))
        objects.scatter_(-1, query.clamp(min=0), before.where(query < 0, n))
    return objects
