"""The compiled core together with what comes right before it: softmax and locations.

On a GPU one kernel does all of it, and neither weights nor locations are ever written
to memory. Elsewhere, and where the kernel has no answer, it is composed of pieces.
"""

import torch
from torch import Tensor


def ms_deform_attn_fused(
    value: Tensor,
    shapes: list[int],
    points: list[int],
    references: Tensor,
    offsets: Tensor,
    logits: Tensor,
) -> Tensor:
    """Read at `offsets` from `references`, weighted by softmax: `[B, Q, M·D]`.

    `value`, `shapes` and `points` as in ms_deform_attn.py; `references [B, Q, L, 2 or
    4]` points or boxes, `offsets [B, Q, M, P, 2]` in pixels from a point, in shares of
    a box from its centre (see MultiScaleDeformableAttention.locate), `logits [B, Q, M,
    P]`. On a CPU all of one dtype; on a GPU the value may be float16 or bfloat16, all
    else is float32.
    Raises: RuntimeError where the arguments do not belong together.
    """
    run = torch.ops.detr_steps.ms_deform_attn_fused
    return run(value, shapes, points, references, offsets, logits)


def composed(value, shapes, points, references, offsets, logits) -> Tensor:
    """Do the same in three pieces."""
    centres, steps = _centres_and_steps(references, shapes, points)
    locations = centres + offsets * steps
    run = torch.ops.detr_steps.ms_deform_attn
    return run(value, shapes, points, locations, logits.softmax(-1))


def composed_backward(
    value, shapes, points, references, offsets, logits, slope, deterministic=False
) -> tuple[Tensor, Tensor, Tensor]:
    """Slopes of value, offsets and logits."""
    down = _slopes(
        value, shapes, points, references, offsets, logits, slope, deterministic
    )
    _, steps = _centres_and_steps(references, shapes, points)
    return down[0], down[1] * steps, down[2]


def _slopes(
    value, shapes, points, references, offsets, logits, slope, deterministic
) -> tuple[Tensor, Tensor, Tensor]:
    """Slopes of value, locations and logits."""
    centres, steps = _centres_and_steps(references, shapes, points)
    locations, weights = centres + offsets * steps, logits.softmax(-1)
    run = torch.ops.detr_steps.ms_deform_attn_backward
    down = run(value, shapes, points, locations, weights, slope, deterministic)
    by_weight = down[2] * weights
    by_logit = by_weight - weights * by_weight.sum(-1, keepdim=True)
    return down[0], down[1], by_logit


def _centres_and_steps(references, shapes, points) -> tuple[Tensor, Tensor]:
    """Where each point's offset counts from, and how long one step of it is.

    Both `[B, Q, 1, P, 2]`, (x, y) as shares of the map.
    """
    centres, steps = [], []
    for at, k, h, w in zip(references.unbind(2), points, shapes[::2], shapes[1::2]):
        at = at[:, :, None, None].expand(-1, -1, -1, k, -1)
        centres.append(at[..., :2])
        if at.shape[-1] == 4:
            steps.append(at[..., 2:] / (2 * max(k, 1)))
        else:
            x, y = (torch.full_like(at[..., :1], 1 / side) for side in (w, h))
            steps.append(torch.cat((x, y), -1))
    return torch.cat(centres, 3), torch.cat(steps, 3)


def shapes_of_slopes(value, shapes, points, references, offsets, logits, slope):
    """What the way back gives: tensors like these."""
    return tuple(x.new_empty(x.shape) for x in (value, offsets, logits))


def backward(ctx, slope: Tensor) -> tuple[Tensor | None, ...]:
    """Slopes of all arguments.

    The kernel knows none of references: where those are wanted, as where the order of
    additions is to be fixed, the way back goes by pieces.
    """
    value, references, offsets, logits = ctx.saved_tensors
    given = (value, ctx.shapes, ctx.points, references, offsets, logits, slope)
    deterministic = torch.are_deterministic_algorithms_enabled()
    if not ctx.needs_input_grad[3]:
        run = torch.ops.detr_steps.ms_deform_attn_fused_backward
        down = composed_backward(*given, True) if deterministic else run(*given)
        return down[0], None, None, None, down[1], down[2]
    down = _slopes(*given, deterministic)
    _, steps = _centres_and_steps(references, ctx.shapes, ctx.points)
    to_references = _to_references(down[1], offsets, ctx.points, references.shape[-1])
    return down[0], None, None, to_references, down[1] * steps, down[2]


def _to_references(slope, offsets, points, sides) -> Tensor:
    """From the slope of locations `[B, Q, M, P, 2]` to `[B, Q, L, 2 or 4]`."""
    found = []
    for k, down, asked in zip(points, slope.split(points, 3), offsets.split(points, 3)):
        level = [down.sum((2, 3))]
        if sides == 4:
            level.append((down * asked).sum((2, 3)) / (2 * max(k, 1)))
        found.append(torch.cat(level, -1))
    return torch.stack(found, 2)
