"""The compiled core of deformable attention, as an operator of torch."""

import torch
from torch import Tensor

from .compiled import load_library

OPERATOR = "detr_steps::ms_deform_attn"
BACKWARD = f"{OPERATOR}_backward"


def register() -> None:
    """Make `torch.ops.detr_steps.ms_deform_attn` known, built if need be; call it once.

    With shapes for torch.compile and torch.export, and with slopes.
    Raises: NotCompiled.
    """
    load_library()
    torch.library.register_fake(OPERATOR, _shape_of_result)
    torch.library.register_fake(BACKWARD, _shapes_of_slopes)
    torch.library.register_autograd(OPERATOR, _backward, setup_context=_keep)
    torch.library.register_autograd(BACKWARD, _refuse)


def ms_deform_attn(
    value: Tensor, shapes: list[int], locations: Tensor, weights: Tensor
) -> Tensor:
    """Add up what each query finds at its points, in compiled loops: `[B, Q, M·D]`.

    `value [B, S, M, D]`, `shapes` h, w of the first level, h, w of the next one, ...,
    `locations [B, Q, M, L, K, 2]` and `weights [B, Q, M, L, K]`, all float32 or all
    float64 and on the CPU. A value that is not finite may spread to neighbours of the
    pixels that a query reads. Call `register` first; `read_points` does all that.
    Raises: RuntimeError where the arguments do not belong together.
    """
    return torch.ops.detr_steps.ms_deform_attn(value, shapes, locations, weights)


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
    backward = torch.ops.detr_steps.ms_deform_attn_backward
    down = backward(value, ctx.shapes, locations, weights, slope)
    return down[0], None, down[1], down[2]


def _refuse(ctx, *slopes: Tensor) -> None:
    raise RuntimeError(
        "deformable attention has no second slope: its backward is "
        "once_differentiable; take gradients without create_graph"
    )
