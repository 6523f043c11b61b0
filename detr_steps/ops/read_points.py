"""The core of deformable attention: weighted sums of a few points of several maps."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .backend import compiles
from .fused import ms_deform_attn_fused
from .ms_deform_attn import ms_deform_attn
from .sample import sample

Sizes = tuple[tuple[int, int], ...]  # (h, w) of each level, finest first


def read_points(
    value: Tensor, sizes: Sizes | Tensor, locations: Tensor, weights: Tensor
) -> Tensor:
    """Add up what each query finds at its points, weighted: `[B, Q, M·D]`.

    `value [B, S, M, D]`, the levels of `sizes` one after another, each row by row
    (`sizes` may be a tensor `[L, 2]`: on a GPU that waits for it);
    `locations [B, Q, M, L, K, 2]` (x, y) as shares of each level's map (see sample.py:
    beyond it everything is 0, a NaN gives NaN); `weights [B, Q, M, L, K]`.
    Half precision is computed in float32. Saves no sampled values for the backward
    pass: they are recomputed.
    Compiled loops do it where they can be had (backend.py); besides arguments and
    result they need, in each thread, a copy of one head's map: S·D numbers, twice that
    in the backward pass, none where queries are few. Torch's operators need, one level
    at a time, its map, its locations twice and its points, B·M·(h·w·D + 4·Q·K + Q·K·D)
    numbers, and the result once more; in the backward pass twice that, and twice the
    gradients of the arguments.
    Raises: ValueError where sizes, tokens and points do not belong together, or a level
    is empty. Source: Zhu et al. 2020, equation 3.
    Built in chapters/06_deformable_attention.ipynb.
    """
    sizes = check_levels(value.shape[1], sizes)
    _check_points(value, sizes, locations, weights)
    read = _compiled if compiles(value) else _by_level
    return read(value, sizes, locations, weights).to(value.dtype)


def _compiled(
    value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor
) -> Tensor:
    """The same in one operator; on a GPU the value stays in half precision."""
    exact = torch.promote_types(value.dtype, torch.float32)
    exact = torch.promote_types(exact, locations.dtype)
    if not value.is_cuda or exact == torch.float64:
        value = value.to(exact)
    levels = _levels(sizes, weights.shape[4])
    locations, weights = (x.to(exact).flatten(3, 4) for x in (locations, weights))
    return ms_deform_attn(value, *levels, locations, weights)


def _levels(sizes: Sizes, points: int) -> tuple[list[int], list[int]]:
    """How the operators want levels: h, w, h, w, ... and K of each."""
    return [side for size in sizes for side in size], [points] * len(sizes)


def has_fused_kernel(value: Tensor, levels: int, points: int) -> bool:
    """Whether `fused_read_points` has a kernel for `value [B, S, M, D]`, K a level.

    It has on a GPU, for the usual widths of a head and up to 32 points in all (the
    sizes in kernels/cuda/pick.cuh and call.h).
    """
    widths = (16, 32, 64) if value.element_size() == 2 else (8, 16, 32, 64)
    usual = value.shape[-1] in widths and levels * points <= 32 and levels <= 8
    return usual and value.is_cuda and value.dtype != torch.float64 and compiles(value)


def fused_read_points(
    value: Tensor,
    sizes: Sizes | Tensor,
    references: Tensor,
    offsets: Tensor,
    scores: Tensor,
) -> Tensor:
    """Softmax, locations and `read_points` in one kernel: `[B, Q, M·D]`.

    `references [B, Q, L, 2 or 4]`, `offsets [B, Q, M, L, K, 2]` from them as in
    `MultiScaleDeformableAttention.locate`, `scores [B, Q, M, L, K]` before the softmax.
    Locations and weights are never stored, and computed in float32 whatever the value
    is: in bfloat16 a location on a wide map would be off by half a pixel.
    Built in chapters/07_cuda_kernel.ipynb.
    """
    exact = torch.promote_types(value.dtype, torch.float32)
    sizes = check_levels(value.shape[1], sizes)
    levels = _levels(sizes, scores.shape[4])
    given = (references, offsets.flatten(3, 4), scores.flatten(3, 4))
    return ms_deform_attn_fused(value, *levels, *(x.to(exact) for x in given))


def _by_level(
    value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor
) -> Tensor:
    """The same by torch's operators, a level at a time to save memory."""
    value = value.to(torch.promote_types(value.dtype, torch.float32))
    tokens = value.split([h * w for h, w in sizes], dim=1)
    # what nobody differentiates is traced and exported as plain operators
    read_level = _ReadLevel.apply if torch.is_grad_enabled() else _weighted_sum
    read = 0
    for level in zip(tokens, sizes, locations.unbind(3), weights.unbind(3)):
        read = read + read_level(*level)  # [B·M, D, Q]
    return read.unflatten(0, value.shape[::2]).permute(0, 3, 1, 2).flatten(2)


class _ReadLevel(torch.autograd.Function):
    """Weighted sum of one level's points: `[B·M, D, Q]`.

    Written out because autograd would save every sampled value for the backward pass;
    sampling again takes less time than writing and reading them.
    """

    @staticmethod
    def forward(ctx, value, size, locations, weights) -> Tensor:
        ctx.size = size
        ctx.save_for_backward(value, locations, weights)
        return _weighted_sum(value, size, locations, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        value, locations, weights = ctx.saved_tensors
        with torch.enable_grad():
            value, locations = (x.detach().requires_grad_() for x in (value, locations))
            points = sample_level(value, ctx.size, locations)  # [B·M, D, K, Q]
        grad = grad[:, :, None]  # [B·M, D, 1, Q]
        grad_points = grad * _by_head(weights)
        grads = torch.autograd.grad(points, (value, locations), grad_points)
        # A weight multiplies its point: its gradient is the point's dot product with
        # that of the sum.
        grad_weights = points.detach().mul_(grad).sum(1)  # [B·M, K, Q]
        b, q, m, k = weights.shape
        grad_weights = grad_weights.view(b, m, k, q).permute(0, 3, 1, 2)  # [B, Q, M, K]
        return grads[0], None, grads[1], grad_weights.to(weights.dtype)


def _weighted_sum(
    value: Tensor, size: tuple[int, int], locations: Tensor, weights: Tensor
) -> Tensor:
    points = sample_level(value, size, locations)  # [B·M, D, K, Q]
    return points.mul_(_by_head(weights)).sum(2)


def _by_head(weights: Tensor) -> Tensor:
    """`[B, Q, M, K] -> [B·M, 1, K, Q]`, as the points lie."""
    return weights.permute(0, 2, 3, 1).flatten(0, 1)[:, None]


def sample_level(value: Tensor, size: tuple[int, int], locations: Tensor) -> Tensor:
    """Read the points of one level: `[B, h·w, M, D]` at `[B, Q, M, K, 2]`.

    Each head reads its own D channels. Returns `[B·M, D, K, Q]`: queries last, so that
    sums over points run along contiguous memory.
    """
    maps = value.transpose(1, 2).flatten(0, 1)  # [B·M, h·w, D]: whole rows are copied
    maps = maps.unflatten(1, size).movedim(-1, 1)  # [B·M, D, h, w]
    return sample(maps, locations.permute(0, 2, 3, 1, 4).flatten(0, 1))


def check_levels(tokens: int, sizes: Sizes | Tensor) -> Sizes:
    """Return the sizes as tuples, of whatever numbers they were given.

    Raises: ValueError unless levels of these sizes hold as many tokens as there are: a
    wrong split would read pixels of one level as another's, without any complaint. And
    for a level that is empty or no (h, w), which torch's operators cannot read.
    """
    if torch.jit.is_tracing():
        return sizes  # recorded numbers: made plain, they would become constants
    sizes = _plain(sizes)
    for level, size in enumerate(sizes):
        if not _is_size(size):
            raise ValueError(
                f"level {level} has size {size}: expected whole numbers (h, w), one "
                "at least; leave out a level that is empty"
            )
    held = sum(h * w for h, w in sizes)
    if not sizes or held != tokens:
        raise ValueError(
            f"levels of sizes {list(sizes)} hold {held} tokens, the value has "
            f"{tokens}: give (h, w) of each map that was flattened"
        )
    return sizes


def _is_size(size: object) -> bool:
    return (
        isinstance(size, tuple)
        and len(size) == 2
        and all(isinstance(x, (int, torch.SymInt)) and x > 0 for x in size)
    )


def _plain(sizes: object) -> object:
    """Tensors, arrays and lists as nested tuples of Python's numbers."""
    sizes = sizes.tolist() if hasattr(sizes, "tolist") else sizes
    return tuple(map(_plain, sizes)) if isinstance(sizes, (list, tuple)) else sizes


def _check_points(
    value: Tensor, sizes: Sizes, locations: Tensor, weights: Tensor
) -> None:
    b, _, heads, _ = value.shape
    _, q, _, _, k, *_ = locations.shape
    wanted = (b, q, heads, len(sizes), k, 2)
    if locations.shape != wanted or weights.shape != wanted[:-1]:
        raise ValueError(
            f"locations {list(locations.shape)} and weights {list(weights.shape)} for "
            f"{b} images, {heads} heads and {len(sizes)} levels: expected "
            "[B, Q, M, L, K, 2] and [B, Q, M, L, K]"
        )
