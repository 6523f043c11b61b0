"""Where queries look, as numbers: on the object they answer for, and how widely.

Built in chapters/10_conditional_attention.ipynb.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..images import ImageBatch
from ..nn.conditional import ConditionalCrossAttention, split_heads
from ..nn.memory import Memory
from ..nn.queries import Queries
from ..nn.references import token_centres
from ..objective.matching import pad_targets
from ..systems.detector import QueryDetector
from ..systems.output import Output
from .attention import eval_no_grad
from .film import Film

Size = tuple[int, int]  # rows and columns of a map


def cell_centres(size: Size) -> Tensor:
    """Centres (x, y) of a map's cells, row by row: `[S, 2]`, shares of the image."""
    return token_centres((size,), torch.ones(1, 1, 2))[0]


def touched(boxes: Tensor, size: Size) -> Tensor:
    """Which cells of a map each box touches: bool `[n, S]`.

    `boxes [n, 4]` cxcywh, shares of the image. A box inside one cell touches that one.
    """
    cell = 1 / torch.tensor((size[1], size[0]))  # width, height
    apart = (cell_centres(size) - boxes[:, None, :2]).abs() - boxes[:, None, 2:] / 2
    return (apart < cell / 2).all(-1)


def share_on_object(maps: Tensor, boxes: Tensor, size: Size) -> Tensor:
    """How much attention lies on cells that the object touches: `[n]`, mean of heads.

    `maps [n, M, S]` of the queries that answer for `boxes [n, 4]`; rows add up to 1.
    Uniform attention scores `touched(boxes, size).float().mean(-1)`.
    """
    hit = touched(boxes, size)[:, None].to(maps.dtype)
    return (maps * hit).sum(-1).mean(-1)


def widths(maps: Tensor, size: Size) -> Tensor:
    """Standard deviation of maps `[..., S]` along x and y: `[..., 2]`, image shares."""
    at = cell_centres(size).to(maps.dtype)
    middle = maps @ at  # [..., 2]
    apart = (at - middle[..., None, :]) ** 2  # [..., S, 2]
    return (maps[..., None] * apart).sum(-2).sqrt()


def answering(
    model: QueryDetector, output: Output, targets: list[dict]
) -> tuple[Tensor, Tensor, Tensor]:
    """Who answers for which object after the last layer: images, queries, boxes.

    `[n]`, `[n]` and `[n, 4]` (ground truth, cxcywh) over all objects of a batch.
    """
    padded = pad_targets(targets, model.config.classes, output.boxes.device)
    image, slot = padded.mask.nonzero(as_tuple=True)
    query = model.match(output, padded)[-1][image, slot]
    return image, query, padded.boxes[image, slot]


def before_layers(model: QueryDetector, memory: Memory) -> Iterator[Queries]:
    """The queries as each decoder layer is given them, one after another."""
    queries, _ = model.start(memory)
    for index in range(len(model.decoder)):
        yield queries
        queries, _, _ = model.step(index, queries, memory)


def judge_maps(maps: Tensor, boxes: Tensor, size: Size) -> Tensor:
    """Three means over maps `[n, M, S]` of queries that answer for `boxes [n, 4]`.

    The share on the object; the width along x, a share of the image; the correlation
    of that width, heads averaged, with the object's.
    """
    wide = widths(maps, size)[..., 0].mean(1)  # [n]
    follows = torch.corrcoef(torch.stack((wide, boxes[:, 2])))[0, 1]
    share = share_on_object(maps, boxes, size).mean()
    return torch.stack((share, wide.mean(), follows))


def shares_by_layer(
    model: QueryDetector, batch: ImageBatch, targets: list[dict]
) -> dict[str, list[float]]:
    """`share_on_object` after every decoder layer, of dense maps: `all`, and `place`.

    `place` is of the maps that positions alone would draw; empty where attention does
    not compare them apart. Those queries count that are matched after the last layer.
    """
    given = []
    hooks = [
        layer.cross_attention.register_forward_pre_hook(
            lambda module, inputs: given.append((module, *inputs[:2]))
        )
        for layer in model.decoder
    ]
    try:
        with eval_no_grad(model):
            output = model(batch, trace=True)
    finally:
        for hook in hooks:
            hook.remove()
    image, query, boxes = answering(model, output, targets)
    layers = [each.weights for each in output.trace.decoder_cross]
    found = {"all": layers, "place": list(map(_place_maps, given))}
    return {
        name: [
            float(
                share_on_object(x[image, :, query], boxes, output.trace.sizes[0]).mean()
            )
            for x in maps
            if x is not None
        ]
        for name, maps in found.items()
    }


def _place_maps(given: tuple) -> Tensor | None:
    cross, queries, memory = given
    if not isinstance(cross, ConditionalCrossAttention):
        return None
    with torch.no_grad():
        asked = split_heads(cross.query_spatial(queries.spatial), cross.heads)
        found = split_heads(cross.key_position(memory.positions), cross.heads)
    return (asked @ found.mT / (2 * asked.shape[-1]) ** 0.5).softmax(-1)


def share_by_step(film: Film) -> tuple[list[float], list[float]]:
    """`share_on_object` at each step of a film, and uniform attention's: `[F]` both.

    Over the queries that are matched then. Raises: ValueError for a step without any.
    """
    pairs = [_mean_share(film, frame) for frame in range(len(film.steps))]
    shares, uniform = zip(*pairs)
    return list(shares), list(uniform)


def _mean_share(film: Film, frame: int) -> tuple[float, float]:
    shares, uniform = [], []
    for shot in film.shots:
        mine = shot.matched[frame] >= 0
        maps = shot.maps[frame, mine].float()  # bytes [n, M, h, w], by their largest
        size, boxes = maps.shape[-2:], shot.truth[shot.matched[frame, mine].long()]
        maps = maps.flatten(2) / maps.flatten(2).sum(-1, keepdim=True)
        shares.append(share_on_object(maps, boxes, size))
        uniform.append(touched(boxes, size).float().mean(-1))
    if not sum(map(len, shares)):
        raise ValueError(f"step {film.steps[frame]}: no query of the film is matched")
    return tuple(float(torch.cat(each).mean()) for each in (shares, uniform))
