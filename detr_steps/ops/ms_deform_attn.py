"""The compiled core of deformable attention, as operators of torch.

Points are counted over all levels here, P of them, and a level may have more of them
than another: `shapes` is h, w of the first level, h, w of the next one, ..., `points`
how many of P belong to the first level, to the next one, ...
"""

import functools

import torch
from torch import Tensor

from . import fused
from .compiled import load_library

OPERATOR = "detr_steps::ms_deform_attn"
BACKWARD = f"{OPERATOR}_backward"
FUSED = f"{OPERATOR}_fused"
FUSED_BACKWARD = f"{FUSED}_backward"

_LEVELS = "Tensor value, int[] shapes, int[] points"
_GIVEN = f"{_LEVELS}, Tensor locations, Tensor weights"
_ASKED = f"{_LEVELS}, Tensor references, Tensor offsets, Tensor logits"
_GRADS = "(Tensor, Tensor, Tensor)"
SCHEMAS = {
    OPERATOR: f"({_GIVEN}) -> Tensor",
    BACKWARD: f"({_GIVEN}, Tensor grad, bool deterministic) -> {_GRADS}",
    FUSED: f"({_ASKED}) -> Tensor",
    FUSED_BACKWARD: f"({_ASKED}, Tensor grad) -> {_GRADS}",
    # by the name of one of the steps of chapter 07: on a GPU only, without autograd
    f"{OPERATOR}_step": f"({_GIVEN}, str step) -> Tensor",
    f"{BACKWARD}_step": f"({_GIVEN}, Tensor grad, str step) -> {_GRADS}",
    f"{FUSED_BACKWARD}_step": f"({_ASKED}, Tensor grad, str step) -> {_GRADS}",
}


@functools.cache
def register(device: str = "cpu") -> None:
    """Make the operators known to torch, for tensors on "cpu" or on "cuda".

    With shapes for torch.compile and torch.export, and with gradients. What is missing
    is built.
    Raises: NotCompiled.
    """
    load_library(device)
    _define()


@functools.cache
def _define() -> None:
    for name, schema in SCHEMAS.items():
        torch.library.define(name, schema)
    for name in (OPERATOR, FUSED):
        torch.library.register_fake(name, _shape_of_result)
    for name, backward, shapes in (
        (BACKWARD, _backward, _grad_shapes),
        (FUSED_BACKWARD, fused.backward, fused.grad_shapes),
    ):
        forward = name.removesuffix("_backward")
        torch.library.register_autograd(forward, backward, setup_context=_keep)
        torch.library.register_fake(name, shapes)
        torch.library.register_autograd(name, _refuse)
    torch.library.impl(FUSED, "CPU", fused.composed)
    torch.library.impl(FUSED_BACKWARD, "CPU", fused.composed_backward)


def ms_deform_attn(
    value: Tensor,
    shapes: list[int],
    points: list[int],
    locations: Tensor,
    weights: Tensor,
) -> Tensor:
    """Add up what each query finds at its points, in compiled loops: `[B, Q, M·D]`.

    `value [B, S, M, D]`, `locations [B, Q, M, P, 2]`, `weights [B, Q, M, P]`: on a CPU
    all float32 or all float64; on a GPU the value may also be float16 or bfloat16, with
    the others float32. A value that is not finite may spread to neighbours of the
    pixels that a query reads. On a GPU the gradients of the value differ in their last
    bits from call to call, unless torch.use_deterministic_algorithms asks for the
    slower way. Call `register` first; `read_points` does all that.
    Raises: RuntimeError where the arguments do not belong together.
    """
    run = torch.ops.detr_steps.ms_deform_attn
    return run(value, shapes, points, locations, weights)


def _shape_of_result(value, shapes, points, where, *others) -> Tensor:
    b, _, m, d = value.shape
    return value.new_empty(b, where.shape[1], m * d)


def _grad_shapes(value, shapes, points, locations, weights, grad, deterministic):
    return tuple(x.new_empty(x.shape) for x in (value, locations, weights))


def _keep(ctx, inputs, output) -> None:
    value, ctx.shapes, ctx.points, *others = inputs
    ctx.save_for_backward(value, *others)


def _backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    value, locations, weights = ctx.saved_tensors
    deterministic = torch.are_deterministic_algorithms_enabled()
    backward = torch.ops.detr_steps.ms_deform_attn_backward
    given = (value, ctx.shapes, ctx.points, locations, weights)
    grads = backward(*given, grad, deterministic)
    return grads[0], None, None, *grads[1:]


# Autograd would otherwise take the backward operator for one without inputs that need
# gradients, and give zeros.
def _refuse(ctx, *grads: Tensor) -> None:
    raise RuntimeError(
        "deformable attention has no second gradient: its backward is "
        "once_differentiable; take gradients without create_graph"
    )
