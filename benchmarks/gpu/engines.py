"""Who computes: our kernels on the card, the same under the emulator, torch, others.

An engine has `steps` for each direction, and gives calls without arguments, to be timed
or compared.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from detr_steps.cuda_lab import library_kernels
from detr_steps.ops import backend, ms_deform_attn

from .cases import Inputs

STEPS = {
    "forward": ("naive", "points", "vectors", "tiles", "fused"),
    "backward": ("naive", "vectors", "sorted", "fixed", "fused"),
}
Grads = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Card:
    """Our operators on a card: they take their arguments as they are."""

    device = "cuda"

    @classmethod
    def ready(cls) -> "Card":
        """With the operators built. Raises: NotCompiled, naming cause and cure."""
        ms_deform_attn.register("cuda")
        ms_deform_attn.register("steps")
        return cls()

    def forward(self, step: str, given: Inputs) -> Tensor:
        """Result of one step `[B, Q, M·D]`."""
        if step == "fused":
            return torch.ops.detr_steps.ms_deform_attn_fused(*asked(given))
        return torch.ops.detr_steps.ms_deform_attn_step(*plain(given), step)

    def backward(self, step: str, given: Inputs) -> Grads:
        """Gradients of value, locations (offsets) and weights (logits)."""
        ops = torch.ops.detr_steps
        if step == "fused":
            return ops.ms_deform_attn_fused_backward(*asked(given), given.grad)
        return ops.ms_deform_attn_backward_step(*plain(given), given.grad, step)


@dataclass(frozen=True)
class Emulated:
    """The same kernels, run thread by thread on the CPU."""

    device = "cpu"

    def forward(self, step: str, given: Inputs) -> Tensor:
        """Result of one step `[B, Q, M·D]`."""
        if not given.grad.numel():  # the operator launches nothing then
            return torch.zeros_like(given.grad)
        if step == "fused":
            return library_kernels.forward("tiles", *self._sized(asked(given)))
        return library_kernels.forward(step, *self._sized(plain(given)))

    def backward(self, step: str, given: Inputs) -> Grads:
        """Gradients of value, locations (offsets) and weights (logits)."""
        if not given.grad.numel():
            arrays = (given.value, given.locations, given.weights)
            return tuple(map(torch.zeros_like, arrays))
        if step == "fused":
            arguments = self._sized(asked(given))
            return library_kernels.backward("sorted", *arguments, given.grad)
        return library_kernels.backward(step, *self._sized(plain(given)), given.grad)

    @staticmethod
    def _sized(arguments: tuple) -> tuple:
        """With (h, w) of each level in place of one list."""
        value, flat, *others = arguments
        return value, list(zip(flat[::2], flat[1::2])), *others


def plain(given: Inputs) -> tuple:
    """Arguments of the operator."""
    shape = given.shape
    points = list(shape.points)
    return given.value, shape.flat_sizes, points, given.locations, given.weights


def asked(given: Inputs) -> tuple:
    """Arguments of the fused operator."""
    return *plain(given)[:3], given.references, given.offsets, given.logits


def torch_forward(given: Inputs) -> Tensor:
    """The same by torch's operators, in float32."""
    from detr_steps.ops.read_points import read_points

    shape = given.shape
    levels = len(shape.sizes)
    locations = given.locations.unflatten(3, (levels, -1))
    weights = given.weights.unflatten(3, (levels, -1))
    with backend.use("torch"):
        return read_points(given.value, shape.sizes, locations, weights)


def torch_backward(given: Inputs) -> Callable[[], object]:
    """The backward pass by torch's operators: a call that can be repeated."""
    arrays = [x.detach().requires_grad_() for x in
              (given.value, given.locations, given.weights)]  # fmt: skip
    value, locations, weights = arrays
    wanting = replace(given, value=value, locations=locations, weights=weights)
    result = torch_forward(wanting)

    def back() -> object:
        return torch.autograd.grad(result, arrays, given.grad, retain_graph=True)

    return back


def unfused_forward(
    engine: Card | Emulated, step: str, given: Inputs
) -> Callable[[], Tensor]:
    """A call of what `fused` saves: softmax and locations by torch, then the step."""
    extent, level = given.shape.by_point(given.value.device)

    def forward() -> Tensor:
        at = given.references[:, :, level][:, :, None]  # [B, Q, 1, P, 2]
        locations = at + given.offsets / extent
        weights = F.softmax(given.logits, -1)
        made = replace(given, locations=locations, weights=weights)
        return engine.forward(step, made)

    return forward
