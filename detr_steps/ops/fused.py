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
    run = torch.ops.detr_steps.ms_deform_attn
    return run(value, shapes, points, centres + offsets * steps, logits.softmax(-1))


def composed_backward(
    value, shapes, points, references, offsets, logits, grad, deterministic=False
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, offsets and logits, in pieces."""
    given = (value, shapes, points, references, offsets, logits, grad, deterministic)
    grad_value, grad_locations, grad_logits, steps = _by_pieces(*given)
    return grad_value, grad_locations * steps, grad_logits


def _by_pieces(
    value, shapes, points, references, offsets, logits, grad, deterministic
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of value, locations and logits; and the steps of offsets."""
    centres, steps = _centres_and_steps(references, shapes, points)
    weights = logits.softmax(-1)
    run = torch.ops.detr_steps.ms_deform_attn_backward
    grad_value, grad_locations, grad_weights = run(
        value, shapes, points, centres + offsets * steps, weights, grad, deterministic
    )
    # Backward of the softmax: w_p (g_p - sum of all w g), g the gradients of weights.
    weighted = grad_weights * weights
    grad_logits = weighted - weights * weighted.sum(-1, keepdim=True)
    return grad_value, grad_locations, grad_logits, steps


def _centres_and_steps(references, shapes, points) -> tuple[Tensor, Tensor]:
    """Where each point's offset counts from, and how long one step of it is.

    Both `[B, Q, 1, P, 2]`, (x, y) as shares of the map. A step is a pixel of the level;
    for a box it is its side / 2K, so that K points of the initial star, 1 to K steps
    from the centre, just reach its border (the released code; not in the paper).
    """
    centres, steps = [], []
    for at, k, h, w in zip(references.unbind(2), points, shapes[::2], shapes[1::2]):
        at = at[:, :, None, None].expand(-1, -1, -1, k, -1)
        centres.append(at[..., :2])
        if at.shape[-1] == 4:
            steps.append(at[..., 2:] / (2 * max(k, 1)))
        else:
            x, y = (torch.full_like(at[..., :1], 1 / max(side, 1)) for side in (w, h))
            steps.append(torch.cat((x, y), -1))
    return torch.cat(centres, 3), torch.cat(steps, 3)


def grad_shapes(value, shapes, points, references, offsets, logits, grad):
    """What the backward operator gives: tensors like these."""
    return tuple(x.new_empty(x.shape) for x in (value, offsets, logits))


def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Gradients of all arguments.

    The kernel has none for references: where those are wanted, as where the order of
    additions is to be fixed, the backward pass goes by pieces.
    """
    value, references, offsets, logits = ctx.saved_tensors
    given = (value, ctx.shapes, ctx.points, references, offsets, logits, grad)
    deterministic = torch.are_deterministic_algorithms_enabled()
    if not ctx.needs_input_grad[3]:
        run = torch.ops.detr_steps.ms_deform_attn_fused_backward
        grads = composed_backward(*given, True) if deterministic else run(*given)
        return grads[0], None, None, None, *grads[1:]
    grad_value, at, grad_logits, steps = _by_pieces(*given, deterministic)
    grad_references = _to_references(at, offsets, ctx.points, references.shape[-1])
    return grad_value, None, None, grad_references, at * steps, grad_logits


def _to_references(grad_locations, offsets, points, numbers) -> Tensor:
    """From `[B, Q, M, P, 2]` to `[B, Q, L, 2 or 4]`, the adjoint of adding offsets.

    Every point of a level moves with its centre; a box's sides scale its offsets, too.
    """
    found = []
    by_level = zip(points, grad_locations.split(points, 3), offsets.split(points, 3))
    for k, grad, offset in by_level:
        level = [grad.sum((2, 3))]
        if numbers == 4:
            level.append((grad * offset).sum((2, 3)) / (2 * max(k, 1)))
        found.append(torch.cat(level, -1))
    return torch.stack(found, 2)
