"""What every system of the family returns (chapters 02 and 08)."""

from typing import NamedTuple

from torch import Tensor

from ..nn.mask_head import MaskSource
from ..nn.trace import Attended, AttentionMaps
from ..objective.classification import Classification
from ..objective.criterion import PredictionSets
from ..ops.read_points import Sizes


class Trace(NamedTuple):
    """What all attentions of one forward pass saw, layer by layer.

    `encoder`, `decoder_self`, `decoder_cross`: `AttentionMaps` or `SamplingPoints` of
    each layer; `references` of each decoder layer, points or boxes `[B, Q, 2 or 4]` of
    the un-padded image, or None; `centres [B, S, 2]` of the tokens likewise; `sizes
    (h, w)` of the levels; `valid [B, L, 2]` the un-padded share (x, y) of each level:
    times it, a reference becomes a location; `classification` says what the logits
    mean, so that a traced output explains itself.
    """

    encoder: tuple[Attended, ...]
    decoder_self: tuple[AttentionMaps, ...]
    decoder_cross: tuple[Attended, ...]
    references: tuple[Tensor | None, ...]
    centres: Tensor
    sizes: Sizes
    valid: Tensor
    classification: Classification


class Prediction(NamedTuple):
    """One decoder layer's answers: `logits [B, Q, outputs]`, `boxes [B, Q, 4]`."""

    logits: Tensor
    boxes: Tensor


class Output(NamedTuple):
    """Predictions of every decoder layer, first to last.

    `logits [Y, B, Q, outputs]` as `config.classification` reads them, `boxes
    [Y, B, Q, 4]` cxcywh in [0, 1] of the un-padded image; `trace` what attention saw,
    if asked for; `extra` sets that only training sees; `weight` of the layers' own loss
    (Group DETR: one group's share), or of each layer's; `real [B, Q]` False for queries
    that are padding and answer for nothing, None where there are none; `content
    [B, Q, C]` of the queries after the last layer; `masks` what a mask head makes them
    of, if the model has one.
    """

    logits: Tensor
    boxes: Tensor
    trace: Trace | None = None
    extra: tuple[PredictionSets, ...] = ()
    weight: float | tuple[float, ...] = 1.0
    real: Tensor | None = None
    content: Tensor | None = None
    masks: MaskSource | None = None
