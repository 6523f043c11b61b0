"""What a model attends to: its queries and its cells, layer by layer."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ... import boxes as box_ops
from ...analysis.attention import decoder_maps, effective_cells, encoder_maps
from ...nn.trace import SamplingPoints
from ...systems.output import Output
from ..engine.answers import MOST_BYTES, Words
from ..engine.figure import InteractiveFigure
from ..engine.maps import attention_maps
from .opened import Batch, Opened, nearest, open_up, samples
from .points import Pixels, pixel_points, query_points

SURE = 0.5  # score from which a query is worth a word in the summary

CELL_READ_NOT_WHY = (
    "Bright cells are what this cell reads most. From the second layer on every cell "
    "holds parts of others: bright is not yet what part of the picture mattered."
)
LAYERS_READ_NOT_WHY = (
    "Each layer adds to what the query knew. A map and a box that move together do not "
    "show that one moved the other: the queries also attend to each other."
)


def decoder_attention(
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
    """Hover a box: what its query attends to, head by head, in every decoder layer.

    `source` the model, or its Output with a trace (only a model can say who is matched
    with whom); `batch` an ImageBatch, or a SceneBatch, which brings targets and names;
    `max_queries` to show, the matched and the surest first (by default all, or as many
    as fit into a megabyte); it opens on `query`, by default the surest. Padding is cut
    off. A decoder that samples points is drawn as `decoder_points` does it.
    Raises: ValueError for an image beyond the batch, an Output without a trace, a query
    that the model does not have.
    Source: Carion et al. 2020, figure 6. Built in chapters/02_detr.ipynb.
    """
    opened = open_up(source, batch, image, names, targets)
    if samples(opened.seen.trace.decoder_cross):
        return query_points(opened, max_queries, query, title)
    items = opened.answers.choose(map_bytes(opened), max_queries, query)
    words = Words(title or "Decoder attention: what each query reads")
    return query_maps(opened, items, query, words)


def layers(
    source: nn.Module | Output,
    batch: Batch,
    *,
    image: int = 0,
    names: Sequence[str] | None = None,
    targets: list[dict] | None = None,
    max_queries: int | None = None,
    query: int | None = None,
    title: str = "One query after every decoder layer",
) -> InteractiveFigure:
    """Show the same query after all decoder layers side by side, with its match.

    Arguments and errors as of `decoder_attention`; of sampling points the density is
    shown. Built in chapters/02_detr.ipynb.
    """
    opened = open_up(source, batch, image, names, targets)
    items = opened.answers.choose(map_bytes(opened), max_queries, query)
    words = Words(title, caption=LAYERS_READ_NOT_WHY)
    return query_maps(opened, items, query, words, "layers")


def encoder_attention(
    source: nn.Module | Output,
    batch: Batch,
    *,
    image: int = 0,
    names: Sequence[str] | None = None,
    targets: list[dict] | None = None,
    title: str = "",
) -> InteractiveFigure:
    """Hover the picture: what the cell under the pointer attends to, layer by layer.

    Arguments and errors as of `decoder_attention`. Where all is more than a megabyte
    of maps, only the last layer is shown, then the mean of its heads, then some of the
    cells; the summary says so. An encoder that samples points is drawn as
    `encoder_points` does it, for the finest level.
    Raises: also ValueError for a model without encoder layers.
    Source: Carion et al. 2020, figure 3. Built in chapters/02_detr.ipynb.
    """
    opened = open_up(source, batch, image, names, targets)
    if samples(opened.seen.trace.encoder):
        return pixel_points(opened, Pixels(), None, Words(title))
    maps, frames, cells, left_out = thin_out(encoder_maps(opened.seen, opened.real))
    real = opened.real
    at = torch.tensor([divmod(cell, real.columns)[::-1] for cell in cells]) + 0.5
    shares = torch.tensor(real.cover) / torch.tensor([real.columns, real.rows])
    start = nearest(at * shares, opened.answers)
    answers = opened.answers.only_truth(items=cells)
    words = Words(
        title or "Encoder attention: what each cell reads",
        _cell_summary(maps, frames, cells, start) + left_out,
        CELL_READ_NOT_WHY,
        item="cell",
        frames=frames,
    )
    begin = {"item": start}
    return attention_maps(
        maps, opened.rgb, answers, words, start=begin, cover=real.cover
    )


def query_maps(
    opened: Opened,
    items: list[int],
    query: int | None,
    words: Words,
    view: str = "attention",
) -> InteractiveFigure:
    """Show maps of some queries of an opened model, at first of `query`."""
    maps = decoder_maps(opened.seen, opened.real, items)  # [Y, Q, M, h, w]
    answers = opened.answers.select(items)
    start = answers.surest if query is None else items.index(query)
    summary = _summary(opened, maps, items[start], describe_map(maps[-1, start]))
    return attention_maps(
        maps,
        opened.rgb,
        answers,
        Words(words.title, summary, words.caption),
        start={"item": start},
        cover=opened.real.cover,
        view=view,
    )


def map_bytes(opened: Opened) -> int:
    """How many bytes the maps of one query take."""
    return decoder_maps(opened.seen, opened.real, [0]).numel()


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
    text = f" Kept small: only {', '.join(missing)}." if missing else ""
    return maps, layers, cells, text


def describe_map(maps: Tensor) -> str:
    """Say where the mean of some heads' maps `[M, h, w]` lies."""
    mean = maps.mean(0)  # [h, w]
    row, column = divmod(int(mean.argmax()), mean.shape[1])
    return (
        f"reads most in row {row + 1}, column {column + 1} ({mean.max():.2f} of its "
        f"weight, mean of the heads), spread as over {effective_cells(mean):.0f} cells"
    )


def _cell_summary(maps: Tensor, frames: list[int], cells: list[int], start: int) -> str:
    height, width = maps.shape[-2:]
    row, column = divmod(cells[start], width)
    some = f"layers {frames[0]} to {frames[-1]}" if frames[1:] else f"layer {frames[0]}"
    return (
        f"Self-attention of {len(cells)} cells of a map of {height} rows and {width} "
        f"columns, {some} of the encoder. In layer {frames[-1]} the cell in row "
        f"{row + 1}, column {column + 1} {describe_map(maps[-1, start])}."
    )


def _summary(opened: Opened, maps: Tensor, query: int, read: str) -> str:
    scores, (last, some, heads) = opened.answers.scores[-1], maps.shape[:3]
    order = scores.argsort(descending=True, stable=True).tolist()
    sure = [q for q in order if scores[q] >= SURE or q == query][:8]
    shown = f"{some} of " if some < len(scores) else ""
    words = [
        f"{shown}{len(scores)} queries, {last} decoder layers, {heads} heads.",
        f"After layer {last}: {'; '.join(_answer(opened, q) for q in sure)}.",
        f"Query {query} {read}.",
    ]
    if count := len(opened.answers.truth):
        words.insert(1, f"The picture has {count} objects.")
    if isinstance(opened.seen.trace.decoder_cross[-1], SamplingPoints):
        words.append("The maps are of sampling points: weights, dropped on cells.")
    return " ".join(words)


def _answer(opened: Opened, query: int) -> str:
    said = opened.answers.of((-1, query))
    text = f"query {query} {said.names[said.labels]} {said.scores:.2f}"
    if said.matched is None or said.matched < 0:
        return text
    pair = (said.boxes, said.truth[said.matched])
    overlap = box_ops.iou(*(box_ops.cxcywh_to_xyxy(x)[None] for x in pair)).item()
    return f"{text} (object {said.matched}, IoU {overlap:.2f})"
