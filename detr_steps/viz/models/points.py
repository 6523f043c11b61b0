"""Sampling points of a model at work: one call for its queries, one for its pixels."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ...analysis.attention import by_query, run_with_trace
from ...data.scenes import SceneBatch
from ...images import ImageBatch, denormalise
from ...nn.trace import SamplingPoints
from ...objective.matching import pad_targets
from ...systems.output import Output, Trace
from ..engine.figure import InteractiveFigure
from ..engine.points import WEIGHT_NOT_WORTH, sampling_points
from .attention import countable, resolve


class Looked(NamedTuple):
    """One image, cut to its real part, and what a deformable model made of it.

    `target` boxes and labels of the objects, None where they are unknown.
    """

    output: Output
    rgb: Tensor
    target: dict | None
    names: Sequence[str] | None


def decoder_points(
    model: nn.Module,
    batch: ImageBatch | SceneBatch,
    *,
    image: int = 0,
    names: Sequence[str] | None = None,
    targets: list[dict] | None = None,
    most: int | None = None,
    title: str = "Sampling points: where each query reads",
) -> InteractiveFigure:
    """Hover a box: the points its query reads on all levels, in every decoder layer.

    `model` a Deformable DETR; `batch`, `names` and `targets` as of
    `decoder_attention`; `most` queries, the surest first. Padding is cut off.
    Raises: TypeError for a model that reads no points.
    Source: Zhu et al. 2020, figure 6. Built in chapters/08_multi_scale.ipynb.
    """
    seen = look_closely(model, batch, image, names, targets)
    trace = seen.output.trace
    references = torch.stack([each[0, :, None, :2] for each in trace.references])
    probabilities = trace.classification.probabilities(seen.output.logits[:, 0])
    scores, labels = probabilities.max(-1)  # [Y, Q]
    more = {}
    if seen.target is not None:
        padded = pad_targets([seen.target], probabilities.shape[-1], "cpu")
        of_objects = model.match(seen.output, padded)[:, 0]
        more["matched"] = by_query(of_objects, scores.shape[1])
    return _figure(
        seen,
        references.expand(-1, -1, len(trace.sizes), -1),  # [Y, Q, L, 2]
        trace.decoder_cross,
        most=most,
        boxes=seen.output.boxes[:, 0],
        scores=scores,
        labels=labels,
        title=title,
        **more,
    )


def encoder_points(
    model: nn.Module,
    batch: ImageBatch | SceneBatch,
    level: int,
    *,
    image: int = 0,
    names: Sequence[str] | None = None,
    targets: list[dict] | None = None,
    most: int = 64,
    corner: tuple[int, int] | None = None,
    start: dict | None = None,
    caption: str = WEIGHT_NOT_WORTH,
    title: str = "Sampling points: where each pixel reads",
) -> InteractiveFigure:
    """Hover the picture: the points that a pixel of a level reads, layer by layer.

    `level` counts from 0, the finest; of more than `most` pixels some are left out,
    evenly; with a `corner` (row, column) only a square is shown that begins there, of
    which no pixel is left out. `start` and `caption` as of `sampling_points`: without
    a "point" it starts at the heaviest inside the picture. The rest as of
    `decoder_points`. Raises: also ValueError for a level or a corner that is not there,
    or a model without encoder layers. Built in chapters/07_cuda_kernel.ipynb.
    """
    seen = look_closely(model, batch, image, names, targets)
    trace = seen.output.trace
    if not trace.encoder:
        raise ValueError("this model has no encoder layers: nothing to look at")
    chosen = _pixels(trace, level, most, corner)
    centres = trace.centres[0, chosen]  # [n, 2]
    h, w = trace.sizes[level]
    cell = torch.tensor([1 / w, 1 / h]) / trace.valid[0, level]
    boxes = torch.cat((centres, cell.expand_as(centres)), -1)  # [n, 4]
    layers = len(trace.encoder)
    references = centres[None, :, None].expand(layers, -1, len(trace.sizes), -1)
    readings = [
        SamplingPoints(*(part[:, chosen] for part in each)) for each in trace.encoder
    ]
    start = {"frame": layers - 1, "item": 0} | (start or {})
    last = readings[start["frame"]]
    start.setdefault("point", _heaviest_inside(last, start["item"], trace.valid))
    return _figure(
        seen,
        references,
        readings,
        boxes=boxes.expand(layers, -1, -1),
        cells=corner is not None,
        item_name="pixel",
        start=start,
        caption=caption,
        title=title,
    )


def look_closely(
    model: nn.Module,
    batch: ImageBatch | SceneBatch,
    image: int = 0,
    names: Sequence[str] | None = None,
    targets: list[dict] | None = None,
) -> Looked:
    """Run a deformable model quietly on one image of a batch, on the CPU in float32."""
    batch, targets, names = resolve(batch, targets, names)
    if not 0 <= image < len(batch):
        raise ValueError(f"image {image} of a batch of {len(batch)}: count from 0")
    real = ~batch.padding[image]
    height, width = int(real.any(1).sum()), int(real.any(0).sum())
    pixels = batch.pixels[image, :, :height, :width].float()
    output = run_with_trace(model, ImageBatch.from_pixels(pixels[None]))
    if not isinstance(output.trace.decoder_cross[0], SamplingPoints):
        raise TypeError(
            f"{type(model).__name__} reads whole maps, no points: use decoder_attention"
        )
    return Looked(
        output,
        denormalise(pixels.cpu()),
        None if targets is None else countable(targets[image]),
        names,
    )


def _figure(
    seen: Looked, references: Tensor, readings: Sequence[SamplingPoints], **more: object
) -> InteractiveFigure:
    trace = seen.output.trace
    valid = trace.valid[:, None, None, :, None]  # shares of the map -> of the picture
    return sampling_points(
        references,
        torch.cat([each.locations / valid for each in readings]),
        torch.cat([each.weights for each in readings]),
        trace.sizes,
        seen.rgb,
        truth=None if seen.target is None else seen.target["boxes"],
        truth_labels=None if seen.target is None else seen.target["labels"],
        names=seen.names,
        **more,
    )


def _heaviest_inside(reading: SamplingPoints, item: int, valid: Tensor) -> int:
    """Number of the heaviest point of one query that lies inside the picture."""
    at = reading.locations[0, item] / valid[0, :, None]  # [M, L, K, 2]
    inside = ((at >= 0) & (at <= 1)).all(-1)
    return int((reading.weights[0, item] * inside).argmax())


def _pixels(
    trace: Trace, level: int, most: int, corner: tuple[int, int] | None
) -> list[int]:
    """Numbers of the tokens of a level, of many a square or some at even distances."""
    if not 0 <= level < len(trace.sizes):
        raise ValueError(f"level {level} of {len(trace.sizes)}: count from 0")
    h, w = trace.sizes[level]
    first = sum(a * b for a, b in trace.sizes[:level])
    if corner is not None:
        top, left = corner
        if not (0 <= top < h and 0 <= left < w):
            raise ValueError(f"corner {corner} of a level of {h} x {w}: count from 0")
        side = max(1, math.isqrt(most))
        rows = range(top, min(h, top + side))
        columns = range(left, min(w, left + side))
    else:
        step = 1
        while -(-h // step) * -(-w // step) > max(1, most):
            step += 1
        rows, columns = range(step // 2, h, step), range(step // 2, w, step)
    return [first + row * w + column for row in rows for column in columns]
