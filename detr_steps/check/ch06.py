"""Checks of the exercises of chapters/06_deformable_attention.ipynb."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from ..ops.sample import sample
from . import Verdict, right, wrong

NOT_YET = "not yet: {} still returns None. Write it, then run this cell again."
SIZE = (4, 6)  # of the map: height and width differ, so that a mix-up shows
Slips = list[tuple[Tensor, str]]


def _numbers(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and torch.allclose(a.double(), b.double(), atol=1e-4)


def _judge(
    name: str, answer: Callable, given: tuple, wanted: Tensor, slips: Slips, praise: str
) -> Verdict:
    """Call the reader's function and name the first slip that explains its result."""
    try:
        result = answer(*(x.clone() if isinstance(x, Tensor) else x for x in given))
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        shapes = ", ".join(
            str(list(x.shape)) if isinstance(x, Tensor) else str(x) for x in given
        )
        return wrong(f"it stops with: {error}. It was called with {shapes}.")
    if result is None:
        return wrong(NOT_YET.format(name))
    if not isinstance(result, Tensor):
        return wrong(f"return a tensor, not {type(result).__name__}.")
    if _close(result, wanted):
        return right(praise)
    for slip, diagnosis in slips:
        if _close(result, slip):
            return wrong(diagnosis)
    if result.shape != wanted.shape:
        return wrong(f"expected {list(wanted.shape)}, got {list(result.shape)}.")
    at = tuple(int(i) for i in (~((result - wanted).abs() < 1e-4)).nonzero()[0])
    return wrong(f"at {list(at)}: expected {wanted[at]:.3f}, got {result[at]:.3f}.")


def places(answer: Callable[[Tensor, Tensor, tuple], Tensor]) -> Verdict:
    """Check exercise 1: `(references [Q, 2], offsets [Q, M, K, 2], (h, w))` to shares.

    Offsets (dx, dy) count pixels; the result `[Q, M, K, 2]` is (x, y) in shares.
    """
    references, offsets = _numbers(3, 2), 3 * _numbers(3, 2, 4, 2) - 1
    height, width = SIZE
    extent = torch.tensor([width, height])
    start = references[:, None, None]
    wanted = start + offsets / extent
    slips = [
        (
            start + offsets,
            "the offsets are pixels, the reference is a share: divide them by the "
            "map's width and height before you add.",
        ),
        (
            start + offsets / extent.flip(0),
            "height and width are swapped: size is (h, w), an offset is (dx, dy). The "
            "paper's released code had this mistake until December 2020.",
        ),
        (
            start + offsets / (extent - 1),
            "divided by w - 1: that counts from the centre of the first pixel to that "
            "of the last. A map of w pixels is w pixels wide.",
        ),
        (
            start + (offsets + 0.5) / extent,
            "half a pixel too far: a reference already says where in the map it is, "
            "in shares. Only a pixel's number needs + 0.5.",
        ),
        (
            start + (offsets - 0.5) / extent,
            "half a pixel too little: a reference already says where in the map it "
            "is. Nothing is left to correct.",
        ),
        (
            start.flip(-1) + offsets / extent,
            "the reference is (x, y) like the offset: do not turn it round.",
        ),
        (
            start + offsets.flip(-1) / extent,
            "dx and dy are swapped: deformable attention has (dx, dy), unlike "
            "torchvision's convolution.",
        ),
        (
            start * extent + offsets,
            "these are pixels: divide by (w, h) to return shares.",
        ),
        (
            2 * wanted - 1,
            "grid_sample counts from -1 to 1; a location here goes from 0 to 1.",
        ),
    ]
    return _judge(
        "my_places",
        answer,
        (references, offsets, SIZE),
        wanted,
        slips,
        "pixels divided by (w, h), added to the reference.",
    )


def box_places(answer: Callable[[Tensor, Tensor], Tensor]) -> Verdict:
    """Check exercise 2: `(boxes [Q, 4] cxcywh, offsets [Q, M, K, 2])` to shares.

    An offset of (K, 0) must lie on the right side of the box.
    """
    boxes, offsets = _numbers(5, 4), 6 * _numbers(5, 3, 4, 2) - 3
    points = offsets.shape[2]
    centre, extent = boxes[:, None, None, :2], boxes[:, None, None, 2:]
    wanted = centre + offsets * extent / (2 * points)
    slips = [
        (
            centre + offsets * extent / points,
            "twice too far: from the centre to a side is *half* the width.",
        ),
        (
            centre + offsets * extent / 2,
            "K times too far: point k (of 1 … K) starts at k steps, so divide by K and "
            "the last one lies on the side.",
        ),
        (
            centre + offsets * extent,
            "too far: an offset of K is half a box, so divide by 2 and by K.",
        ),
        (
            centre + offsets * extent / (2 * offsets.shape[1]),
            "divided by the number of heads: it is K, the second last size of offsets.",
        ),
        (
            centre + offsets * extent.flip(-1) / (2 * points),
            "width and height are swapped: dx goes with w.",
        ),
        (
            centre - extent / 2 + offsets * extent / (2 * points),
            "measured from the box's corner: a box here is (cx, cy, w, h), its first "
            "two numbers are the centre.",
        ),
        (
            (centre + extent) / 2 + offsets * extent / (2 * points),
            "a box here is (cx, cy, w, h), not two corners: the centre is given.",
        ),
        (
            centre + offsets / (2 * points),
            "the size of the box does not matter in yours: multiply by (w, h).",
        ),
    ]
    return _judge(
        "my_box_places",
        answer,
        (boxes, offsets),
        wanted,
        slips,
        "K steps reach the side of a box, however large it is.",
    )


def core(answer: Callable) -> Verdict:
    """Check exercise 3: the core for one image and one level.

    `(value [S, M, D], (h, w), locations [Q, M, K, 2], scores [Q, M, K])` to what is
    read, `[Q, M * D]`.
    """
    heads, points = 3, 4
    value = _numbers(SIZE[0] * SIZE[1], heads, 5)
    locations = 1.2 * _numbers(7, heads, points, 2) - 0.1
    scores = 6 * _numbers(7, heads, points)
    given = (value, SIZE, locations, scores)
    apart = scores.softmax(-1)  # [Q, M, K]
    wanted = _core(value, locations, apart)
    slips = [
        (
            _core(value, locations, scores),
            "the scores were not made into weights: softmax first.",
        ),
        (
            _core(value, locations, scores.softmax(0)),
            "softmax over the queries: then queries compete. Each query shares out its "
            "own weight over its K points, the last axis.",
        ),
        (
            _core(value, locations, scores.softmax(1)),
            "softmax over the heads: each head has weights of its own, over its K "
            "points, the last axis.",
        ),
        (
            _core(value, locations, scores.flatten(1).softmax(1).view_as(scores)),
            "softmax over heads and points together: each head's weights sum to 1.",
        ),
        (
            _core(value, locations, torch.full_like(scores, 1 / points)),
            "a plain mean: the scores do not matter in yours.",
        ),
        (
            _core(value, locations.flip(-1), apart),
            "x and y are swapped: locations are (x, y), as `sample` wants them.",
        ),
        (
            _core(value, locations, apart, size=SIZE[::-1]),
            "the tokens were laid out as a map of w rows: S splits into (h, w).",
        ),
        (
            _core(value, 2 * locations - 1, apart),
            "`sample` takes shares, 0 to 1: -1 to 1 is what grid_sample wants.",
        ),
        (
            _core(value, _corners_aligned(locations), apart),
            "half a pixel off, as in section 3: align_corners=True is for locations "
            "counted from the first pixel's centre. Use `sample`.",
        ),
        (
            _core(value[:, :1].expand_as(value), locations, apart),
            "all heads read the channels of head 0: value[:, m] belongs to head m.",
        ),
        (
            _core(value, locations[:, :1].expand_as(locations), apart),
            "all heads look where head 0 looks: locations[:, m] belong to head m.",
        ),
        (
            _core(_regrouped(value), locations, apart),
            "heads are mixed: [S, M, D] was reshaped where it needed a permute.",
        ),
        (
            wanted.unflatten(1, (heads, -1)).transpose(1, 2).flatten(1),
            "heads are mixed in the result: it is head 0's D channels, then head 1's.",
        ),
        (
            wanted.unflatten(1, (heads, -1)).sum(1),
            "the heads were added up: lay them side by side, [Q, M * D].",
        ),
        (
            wanted.unflatten(1, (heads, -1)),
            "nearly: lay the heads side by side, [Q, M * D].",
        ),
    ]
    return _judge(
        "my_core",
        answer,
        given,
        wanted,
        slips,
        "each head read its own channels at its own points.",
    )


def _core(
    value: Tensor, locations: Tensor, weights: Tensor, size: tuple[int, int] = SIZE
) -> Tensor:
    """The core with ready weights, `[Q, M * D]`."""
    maps = value.permute(1, 2, 0).unflatten(2, size)  # [M, D, h, w]
    found = sample(maps, locations.transpose(0, 1))  # [M, D, Q, K]
    read = (found * weights.transpose(0, 1)[:, None]).sum(-1)  # [M, D, Q]
    return read.permute(2, 0, 1).flatten(1)


def _corners_aligned(locations: Tensor) -> Tensor:
    """Locations that `sample` reads as align_corners=True reads the given ones."""
    extent = torch.tensor([SIZE[1], SIZE[0]])
    return (locations * (extent - 1) + 0.5) / extent


def _regrouped(value: Tensor) -> Tensor:
    """Channels as they come out when `[S, M, D]` is read as `[S, D, M]`."""
    return value.flatten(1).unflatten(1, (value.shape[2], -1)).transpose(1, 2)


def half_pixel(answer: Callable[[Tensor, tuple], Tensor]) -> Verdict:
    """Check the mended line of section 3: pixel numbers `[..., 2]` to -1 … 1.

    Judged by what `grid_sample` with its default, align_corners=False, then reads.
    """
    x = _numbers(1, 2, 5, 7)
    rows, columns = torch.meshgrid(torch.arange(5), torch.arange(7), indexing="ij")
    at = torch.stack((columns, rows), -1).float()
    grid = answer(at.clone(), (5, 7))
    if grid is None:
        return wrong(NOT_YET.format("mended"))
    if not isinstance(grid, Tensor) or grid.shape != at.shape:
        return wrong("return a tensor like the one that came in, (x, y) last.")
    if _close(_read(x, grid), x):
        return right("zero flow gives the map back.")
    extent = torch.tensor([7, 5])
    slips = [
        (
            2 * at / (extent - 1) - 1,
            "still the old line: it maps pixel 0 to -1, which is the map's *edge*.",
        ),
        (
            2 * at / extent - 1,
            "divided by the right numbers; now pixel 0 lies on the edge. Its centre is "
            "half a pixel further in.",
        ),
        (
            2 * (at + 0.5) / (extent - 1) - 1,
            "the half pixel is there; but the whole map is w wide, not w - 1.",
        ),
        (
            2 * (at + 0.5) / extent.flip(0) - 1,
            "w and h are swapped: x comes first.",
        ),
        (
            (at + 0.5) / extent,
            "these are shares, 0 to 1: grid_sample wants -1 to 1.",
        ),
    ]
    for slip, diagnosis in slips:
        if _close(grid, slip):
            return wrong(diagnosis)
    return wrong(
        f"the first pixel goes to {grid[0, 0].tolist()}; its centre is at "
        f"{[round(2 * 0.5 / n - 1, 3) for n in (7, 5)]}."
    )


def _read(x: Tensor, grid: Tensor) -> Tensor:
    return functional.grid_sample(x, grid[None], align_corners=False)
