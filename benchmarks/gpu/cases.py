"""What is computed: shapes, and where the points of their queries lie."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from detr_steps import zoo
from detr_steps.data.scenes import Scenes
from detr_steps.nn.deform_attention import star
from detr_steps.nn.trace import SamplingPoints
from detr_steps.ops.read_points import Sizes
from detr_steps.systems.output import Trace

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
SPREADS = ("uniform", "gaussian", "initial", "trained")


@dataclass(frozen=True)
class Shape:
    """B images, Q queries (None: every token asks), M heads of D, K of each level."""

    images: int
    queries: int | None
    heads: int
    width: int
    sizes: Sizes
    points: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """S: pixels of all levels."""
        return sum(h * w for h, w in self.sizes)

    @property
    def asked(self) -> int:
        """Q."""
        return self.tokens if self.queries is None else self.queries

    @property
    def flat_sizes(self) -> list[int]:
        """h, w of the first level, h, w of the next one, as the operator wants them."""
        return [side for size in self.sizes for side in size]

    def by_point(self, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """(w, h) of the level that each of the P points reads `[P, 2]`, and which."""
        level = torch.arange(len(self.sizes)).repeat_interleave(
            torch.tensor(self.points)
        )
        extent = torch.tensor([(float(w), float(h)) for h, w in self.sizes])
        return extent[level].to(device), level.to(device)


PHOTO = ((100, 134), (50, 67), (25, 34), (13, 17))
STANDARD = {
    "encoder": Shape(2, None, 8, 32, PHOTO, (4, 4, 4, 4)),
    "decoder": Shape(2, 300, 8, 32, PHOTO, (4, 4, 4, 4)),
}
SMALL = ((5, 9), (3, 5), (2, 2), (1, 2))  # for a dry run
DRY = {
    "encoder": Shape(1, None, 2, 32, SMALL, (4, 4, 4, 4)),
    "decoder": Shape(1, 3, 2, 32, SMALL, (4, 4, 4, 4)),
}
ODD = {
    "one level": Shape(1, None, 3, 32, ((7, 11),), (4,)),
    "one pixel": Shape(2, None, 1, 16, ((1, 1), (1, 3), (4, 1)), (2, 3, 1)),
    "other K on each level": Shape(2, 5, 2, 32, ((6, 5), (3, 3), (2, 1)), (3, 6, 3)),
    "narrow heads": Shape(1, 9, 4, 8, ((6, 5), (3, 3)), (4, 4)),
    "wide heads": Shape(1, 9, 2, 64, ((6, 5), (3, 3)), (4, 4)),
    "odd heads": Shape(2, 4, 2, 24, ((6, 5), (3, 3)), (2, 3)),
    "more points than lanes": Shape(1, 3, 1, 16, ((6, 5), (3, 3)), (20, 20)),
    "nobody asks": Shape(1, 0, 2, 32, ((6, 5),), (4,)),
    "cut tiles": Shape(2, None, 2, 32, ((9, 17), (8, 8), (3, 20)), (4, 4, 4)),
}


@dataclass(frozen=True)
class Inputs:
    """One call: what the operator takes, and what it works out when it is fused."""

    shape: Shape
    value: Tensor  # [B, S, M, D]
    locations: Tensor  # [B, Q, M, P, 2], shares of the map
    weights: Tensor  # [B, Q, M, P]
    references: Tensor  # [B, Q, L, 2]
    offsets: Tensor  # [B, Q, M, P, 2], pixels
    logits: Tensor  # [B, Q, M, P]
    grad: Tensor  # [B, Q, M·D]

    @property
    def bytes(self) -> int:
        """What all arrays take."""
        arrays = (self.value, self.locations, self.weights, self.grad)
        return sum(x.numel() * x.element_size() for x in arrays)


def make(
    shape: Shape,
    spread: str = "uniform",
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
    role: str = "encoder",
) -> Inputs:
    """Draw one call; `spread` is one of SPREADS, `role` picks the trained attention."""
    draw = torch.Generator().manual_seed(seed)
    b, q, m, p = shape.images, shape.asked, shape.heads, sum(shape.points)
    extent, level = shape.by_point()
    centres = references(shape, draw)  # [B, Q, 2]
    at = centres[:, :, None, None]  # [B, Q, 1, 1, 2]
    if spread == "uniform":
        offsets = (torch.rand(b, q, m, p, 2, generator=draw) - at) * extent
    else:
        offsets = _OFFSETS[spread](shape, draw, role).expand(b, q, m, p, 2)
    logits = torch.randn(b, q, m, p, generator=draw)
    value = torch.randn(b, shape.tokens, m, shape.width, generator=draw)
    grad = torch.randn(b, q, m * shape.width, generator=draw)

    def there(x: Tensor, kind: torch.dtype = torch.float32) -> Tensor:
        return x.to(device, kind).contiguous()

    return Inputs(
        shape,
        there(value, dtype),
        there(at + offsets / extent),
        there(logits.softmax(-1)),
        there(centres[:, :, None].expand(-1, -1, len(shape.sizes), -1)),
        there(offsets),
        there(logits),
        there(grad, dtype),
    )


def references(shape: Shape, draw: torch.Generator) -> Tensor:
    """Where queries look first `[B, Q, 2]`: at themselves, or anywhere."""
    if shape.queries is not None:
        return torch.rand(shape.images, shape.queries, 2, generator=draw)
    levels = []
    for h, w in shape.sizes:
        y, x = ((torch.arange(side) + 0.5) / side for side in (h, w))
        levels.append(torch.cartesian_prod(y, x).flip(-1))
    return torch.cat(levels).expand(shape.images, -1, -1)


def _gaussian(shape: Shape, draw: torch.Generator, role: str) -> Tensor:
    """Two pixels away in every direction, each point for itself."""
    size = (shape.images, shape.asked, shape.heads, sum(shape.points), 2)
    return 2 * torch.randn(size, generator=draw)


def _initial(shape: Shape, draw: torch.Generator, role: str) -> Tensor:
    """The star of every fresh attention: the same for all queries."""
    stars = [star(shape.heads, 1, k)[:, 0] for k in shape.points]
    return torch.cat(stars, 1)[None, None]  # [1, 1, M, P, 2]


def _trained(shape: Shape, draw: torch.Generator, role: str) -> Tensor:
    """As far away, and as different between queries, as in a trained attention."""
    mean, deviation = trained_offsets(role)  # [M, L, K, 2]
    heads = torch.arange(shape.heads) % mean.shape[0]
    places = [
        (min(level, mean.shape[1] - 1), k % mean.shape[2])
        for level, points in enumerate(shape.points)
        for k in range(points)
    ]
    mean, deviation = (
        torch.stack([x[heads, level, k] for level, k in places], 1)  # [M, P, 2]
        for x in (mean, deviation)
    )
    size = (shape.images, shape.asked, shape.heads, len(places), 2)
    return mean + deviation * torch.randn(size, generator=draw)


_OFFSETS: dict[str, Callable[..., Tensor]] = {
    "gaussian": _gaussian,
    "initial": _initial,
    "trained": _trained,
}
_KNOWN: dict[str, tuple[Tensor, Tensor]] = {}


@torch.no_grad()
def trained_offsets(role: str, pictures: int = 16) -> tuple[Tensor, Tensor]:
    """Mean and deviation of deformable-tiny's offsets, in pixels: `[M, L, K, 2]`.

    Over all queries of the last encoder layer, or of all decoder layers together, on
    pictures that it has not seen. Offsets count pixels of their own level, so they are
    taken as they are for larger maps; a fourth level gets the third one's. Neighbouring
    queries agree more than independent draws of the same deviation do: real points find
    more in the caches than these.
    """
    if role not in _KNOWN:
        model = zoo.load("deformable-tiny").eval()
        batch, _ = next(Scenes("val").evaluation_batches(pictures, pictures))
        trace = model(batch, trace=True).trace
        if role == "encoder":
            moved = _moved(trace.encoder[-1], trace.centres, trace)
        else:
            steps = zip(trace.decoder_cross, trace.references)
            moved = torch.cat([_moved(seen, at, trace) for seen, at in steps], 1)
        flat = moved.flatten(0, 1)  # [B·Q, M, L, K, 2]
        _KNOWN[role] = flat.mean(0), flat.std(0)
    return _KNOWN[role]


def _moved(seen: SamplingPoints, references: Tensor, trace: Trace) -> Tensor:
    """Offsets in pixels `[B, Q, M, L, K, 2]`: locations less where they start from."""
    start = references[:, :, None, None, None, :2]
    start = start * trace.valid[:, None, None, :, None]
    extent = torch.tensor([(float(w), float(h)) for h, w in trace.sizes])
    return (seen.locations - start) * extent[:, None]


def off_the_grid(given: Inputs) -> Inputs:
    """The same with every point well between pixels.

    On a pixel the gradient of a location jumps, and rounding decides which of two right
    answers comes out.
    """
    extent, _ = given.shape.by_point(given.locations.device)
    x = given.locations * extent - 0.5
    x = x.floor() + 0.05 + 0.9 * (x - x.floor())
    locations = (x + 0.5) / extent
    start = given.references[..., :1, :].unsqueeze(3)  # [B, Q, 1, 1, 2]
    offsets = (locations - start) * extent
    return replace(given, locations=locations, offsets=offsets)


def exact(given: Inputs) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Result and gradients (value, locations, weights) by torch's operators in float64.

    From the numbers as they are: values in half precision are not what is rounded here.
    """
    arrays = (given.value, given.locations, given.weights)
    value, locations, weights = (x.detach().double().requires_grad_() for x in arrays)
    shape = given.shape
    tokens = value.split([h * w for h, w in shape.sizes], 1)
    at = locations.split(list(shape.points), 3)
    result = 0.0
    for level, places, share, size in zip(
        tokens, at, weights.split(list(shape.points), 3), shape.sizes
    ):
        maps = level.permute(0, 2, 3, 1).flatten(0, 1).unflatten(-1, size)
        grid = 2 * places.transpose(1, 2).flatten(0, 1) - 1  # [B·M, Q, K, 2]
        read = F.grid_sample(maps, grid, align_corners=False)  # [B·M, D, Q, K]
        read = read.unflatten(0, (shape.images, shape.heads))
        result = result + (read * share.transpose(1, 2)[:, :, None]).sum(-1)
    result = result.permute(0, 3, 1, 2).flatten(2)  # [B, Q, M·D]
    grads = torch.autograd.grad(
        result, (value, locations, weights), given.grad.double()
    )
    return result.detach(), grads
