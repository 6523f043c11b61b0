"""Segments of a model that paints masks, to hover over."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ...analysis.attention import Extent, eval_no_grad, extent
from ...data.panoptic_scenes import PanopticScenes
from ...data.scenes import SceneBatch
from ...data.transforms import nearest
from ...detections import Detections, Panoptic
from ...evaluation.panoptic import panoptic_pair
from ...evaluation.panoptic_quality import PanopticPair, panoptic_quality
from ...images import ImageBatch, denormalise
from ...systems import segmentation
from ...systems.output import Output
from ...systems.panoptic import PanopticDETR
from ..engine.answers import Answers, Words
from ..engine.figure import InteractiveFigure
from ..engine.segments import Painted, segments_of_queries
from .opened import Batch, resolve

THRESHOLDS = (
    *(0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98),
)
MOST_QUERIES = 40  # whose maps and stages a figure holds
MOST_PIXELS = 20_000  # of the map that says who owns them
PART = "this picture"  # in errors


class Seen(NamedTuple):
    """One picture as the model sees it, all masks made.

    `found` the best class of each query, `kept [F, Q]` at each threshold; `logits
    [Q, h, w]`, `maps [Q, M, h', w']` or None, `stages` of the head `[Q, C, ·, ·]`.
    """

    found: Detections
    kept: Tensor
    frame: segmentation.Frame
    logits: Tensor
    maps: Tensor | None
    stages: tuple[Tensor, ...]
    things: int


def segments(
    model: PanopticDETR,
    batch: Batch,
    *,
    image: int = 0,
    names: Sequence[str] | None = None,
    targets: list[dict] | None = None,
    threshold: float = segmentation.THRESHOLD,
    query: int | None = None,
    title: str = "",
) -> InteractiveFigure:
    """Hover a segment: its query, the attention maps and the stages of its mask.

    Of one `image` of an ImageBatch or SceneBatch, its padding cut off; `targets` with
    `masks` of that size, which a SceneBatch of PanopticScenes brings, give the true
    segments, and PQ at each threshold. It opens at the threshold nearest to
    `threshold`, on `query`, by default that of the largest thing; of more than 40
    queries the surest are shown. Raises: ValueError for an image or a query that is not
    there, TypeError for something else than pictures.
    Source: Carion et al. 2020, figure 8. Built in chapters/03_panoptic.ipynb.
    """
    if names is None and isinstance(batch, SceneBatch):
        names = PanopticScenes().class_names
    images, targets, names = resolve(batch, targets, names)
    if not 0 <= image < len(images):
        last = len(images) - 1
        raise ValueError(f"image {image} of {len(images)}: count from 0 to {last}")
    single = real_part(images, image)
    seen = see(model, single)
    target = targets[image] if targets and "masks" in targets[image] else None
    frame = int(np.abs(np.array(THRESHOLDS) - threshold).argmin())
    answers = [painted_at(seen, kept) for kept in seen.kept]
    if query is None:
        query = _largest(answers[frame][0], seen)
    said = Answers(
        scores=seen.found.scores.expand(len(THRESHOLDS), -1),
        labels=seen.found.labels.expand(len(THRESHOLDS), -1),
        names=names,
    )
    items = said.choose(1, min(MOST_QUERIES, len(seen.found.scores)), query)
    shown, cover = _painted(seen, answers, target, items), None
    if seen.maps is not None:
        cover = extent(single, 0, tuple(seen.maps.shape[-2:])).cover
    start = {"frame": frame, "item": items.index(query)}
    text = _summary(shown, said, start, answers[frame][1])
    return segments_of_queries(
        shown,
        denormalise(single.pixels[0].detach().float().cpu()),
        said.select(items),
        seen.things,
        Words(title, text),
        start=start,
        cover=cover or (1.0, 1.0),
    )


def real_part(images: ImageBatch, image: int) -> ImageBatch:
    """One image of a batch, without its padding."""
    whole: Extent = extent(images, image, (1, 1))
    pixels = images.pixels[image, :, : whole.height, : whole.width]
    return ImageBatch.from_list([pixels])


def see(model: PanopticDETR, single: ImageBatch) -> Seen:
    """Run a model on one picture and make the masks of all its queries."""
    stages: list[Tensor] = []
    weight = next(model.parameters())
    single = ImageBatch(single.pixels.to(weight), single.padding.to(weight.device))
    size = tuple(single.pixels.shape[-2:])
    hooks = [
        block.register_forward_hook(lambda *call, n=n: stages.append((n, call[-1])))
        for n, block in enumerate(model.mask_head.blocks[1:])  # the first is not called
    ]
    try:
        with eval_no_grad(model):
            output: Output = model(single)
            frame = segmentation.frames(single, [size])[0]
            found, empty = segmentation.best_classes(model, output, 0, frame)
            every = torch.arange(len(found.scores), device=weight.device)
            logits = segmentation.masks_of(model, output, 0, every).float().cpu()
    finally:
        for hook in hooks:
            hook.remove()
    found, empty = Detections(*(x.float().cpu() for x in found)), empty.float().cpu()
    found = found._replace(labels=found.labels.long())
    least = torch.tensor(THRESHOLDS)[:, None]
    kept = (found.scores > least) & (found.scores > empty)  # [F, Q]
    made = [
        torch.cat([x.float().cpu() for n, x in stages if n == number])
        for number in range(len(model.mask_head.blocks) - 1)
    ]
    maps = output.masks.maps
    maps = None if maps is None else maps[0].float().cpu()
    return Seen(found, kept, frame, logits, maps, tuple(made), model.config.things)


def painted_at(seen: Seen, kept: Tensor) -> tuple[np.ndarray, Panoptic]:
    """The panoptic answer of some queries, and 1 + the query of each pixel `[H, W]`."""
    rows = kept.nonzero()[:, 0]
    found = Detections(*(x[rows] for x in seen.found))
    answer = segmentation.paint(
        seen.logits[rows], found, seen.frame, seen.things, segmentation.SMALLEST
    )
    owner, queries = np.zeros(answer.ids.shape, np.uint8), iter(rows.tolist())
    for segment in answer.segments:  # in the order of their queries
        query = next(
            q
            for q in queries
            if int(seen.found.labels[q]) == segment.label
            and (segment.label >= seen.things or seen.found.scores[q] == segment.score)
        )
        owner[(answer.ids == segment.id).numpy()] = query + 1
    return owner, answer


def _painted(
    seen: Seen,
    answers: list[tuple[np.ndarray, Panoptic]],
    target: dict | None,
    items: list[int],
) -> Painted:
    """What a figure draws, for some of the queries; the others' pixels are void."""
    owners = np.stack([owner for owner, _ in answers])  # [F, H, W]
    overlap, true, quality = np.zeros(seen.kept.shape), None, None
    if target is not None:
        pairs = [panoptic_pair(answer, target, PART) for _, answer in answers]
        overlap = np.stack(
            [best_overlap(*each, seen.found.labels) for each in zip(owners, pairs)]
        )
        scored = [panoptic_quality([pair], range(seen.things)) for pair in pairs]
        quality, true = [each["all"]["pq"] or 0.0 for each in scored], pairs[0].true
    table = np.zeros(len(seen.found.scores) + 1, np.uint8)
    table[np.array(items) + 1] = np.arange(len(items)) + 1
    names, stages = head_stages(seen)
    return Painted(
        THRESHOLDS,
        table[_fewer(owners)],
        overlap[:, items],
        None if seen.maps is None else seen.maps[items],
        stages[items],
        names,
        None if true is None else _fewer(true).astype(np.uint8),
        quality,
    )


def best_overlap(owner: np.ndarray, pair: PanopticPair, labels: Tensor) -> np.ndarray:
    """IoU of each query's segment with the best true one of its class: `[Q]`."""
    best = np.zeros(len(labels))
    for query in np.unique(owner[owner > 0]) - 1:
        mine = owner == query + 1
        for number, (label, crowd) in pair.truth.items():
            if label == int(labels[query]) and not crowd:
                theirs = pair.true == number
                either = ((mine | theirs) & (pair.true > 0)).sum()  # void leaves it
                best[query] = max(best[query], (mine & theirs).sum() / max(either, 1))
    return best


def head_stages(seen: Seen) -> tuple[list[str], Tensor]:
    """Names, and what to show of the head `[Q, S, a, b]`, at its finest stride.

    Of each stage how far a query's channels are from the mean of all queries (root mean
    square); last the mask's probabilities.
    """
    finest, high = seen.logits.shape[-2:], seen.frame.padded[0]
    shown, names = [], []
    for stage in seen.stages:
        own = (stage - stage.mean(0)).square().mean(1).sqrt()  # [Q, h, w]
        shown.append(functional.interpolate(own[:, None], size=finest)[:, 0])
        names.append(f"stride {round(high / own.shape[-2])}")
    return [*names, "mask"], torch.stack([*shown, seen.logits.sigmoid()], 1)


def _fewer(ids: np.ndarray) -> np.ndarray:
    """Leave rows and columns of `[..., H, W]` out until few pixels are left."""
    h, w = ids.shape[-2:]
    scale = min(1.0, (MOST_PIXELS / (h * w)) ** 0.5)
    rows, columns = (nearest(max(1, int(n * scale)), n) for n in (h, w))
    return ids[..., rows[:, None], columns]


def _largest(owner: np.ndarray, seen: Seen) -> int:
    """The query with the most pixels, a thing if there is one; else the surest."""
    areas = np.bincount(owner.ravel(), minlength=len(seen.found.scores) + 1)[1:]
    worth = areas + owner.size * (areas > 0) * (seen.found.labels < seen.things).numpy()
    return int(worth.argmax()) if areas.any() else int(seen.found.scores.argmax())


def _summary(painted: Painted, said: Answers, start: dict, answer: Panoptic) -> str:
    """What a reader who cannot see the figure should know."""
    counted = len(answer.segments)
    least = painted.thresholds[start["frame"]]
    text = f"Of queries with a score above {least:g}, {counted} own a segment"
    names = [said.class_names[segment.label] for segment in answer.segments]
    text += f": {', '.join(names)}." if names else ": all is void."
    if painted.quality is None:
        return text
    here, best = painted.quality[start["frame"]], int(np.argmax(painted.quality))
    return (
        f"{text} PQ of this picture is {here:.2f}; the best, "
        f"{painted.quality[best]:.2f}, is reached above {painted.thresholds[best]:g}."
    )
