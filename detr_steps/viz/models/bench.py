"""The anchor bench: an anchor moved by hand, and where its query would look."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ...nn.conditional import Concat, ConditionalCrossAttention, split_heads
from ...nn.memory import Memory
from ...nn.queries import Queries
from ...systems.dab_detr import DABDETR
from ..engine import bench
from ..engine.answers import as_picture
from ..engine.figure import InteractiveFigure
from .opened import Batch, Opened, open_up

TITLE = "Anchor bench: where would this query look?"
CAPTION = (
    "Where a query looks is not yet what it takes from there. Cells are counted from "
    "1: equal codes meet half a cell up and left of the anchor's middle."
)
WEIGHTS = "identity", "untrained", "trained"  # in the order of bench.IDENTITY …
SEED = 10  # not 0, which recipes begin with: else a model may meet itself
FIRST = " The first layer's content holds the query's own position, which stays."


def anchor_bench(
    model: DABDETR,
    batch: Batch,
    *,
    image: int = 0,
    anchor: tuple[float, float, float, float] = (0.5, 0.5, 0.25, 0.25),
    layer: int = -1,
    query: int | None = None,
    fresh: DABDETR | None = None,
    start: dict[str, object] | None = None,
) -> InteractiveFigure:
    """Drag an anchor over a picture: its positional map, a content map, their sum.

    `batch` an ImageBatch or a SceneBatch; `anchor` cxcywh to begin with, shares of the
    picture; `query` whose content at the decoder `layer` gives the content map, λ and
    the width and height it expects, by default the surest; `fresh` a model to compare
    with, by default of the same config, untrained; `start` what to begin with:
    "weights" ("identity", "untrained", "trained"), "modulate", "lam" (bool),
    "temperature", "head" (-1 for their mean). The page computes the scores anew: sine
    codes of a temperature, projections, modulation; see `engine.bench`.
    Raises: TypeError for another system; ValueError for an anchor that is no box in the
    picture, an unknown image, layer, query or start, a `fresh` of other sizes, or
    attention that adds content and position (its scores are no such sum).
    Source: Liu et al. 2022, section 4.4 and figure 6. Built in
    chapters/09_dab_anchors.ipynb.
    """
    _check_models(model, fresh)
    _check_anchor(anchor)
    count = len(model.decoder)
    if not -count <= layer < count:
        raise ValueError(f"layer {layer} of {count}: 0 to {count - 1}, or from the end")
    layer %= count
    with _caught(model.decoder[layer]) as caught:
        opened = open_up(model, batch, image)
    queries = caught["layer"].content.shape[1]
    query = opened.answers.surest if query is None else query
    if not 0 <= query < queries:
        raise ValueError(f"query {query} of {queries}: 0 to {queries - 1}")
    attentions = [
        each.decoder[layer].cross_attention for each in (_fresh(fresh, model), model)
    ]
    with torch.no_grad():
        arrays = _projections(attentions) | _transform(model, layer, caught, query)
        arrays["content"] = _content(attentions[1], caught, query, opened)
        expected = _expected(model, caught, query, anchor)
    notes = _notes(opened, layer, query)
    notes["start"] = {
        "anchor": [float(x) for x in anchor],
        "expected": expected,
        "temperature": model.temperature,
        "modulate": model.config.modulate,
        "lam": layer > 0,
        "weights": bench.TRAINED,
        "head": -1,
    }
    notes["start"] |= _begin(start or {}, model, layer)
    arrays = {name: x.numpy() for name, x in arrays.items()}
    texts = dict(title=TITLE, caption=CAPTION + FIRST * (layer == 0))
    texts["summary"] = _summary(arrays, notes)
    rgb = as_picture(opened.rgb)
    return InteractiveFigure("bench", arrays, notes, picture=rgb, **texts)


def _check_models(model: nn.Module, fresh: nn.Module | None) -> None:
    for name, each in (("model", model), ("fresh", fresh)):
        if each is not None and not isinstance(each, DABDETR):
            raise TypeError(
                f"{name} is a {type(each).__name__}: only the queries of a DABDETR are "
                "anchors that can be moved"
            )
    if model.config.combine != Concat():
        raise ValueError(
            "this model adds content and position: its scores are not content + "
            "position; give a model with combine=Concat()"
        )
    parts = "channels", "heads", "decoder_layers"
    wrong = [p for p in parts if fresh and _of(fresh, p) != _of(model, p)]
    if wrong:
        raise ValueError(
            f"fresh has {_of(fresh, wrong[0])} {wrong[0]}, the model "
            f"{_of(model, wrong[0])}: build it from the same config"
        )


def _of(model: DABDETR, part: str) -> int:
    return getattr(model.config, part)


def _begin(start: dict, model: DABDETR, layer: int) -> dict:
    """What a reader begins with, as the page keeps it. Raises: ValueError."""
    known = {
        "weights": WEIGHTS,
        "modulate": (False, True) if model.config.modulate else (False,),
        "lam": (False, True) if layer else (False,),
        "head": range(-1, model.config.heads),
    }
    for name, value in start.items():
        if name == "temperature":
            fits = isinstance(value, int | float) and 2 <= value <= 10_000
            allowed = "2 to 10000"
        else:
            fits, allowed = value in known.get(name, ()), list(known.get(name, known))
        if not fits:
            raise ValueError(f"start {name}={value!r}: one of {allowed}")
    begin = dict(start)
    if "weights" in begin:
        begin["weights"] = WEIGHTS.index(begin["weights"])
    return begin


def _check_anchor(anchor: tuple[float, ...]) -> None:
    fault = None
    if len(anchor) != 4 or not all(map(torch.isfinite, torch.tensor(anchor))):
        fault = "is not four numbers"
    elif not (0 <= anchor[0] <= 1 and 0 <= anchor[1] <= 1):
        fault = "has its centre outside of the picture"
    elif not (0 < anchor[2] <= 1 and 0 < anchor[3] <= 1):
        fault = "has a side of no size, or one larger than the picture"
    if fault:
        raise ValueError(
            f"anchor {tuple(anchor)} {fault}: give (cx, cy, w, h), shares of the "
            "picture between 0 and 1"
        )


def _fresh(fresh: DABDETR | None, model: DABDETR) -> DABDETR:
    """A model to compare with, always the same; the random state stays as it is."""
    if fresh is not None:
        return fresh
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return model.config.build()


@contextmanager
def _caught(layer: nn.Module) -> Iterator[dict]:
    """What a decoder layer, its attention and its memory are when the model runs."""
    caught = {}

    def before(name: str):
        def keep(module: nn.Module, args: tuple) -> None:
            caught[name], caught["memory"] = args[:2]

        return keep

    hooks = [
        layer.register_forward_pre_hook(before("layer")),
        layer.cross_attention.register_forward_pre_hook(before("attention")),
    ]
    try:
        yield caught
    finally:
        for hook in hooks:
            hook.remove()


def _plain(x: Tensor) -> Tensor:
    return x.detach().float().cpu()


def _projections(attentions: list[ConditionalCrossAttention]) -> dict[str, Tensor]:
    """Of codes to queries and keys, untrained and trained: `[2, C, C]`.

    The keys' bias adds the same to all scores of a query, and softmax drops it.
    """
    sine, key = (
        torch.stack([_plain(getattr(each, name).weight) for each in attentions])
        for name in ("query_spatial", "key_position")
    )
    bias = torch.stack([_plain(each.query_spatial.bias) for each in attentions])
    return {"sine": sine.half(), "sine_bias": bias, "key": key.half()}


def _transform(model, layer: int, caught: dict, query: int) -> dict[str, Tensor]:
    """λ of the query's content as scale and shift of a code, `[C]`; 1, 0 without."""
    content = caught["layer"].content[:, query]
    shift, one = torch.zeros_like(content), torch.ones_like(content)
    if layer:
        shift, one = (model.position_scale(code, content) for code in (shift, one))
    return {"scale": _plain(one - shift)[0], "shift": _plain(shift)[0]}


def _content(
    attention: ConditionalCrossAttention, caught: dict, query: int, opened: Opened
) -> Tensor:
    """Scores of content with content, cut to the picture: `[M, h, w]`."""
    queries: Queries = caught["attention"]
    memory: Memory = caught["memory"]
    q, k = attention.query(queries.content[:, [query]]), attention.key(memory.tokens)
    if attention.query_position is not None:
        q = q + attention.query_position(queries.positions[:, [query]])
        k = k + attention.key_position(memory.positions)
    q, k = (split_heads(x, attention.heads)[0] for x in (q, k))  # [M, 1 or S, D]
    scores = (q @ k.mT)[:, 0] / (2 * q.shape[-1]) ** 0.5  # [M, S]
    real = opened.real
    maps = scores.unflatten(-1, memory.sizes[0])[:, : real.rows, : real.columns]
    return _plain(maps).contiguous()


def _expected(model, caught: dict, query: int, anchor: tuple) -> list[float]:
    """Width and height that the content expects; the anchor's own without a say."""
    if not model.config.modulate:
        return [float(x) for x in anchor[2:]]
    size = model.size_head(caught["layer"].content[0, query]).sigmoid()
    return _plain(size).tolist()


def _notes(opened: Opened, layer: int, query: int) -> dict:
    said = opened.answers.of((-1, query))
    name = f"query {query}: {said.names[said.labels]} {said.scores:.2f}"
    cover = [round(float(x), 5) for x in opened.real.cover]
    return {"query": f"{name}, layer {layer + 1}", "lam": layer > 0, "cover": cover}


def _summary(arrays: dict, notes: dict) -> str:
    start = notes["start"]
    seen = bench.look(arrays, start)
    x, y, w, h = start["anchor"]
    rows, columns = arrays["content"].shape[1:]
    widths = (
        f"{name} {each.width:.3f} (a Gaussian for {side}_ref / {side} = "
        f"{each.ratio:.2f}: {each.predicted:.3f})"
        for name, side, each in (("across", "w", seen.x), ("down", "h", seen.y))
    )
    return (
        f"{notes['query']}, over {rows} x {columns} cells. An anchor at ({x:g}, {y:g}) "
        f"of {w:g} x {h:g}, temperature {start['temperature']:g}. Width of the "
        f"positional map, as a share of it: {', '.join(widths)}."
    )
