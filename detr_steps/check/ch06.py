"""Checks of the exercises of chapters/06_deformable_attention.ipynb."""

import torch
from torch import Tensor

from ..ops.sample import sample
from .trying import exercise, numbers, turned

SIZE = (4, 6)  # of the map: height and width differ, so that a mix-up shows


def _extent(size: tuple[int, int]) -> Tensor:
    return torch.tensor([size[1], size[0]])


places = exercise(__name__, "places", """
    Check exercise 1, `mine(references [Q, 2], offsets, (h, w))` -> `[Q, M, K, 2]`.

    Sampling points (x, y), shares like the references; `offsets [Q, M, K, 2]` (dx, dy)
    in pixels. Source: Zhu et al. 2020, equation 2.""",
    named=True, praise="pixels divided by (w, h), added to the reference.",
    cases=[(numbers(3, 2), 3 * numbers(3, 2, 4, 2) - 1, SIZE)],
    answer=lambda references, offsets, size, half=0.0, less=0:
        references[:, None, None] + (offsets + half) / (_extent(size) - less),
    mistakes={
        "the offsets are pixels, the reference is a share: divide them by the map's "
        "width and height before you add.": {"size": (1, 1)},
        "height and width are swapped: size is (h, w), an offset is (dx, dy). The "
        "paper's released code had this mistake until December 2020.": {"size": turned},
        "divided by w - 1: that counts from the centre of the first pixel to that of "
        "the last. A map of w pixels is w pixels wide.": {"less": 1},
        "half a pixel too far: a reference already says where in the map it is, in "
        "shares. Only a pixel's number needs + 0.5.": {"half": 0.5},
        "half a pixel too little: a reference already says where in the map it is. "
        "Nothing is left to correct.": {"half": -0.5},
        "the reference is (x, y) like the offset: do not turn it round.":
            {"references": turned},
        "dx and dy are swapped: deformable attention has (dx, dy), unlike "
        "torchvision's convolution.": {"offsets": turned},
        "these are pixels: divide by (w, h) to return shares.":
            {"result": lambda at: at * _extent(SIZE)},
        "grid_sample counts from -1 to 1; a location here goes from 0 to 1.":
            {"result": lambda at: 2 * at - 1},
        "the offsets are subtracted: they lead away from the reference, so add them.":
            {"offsets": torch.neg},
    },
    unit="point",
)  # fmt: skip


def _box_places(boxes, offsets, share=lambda heads, points: 2 * points):
    centre, extent = boxes[:, None, None, :2], boxes[:, None, None, 2:]
    return centre + offsets * extent / share(*offsets.shape[1:3])


box_places = exercise(__name__, "box_places", """
    Check exercise 2, `mine(boxes [Q, 4], offsets [Q, M, K, 2])` -> `[Q, M, K, 2]`.

    Sampling points (x, y) in shares; K steps reach the side of a box, cxcywh. Source:
    Zhu et al. 2020, appendix A.4; that K steps reach it, the official code.""",
    named=True, praise="K steps reach the side of a box, however large it is.",
    cases=[(numbers(5, 4), 6 * numbers(5, 3, 4, 2) - 3)], answer=_box_places,
    mistakes={
        "twice too far: from the centre to a side is *half* the width.":
            {"share": lambda heads, points: points},
        "K times too far: point k (of 1 … K) starts at k steps, so divide by K and the "
        "last one lies on the side.": {"share": lambda heads, points: 2},
        "too far: an offset of K is half a box, so divide by 2 and by K.":
            {"share": lambda heads, points: 1},
        "divided by the number of heads: it is K, the second last size of offsets.":
            {"share": lambda heads, points: 2 * heads},
        "width and height are swapped: dx goes with w.":
            {"boxes": lambda b: b[:, [0, 1, 3, 2]]},
        "measured from the box's corner: a box here is (cx, cy, w, h), its first two "
        "numbers are the centre.":
            {"boxes": lambda b: torch.cat((b[:, :2] - b[:, 2:] / 2, b[:, 2:]), 1)},
        "a box here is (cx, cy, w, h), not two corners: the centre is given.":
            {"boxes": lambda b: torch.cat(((b[:, :2] + b[:, 2:]) / 2, b[:, 2:]), 1)},
        "the size of the box does not matter in yours: multiply by (w, h).":
            {"boxes": lambda b: torch.cat((b[:, :2], torch.ones_like(b[:, 2:])), 1)},
    },
    unit="point",
)  # fmt: skip


def _core(value, size, locations, scores, weigh=lambda scores: scores.softmax(-1)):
    maps = value.permute(1, 2, 0).unflatten(2, size)  # [M, D, h, w]
    found = sample(maps, locations.transpose(0, 1))  # [M, D, Q, K]
    read = (found * weigh(scores).transpose(0, 1)[:, None]).sum(-1)  # [M, D, Q]
    return read.permute(2, 0, 1).flatten(1)


core = exercise(__name__, "core", """
    Check exercise 3, `mine(value, (h, w), locations, scores)` -> `[Q, M * D]`.

    `value [S, M, D]`, `locations [Q, M, K, 2]` (x, y), `scores [Q, M, K]` of one image
    and one level. Source: Zhu et al. 2020, equation 2.""",
    named=True, praise="each head read its own channels at its own points.",
    cases=[(
        numbers(SIZE[0] * SIZE[1], 3, 5), SIZE,
        1.2 * numbers(7, 3, 4, 2) - 0.1, 6 * numbers(7, 3, 4),
    )],
    answer=_core,
    mistakes={
        "the scores were not made into weights: softmax first.":
            {"weigh": lambda scores: scores},
        "softmax over the queries: then queries compete. Each query shares out its own "
        "weight over its K points, the last axis.":
            {"weigh": lambda scores: scores.softmax(0)},
        "softmax over the heads: each head has weights of its own, over its K points, "
        "the last axis.": {"weigh": lambda scores: scores.softmax(1)},
        "softmax over heads and points together: each head's weights sum to 1.":
            {"weigh": lambda scores: scores.flatten(1).softmax(1).view_as(scores)},
        "a plain mean: the scores do not matter in yours.":
            {"weigh": lambda scores: torch.full_like(scores, 1 / scores.shape[-1])},
        "x and y are swapped: locations are (x, y), as `sample` wants them.":
            {"locations": turned},
        "the tokens were laid out as a map of w rows: S splits into (h, w).":
            {"size": turned},
        "`sample` takes shares, 0 to 1: -1 to 1 is what grid_sample wants.":
            {"locations": lambda x: 2 * x - 1},
        "half a pixel off, as in section 3: align_corners=True is for locations "
        "counted from the first pixel's centre. Use `sample`.":
            {"locations": lambda x: (x * (_extent(SIZE) - 1) + 0.5) / _extent(SIZE)},
        "all heads read the channels of head 0: value[:, m] belongs to head m.":
            {"value": lambda v: v[:, :1].expand_as(v)},
        "all heads look where head 0 looks: locations[:, m] belong to head m.":
            {"locations": lambda x: x[:, :1].expand_as(x)},
        "heads are mixed: [S, M, D] was reshaped where it needed a permute.":
            {"value": lambda v: v.reshape(-1, 5, 3).transpose(1, 2)},
        "heads are mixed in the result: it is head 0's D channels, then head 1's.":
            {"result": lambda x: x.unflatten(1, (3, 5)).transpose(1, 2).flatten(1)},
        "the heads were added up: lay them side by side, [Q, M * D].":
            {"result": lambda x: x.unflatten(1, (3, 5)).sum(1)},
        "nearly: lay the heads side by side, [Q, M * D].":
            {"result": lambda x: x.unflatten(1, (3, 5))},
    },
    shape="[Q, M * D] = {}", unit="query",
)  # fmt: skip

half_pixel = exercise(__name__, "half_pixel", """
    Check the mended line of section 3, `mine(at [..., 2], (h, w))` -> `[..., 2]`.

    Pixel numbers (x, y) to -1 … 1, for `grid_sample` with align_corners=False.""",
    named=True, praise="zero flow gives the map back.",
    cases=[(torch.stack(torch.meshgrid(
        torch.arange(7.0), torch.arange(5.0), indexing="xy"), -1), (5, 7))],
    answer=lambda at, size, half=0.5, less=0:
        2 * (at + half) / (_extent(size) - less) - 1,
    mistakes={
        "still the old line: it maps pixel 0 to -1, which is the map's *edge*.":
            {"half": 0, "less": 1},
        "divided by the right numbers; now pixel 0 lies on the edge. Its centre is "
        "half a pixel further in.": {"half": 0},
        "the half pixel is there; but the whole map is w wide, not w - 1.": {"less": 1},
        "w and h are swapped: x comes first.": {"size": turned},
        "these are shares, 0 to 1: grid_sample wants -1 to 1.":
            {"result": lambda grid: (grid + 1) / 2},
        "half a pixel in the wrong direction: pixel j has its centre at j + 0.5.":
            {"half": -0.5},
    },
    kind="return a tensor like the one that came in, (x, y) last.",
    shape="{} like what came in", unit="pixel",
)  # fmt: skip
