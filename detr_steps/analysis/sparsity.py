"""How sparse attention is, as negative entropy: by head, layer and training step.

Sun et al. 2021, "Rethinking Transformer-based Set Prediction for Object Detection",
section 3. Built in chapters/04_why_slow.ipynb.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..images import ImageBatch
from ..nn.references import shrink_padding
from ..nn.trace import AttentionMaps
from ..systems.output import Trace
from .attention import eval_no_grad
from .states import models_at

ATTENTIONS = ("encoder", "decoder_self", "decoder_cross")  # as a Trace names them
OFF = 1e-2  # how far a row of half-precision weights may be from adding up to 1


class Sparsity(NamedTuple):
    """Negative entropy of attention rows, averaged over all rows that are no padding.

    `row [M]`, of each head: 0 where each query reads one cell, −log of the valid keys
    where it reads all alike; `per_key [M]` the same divided by the number of all keys,
    as the formula with 1/m is often written, which calls flat attention over many keys
    sparse; `per_valid_key [M]` by that of the valid ones; `head_mean` [] of the mean
    map of all heads; `normalised [M]` the row by the log of its valid keys: 0 for one
    cell, −1 for all alike whatever the size of the picture. Along layers and steps
    there are more dimensions in front.
    """

    row: Tensor
    per_key: Tensor
    per_valid_key: Tensor
    head_mean: Tensor
    normalised: Tensor


class SparsityCurve(NamedTuple):
    """`steps` of the kept weights, F; the sparsity at each: `row [F, Y, M]` and so on.

    `attentions`: "encoder", "decoder_self", "decoder_cross", those that have maps.
    """

    steps: list[int]
    attentions: dict[str, Sparsity]


def sparsity(
    rows: Tensor, key_padding: Tensor | None = None, query_padding: Tensor | None = None
) -> Sparsity:
    """How sparse attention weights `rows [B, M, Q, S]` are: 0 = one cell each.

    `key_padding [B, S]`, `query_padding [B, Q]` True where padded: such keys do not
    count, such queries have no row. Raises: ValueError for shapes that do not belong
    together, rows that are no weights, and an image whose keys or queries are all
    padding. Source: Sun et al. 2021, section 3.2. Built in chapters/04_why_slow.ipynb.
    """
    _check_shapes(rows, key_padding, query_padding)
    rows = rows.detach().double()
    batch, _, queries, keys = rows.shape
    key_padding = _all_real(rows, key_padding, (batch, keys), "keys")
    query_padding = _all_real(rows, query_padding, (batch, queries), "queries")
    _check_rows(rows, key_padding, query_padding)
    valid = (~key_padding).sum(-1).double()[:, None, None]  # [B, 1, 1]
    real = ~query_padding
    row = -torch.special.entr(rows).sum(-1)  # [B, M, Q]
    mean = -torch.special.entr(rows.mean(1, keepdim=True)).sum(-1)  # [B, 1, Q]
    # one valid key alone leaves no choice: log 1 = 0, and its row is 0, one cell
    flat = valid.log().where(valid > 1, 1.0)
    values = row, row / keys, row / valid, mean, row / flat
    averages = [_over_rows(value, real) for value in values]
    averages[3] = averages[3][0]
    return Sparsity(*(each.float() for each in averages))


def _over_rows(values: Tensor, real: Tensor) -> Tensor:
    """Mean over the real queries of all images: `[B, M, Q], [B, Q] -> [M]`."""
    return values.transpose(0, 1)[:, real].mean(-1)


def sparsity_by_layer(model: nn.Module, batch: ImageBatch) -> dict[str, Sparsity]:
    """Of every attention of a model that has maps: `row [Y, M]` and so on.

    Keys "encoder", "decoder_self", "decoder_cross"; an attention that samples points
    has no maps and is left out. Raises: ValueError for a model without any maps, or an
    image of padding only. For chapters/04_why_slow.ipynb.
    """
    weight = next(model.parameters())
    batch = ImageBatch(
        batch.pixels.to(weight.device, weight.dtype),
        batch.padding.to(weight.device),
        batch.padded,
    )
    with eval_no_grad(model):
        output = model(batch, trace=True)
    trace, tokens = output.trace, _token_padding(batch, output.trace)
    paddings = {"encoder": (tokens, tokens), "decoder_cross": (tokens, None)}
    if output.real is not None:
        paddings["decoder_self"] = (~output.real, ~output.real)
    found = {
        name: _stack([sparsity(each.weights, *paddings.get(name, ())) for each in seen])
        for name in ATTENTIONS
        if (seen := getattr(trace, name)) and _are_maps(seen)
    }
    if not found:
        raise ValueError(
            "this model's attentions sample points and have no maps: sparsity is of "
            "dense attention"
        )
    return found


def sparsity_along(
    model: nn.Module,
    weights: Iterable[tuple[int, dict[str, Tensor]]],
    batch: ImageBatch,
) -> SparsityCurve:
    """The sparsity of every attention at the steps whose weights a training kept.

    `weights` pairs of a step and the state it had then, in order, as
    `training.kept_weights(run)` reads them; `model` stays as it is. Raises: ValueError
    for no weights, or those of another model. For chapters/04_why_slow.ipynb.
    """
    steps, found = [], []
    for step, actor in models_at(model, weights):
        steps.append(step)
        found.append(sparsity_by_layer(actor, batch))
    return SparsityCurve(
        steps, {name: _stack([each[name] for each in found]) for name in found[0]}
    )


def _stack(parts: list[Sparsity]) -> Sparsity:
    return Sparsity(*map(torch.stack, zip(*parts)))


def _are_maps(layers: tuple) -> bool:
    return all(isinstance(each, AttentionMaps) for each in layers)


def _token_padding(batch: ImageBatch, trace: Trace) -> Tensor:
    """Which tokens of all levels are padding: `[B, S]`."""
    levels = [shrink_padding(batch.padding, size).flatten(1) for size in trace.sizes]
    return torch.cat(levels, 1)


def _all_real(
    rows: Tensor, padding: Tensor | None, shape: tuple[int, int], what: str
) -> Tensor:
    if padding is None:
        return torch.zeros(shape, dtype=torch.bool, device=rows.device)
    padding = padding.to(rows.device)
    if padding.all(-1).any():
        image = int(padding.all(-1).nonzero()[0])
        raise ValueError(
            f"image {image}: all {shape[1]} {what} are padding, so it has no attention "
            "to measure: leave it out"
        )
    return padding


def _check_shapes(
    rows: Tensor, key_padding: Tensor | None, query_padding: Tensor | None
) -> None:
    if rows.dim() != 4 or not rows.numel():
        raise ValueError(
            f"attention rows of shape {list(rows.shape)}: give weights [B, M, Q, S] of "
            "one layer"
        )
    batch, _, queries, keys = rows.shape
    for name, padding, wanted in (
        ("key_padding", key_padding, (batch, keys)),
        ("query_padding", query_padding, (batch, queries)),
    ):
        if padding is None:
            continue
        if tuple(padding.shape) != wanted or padding.dtype != torch.bool:
            raise ValueError(
                f"{name} {list(padding.shape)} {padding.dtype} for rows "
                f"{list(rows.shape)}: give {list(wanted)} bool, True where padded"
            )


def _check_rows(rows: Tensor, key_padding: Tensor, query_padding: Tensor) -> None:
    mine = rows.transpose(1, 2)[~query_padding]  # [n, M, S]: rows that count
    if not (mine.isfinite().all() and (mine >= 0).all()):
        raise ValueError(
            "attention rows hold negative, NaN or infinite weights: give weights after "
            "the softmax (over padding only it is NaN)"
        )
    off = (mine.sum(-1) - 1).abs().max()
    if off > OFF:
        raise ValueError(
            f"attention rows add up to 1 only within {off:.3g}: give weights after the "
            "softmax, with all of their keys"
        )
    padded = (rows * key_padding[:, None, None]).transpose(1, 2)[~query_padding]
    if padded.sum(-1).max() > OFF:
        raise ValueError(
            "attention rows give weight to keys of key_padding: is it True where "
            "padded, and of these images?"
        )
