"""What one attention saw, kept on request: maps, or points (chapters 01 and 06)."""

from typing import NamedTuple

import torch
from torch import Tensor


class AttentionMaps(NamedTuple):
    """Softmax weights `[B, M, Q, S]` of a dense attention; rows add up to 1."""

    weights: Tensor


class SamplingPoints(NamedTuple):
    """Where a deformable attention sampled, and how much each point counted.

    `locations [B, Q, M, L, K, 2]` (x, y), shares of the padded map, possibly outside;
    `weights [B, Q, M, L, K]`, adding up to 1 over L and K.
    """

    locations: Tensor
    weights: Tensor


Attended = AttentionMaps | SamplingPoints


class LayerTrace(NamedTuple):
    """What one decoder layer saw: self-attention of the queries, cross-attention."""

    self_attention: AttentionMaps | None
    cross_attention: Attended | None


def stack_maps(layers: tuple[AttentionMaps, ...]) -> Tensor:
    """Maps of several layers in one tensor: `[Y, B, M, Q, S]`.

    Raises: ValueError for no layers; TypeError for sampling points, which have no maps.
    """
    if not layers:
        raise ValueError("no layers, so no maps: the model has none of this kind")
    if not all(isinstance(each, AttentionMaps) for each in layers):
        raise TypeError(
            "these layers sample points and have no maps: see .locations and .weights "
            "of each, or viz.decoder_points"
        )
    return torch.stack([each.weights for each in layers])
