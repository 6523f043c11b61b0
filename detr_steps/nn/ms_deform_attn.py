"""The compiled core of deformable attention, as an operator of torch."""

import functools

import torch
from torch import Tensor

from .compiled import load_library


@functools.cache
def operator() -> torch._ops.OpOverload:
    """`torch.ops.detr_steps.ms_deform_attn`, built and registered on the first call.

    `(value [B, S, M, D], shapes [h, w, h, w, ...], locations [B, Q, M, L, K, 2],
    weights [B, Q, M, L, K]) -> [B, Q, M·D]`, all float32 or all float64, on the CPU.
    Raises: NotCompiled.
    """
    load_library()
    name = "detr_steps::ms_deform_attn"
    torch.library.register_fake(name, _shape_of_result)
    torch.library.register_fake(f"{name}_backward", _shapes_of_slopes)
    torch.library.register_autograd(name, _backward, setup_context=_keep)
    torch.library.register_autograd(f"{name}_backward", _refuse)
    return torch.ops.detr_steps.ms_deform_attn.default


def _shape_of_result(value, shapes, locations, weights) -> Tensor:
    b, _, m, d = value.shape
    return value.new_empty(b, locations.shape[1], m * d)


def _shapes_of_slopes(value, shapes, locations, weights, slope) -> tuple[Tensor, ...]:
    given = (value, locations, weights)
    return tuple(x.new_empty(x.shape) for x in given)


def _keep(ctx, inputs, output) -> None:
    value, ctx.shapes, locations, weights = inputs
    ctx.save_for_backward(value, locations, weights)


def _backward(ctx, slope: Tensor) -> tuple[Tensor | None, ...]:
    value, locations, weights = ctx.saved_tensors
    backward = torch.ops.detr_steps.ms_deform_attn_backward.default
    down = backward(value, ctx.shapes, locations, weights, slope)
    return down[0], None, down[1], down[2]


def _refuse(ctx, *slopes: Tensor) -> None:
    raise RuntimeError(
        "deformable attention has no second slope: its backward is "
        "once_differentiable; take gradients without create_graph"
    )
