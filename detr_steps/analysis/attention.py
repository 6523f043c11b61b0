"""Attention of one image: run with a trace, cut to the picture, packed small.

Built in chapters/02_detr.ipynb.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..images import ImageBatch
from ..nn.references import shrink_padding
from ..nn.trace import Attended, AttentionMaps, SamplingPoints
from ..objective.matching import pad_targets
from ..systems.output import Output, Trace


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
def eval_no_grad(model: nn.Module) -> Iterator[None]:
    """Run a model without dropout and gradients; afterwards it is as it was before."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def run_with_trace(
    source: nn.Module | Output, batch: ImageBatch, image: int = 0
) -> Output:
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
        return _one(_run(source, batch, image), 0)
    if getattr(source, "_fields", ())[:3] != Output._fields[:3]:
        raise TypeError(
            f"expected a model or its Output, got {type(source).__name__}: give the "
            "model itself, or model(batch, trace=True)"
        )
    _check(source, batch)
    return _one(source, image)


def _run(model: nn.Module, batch: ImageBatch, image: int) -> Output:
    weight = next(model.parameters())
    pixels = batch.pixels[image : image + 1].to(weight.device, weight.dtype)
    padding = batch.padding[image : image + 1].to(weight.device)
    with eval_no_grad(model):
        return model(ImageBatch(pixels, padding, batch.padded), trace=True)


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
    """One image of an output; layers of predictions come first, images second."""
    trace = output.trace
    cut = {
        name: _cut_out(value, image)
        for name, value in trace._asdict().items()
        if name not in ("sizes", "classification")
    }
    logits, boxes = (x[:, image : image + 1] for x in output[:2])
    more = {name: _cut_out(getattr(output, name), image) for name in output._fields[3:]}
    more |= {"trace": trace._replace(**cut), "extra": (), "weight": 1.0}
    return output._replace(logits=_plain(logits), boxes=_plain(boxes), **more)


def _cut_out(value: object, image: int) -> object:
    """One image of every tensor in nested tuples, whose first dimension is images."""
    if isinstance(value, Tensor):
        return _plain(value[image : image + 1])
    if isinstance(value, tuple):
        parts = [_cut_out(each, image) for each in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value


def _plain(values: Tensor) -> Tensor:
    values = values.detach().cpu()
    return values.float() if values.is_floating_point() else values


def class_probabilities(seen: Output) -> Tensor:
    """Of each query in the only image, after each layer: `[Y, Q, classes]`."""
    return seen.trace.classification.probabilities(seen.logits[:, 0])


def matched_objects(model: nn.Module, seen: Output, target: dict) -> Tensor:
    """The object that each query is matched with, -1 for none: `[Y, Q]`.

    `target` of the only image, without crowds: see `without_crowds`.
    """
    padded = pad_targets([target], model.config.classes, "cpu")
    return by_query(model.match(seen, padded)[:, 0], seen.logits.shape[2])


def without_crowds(target: dict) -> dict:
    """Boxes and labels of single objects, on the CPU: crowds are never matched."""
    one = ~target["iscrowd"] if "iscrowd" in target else slice(None)
    return {key: target[key][one].detach().cpu() for key in ("boxes", "labels")}


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


MOST_CELLS = 1_500  # of a map that sampling points are dropped on: 25 x 42 and more


def map_size(trace: Trace) -> tuple[int, int]:
    """Rows and columns of the maps that attention is shown on.

    Those of dense attention; of sampling points the finest level of few enough cells.
    """
    layers = (*trace.encoder, *trace.decoder_cross)
    if any(isinstance(layer, AttentionMaps) for layer in layers):
        return trace.sizes[0]  # they have one level
    few = [size for size in trace.sizes if size[0] * size[1] <= MOST_CELLS]
    return (few or trace.sizes[-1:])[0]


def decoder_maps(
    seen: Output, real: Extent, queries: Sequence[int] | slice = slice(None)
) -> Tensor:
    """Cross-attention of all layers, cut to the picture: `[Y, Q, M, rows, columns]`.

    Of sampling points the `density`. `real` is the extent on the `map_size`.
    """
    check_decoder(seen.trace)
    size = map_size(seen.trace)
    maps = [_as_map(layer, size, queries) for layer in seen.trace.decoder_cross]
    return torch.stack(maps)[..., : real.rows, : real.columns]


def check_decoder(trace: Trace) -> None:
    """Raise ValueError for a model without a decoder, whose queries read no image."""
    if not trace.decoder_cross:
        raise ValueError(
            "this model has no decoder, so no query attends to the picture: look at "
            "its encoder (viz.encoder_attention), or at its answers (viz.matching)"
        )


def encoder_maps(seen: Output, real: Extent) -> Tensor:
    """Self-attention of the tokens, cut to the picture: `[Ye, S, M, rows, columns]`.

    S = rows · columns, the real cells of the level of `map_size`, row by row.
    Raises: ValueError for a model without encoder layers.
    """
    if not seen.trace.encoder:
        raise ValueError("this model has no encoder layers: nothing to look at")
    size, sizes = map_size(seen.trace), seen.trace.sizes
    first = sum(h * w for h, w in sizes[: sizes.index(size)])
    cells = torch.arange(size[0] * size[1]).view(size)[: real.rows, : real.columns]
    tokens = (first + cells.flatten()).tolist()
    maps = [_as_map(layer, size, tokens) for layer in seen.trace.encoder]
    return torch.stack(maps)[..., : real.rows, : real.columns]


def _as_map(
    layer: Attended, size: tuple[int, int], queries: Sequence[int] | slice
) -> Tensor:
    """What some of the only image's queries attend to: `[Q, M, h, w]`."""
    if isinstance(layer, AttentionMaps):
        return layer.weights[0, :, queries].transpose(0, 1).unflatten(-1, size)
    points = SamplingPoints(*(part[:, queries] for part in layer))
    return density(points, size)[0]


def density(points: SamplingPoints, size: tuple[int, int]) -> Tensor:
    """Where the weight of sampling points lies, on one map: `[B, Q, M, h, w]`.

    The points of all levels are dropped on the cells of a map `size (h, w)`, each
    weight shared among the four nearest cells (the transpose of bilinear sampling).
    What lies outside is lost, as it is when sampling: rows add up to 1 at most.
    """
    h, w = size
    at = points.locations.flatten(3, 4) * points.locations.new_tensor((w, h)) - 0.5
    weights = points.weights.flatten(3, 4)  # [B, Q, M, L·K]
    low = at.floor()
    share = at - low  # of the right and lower neighbours
    result = weights.new_zeros(*weights.shape[:3], h * w)
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x, y = (low[..., 0] + dx).long(), (low[..., 1] + dy).long()
        inside = (x >= 0) & (x < w) & (y >= 0) & (y < h)
        part = (share[..., 0] - (1 - dx)).abs() * (share[..., 1] - (1 - dy)).abs()
        cell = (y.clamp(0, h - 1) * w + x.clamp(0, w - 1)).long()
        result.scatter_add_(-1, cell, weights * part * inside)
    return result.unflatten(-1, size)


class PackedMaps(NamedTuple):
    """Attention maps of M heads as bytes, and over how many cells they are spread.

    `maps [..., M, h, w]` uint8, each scaled to its own maximum, `peaks [..., M]`, the
    weight that 255 stands for; effective cells of the mean of the heads, `spread
    [...]`, and of each head, `spread_heads [..., M]`.
    """

    maps: Tensor
    peaks: Tensor
    spread: Tensor
    spread_heads: Tensor


def pack(maps: Tensor) -> PackedMaps:
    """Pack weights `[..., M, h, w]`; they come back within 1/510 of each map's peak.

    Raises: ValueError for negative or non-finite weights.
    """
    maps = maps.detach().float().cpu()
    if not (maps.isfinite().all() and (maps >= 0).all()):
        raise ValueError(
            "attention maps hold negative, NaN or infinite weights: give weights "
            "after the softmax"
        )
    peaks = maps.amax((-2, -1))  # [..., M]
    scaled = maps / peaks.clamp(min=1e-30)[..., None, None]
    small = scaled.mul(255).round().to(torch.uint8)
    spread = effective_cells(maps.mean(-3))
    return PackedMaps(small, peaks, spread, effective_cells(maps))


def unpack(packed: PackedMaps) -> Tensor:
    """Undo `pack`, up to rounding: float weights `[..., M, h, w]`."""
    return packed.maps.float() / 255 * packed.peaks[..., None, None]


def effective_cells(maps: Tensor) -> Tensor:
    """Over how many cells the weight of each map `[..., h, w]` is spread.

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
