"""Deformable against dense attention in an encoder, as the tokens grow.

    python -m benchmarks.encoder_tokens [--rounds 3] [--threads 1]

One encoder layer's attention, forward and backward, C = 256, M = 8, K = 4, one image
on four levels of strides 8 to 64. Deformable attention is measured with its compiled
loops and with torch's operators alone; dense attention as PyTorch fuses it
(`scaled_dot_product_attention`, which never holds the S x S weights) and written out
(up to 5,000 tokens, beyond which the weights alone fill the memory of a laptop). All
take turns in one process; medians, and the largest memory held at once beyond the
arguments. Results: data/measured/encoder_tokens.json, which chapters read.
"""

import argparse
from collections.abc import Callable

import torch

from detr_steps.nn.attention import Attention
from detr_steps.nn.deform_attention import (
    MultiScaleDeformableAttention,
    ReferencePoints,
)
from detr_steps.nn.references import on_levels, token_centres
from detr_steps.ops import backend

from .measuring import MEASURED, machine, memory, save, take_turns

CHANNELS, WRITTEN_OUT_MOST = 256, 5_000
# stride 8 of images from 256 x 192 to 1,072 x 800 pixels
FINEST = ((24, 32), (32, 44), (50, 68), (75, 100), (100, 134))


def pyramid(finest: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Sizes of four levels, each half the one before, rounded up as convolutions do."""
    sizes = [finest]
    for _ in range(3):
        sizes.append(tuple((side + 1) // 2 for side in sizes[-1]))
    return tuple(sizes)


def passes(sizes: tuple[tuple[int, int], ...]) -> dict[str, Callable[[], None]]:
    """A forward and backward pass of each kind of attention, on the same tokens."""
    torch.manual_seed(0)
    count = sum(h * w for h, w in sizes)
    tokens = torch.randn(1, count, CHANNELS, requires_grad=True)
    positions = torch.randn(1, count, CHANNELS)
    whole = torch.ones(1, len(sizes), 2)
    references = ReferencePoints(on_levels(token_centres(sizes, whole), whole), sizes)
    points = MultiScaleDeformableAttention(CHANNELS)
    torch.nn.init.normal_(points.offsets.weight, std=0.02)  # as if it had learned
    dense = Attention(CHANNELS, 8)

    def run(attention: torch.nn.Module, keys: object, trace: bool = False) -> None:
        where = tokens + positions
        read, _ = attention(where, where if keys is None else keys, tokens, trace=trace)
        read.sum().backward()
        tokens.grad = None

    def deformable(name: str) -> None:
        with backend.use(name):
            run(points, references)

    kinds = {
        "deformable": lambda: deformable("cpp"),
        "deformable, torch alone": lambda: deformable("torch"),
        "dense": lambda: run(dense, None),
    }
    if count <= WRITTEN_OUT_MOST:
        kinds["dense, written out"] = lambda: run(dense, None, trace=True)
    return kinds


def measure(finest: tuple[int, int], rounds: int) -> dict:
    """Seconds and MiB of each kind on one pyramid."""
    sizes = pyramid(finest)
    kinds = passes(sizes)
    seconds = take_turns(kinds, rounds)
    row = {"tokens": sum(h * w for h, w in sizes), "sizes": [list(s) for s in sizes]}
    for name, work in kinds.items():
        _, most, _ = memory(work)
        row[name] = {"seconds": round(seconds[name], 4), "MiB": round(most / 2**20, 1)}
    return row


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = []
    for finest in FINEST:
        rows.append(measure(finest, options.rounds))
        print(rows[-1], flush=True)
    about = f"{options.threads} thread(s), {machine()}"
    result = {"machine": about, "rounds": options.rounds, "rows": rows}
    save(MEASURED / "encoder_tokens.json", result)


if __name__ == "__main__":
    main()
