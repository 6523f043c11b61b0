"""Sampling points of a model at work: one call for its queries, one for its pixels."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ...analysis.attention import check_decoder
from ...nn.deform_attention import MultiScaleDeformableAttention, ReferencePoints
from ...nn.references import on_levels
from ...nn.trace import SamplingPoints
from ...systems.output import Output, Trace
from ..engine.answers import Answers, Words
from ..engine.figure import InteractiveFigure
from ..engine.points import sampling_points
from .opened import Batch, Opened, nearest, open_up, samples

PIXELS_TITLE = "Sampling points: where each pixel reads"


def decoder_points(
    source: nn.Module | Output,
    batch: Batch,
    *,
    image: int = 0,
    names: Sequence[str] | None = None,
    targets: list[dict] | None = None,
    max_queries: int | None = None,
    query: int | None = None,
    title: str = "",
) -> InteractiveFigure:
    """Hover a box: the points its query samples on all levels, in every decoder layer.

    Arguments and errors as of `decoder_attention`. Raises: also TypeError for a decoder
    that attends to whole maps. Source: Zhu et al. 2020, figure 6. Built in
    chapters/08_multi_scale.ipynb.
    """
    opened = open_up(source, batch, image, names, targets)
    _check_samples(opened.seen.trace)
    return query_points(opened, max_queries, query, title)


def _check_samples(trace: Trace) -> None:
    check_decoder(trace)
    if not samples(trace.decoder_cross):
        raise TypeError(
            "this decoder attends to whole maps and samples no points: use "
            "viz.decoder_attention"
        )


def query_points(
    opened: Opened, max_queries: int | None, query: int | None, title: str
) -> InteractiveFigure:
    """Show the points of some queries of an opened model, at first of `query`."""
    trace, answers = opened.seen.trace, opened.answers
    layers = trace.decoder_cross
    size = 6 * len(layers) * layers[0].weights[0, 0].numel()  # bytes: x, y and weight
    items = answers.choose(size, max_queries, query)
    return _figure(
        opened,
        [_of(layer, items) for layer in layers],
        torch.cat([each[:, items, :2] for each in trace.references]),
        answers.select(items),
        Words(title),
        {} if query is None else {"item": items.index(query)},
    )


def points_since_start(
    model: nn.Module,
    batch: Batch,
    *,
    image: int = 0,
    names: Sequence[str] | None = None,
    targets: list[dict] | None = None,
    max_queries: int | None = None,
    query: int | None = None,
) -> InteractiveFigure:
    """Hover a box: the last decoder layer's points, as the star and as trained.

    The star lies at the same references, its points all weigh the same. Arguments and
    errors as of `decoder_points`. Built in chapters/06_deformable_attention.ipynb.
    """
    opened = open_up(model, batch, image, names, targets)
    trace = opened.seen.trace
    _check_samples(trace)
    trained = trace.decoder_cross[-1]
    fresh = copy.deepcopy(model.decoder[-1].cross_attention)
    frames = [_star(fresh, trace), trained]
    answers = opened.answers.of([-1, -1])
    items = answers.choose(12 * trained.weights[0, 0].numel(), max_queries, query)
    return _figure(
        opened,
        [_of(frame, items) for frame in frames],
        trace.references[-1][:, items, :2].expand(2, -1, -1),
        answers.select(items),
        Words(frame="points", frames=("star", "trained")),
        {} if query is None else {"item": items.index(query)},
    )


@torch.no_grad()
def _star(attention: MultiScaleDeformableAttention, trace: Trace) -> SamplingPoints:
    """The points of an attention that has learned nothing; changes `attention`."""
    attention.reset_parameters()
    points = on_levels(trace.references[-1], trace.valid)
    queries = points.new_zeros(*points.shape[:2], attention.offsets.in_features)
    locations = attention.locate(queries, ReferencePoints(points, trace.sizes))
    even = 1 / math.prod(locations.shape[3:5])
    return SamplingPoints(locations, torch.full_like(locations[..., 0], even))


@dataclass(frozen=True)
class Pixels:
    """Which pixels of an encoder are asked: some of one `level`, 0 being the finest.

    Of more than `max_pixels` some are left out, evenly; with a `corner` (row, column)
    a square that begins there is shown, of which no pixel is left out.
    """

    level: int = 0
    max_pixels: int = 64
    corner: tuple[int, int] | None = None

    def tokens(self, opened: Opened) -> list[int]:
        """Numbers of the tokens; ValueError for a level or corner that is not there."""
        sizes = opened.seen.trace.sizes
        if not 0 <= self.level < len(sizes):
            raise ValueError(f"level {self.level} of {len(sizes)}: count from 0")
        rows, columns = self._grid(*opened.levels[self.level])
        first = sum(h * w for h, w in sizes[: self.level])
        wide = sizes[self.level][1]  # padding is part of the map
        return [first + row * wide + column for row in rows for column in columns]

    def _grid(self, h: int, w: int) -> tuple[range, range]:
        if self.corner is None:
            step = 1
            while -(-h // step) * -(-w // step) > max(1, self.max_pixels):
                step += 1
            return range(step // 2, h, step), range(step // 2, w, step)
        top, left = self.corner
        if not (0 <= top < h and 0 <= left < w):
            raise ValueError(
                f"corner {self.corner} of a level of {h} x {w}: count from 0"
            )
        side = max(1, math.isqrt(self.max_pixels))
        return range(top, min(h, top + side)), range(left, min(w, left + side))


def encoder_points(
    source: nn.Module | Output,
    batch: Batch,
    pixels: Pixels | int = 0,
    *,
    image: int = 0,
    names: Sequence[str] | None = None,
    targets: list[dict] | None = None,
    start: dict | None = None,
    words: Words | None = None,
) -> InteractiveFigure:
    """Hover the picture: the points that a pixel of a level samples, layer by layer.

    `pixels` which ones, or only their level; `start` as of `sampling_points`: without
    an "item" it starts in the largest object, without a "point" at the heaviest inside
    the picture; `words` may give title and caption. The rest as of `decoder_attention`.
    Raises: also ValueError for a level or a corner that is not there or a model without
    encoder layers, TypeError for an encoder that attends to whole maps.
    Built in chapters/07_cuda_kernel.ipynb.
    """
    pixels = Pixels(pixels) if isinstance(pixels, int) else pixels
    opened = open_up(source, batch, image, names, targets)
    layers = opened.seen.trace.encoder
    if not layers:
        raise ValueError("this model has no encoder layers: nothing to look at")
    if not samples(layers):
        raise TypeError(
            "this encoder attends to whole maps and samples no points: use "
            "viz.encoder_attention"
        )
    return pixel_points(opened, pixels, start, words or Words())


def pixel_points(
    opened: Opened, pixels: Pixels, start: dict | None, words: Words
) -> InteractiveFigure:
    """Show the points of some pixels of an opened model's encoder."""
    trace, count = opened.seen.trace, len(opened.seen.trace.encoder)
    tokens = pixels.tokens(opened)
    centres = trace.centres[:, tokens].expand(count, -1, -1)  # [Y, n, 2]
    h, w = opened.levels[pixels.level]
    boxes = torch.cat((centres, torch.tensor([1 / w, 1 / h]).expand_as(centres)), -1)
    answers = replace(opened.answers.only_truth(), boxes=boxes)
    layers = [_of(layer, tokens) for layer in trace.encoder]
    by_itself = layers[0].locations.shape[3] < len(trace.sizes)  # each level
    levels = slice(pixels.level, pixels.level + 1) if by_itself else slice(None)
    start = {"frame": count - 1} | (start or {})
    start.setdefault("item", nearest(centres[0], opened.answers))
    heaviest = _heaviest_inside(
        layers[start["frame"]], start["item"], trace.valid[0, levels]
    )
    words = replace(words, title=words.title or PIXELS_TITLE, item="pixel")
    figure = _figure(
        opened, layers, centres, answers, words, {"point": heaviest} | start, levels
    )
    if pixels.corner is not None:
        figure.notes["cells"] = True  # the outlines of all of them
    return figure


def _of(layer: SamplingPoints, items: list[int]) -> SamplingPoints:
    return SamplingPoints(*(part[:, items] for part in layer))


def _figure(
    opened: Opened,
    layers: list[SamplingPoints],
    references: Tensor,
    answers: Answers,
    words: Words,
    start: dict,
    levels: slice = slice(None),
) -> InteractiveFigure:
    valid = opened.seen.trace.valid[:, None, None, levels, None]  # [1, 1, 1, L, 1, 2]
    sizes = opened.levels[levels]
    return sampling_points(
        (
            torch.cat([each.locations for each in layers]) / valid,  # of the picture
            torch.cat([each.weights for each in layers]),
        ),
        references[:, :, None].expand(-1, -1, len(sizes), -1),  # [Y, Q, L, 2]
        sizes,
        opened.rgb,
        answers,
        words,
        max_queries=len(answers.boxes[0]),
        start=start,
    )


def _heaviest_inside(points: SamplingPoints, item: int, valid: Tensor) -> int:
    """Number of the heaviest point of one query that lies inside the picture."""
    at = points.locations[0, item] / valid[:, None]  # [M, L, K, 2]
    inside = ((at >= 0) & (at <= 1)).all(-1)
    return int((points.weights[0, item] * inside).argmax())
