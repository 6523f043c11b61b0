"""From mask logits to segments of an image, few masks at a time.

Carion et al. 2020, section 4.4: every pixel goes to the query whose mask is surest of
it. Only kept queries get a mask, and only a few at once are ever as large as the image.
Built in chapters/03_panoptic.ipynb.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from ..boxes import cxcywh_to_xyxy
from ..data.transforms import nearest
from ..detections import Detections, Instances, Panoptic, Segment
from ..images import ImageBatch
from ..objective.masks import upsample
from .output import Output

if TYPE_CHECKING:
    from .panoptic import PanopticDETR

CELLS_AT_ONCE = 1 << 19  # of masks as the head makes them: its widest maps are 64 wide
PIXELS_AT_ONCE = 1 << 22  # of masks at the size of the padded batch
THRESHOLD = 0.85  # the paper's: the least score of a query that gets a mask
SMALLEST = 4  # so few pixels are no segment: the official code's (paper: under 4)


class Frame(NamedTuple):
    """Sizes (H, W) of one image in pixels: the padded batch, the image in it, and the
    original that it was scaled from."""

    padded: tuple[int, int]
    real: tuple[int, int]
    original: tuple[int, int]


def frames(batch: ImageBatch, sizes: list[tuple[int, int]]) -> list[Frame]:
    """The sizes of every image of a batch; `sizes` of the originals."""
    real = ~batch.padding
    heights, widths = real.any(2).sum(1).tolist(), real.any(1).sum(1).tolist()
    padded = tuple(batch.pixels.shape[-2:])
    # at least one pixel, also of an image that is padding alone
    sides = ((max(h, 1), max(w, 1)) for h, w in zip(heights, widths))
    return [Frame(padded, *each) for each in zip(sides, map(tuple, sizes))]


def panoptic(
    model: "PanopticDETR",
    output: Output,
    frames: list[Frame],
    threshold: float = THRESHOLD,
    smallest: int = SMALLEST,
) -> list[Panoptic]:
    """The segments of predictions already made, as `PanopticDETR.panoptic` says."""
    answers = []
    for image, frame in enumerate(frames):
        found, empty = best_classes(model, output, image, frame)
        kept = ((found.scores > threshold) & (found.scores > empty)).nonzero()[:, 0]
        logits = masks_of(model, output, image, kept)
        chosen, things = _rows(found, kept), model.config.things
        answers.append(paint(logits, chosen, frame, things, smallest))
    return answers


def instances(
    model: "PanopticDETR",
    output: Output,
    frames: list[Frame],
    threshold: float = 0.5,
) -> list[Instances]:
    """The things of predictions already made, as `PanopticDETR.instances` says."""
    answers = []
    for image, frame in enumerate(frames):
        found, _ = best_classes(model, output, image, frame)
        order = found.scores.argsort(descending=True, stable=True)
        good = (found.scores >= threshold) & (found.labels < model.config.things)
        kept = order[good[order]]
        masks = cut_out(masks_of(model, output, image, kept), frame)
        boxes, scores, labels = (part.cpu() for part in _rows(found, kept))
        answers.append(Instances(boxes, scores, labels, masks))
    return answers


def best_classes(
    model: "PanopticDETR", output: Output, image: int, frame: Frame
) -> tuple[Detections, Tensor]:
    """Every query's best class, in the order of the queries, and "no object" `[Q]`."""
    logits, shares = output.logits[-1, image], output.boxes[-1, image]
    scores, labels = model.config.classification.probabilities(logits).max(-1)
    height, width = frame.original
    scale = shares.new_tensor((width, height, width, height))
    found = Detections(cxcywh_to_xyxy(shares) * scale, scores, labels)
    return found, model.config.classification.no_object_probability(logits)


def _rows(found: Detections, index: Tensor) -> Detections:
    return Detections(*(part[index] for part in found))


@torch.no_grad()
def masks_of(
    model: "PanopticDETR", output: Output, image: int, query: Tensor
) -> Tensor:
    """Mask logits of some queries of one image `[k, h, w]`, a few at a time."""
    height, width = model.mask_head.size(output.masks)
    few = max(1, CELLS_AT_ONCE // (height * width))
    made = [
        model.masks(output, torch.full_like(some, image), some)
        for some in query.split(few)
    ]
    return torch.cat(made) if len(query) else output.boxes.new_zeros(0, height, width)


def paint(
    logits: Tensor, found: Detections, frame: Frame, things: int, smallest: int
) -> Panoptic:
    """Give every pixel to the surest of some queries: a panoptic answer.

    `logits [k, h, w]` of the kept queries, `found` their answers. Queries that name the
    same stuff (a label from `things` on) are one segment; segments of at most
    `smallest` pixels are taken out and their pixels given to the next best. Official
    code, which merges stuff in its first pass only and loses the duplicates' pixels.
    """
    segment = _same_stuff(found.labels, things)  # [k] which segment a query is part of
    alive = torch.arange(len(logits), device=logits.device)
    while len(alive):
        owner = segment[alive][surest(logits[alive], frame)]  # [H, W]
        areas = owner.flatten().bincount(minlength=len(logits))  # [k]
        large = areas[segment[alive]] > smallest
        if large.all():
            return _numbered(owner, areas, segment, found)
        alive = alive[large]
    return Panoptic(torch.zeros(frame.original, dtype=torch.int64), ())


def _same_stuff(labels: Tensor, things: int) -> Tensor:
    """The first query of the same stuff for each one, itself for a thing: `[k]`."""
    number = torch.arange(len(labels), device=labels.device)
    same = (labels[:, None] == labels) & (labels >= things)
    return torch.where(same, number, number[:, None]).amin(1) if len(labels) else number


def _numbered(
    owner: Tensor, areas: Tensor, segment: Tensor, found: Detections
) -> Panoptic:
    """Number the segments that have pixels from 1, in the order of their queries."""
    there = areas > 0
    ids = torch.where(there, there.cumsum(0), 0)[owner]  # [H, W]
    segments = []
    for query in there.nonzero()[:, 0].tolist():
        score = found.scores[segment == query].max().item()
        label, area = int(found.labels[query]), int(areas[query])
        segments.append(Segment(len(segments) + 1, label, score, area))
    return Panoptic(ids.cpu(), tuple(segments))


def surest(logits: Tensor, frame: Frame) -> Tensor:
    """Which mask is largest at each pixel of the original: `[k, h, w] -> [H, W]`.

    The softmax over the queries, which the paper takes, changes no order. A running
    maximum holds two images, not k.
    """
    height, width = frame.real
    best = logits.new_full(frame.real, float("-inf"))
    index = torch.zeros(frame.real, dtype=torch.int64, device=logits.device)
    first = 0
    for some in _few(logits, frame):
        value, which = upsample(some, frame.padded)[:, :height, :width].max(0)
        index = torch.where(value > best, which + first, index)
        best = torch.maximum(best, value)
        first += len(some)
    return _stretch(index, frame)


def cut_out(logits: Tensor, frame: Frame) -> Tensor:
    """Masks of their own, where the probability is above one half: `[k, H, W]` bool."""
    height, width = frame.real
    masks = [
        _stretch(upsample(some, frame.padded)[:, :height, :width] > 0, frame).cpu()
        for some in _few(logits, frame)
    ]
    return torch.cat([torch.zeros(0, *frame.original, dtype=torch.bool), *masks])


def _few(logits: Tensor, frame: Frame) -> Iterator[Tensor]:
    height, width = frame.padded
    portion = max(1, PIXELS_AT_ONCE // (height * width))
    return iter(logits.split(portion) if len(logits) else ())


def _stretch(image: Tensor, frame: Frame) -> Tensor:
    """From the scaled image to the original, nearest pixel: `[..., h, w]`."""
    rows, columns = (
        torch.from_numpy(nearest(new, old)).to(image.device)
        for new, old in zip(frame.original, frame.real)
    )
    return image.index_select(-2, rows).index_select(-1, columns)
