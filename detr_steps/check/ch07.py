"""Checks of the puzzles of chapters/07_cuda_kernel.ipynb.

Each takes the text of a CUDA kernel, runs it on the emulator with several orders of
threads, and says which mistake explains what comes out.
"""

from collections.abc import Callable
from itertools import combinations, product
from types import SimpleNamespace

import torch
from torch import Tensor

from .. import workbench as lab
from ..nn.sample import four_corners
from . import Verdict
from .kernels import Launch, judge_kernel
from .reads import drawn as drawn
from .trying import Trial, numbers

SIZE = (4, 6)  # of the map: height and width differ, so that a mix-up shows
NOTHING = "nothing was written there."


def _unwritten(*shape: int) -> Tensor:
    return torch.full(shape, float("nan"))


# --- puzzles 1 and 2: reading a map -------------------------------------------------


def _read(value, at, weight, half=0.5, clamp=False, address=None, corners=(1, 1, 1, 1)):
    """What queries read, `[Q, D]`, right unless told to make a mistake.

    `value [S, D]`, `at [Q, K, 2]` shares (x, y), `weight [Q, K]`; `address(i)` where
    a thread reads in the flat value, of its numbers by their names in the kernels.
    """
    (h, w), (queries, points), width = SIZE, weight.shape, value.shape[1]
    at = at + (0.5 - half) / torch.tensor([w, h])
    pixel, share = four_corners(at, SIZE)  # [Q, K, 4]
    if clamp:
        x, y = (at * torch.tensor([w, h]) - 0.5).remainder(1).unbind(-1)
        share = torch.stack(((1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y), -1)
    i = torch.arange(queries * width).view(queries, 1, 1, width)
    named = SimpleNamespace(
        i=i, q=i // width, c=i % width, p=torch.arange(queries * points).view(-1, points, 1, 1),
        corner=torch.arange(4)[:, None], pixel=pixel[..., None],
        row=pixel[..., None] // w, column=pixel[..., None] % w, width=width,
    )  # fmt: skip
    where = address(named) if address else named.pixel * width + named.c
    read = value.flatten()[where.clamp(max=value.numel() - 1)]  # [Q, K, 4, D]
    return (read * (share * torch.tensor(corners) * weight[..., None])[..., None]).sum(
        (1, 2)
    )


def _points(queries: int, points: int, width: int, inside: bool) -> tuple:
    """Value, points that lie in the map or some beyond its border, their weights."""
    at = numbers(queries, points, 2)
    at = 0.2 + 0.6 * at if inside else 1.3 * at - 0.15
    return numbers(SIZE[0] * SIZE[1], width), at, numbers(queries, points)


def _another_channel(result, wanted, value, at, weight):
    """Say which channel the first wrong thread read, if it did read one."""
    q, c = ((result - wanted).abs() > 1e-4).nonzero()[0].tolist()
    for read in range(wanted.shape[1]):
        if (result[q, c] - wanted[q, read]).abs() < 1e-4:
            return (
                f"the thread of query {q}, channel {c} read channel {read}: c = i % "
                "width, and the address ends in + c."
            )
    return ""


MISREAD = {
    "c runs over the channels: c = i % width, not i % queries.":
        {"address": lambda i: i.pixel * i.width + i.i % (i.q.max() + 1)},
    "a row has w pixels, not h: row * w + column.":
        {"address": lambda i: (i.row * SIZE[0] + i.column) * i.width + i.c},
    "from a pixel to the next there are width numbers, not w: (row * w + column) * "
    "width + c.": {"address": lambda i: i.pixel * SIZE[1] + i.c},
    "query and channel are swapped: neighbours i, i + 1 are channels c, c + 1 of one "
    "query, so c = i % width.":
        lambda value, at, weight: _read(value, at, weight).T.reshape(len(at), -1),
    "x and y are swapped: at holds x first, and x goes with w.":
        lambda value, at, weight: _read(value, at.flip(-1), weight),
    "half a pixel off: pixel j has its centre at j + 0.5, so x * w - 0.5f.":
        {"half": 0.0},
    "columns were laid out one after another: pixels lie row by row, row * w + column.":
        {"address": lambda i: (i.column * SIZE[0] + i.row) * i.width + i.c},
    "points beyond the border read the outermost pixel: they should read 0.":
        {"clamp": True},
    "channels lie side by side: pixel * width + c, not c * pixels + pixel.":
        {"address": lambda i: i.c * SIZE[0] * SIZE[1] + i.pixel},
    "all threads read channel 0: the address lacks + c.":
        {"address": lambda i: i.pixel * i.width + 0 * i.c},
    "the points' weights are missing: weight[p] * share * value.":
        lambda value, at, weight: _read(value, at, torch.ones_like(weight)),
    "the address is only the pixel's number: its channels are expected at (row * w + "
    "column) * width + c.": {"address": lambda i: i.pixel + 0 * i.c},
    "the address lacks * width: a pixel has width numbers, (row * w + column) * width "
    "+ c.": {"address": lambda i: i.pixel + i.c},
    **{
        f"a wrong channel: the address ends in + {name}, and should in + c.":
            {"address": lambda i, name=name: i.pixel * i.width + getattr(i, name)}
        for name in ("i", "p", "corner")
    },
}  # fmt: skip
OUTSIDE = (
    "at the border. A point may lie between the first pixel and the edge: skip corners "
    "with column < 0, column >= w, row < 0 or row >= h."
)
ROW_BY_ROW = (
    "pixels lie row by row, channels side by side: value[(row * w + column) * width + "
    "c]."
)


def _channels(inside: bool) -> Launch:
    """A launch over points inside the map, or some beyond its border."""
    case = _points(5, 3, 8, inside)
    trial = Trial([case], _read, MISREAD, nan=NOTHING, otherwise=_another_channel)
    faults = {
        "bounds at[": "q = i / width: a query has width threads, a channel each.",
        "bounds": ROW_BY_ROW if inside else OUTSIDE,
    }
    given = (*case, _unwritten(5, 8), 5, 3, *SIZE, 8)
    return Launch(1, 64, given, 3, trial, faults)


def one_per_channel(text: str | None) -> Verdict:
    """Check puzzle 1, the kernel `one_per_channel`: q, c, the border, the address."""
    return judge_kernel(
        text,
        "one_per_channel",
        _channels(inside=True),
        _channels(inside=False),
        praise="each thread read its own channel, also at the border.",
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
NOWHERE = (
    "a corner outside the map must have a place too, one that exists (0 will do): its "
    "share is 0."
)
IN_THE_IF = (
    "__syncthreads() stands inside the if: the threads that skip it never arrive. All "
    "threads of a block must pass it."
)
MISPLACED = {
    "the attention weight is missing: near * weight[n].":
        lambda value, at, weight: _read(value, at, torch.ones_like(weight)),
    "all queries have the weights of query 0: weight[n].":
        lambda value, at, weight: _read(value, at, weight[:1].expand_as(weight)),
    "all points of a query have one weight, weight[q]: a point's is weight[n].":
        lambda value, at, weight: _read(
            value, at, weight.flatten()[: len(at), None].expand_as(weight)),
    "only the first point counts: thread p finds point p, for all p < points.":
        lambda value, at, weight: _read(
            value, at, weight * torch.eye(weight.shape[1])[0]),
    "pixels lie row by row: place is row * w + column.":
        {"address": lambda i: (i.column * SIZE[0] + i.row) * i.width + i.c},
    "a row has w pixels, not h: place is row * w + column.":
        {"address": lambda i: (i.row * SIZE[0] + i.column) * i.width + i.c},
    "place is the point's number, not a pixel's: row * w + column.":
        {"address": lambda i: i.p * i.width + i.c},
    "only the last corner counts: share and place need [p][corner].":
        {"corners": (0, 0, 0, 1)},
}  # fmt: skip


def _shared(inside: bool, waits: bool) -> Launch:
    """A launch; `waits`: there is a barrier, though maybe not where all pass it."""
    case = _points(4, 5, 64, inside)
    unwritten = ASTRAY if waits else UNWRITTEN
    faults = {
        **({"bounds value[-64]": unwritten} if inside else {}),
        "bounds": NOT_A_PIXEL if inside else NOWHERE,
        "race": unwritten,
        "barrier": IN_THE_IF,
    }
    trial = Trial([case], _read, MISPLACED, nan=NOTHING)
    return Launch(4, 64, (*case, _unwritten(4, 64), 5, *SIZE), 3, trial, faults)


def once_per_point(text: str | None) -> Verdict:
    """Check puzzle 2, the kernel `once_per_point`: share, place, the barrier."""
    waits = text is not None and "__syncthreads" in text
    return judge_kernel(
        text,
        "once_per_point",
        _shared(True, waits),
        _shared(False, waits),
        praise="each point was found once, and all threads waited for it.",
    )


# --- puzzle 3: sixteen bytes at a time ----------------------------------------------


def _fours(
    value,
    place,
    share,
    address=lambda place, lane: place * 8 + lane,
    taken=(0, 1, 2, 3),
    kept=(1, 1, 1, 1),
    times=(1, 1, 1, 1),
):
    """What threads make of rows[address(place, lane)], `[Q, 32]`, or a mistake with it.

    Of .x .y .z .w: which of four's each sum has `taken`, `kept`, multiplied by s.
    """
    rows = value.view(-1, 4)  # float4 after float4
    read = rows[address(place[..., None], torch.arange(8))]  # [Q, corners, 8, 4]
    factor = torch.where(torch.tensor(times) > 0, share[..., None, None], 1.0)
    return (read[..., list(taken)] * factor * torch.tensor(kept)).sum(1).flatten(1)


def _copied(to: int, source: int) -> tuple[int, ...]:
    return tuple(source if part == to else part for part in range(4))


FOURS = {
    "only .x is summed: a float4 has .x .y .z .w, four channels.":
        {"kept": (1, 0, 0, 0)},
    "all four channels got the first one: use .x .y .z .w of what was read.":
        {"taken": (0, 0, 0, 0)},
    "the shares are missing: multiply each channel by s.": {"times": (0, 0, 0, 0)},
    "only .x was multiplied by s.": {"times": (1, 0, 0, 0)},
    "all eight threads read a pixel's first four channels: + lane.":
        {"address": lambda place, lane: place * 8 + 0 * lane},
    "rows counts float4, of which a pixel has 8: place[n] * 8 + lane.":
        {"address": lambda place, lane: place + lane},
    "all points read pixel 0: place[n] says which pixel.":
        {"address": lambda place, lane: 0 * place + lane},
    "a pixel has 8 float4, however many corners there are: place[n] * 8 + lane.":
        {"address": lambda place, lane: place * 5 + lane},
    "pixel and lane are turned round: place[n] * 8 + lane.":
        {"address": lambda place, lane: lane * 8 + place},
    **{
        f"nothing is added to sum.{' and sum.'.join(left)}: a float4 has .x .y .z .w.":
            {"kept": tuple(part not in left for part in "xyzw")}
        for count in (1, 2) for left in combinations("yzw", count)
    },
    **{
        f"sum.{'xyzw'[to]} adds four.{'xyzw'[source]}: each channel adds its own.":
            {"taken": _copied(to, source)}
        for to, source in product((1, 2, 3), range(4)) if to != source
    },
    **{
        f"four.{'xyzw'[part]} was not multiplied by s.":
            {"times": tuple(other != part for other in range(4))}
        for part in (1, 2, 3)
    },
}  # fmt: skip


def _by_sixteen(trace: lab.Trace) -> str | None:
    sizes = {int(size) for size in trace.of("value", "load")["bytes"]}
    if sizes != {16}:
        return (
            f"right numbers, but value was read {min(sizes)} bytes at a time: read a "
            "whole float4 from rows."
        )
    return None


def four_at_once(text: str | None) -> Verdict:
    """Check puzzle 3, the kernel `four_at_once`: address, arithmetic, and width."""
    queries, corners = 6, 5
    value, share = numbers(24, 32), numbers(queries, corners)
    place = (24 * numbers(corners, queries).T).int()
    launch = Launch(
        grid=1,
        block=64,
        given=(
            value,
            place.contiguous(),
            share,
            _unwritten(queries, 32),
            queries,
            corners,
        ),
        result=3,
        trial=Trial([(value, place, share)], _fours, FOURS, nan=NOTHING),
        faults={
            "bounds": "rows counts in float4, four channels each: pixel p begins at "
            "p * 8, and lane reads the one at p * 8 + lane.",
            "alignment": "a float4 begins at a multiple of 16 bytes.",
        },
        used=_by_sixteen,
    )
    praise = "eight threads read a row of 32 channels, sixteen bytes each."
    return judge_kernel(text, "four_at_once", launch, praise=praise)


# --- puzzle 4: the butterfly --------------------------------------------------------


def _exchanged(
    gradient, found, steps=(16, 8, 4, 2, 1), partner=torch.bitwise_xor, add=True
):
    """What the lanes know at last, `[P, 32]`; without a partner a lane reads itself."""
    sums, lane = gradient * found, torch.arange(32)
    for step in steps:
        source = partner(lane, torch.tensor(step))
        source = torch.where((source >= 0) & (source < 32), source, lane)
        sums = sums[:, source] + (sums if add else 0)
    return sums


EXCHANGES = {
    "the partner's number replaced the sum: add it, sum +=.": {"add": False},
    "one exchange only: halve the step until it is 1, step /= 2.": {"steps": (16,)},
    "always the same partner: exchange with lane ^ step.":
        [{"steps": (2**bit,) * 5} for bit in range(5)],
    "the step falls by 2, too slowly: halve it, step /= 2.":
        {"steps": range(16, 0, -2)},
    "the step falls by 1: sixteen exchanges count many lanes several times. Halve it, "
    "step /= 2.": {"steps": range(16, 0, -1)},
    "only lane 0 knows the sum: with __shfl_down_sync numbers flow one way. "
    "__shfl_xor_sync exchanges both ways.": {"partner": torch.add},
    "only lane 31 knows the sum: with __shfl_up_sync numbers flow one way. "
    "__shfl_xor_sync exchanges both ways.": {"partner": torch.sub},
    "nothing was exchanged: sum is still the lane's own product.": {"steps": ()},
    "each lane added itself: the partner is lane ^ step, __shfl_xor_sync(all, sum, "
    "step).": {"partner": lambda lane, step: lane},
    "it starts at 8: then lanes 0 to 15 never hear of lanes 16 to 31. Half of 32 lanes "
    "is 16.": {"steps": (8, 4, 2, 1)},
    "it starts at 32: lane ^ 32 is no lane of the warp, and each lane counts itself "
    "twice. Half of 32 lanes is 16.": {"steps": (32, 16, 8, 4, 2, 1)},
    "it ends at 2: neighbours, one step apart, never exchange. Go on while step > 0.":
        {"steps": (16, 8, 4, 2)},
    "a quarter each time: four exchanges of two, and lanes are left out. Halve it, "
    "step /= 2.": {"steps": (16, 4, 1)},
}  # fmt: skip


def butterfly(text: str | None) -> Verdict:
    """Check puzzle 4, the kernel `butterfly`: all 32 lanes know the sum."""
    case = (numbers(32), numbers(3, 32))
    launch = Launch(
        grid=3,
        block=32,
        given=(*case, _unwritten(3, 32)),
        result=2,
        trial=Trial([case], _exchanged, EXCHANGES, nan=NOTHING),
        faults={
            "lanes": "the mask names the lanes that take part, and all 32 do: "
            "0xffffffff, here called all.",
        },
    )
    praise = "after five exchanges every lane knows the sum."
    return judge_kernel(text, "butterfly", launch, praise=praise)


# --- puzzle 5: counting in the block ------------------------------------------------

PIXELS, BLOCK = 40, 128


def _per_block(pixel: Tensor) -> list[Tensor]:
    return [part.bincount(minlength=PIXELS) for part in pixel.split(BLOCK)]


HITS = Trial(
    cases=[(((12 * numbers(300)).int() + 7),)],
    answer=lambda pixel: sum(_per_block(pixel)),
    mistakes={
        "each block added 1: it should add what it counted, mine[p].":
            lambda pixel: sum((part > 0).long() for part in _per_block(pixel)),
        "a plain = or +=: other blocks add to hits too.":
            lambda pixel: _per_block(pixel)[-1],
        "nothing was counted: each thread adds 1 to mine[pixel[i]].":
            lambda pixel: torch.zeros(PIXELS),
    },
    unit="pixel",
)  # fmt: skip


def _few_adds(trace: lab.Trace) -> str | None:
    adds = len(trace.of("hits", "atomic"))
    if adds > 3 * PIXELS:
        return (
            f"right numbers, with {adds} adds to hits: count in mine first, then add "
            "at most once for each pixel."
        )
    return None


def _adds(trace: lab.Trace) -> str:
    (pixel,), adds = HITS.cases[0], len(trace.of("hits", "atomic"))
    touched = sum(int((part > 0).sum()) for part in _per_block(pixel))
    said = f"{adds} adds to global memory in place of {len(pixel)}."
    if adds > touched:
        said += f" {touched} would do: if nobody counted a pixel, do not add its zero."
    return said


def count_in_block(text: str | None) -> Verdict:
    """Check puzzle 5, the kernel `count_in_block`: one global add for each pixel."""
    (pixel,) = HITS.cases[0]
    hits = torch.zeros(PIXELS, dtype=torch.int32)
    launch = Launch(
        grid=3,
        block=BLOCK,
        given=(pixel, hits, len(pixel), PIXELS),
        result=1,
        trial=HITS,
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
        used=_few_adds,
        remark=_adds,
    )
    return judge_kernel(
        text, "count_in_block", launch, praise="counted in the block first:"
    )
