"""Look inside a model: what its queries and its cells read, layer by layer."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ... import boxes as box_ops
from ...analysis.attention import (
    Extent,
    by_query,
    decoder_maps,
    effective_cells,
    encoder_maps,
    extent,
    run_with_trace,
)
from ...data.scenes import SceneBatch, Scenes
from ...images import ImageBatch, denormalise
from ...objective.matching import pad_targets
from ...systems.output import Output
from ..engine.figure import InteractiveFigure
from ..engine.maps import READ_NOT_WHY, attention_maps

MOST_BYTES = 1_000_000  # of maps in one figure, before they are deflated
SURE = 0.5  # score from which a query is worth a word in the summary

CELL_READ_NOT_WHY = (
    "Bright cells are what this cell reads most. From the second layer on every cell "
    "holds parts of others: bright is not yet what part of the picture mattered."
)
LAYERS_READ_NOT_WHY = (
    "Each layer adds to what the query knew. A map and a box that move together do not "
    "show that one moved the other: the queries also talk."
)


class Inside(NamedTuple):
    """One image as a model sees it, cut to its real part.

    `seen` the Output with its trace, `rgb [3, H, W]`, `real` its extent; best class
    `labels` and `scores [Y, Q]`; `matched [Y, Q]` object or -1 (None without targets
    or model); `target` boxes and labels, both empty where unknown; class `names`.
    """

    seen: Output
    rgb: Tensor
    real: Extent
    scores: Tensor
    labels: Tensor
    matched: Tensor | None
    target: dict
    names: Sequence[str]


def decoder_attention(
    source: nn.Module | Output,
    batch: ImageBatch | SceneBatch,
    *,
    image: int = 0,
    names: Sequence[str] | None = None,
    targets: list[dict] | None = None,
    most: int | None = None,
    query: int | None = None,
    title: str = "Decoder attention: what each query reads",
) -> InteractiveFigure:
    """Hover a box: where its query reads, head by head, in every decoder layer.

    `source` the model, or its Output with a trace (only a model can say who is matched
    with whom); `batch` an ImageBatch, or a SceneBatch, which brings targets and names;
    `most` queries, the matched and the surest first (by default all, or as many as fit
    into a megabyte of maps); it opens on `query`, by default the surest. Padding is cut
    off. Raises: ValueError for an image beyond the batch, an Output without a trace, a
    query that the model does not have.
    Source: Carion et al. 2020, figure 6. Built in chapters/02_detr.ipynb.
    """
    inside = open_up(source, batch, image, names, targets)
    items = choose(inside, most, query)
    return of_queries(inside, items, title, READ_NOT_WHY, query, view="attention")


def layers(
    source: nn.Module | Output,
    batch: ImageBatch | SceneBatch,
    *,
    image: int = 0,
    names: Sequence[str] | None = None,
    targets: list[dict] | None = None,
    most: int | None = None,
    query: int | None = None,
    title: str = "One query after every decoder layer",
) -> InteractiveFigure:
    """Show the same query after all decoder layers side by side, with its match.

    Arguments and errors as of `decoder_attention`. Built in chapters/02_detr.ipynb.
    """
    inside = open_up(source, batch, image, names, targets)
    items = choose(inside, most, query)
    return of_queries(inside, items, title, LAYERS_READ_NOT_WHY, query, view="layers")


def encoder_attention(
    source: nn.Module | Output,
    batch: ImageBatch | SceneBatch,
    *,
    image: int = 0,
    names: Sequence[str] | None = None,
    targets: list[dict] | None = None,
    title: str = "Encoder attention: what each cell reads",
) -> InteractiveFigure:
    """Hover the picture: what the cell under the pointer reads, in every layer.

    Arguments and errors as of `decoder_attention`. Where all is more than a megabyte
    of maps, only the last layer is shown, then the mean of its heads, then some of the
    cells; the summary says so.
    Raises: also ValueError for a model without encoder layers.
    Source: Carion et al. 2020, figure 3. Built in chapters/02_detr.ipynb.
    """
    inside = open_up(source, batch, image, names, targets)
    whole = encoder_maps(inside.seen, inside.real)  # [Ye, S, M, h, w]
    maps, frames, cells, left_out = thin_out(whole)
    start = cells.index(_nearest(cells, inside))
    row, column = divmod(cells[start], maps.shape[4])
    words = [
        f"Self-attention of {len(cells)} cells of a map of {maps.shape[3]} rows and "
        f"{maps.shape[4]} columns, {_layers(frames)} of the encoder.",
        f"In layer {frames[-1]} the cell in row {row + 1}, column {column + 1} "
        f"{reading(maps[-1, start])}.",
        left_out,
    ]
    return attention_maps(
        maps,
        inside.rgb,
        truth=inside.target["boxes"],
        truth_labels=inside.target["labels"],
        names=inside.names,
        items=cells,
        item_name="cell",
        frames=frames,
        start={"item": start},
        cover=inside.real.cover,
        title=title,
        summary=" ".join(filter(None, words)),
        caption=CELL_READ_NOT_WHY,
    )


def resolve(
    batch: ImageBatch | SceneBatch,
    targets: list[dict] | None,
    names: Sequence[str] | None,
) -> tuple[ImageBatch, list[dict] | None, Sequence[str] | None]:
    """Take pictures, targets and class names out of whatever was given.

    Raises: TypeError for another kind of batch, ValueError for missing targets.
    """
    if isinstance(batch, SceneBatch):
        targets, names = targets or batch.targets, names or Scenes().class_names
        batch = batch.images
    if not isinstance(batch, ImageBatch):
        raise TypeError(
            f"expected an ImageBatch or a SceneBatch, got {type(batch).__name__}: use "
            "ImageBatch.from_list([normalise(rgb)])"
        )
    if targets is not None and len(targets) != len(batch):
        raise ValueError(f"{len(targets)} targets for {len(batch)} images: one each")
    return batch, targets, names


def open_up(
    source: nn.Module | Output,
    batch: ImageBatch | SceneBatch,
    image: int,
    names: Sequence[str] | None = None,
    targets: list[dict] | None = None,
) -> Inside:
    """Run a model on one image, if it was not yet, and cut the padding off."""
    batch, targets, names = resolve(batch, targets, names)
    seen = run_with_trace(source, batch, image)
    real = extent(batch, image, seen.trace.sizes[0])
    pixels = batch.pixels[image, :, : real.height, : real.width]
    probabilities = seen.trace.classification.probabilities(seen.logits[:, 0])
    scores, labels = probabilities.max(-1)  # [Y, Q]
    classes = probabilities.shape[-1]
    target = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    matched = None
    if targets is not None:
        target = countable(targets[image])
        if isinstance(source, nn.Module):
            padded = pad_targets([target], classes, "cpu")
            matched = by_query(source.match(seen, padded)[:, 0], scores.shape[1])
    rgb = denormalise(pixels.detach().float().cpu())
    names = names or [f"class {i}" for i in range(classes)]
    if len(names) < classes:
        raise ValueError(f"{len(names)} class names for a model of {classes} classes")
    return Inside(seen, rgb, real, scores, labels, matched, target, names)


def countable(target: dict) -> dict:
    """Boxes and labels of single objects: crowds are never matched."""
    one = ~target["iscrowd"] if "iscrowd" in target else slice(None)
    return {key: target[key][one].detach().cpu() for key in ("boxes", "labels")}


def of_queries(
    inside: Inside,
    items: list[int],
    title: str,
    caption: str,
    query: int | None = None,
    **more: object,
) -> InteractiveFigure:
    """Show some of the queries, at first `query`; `more` goes to `attention_maps`."""
    maps = decoder_maps(inside.seen, inside.real)  # [Y, Q, M, h, w]
    if query is None:
        query = max(items, key=lambda item: inside.scores[-1, item])
    return attention_maps(
        maps[:, items],
        inside.rgb,
        boxes=inside.seen.boxes[:, 0, items],
        scores=inside.scores[:, items],
        labels=inside.labels[:, items],
        matched=None if inside.matched is None else inside.matched[:, items],
        truth=inside.target["boxes"],
        truth_labels=inside.target["labels"],
        names=inside.names,
        items=items,
        start={"item": items.index(query)},
        cover=inside.real.cover,
        title=title,
        summary=_summary(inside, maps, items, query),
        caption=caption,
        **more,
    )


def choose(
    inside: Inside, most: int | None = None, query: int | None = None
) -> list[int]:
    """Pick the queries to show, in their order: the matched and the surest first.

    `query` is always among them. Raises: ValueError if the model has no such query.
    """
    queries = inside.scores.shape[1]
    if most is None:
        maps = decoder_maps(inside.seen, inside.real)
        most = MOST_BYTES // maps[:, 0].numel()
    elif most < 1:
        raise ValueError(f"most={most}: show at least one query")
    worth = inside.scores[-1].clone()  # [Q]
    if inside.matched is not None:
        worth += (inside.matched >= 0).any(0)
    if query is not None:
        if not 0 <= query < queries:
            raise ValueError(f"query {query} of {queries}: 0 to {queries - 1}")
        worth[query] += 2  # above all others
    best = worth.argsort(descending=True, stable=True)[: max(1, min(most, queries))]
    return sorted(best.tolist())


def thin_out(maps: Tensor) -> tuple[Tensor, list[int], list[int], str]:
    """Leave out layers, heads and cells of `[Ye, S, M, h, w]` until they are few.

    Returns maps, numbers of the layers, numbers of the cells, and in words what is
    missing. The maps themselves stay whole.
    """
    height, width = maps.shape[-2:]
    layers, cells = list(range(1, len(maps) + 1)), list(range(maps.shape[1]))
    missing = []
    if maps.numel() > MOST_BYTES and len(layers) > 1:
        maps, layers = maps[-1:], layers[-1:]
        missing.append("the last layer")
    if maps.numel() > MOST_BYTES and maps.shape[2] > 1:
        maps = maps.mean(2, keepdim=True)
        missing.append("the mean of its heads")
    if maps.numel() > MOST_BYTES:
        step = math.ceil(math.sqrt(maps.numel() / MOST_BYTES))
        down, right = range(step // 2, height, step), range(step // 2, width, step)
        cells = [row * width + column for row in down for column in right]
        maps = maps[:, cells]
        missing.append(f"one in {step} of its rows and columns of cells")
    text = f"Kept small: only {', '.join(missing)}." if missing else ""
    return maps, layers, cells, text


def _nearest(cells: list[int], inside: Inside) -> int:
    """The cell in the middle of the largest object, else of the picture."""
    real, boxes = inside.real, inside.target["boxes"]
    x, y = 0.5, 0.5
    if len(boxes):
        x, y = boxes[boxes[:, 2:].prod(-1).argmax(), :2].tolist()
    row, column = y * real.rows / real.cover[1], x * real.columns / real.cover[0]

    def distance(cell: int) -> float:
        there = divmod(cell, real.columns)
        return (there[0] + 0.5 - row) ** 2 + (there[1] + 0.5 - column) ** 2

    return min(cells, key=distance)


def reading(maps: Tensor) -> str:
    """Say where the mean of some heads' maps `[M, h, w]` lies."""
    mean = maps.mean(0)  # [h, w]
    row, column = divmod(int(mean.argmax()), mean.shape[1])
    return (
        f"reads most in row {row + 1}, column {column + 1} ({mean.max():.2f} of its "
        f"weight, mean of the heads), spread as over {effective_cells(mean):.0f} cells"
    )


def _layers(numbers: list[int]) -> str:
    if len(numbers) == 1:
        return f"layer {numbers[0]}"
    return f"layers {numbers[0]} to {numbers[-1]}"


def _summary(inside: Inside, maps: Tensor, items: list[int], start: int) -> str:
    last, heads = len(maps), maps.shape[2]
    order = inside.scores[-1].argsort(descending=True, stable=True).tolist()
    sure = [q for q in order if inside.scores[-1, q] >= SURE or q == start][:8]
    shown = f"{len(items)} of " if len(items) < maps.shape[1] else ""
    words = [
        f"{shown}{maps.shape[1]} queries, {last} decoder layers, {heads} heads.",
        f"After layer {last}: {'; '.join(_answer(inside, q) for q in sure)}.",
        f"Query {start} {reading(maps[-1, start])}.",
    ]
    if count := len(inside.target["labels"]):
        words.insert(1, f"The picture has {count} objects.")
    return " ".join(words)


def _answer(inside: Inside, query: int) -> str:
    label, score = inside.labels[-1, query], inside.scores[-1, query]
    text = f"query {query} {inside.names[label]} {score:.2f}"
    if inside.matched is None or inside.matched[-1, query] < 0:
        return text
    thing = int(inside.matched[-1, query])
    pair = (inside.seen.boxes[-1, 0, query], inside.target["boxes"][thing])
    overlap = box_ops.iou(*(box_ops.cxcywh_to_xyxy(x)[None] for x in pair)).item()
    return f"{text} (object {thing}, IoU {overlap:.2f})"
