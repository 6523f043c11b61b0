"""Checks of the puzzles of chapters/07_cuda_kernel.ipynb.

Each takes the text of a CUDA kernel, runs it on the emulator with several orders of
threads, and says which mistake explains what comes out.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .. import cuda_lab
from ..ops.sample import four_corners
from . import Verdict
from .kernels import Slips, Trial, judge
from .reads import drawn as drawn

SIZE = (4, 6)  # of the map: height and width differ, so that a mix-up shows
WIDTH = 8  # channels
OUTSIDE = (
    "at the border. A point may lie between the first pixel and the edge: skip corners "
    "with column < 0, column >= w, row < 0 or row >= h"
)


UNWRITTEN = (
    "this place was read before the thread that finds the point had written it. A "
    "barrier, __syncthreads();, is missing between the two."
)


ASTRAY = (
    "there is a __syncthreads();, but threads get from writing to reading without it. "
    "Put it between the two, outside of the if: all threads of the block must pass it."
)
NOT_A_PIXEL = (
    "place is no number of a pixel, row * w + column: it is multiplied by width later, "
    "where value is read."
)


def _numbers(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def _unwritten(*shape: int) -> Tensor:
    return torch.full(shape, float("nan"))


# --- puzzle 1: one thread per channel -----------------------------------------------


def one_per_channel(text: str | None) -> Verdict:
    """Check puzzle 1, the kernel `one_per_channel`: q, c, the border, the address."""
    trials = [_reading(inside) for inside in (True, False)]
    return judge(
        text,
        "one_per_channel",
        trials,
        "each thread read its own channel, also at the border.",
    )


def _reading(inside: bool) -> Trial:
    """A launch over points inside the map, or some beyond its border."""
    queries, points, (h, w) = 5, 3, SIZE
    value, weight = _numbers(h * w, WIDTH), _numbers(queries, points)
    at = _numbers(queries, points, 2)
    at = 0.2 + 0.6 * at if inside else 1.3 * at - 0.15
    wanted = _read(value, at, weight)
    given = (value, at, weight, _unwritten(queries, WIDTH), queries, points, h, w, 8)
    border = f"{OUTSIDE}." if not inside else None
    return Trial(
        grid=1,
        block=64,
        given=given,
        result=3,
        wanted=wanted,
        slips=_reading_slips(value, at, weight, wanted),
        faults={
            "bounds at[": "q = i / width: a query has width threads, a channel each.",
            "bounds": border
            or "pixels lie row by row, channels side by side: "
            "value[(row * w + column) * width + c].",
        },  # fmt: skip
    )


def _reading_slips(value: Tensor, at: Tensor, weight: Tensor, wanted: Tensor) -> Slips:
    queries = len(at)
    turned = wanted.T.reshape(queries, WIDTH)  # thread i did (i % queries, i / queries)
    i, pixel = torch.arange(wanted.numel()), torch.arange(len(value))
    row, column = pixel // SIZE[1], pixel % SIZE[1]
    narrow = value.flatten()[pixel[:, None] * SIZE[1] + torch.arange(WIDTH)]
    return [
        (
            wanted[i // WIDTH, i % queries].view(queries, WIDTH),
            "c runs over the channels: c = i % width, not i % queries.",
        ),
        (
            _read(value[row * SIZE[0] + column], at, weight),
            "a row has w pixels, not h: row * w + column.",
        ),
        (
            _read(narrow, at, weight),
            "from a pixel to the next there are width numbers, not w: "
            "(row * w + column) * width + c.",
        ),
        (
            turned,
            "query and channel are swapped: neighbours i, i + 1 are channels c, c + 1 "
            "of one query, so c = i % width.",
        ),
        (
            _read(value, at.flip(-1), weight),
            "x and y are swapped: at holds x first, and x goes with w.",
        ),
        (
            _read(value, at, weight, half=0.0),
            "half a pixel off: pixel j has its centre at j + 0.5, so x * w - 0.5f.",
        ),
        (
            _read(value.reshape(SIZE[1], SIZE[0], WIDTH).transpose(0, 1), at, weight),
            "columns were laid out one after another: pixels lie row by row, "
            "row * w + column.",
        ),
        (
            _read(value, at, weight, border="clamp"),
            "points beyond the border read the outermost pixel: they should read 0.",
        ),
        (
            _read(value.view(WIDTH, -1).T, at, weight),
            "channels lie side by side: pixel * width + c, not c * pixels + pixel.",
        ),
        (
            _read(value[:, :1].expand(-1, WIDTH), at, weight),
            "all threads read channel 0: the address lacks + c.",
        ),
        (
            _read(value, at, torch.ones_like(weight)),
            "the points' weights are missing: weight[p] * share * value.",
        ),
    ]


def _read(
    value: Tensor,
    at: Tensor,
    weight: Tensor,
    half: float = 0.5,
    border: str = "zero",
) -> Tensor:
    """The sum that puzzles 1 and 2 want, `[Q, D]`, or what a mistake makes of it."""
    value = value.reshape(-1, WIDTH)
    at = at + (0.5 - half) / torch.tensor([SIZE[1], SIZE[0]])
    index, share = four_corners(at, SIZE)  # [Q, K, 4]
    if border == "clamp":
        x, y = (at * torch.tensor([SIZE[1], SIZE[0]]) - 0.5).unbind(-1)
        x, y = x - x.floor(), y - y.floor()
        share = torch.stack(((1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y), -1)
    return (value[index] * (share * weight[..., None])[..., None]).sum((1, 2))


# --- puzzle 2: coordinates once per point -------------------------------------------


def once_per_point(text: str | None) -> Verdict:
    """Check puzzle 2, the kernel `once_per_point`: share, place, the barrier."""
    waits = text is not None and "__syncthreads" in text
    trials = [_shared_reading(inside, waits) for inside in (True, False)]
    return judge(
        text,
        "once_per_point",
        trials,
        "each point was found once, and all threads waited for it.",
    )


def _shared_reading(inside: bool, waits: bool) -> Trial:
    """A launch; `waits`: there is a barrier, though maybe not where all pass it."""
    unwritten = ASTRAY if waits else UNWRITTEN
    queries, points, (h, w), width = 4, 5, SIZE, 64
    value, weight = _numbers(h * w, width), _numbers(queries, points)
    at = _numbers(queries, points, 2)
    at = 0.2 + 0.6 * at if inside else 1.3 * at - 0.15
    index, share = four_corners(at, SIZE)

    def sums(shares: Tensor, places: Tensor = index) -> Tensor:
        return (value[places] * shares[..., None]).sum((1, 2))

    every = share * weight[..., None]
    of_first = share * weight[:1, :, None]  # query 0's weights
    last = torch.zeros_like(every)  # only what the last corner left
    last[..., 3] = every[..., 3]
    slips = [
        (sums(share), "the attention weight is missing: near * weight[n]."),
        (sums(of_first), "all queries have the weights of query 0: weight[n]."),
        (
            sums(every * torch.eye(points)[0][:, None]),
            "only the first point counts: thread p finds point p, for all p < points.",
        ),
        (
            _column_major(value, index, every),
            "pixels lie row by row: place is row * w + column.",
        ),
        (sums(last), "only the last corner counts: share and place need [p][corner]."),
    ]
    return Trial(
        grid=queries,
        block=width,
        given=(value, at, weight, _unwritten(queries, width), points, h, w),
        result=3,
        wanted=sums(every),
        slips=slips,
        faults=({"bounds value[-64]": unwritten} if inside else {})
        | {
            "bounds": "a corner outside the map must have a place too, one that exists "
            "(0 will do): its share is 0.",
            "race": unwritten,
            "barrier": "__syncthreads() stands inside the if: the threads that skip it "
            "never arrive. All threads of a block must pass it.",
        }
        | ({"bounds": NOT_A_PIXEL} if inside else {}),
    )


def _column_major(value: Tensor, index: Tensor, shares: Tensor) -> Tensor:
    row, column = index // SIZE[1], index % SIZE[1]
    return (value[column * SIZE[0] + row] * shares[..., None]).sum((1, 2))


# --- puzzle 3: sixteen bytes at a time ----------------------------------------------


def four_at_once(text: str | None) -> Verdict:
    """Check puzzle 3, the kernel `four_at_once`: address, arithmetic, and width."""
    queries, corners, pixels, width = 6, 8, 24, 32
    value, share = _numbers(pixels, width), _numbers(queries, corners)
    generator = torch.Generator().manual_seed(0)
    place = torch.randint(pixels, (queries, corners), generator=generator)
    wanted = (value[place] * share[..., None]).sum(1)
    first = wanted.unflatten(1, (-1, 4))
    slips = [
        (
            (first * torch.tensor([1.0, 0, 0, 0])).flatten(1),
            "only .x is summed: a float4 has .x .y .z .w, four channels.",
        ),
        (
            first[..., :1].expand(-1, -1, 4).flatten(1),
            "all four channels got the first one: use .x .y .z .w of what was read.",
        ),
        (
            value[place].sum(1),
            "the shares are missing: multiply each channel by s.",
        ),
        (
            torch.where(torch.arange(width) % 4 == 0, wanted, value[place].sum(1)),
            "only .x was multiplied by s.",
        ),
        (
            _by_lane(value, place, share, lambda place, lane: place * 8 + 0 * lane),
            "all eight threads read a pixel's first four channels: + lane.",
        ),
        (
            _by_lane(value, place, share, lambda place, lane: place + lane),
            "rows counts float4, of which a pixel has 8: place[n] * 8 + lane.",
        ),
        (
            _by_lane(value, place, share, lambda place, lane: 0 * place + lane),
            "all points read pixel 0: place[n] says which pixel.",
        ),
    ]
    trial = Trial(
        grid=1,
        block=64,
        given=(value, place.int(), share, _unwritten(queries, width), queries, corners),
        result=3,
        wanted=wanted,
        slips=slips,
        faults={
            "bounds": "rows counts in float4, four channels each: pixel p begins at "
            "p * 8, and lane reads the one at p * 8 + lane.",
            "alignment": "a float4 begins at a multiple of 16 bytes.",
        },
        used=_by_sixteen,
    )
    return judge(
        text,
        "four_at_once",
        [trial],
        "eight threads read a row of 32 channels, sixteen bytes each.",
    )


def _by_lane(
    value: Tensor,
    place: Tensor,
    share: Tensor,
    address: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """What threads make of rows[address(place, lane)]."""
    rows = value.view(-1, 4)  # float4 after float4
    read = rows[address(place[..., None], torch.arange(8))]  # [Q, corners, 8, 4]
    return (read * share[..., None, None]).sum(1).flatten(1)


def _by_sixteen(trace: cuda_lab.Trace) -> str | None:
    sizes = {int(size) for size in trace.of("value", "load")["bytes"]}
    if sizes != {16}:
        return (
            f"right numbers, but value was read {min(sizes)} bytes at a time: read a "
            "whole float4 from rows."
        )
    return None


# --- puzzle 4: the butterfly --------------------------------------------------------


def butterfly(text: str | None) -> Verdict:
    """Check puzzle 4, the kernel `butterfly`: all 32 lanes know the sum."""
    points = 3
    slope, found = _numbers(32), _numbers(points, 32)
    parts = slope * found  # [P, 32]
    lanes = torch.arange(32)
    wanted = parts.sum(1, keepdim=True).expand(-1, 32)
    halves = parts
    down = parts
    by_two, by_one = parts, parts
    same_partner = [parts] * 5
    for step in (16, 8, 4, 2, 1):
        halves = halves[:, lanes ^ step]
        source = torch.where(lanes + step < 32, lanes + step, lanes)
        down = down + down[:, source]
        same_partner = [x + x[:, lanes ^ 2**bit] for bit, x in enumerate(same_partner)]
    for step in range(16, 0, -2):
        by_two = by_two + by_two[:, lanes ^ step]
    for step in range(16, 0, -1):
        by_one = by_one + by_one[:, lanes ^ step]
    slips = [
        (halves, "the partner's number replaced the sum: add it, sum +=."),
        (
            parts + parts[:, lanes ^ 16],
            "one exchange only: halve the step until it is 1, step /= 2.",
        ),
        *(
            (numbers, "always the same partner: exchange with lane ^ step.")
            for numbers in same_partner
        ),
        (
            by_two,
            "the step falls by 2, too slowly: halve it, step /= 2.",
        ),
        (
            by_one,
            "the step falls by 1: sixteen exchanges count many lanes several times. "
            "Halve it, step /= 2.",
        ),
        (
            down,
            "only lane 0 knows the sum: with __shfl_down_sync numbers flow one way. "
            "__shfl_xor_sync exchanges both ways.",
        ),
        (parts, "nothing was exchanged: sum is still the lane's own product."),
        (
            parts * 32,
            "each lane added itself: the partner is lane ^ step, "
            "__shfl_xor_sync(all, sum, step).",
        ),
    ]
    trial = Trial(
        grid=points,
        block=32,
        given=(slope, found, _unwritten(points, 32)),
        result=2,
        wanted=wanted,
        slips=slips,
        faults={
            "lanes": "the mask names the lanes that take part, and all 32 do: "
            "0xffffffff, here called all.",
        },
    )
    return judge(
        text, "butterfly", [trial], "after five exchanges every lane knows the sum."
    )


# --- puzzle 5: counting in the block ------------------------------------------------


def count_in_block(text: str | None) -> Verdict:
    """Check puzzle 5, the kernel `count_in_block`: one global add for each pixel."""
    entries, pixels, block = 300, 40, 128
    generator = torch.Generator().manual_seed(0)
    pixel = torch.randint(12, (entries,), generator=generator) + 7
    blocks = -(-entries // block)
    per_block = [part.bincount(minlength=pixels) for part in pixel.split(block)]
    wanted = torch.stack(per_block).sum(0)
    touched = sum(int((part > 0).sum()) for part in per_block)
    slips = [
        (
            sum((part > 0).long() for part in per_block),
            "each block added 1: it should add what it counted, mine[p].",
        ),
        (per_block[-1], "a plain = or +=: other blocks add to hits too."),
        (
            wanted * 0,
            "nothing was counted: each thread adds 1 to mine[pixel[i]].",
        ),
    ]
    trial = Trial(
        grid=blocks,
        block=block,
        given=(pixel.int(), torch.zeros(pixels, dtype=torch.int32), entries, pixels),
        result=1,
        wanted=wanted.int(),
        slips=slips,
        faults={
            "bounds": "mine has one place for each pixel; entry i exists only where "
            "i < entries.",
            "race hits": "all blocks add to hits, in no order. A plain + is a read, an "
            "add and a write: another block may come between. atomicAdd(&hits[p], "
            "mine[p]) cannot be split.",
            "race mine": "threads count in one place at once, and clear, count and "
            "read out one after another: atomicAdd(&mine[pixel[i]], 1), and a "
            "__syncthreads(); before it and after it.",
            "barrier": "all threads of a block must pass every __syncthreads(): put "
            "it outside of if and for.",
        },
        used=lambda trace: _few_adds(trace, blocks * pixels),
        remark=lambda trace: _adds(trace, touched, entries),
    )
    return judge(text, "count_in_block", [trial], "counted in the block first:")


def _few_adds(trace: cuda_lab.Trace, most: int) -> str | None:
    adds = len(trace.of("hits", "atomic"))
    if adds > most:
        return (
            f"right numbers, with {adds} adds to hits: count in mine first, then add "
            "at most once for each pixel."
        )
    return None


def _adds(trace: cuda_lab.Trace, touched: int, entries: int) -> str:
    adds = len(trace.of("hits", "atomic"))
    said = f"{adds} adds to global memory in place of {entries}."
    if adds > touched:
        said += f" {touched} would do: if nobody counted a pixel, do not add its zero."
    return said
