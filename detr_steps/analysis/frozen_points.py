"""A model whose decoder no longer asks its queries where to look, or how much.

Built in chapters/06_deformable_attention.ipynb.
"""

import copy

import torch
from torch import Tensor, nn

from ..nn.deform_attention import MultiScaleDeformableAttention
from ..nn.point_weights import Learned


def freeze_points(
    model: nn.Module, weights: Tensor | None = None, offsets: Tensor | None = None
) -> nn.Module:
    """Copy a model, its decoder's points the same for all queries and pictures.

    `weights [Y, M, L, K]` above zero, which are made to add up to 1, or `offsets
    [Y, M, L, K, 2]`, in the unit of the layer (pixels from points, shares of a box's
    half divided by K from boxes); what is None stays as trained. Built in
    chapters/06_deformable_attention.ipynb.
    Raises: TypeError for a decoder that samples no points; ValueError for shapes that
    are not the decoder's and for weights that are not above zero.
    """
    model = copy.deepcopy(model)
    readers = [layer.cross_attention for layer in model.decoder]
    if not all(isinstance(r, MultiScaleDeformableAttention) for r in readers):
        raise TypeError("this decoder samples no points: there is nothing to freeze")
    shape = (len(readers), *readers[0].shape)
    _check("weights", weights, shape)
    _check("offsets", offsets, (*shape, 2))
    if weights is not None and not (weights > 0).all():
        raise ValueError("weights must be above zero: a softmax gives no others")
    for layer, reader in enumerate(readers):
        if weights is not None:
            _weigh(reader, weights[layer])
        if offsets is not None:
            _place(reader, offsets[layer])
    return model


def _check(name: str, found: Tensor | None, shape: tuple[int, ...]) -> None:
    if found is not None and found.shape != shape:
        raise ValueError(f"{name} {tuple(found.shape)}: the decoder's are {shape}")


@torch.no_grad()
def _weigh(reader: MultiScaleDeformableAttention, weights: Tensor) -> None:
    reader.weights = Learned().build(reader.value.in_features, *reader.shape)
    reader.weights.to(weights.device).scores.copy_(weights.log())


@torch.no_grad()
def _place(reader: MultiScaleDeformableAttention, offsets: Tensor) -> None:
    nn.init.zeros_(reader.offsets.weight)
    reader.offsets.bias.copy_(offsets.flatten())
