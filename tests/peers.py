"""What parity tests against transformers share: weights, a batch, gradients."""

import contextlib
import math

import torch
from torch import nn

from detr_steps import ImageBatch, interop

WRITTEN_FOR = "5.23.0"  # of transformers
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10}  # of the largest value
LOSS_NAMES = {"class": "loss_ce", "box": "loss_bbox", "giou": "loss_giou"}
COMPARED = "q_", "k_", "query_", "key_"  # names of what attention compares
TARGETS = [
    {
        "boxes": torch.tensor([[0.5, 0.4, 0.3, 0.2], [0.2, 0.7, 0.3, 0.5]]),
        "labels": torch.tensor([2, 6]),
    },
    {"boxes": torch.tensor([[0.6, 0.6, 0.7, 0.1]]), "labels": torch.tensor([0])},
]


def labels(dtype: torch.dtype) -> list[dict]:
    """`TARGETS` in their words."""
    return [
        {"class_labels": t["labels"], "boxes": t["boxes"].to(dtype)} for t in TARGETS
    ]


def images(dtype: torch.dtype, *sizes: tuple[int, int]) -> ImageBatch:
    generator = torch.Generator().manual_seed(1)
    return ImageBatch.from_list(
        [torch.randn(3, *size, generator=generator).to(dtype) for size in sizes]
    )


@torch.no_grad()
def stir(model: nn.Module) -> None:
    """Give every weight a size at which it matters: fresh ones barely attend."""
    for name, value in model.state_dict(keep_vars=True).items():
        if not value.is_floating_point():
            continue
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.dim() == 4 and "backbone" in name:
            value.mul_(0.6)  # keeps the residual sums from growing
        elif "embeddings" in name:
            value.normal_()
        elif value.dim() > 1:
            sharp = 2 if any(part in name for part in COMPARED) else 1
            value.normal_(0, sharp * value[0].numel() ** -0.5)
        elif "norm" in name and name.endswith("weight"):
            value.normal_(1, 0.3)
        else:
            value.normal_(0, 0.2)


def exact_waves(
    points: torch.Tensor, num_pos_feats: int, temperature: float = 10_000
) -> torch.Tensor:
    """Their waves of points or boxes, in the dtype of these; y before x."""
    axes = [1, 0, 2, 3][: points.shape[-1]]
    waves = [
        wave(points[..., axis] * 2 * math.pi, channel, num_pos_feats, temperature)
        for axis in axes
        for channel in range(num_pos_feats)
    ]
    return torch.stack(waves, -1)


def wave(
    angle: torch.Tensor, channel: int, channels: int, temperature: float
) -> torch.Tensor:
    """One channel of a sine code."""
    angle = angle / temperature ** (2 * (channel // 2) / channels)
    return angle.sin() if channel % 2 == 0 else angle.cos()


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype):
    """Parts of transformers make new tensors in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def gradients(theirs: nn.Module, carrier: nn.Module) -> dict[str, torch.Tensor]:
    """Their gradients under our names, by way of the loader itself.

    `carrier` a model of ours of the same size. A parameter of several names has one
    gradient, given under each of them.
    """
    grads = {
        name: torch.zeros_like(value) if value.grad is None else value.grad
        for name, value in theirs.state_dict(keep_vars=True).items()
    }
    interop.load_hf(carrier, grads)
    return carrier.state_dict()


def worst_gradient(ours: nn.Module, expected: dict[str, torch.Tensor]) -> float:
    """Largest difference of any weight's gradient, as a share of its own largest.

    A key's bias has no gradient (softmax ignores it), so a hundredth of the largest of
    all weights is the least that is compared with.
    """
    trained = {n: p for n, p in ours.named_parameters() if p.requires_grad}
    for name, parameter in ours.named_parameters():
        assert (parameter.grad is not None) == (name in trained), name
    largest = max(expected[name].abs().max() for name in trained)
    return max(
        (
            (parameter.grad - expected[name]).abs().max()
            / torch.maximum(expected[name].abs().max(), 1e-2 * largest)
        ).item()
        for name, parameter in trained.items()
    )
