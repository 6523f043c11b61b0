"""Calls of the deformable-attention kernels, and what they should give."""

from dataclasses import dataclass

import torch
from torch import Tensor

from detr_steps.ops import backend
from detr_steps.ops.read_points import read_points


def arguments(
    sizes, b=2, q=5, m=3, k=4, d=8, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    """Value, locations (some beyond the map, none on a pixel) and weights (any sign),
    as `read_points` takes them."""
    generator = torch.Generator().manual_seed(0)
    row = (b, q, m, len(sizes), k)
    shapes = (b, sum(h * w for h, w in sizes), m, d), (*row, 2), row
    value, locations, weights = (
        torch.rand(shape, generator=generator, dtype=torch.float64) for shape in shapes
    )
    given = value - 0.5, locations * 1.6 - 0.3, weights - 0.3
    return [x.to(dtype) for x in given]


@dataclass(frozen=True)
class Call:
    """Sizes of one call; `q` None: the queries are the pixels, as in an encoder."""

    maps: tuple[tuple[int, int], ...] = ((5, 7), (3, 3), (2, 2), (1, 1))
    points: tuple[int, ...] = (4, 4, 4, 4)
    b: int = 2
    q: int | None = 5
    m: int = 2
    d: int = 32

    @property
    def tokens(self) -> int:
        return sum(h * w for h, w in self.maps)

    @property
    def queries(self) -> int:
        return self.tokens if self.q is None else self.q

    def draw(self, dtype: torch.dtype = torch.float32, seed: int = 0) -> list[Tensor]:
        """Value, locations (some beyond the map) and weights, P points each."""
        exact = torch.promote_types(dtype, torch.float32)
        generator = torch.Generator().manual_seed(seed)
        row = (self.b, self.queries, self.m, sum(self.points))
        value = torch.randn(self.b, self.tokens, self.m, self.d, generator=generator)
        locations = torch.rand(*row, 2, generator=generator) * 1.6 - 0.3
        weights = torch.rand(row, generator=generator)
        return [value.to(dtype), locations.to(exact), weights.to(exact)]

    def ask(self, numbers: int, seed: int = 1) -> list[Tensor]:
        """References of so many numbers, offsets and logits."""
        generator = torch.Generator().manual_seed(seed)
        row = (self.b, self.queries, self.m, sum(self.points))
        place = (self.b, self.queries, len(self.maps), numbers)
        references = torch.rand(place, generator=generator)
        offsets = torch.randn(*row, 2, generator=generator) * 2
        return [references, offsets, torch.randn(row, generator=generator) * 3]

    def read(self, value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
        """The sum by torch's operators in float64, level by level: K may differ."""
        exact = (x.double() for x in (value, locations, weights))
        value, locations, weights = exact
        areas = [h * w for h, w in self.maps]
        split = (
            value.split(areas, 1),
            locations.split(self.points, 3),
            weights.split(self.points, 3),
        )
        with backend.use("torch"):
            return sum(
                read_points(v, (size,), x[:, :, :, None], a[:, :, :, None])
                for size, v, x, a in zip(self.maps, *split, strict=True)
            )

    def answer(self, references, offsets, logits) -> tuple[Tensor, Tensor]:
        """Locations and weights of what `ask` gives, in float64."""
        references, offsets = references.double(), offsets.double()
        k = torch.tensor(self.points)
        level = torch.arange(len(k)).repeat_interleave(k)  # [P]
        at = references[:, :, None, level]  # [B, Q, 1, P, 2 or 4]
        if references.shape[-1] == 4:
            extent = at[..., 2:] / (2 * k[level][:, None])
        else:
            extent = 1 / torch.tensor(self.maps).double().flip(1)[level]
        return at[..., :2] + offsets * extent, logits.double().softmax(-1)


CALLS = {  # shapes that every fast step takes
    "a decoder": Call(),
    "an encoder": Call(((9, 10), (5, 4)), (8, 8), q=None),
    "tiles that fit": Call(((8, 8), (4, 4)), (4, 4), b=1, q=None),
    "lines of pixels": Call(((1, 9), (10, 1), (1, 1)), (3, 6, 3), b=1, q=None, m=1),
    "more queries than a block has": Call(((4, 6),), (12,), b=1, q=70, m=1, d=16),
    "other points on each level": Call(((6, 5), (3, 3), (2, 2)), (3, 6, 3), m=3),
    "32 points": Call(((4, 6),), (32,), b=1, q=3, d=64),
    "one point": Call(((3, 3),), (1,), b=1, q=4, m=1, d=16),
    "a level without points": Call(((3, 3), (2, 2), (4, 4)), (0, 5, 0), b=1),
    "eight levels": Call(((3, 3),) * 8, (2,) * 8, b=1, q=9, m=5),
}
