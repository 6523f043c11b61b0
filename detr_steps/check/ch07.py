"""Checks of the puzzles of chapters/07_cuda_kernel.ipynb.

Each takes the text of a CUDA kernel, runs it on the emulator with several orders of
threads, and says which mistake explains what comes out.
"""

from itertools import combinations, product
from types import SimpleNamespace

import torch
from torch import Tensor

from .. import cuda_lab as lab
from ..ops.sample import four_corners
from .kernels import Launch, puzzle
from .reads import drawn as drawn
from .trying import Trial, numbers, turned

NOTHING = "nothing was written there."
SIZE = (4, 6)  # of the map: height and width differ, so that a mix-up shows


def _unwritten(*shape: int) -> Tensor:
    return torch.full(shape, float("nan"))


def _read(value, at, weight, half=0.5, clamp=False, address=None, corners=(1, 1, 1, 1)):
    """What queries read, `[Q, D]`, right unless told to make a mistake.

    `value [S, D]`, `at [Q, K, 2]` shares (x, y), `weight [Q, K]`; `address(i)` where
    a thread reads in the flat value, of its numbers by their names in the kernels.
    """
    (h, w), (queries, points), width = SIZE, at.shape[:2], value.shape[1]
    pixel, share = four_corners(at + (0.5 - half) / torch.tensor([w, h]), SIZE)
    if clamp:
        x, y = (at * torch.tensor([w, h]) - 0.5).remainder(1).unbind(-1)
        share = torch.stack(((1 - x) * (1 - y), x * (1 - y), (1 - x) * y, x * y), -1)
    thread = torch.arange(queries * width).view(-1, 1, 1, width)
    pixel = pixel[..., None]
    i = SimpleNamespace(
        i=thread, q=thread // width, c=thread % width, width=width,
        p=torch.arange(queries * points).view(-1, points, 1, 1),
        corner=torch.arange(4)[:, None], pixel=pixel, row=pixel // w, column=pixel % w,
    )  # fmt: skip
    where = address(i) + 0 * i.c if address else i.pixel * i.width + i.c
    read = value.flatten()[where.clamp(max=value.numel() - 1)]  # [Q, K, 4, D]
    shares = share * torch.tensor(corners) * weight[..., None]
    return (read * shares[..., None]).sum((1, 2))


def _points(queries: int, points: int, width: int) -> list[tuple[Tensor, ...]]:
    """Value, points, weights: points in the map, then some beyond its border."""
    value, weight = numbers(SIZE[0] * SIZE[1], width), numbers(queries, points)
    at = numbers(queries, points, 2)
    return [(value, x, weight) for x in (0.2 + 0.6 * at, 1.3 * at - 0.15)]


def _another_channel(result, wanted, value, at, weight):
    """Say which channel the first wrong thread read, if it did read one."""
    q, c = ((result - wanted).abs() > 1e-4).nonzero()[0].tolist()
    same = ((result[q, c] - wanted[q]).abs() < 1e-4).nonzero().flatten().tolist()
    return same and (
        f"the thread of query {q}, channel {c} read channel {same[0]}: c = i % width, "
        "and the address ends in + c."
    )


MISREAD = {
    "c runs over the channels: c = i % width, not i % queries.":
        {"address": lambda i: i.pixel * i.width + i.i % (i.q.max() + 1)},
    "a row has w pixels, not h: row * w + column.":
        {"address": lambda i: (i.row * SIZE[0] + i.column) * i.width + i.c},
    "from a pixel to the next there are width numbers, not w: (row * w + column) * "
    "width + c.": {"address": lambda i: i.pixel * SIZE[1] + i.c},
    "query and channel are swapped: neighbours i, i + 1 are channels c, c + 1 of one "
    "query, so c = i % width.": {"result": lambda read: read.T.reshape(read.shape)},
    "x and y are swapped: at holds x first, and x goes with w.": {"at": turned},
    "half a pixel off: pixel j has its centre at j + 0.5, so x * w - 0.5f.":
        {"half": 0.0},
    "columns were laid out one after another: pixels lie row by row, row * w + column.":
        {"address": lambda i: (i.column * SIZE[0] + i.row) * i.width + i.c},
    "points beyond the border read the outermost pixel: they should read 0.":
        {"clamp": True},
    "channels lie side by side: pixel * width + c, not c * pixels + pixel.":
        {"address": lambda i: i.c * SIZE[0] * SIZE[1] + i.pixel},
    "all threads read channel 0: the address lacks + c.":
        {"address": lambda i: i.pixel * i.width},
    "the points' weights are missing: weight[p] * share * value.":
        {"weight": torch.ones_like},
    "the address is only the pixel's number: its channels are expected at (row * w + "
    "column) * width + c.": {"address": lambda i: i.pixel},
    "the address lacks * width: a pixel has width numbers, (row * w + column) * width "
    "+ c.": {"address": lambda i: i.pixel + i.c},
    **{
        f"a wrong channel: the address ends in + {name}, and should in + c.":
            {"address": lambda i, name=name: i.pixel * i.width + getattr(i, name)}
        for name in ("p", "corner")
    },
}  # fmt: skip

ROWS = (
    "pixels lie row by row, channels side by side: value[(row * w + column) * width + "
    "c]."
)
BORDER = (
    "at the border. A point may lie between the first pixel and the edge: skip corners "
    "with column < 0, column >= w, row < 0 or row >= h."
)
one_per_channel = puzzle(__name__, "one_per_channel", """
    Check puzzle 1, the kernel `one_per_channel`: q, c, the border, the address.""",
    *(
        Launch(
            1, 64, (*case, _unwritten(5, 8), 5, 3, *SIZE, 8), 3,
            Trial([case], _read, MISREAD, nan=NOTHING, otherwise=_another_channel),
            {"bounds at[": "q = i / width: a query has width threads, a channel each.",
             "bounds": cure},
        )
        for case, cure in zip(_points(5, 3, 8), (ROWS, BORDER))
    ),
    praise="each thread read its own channel, also at the border.",
)  # fmt: skip

MISPLACED = {
    "the attention weight is missing: near * weight[n].": {"weight": torch.ones_like},
    "all queries have the weights of query 0: weight[n].":
        {"weight": lambda weight: weight[:1].expand_as(weight)},
    "all points of a query have one weight, weight[q]: a point's is weight[n].":
        {"weight": lambda weight: weight.flatten()[: len(weight), None]},
    "only the first point counts: thread p finds point p, for all p < points.":
        {"weight": lambda weight: weight * torch.eye(weight.shape[1])[0]},
    "pixels lie row by row: place is row * w + column.":
        {"address": lambda i: (i.column * SIZE[0] + i.row) * i.width + i.c},
    "a row has w pixels, not h: place is row * w + column.":
        {"address": lambda i: (i.row * SIZE[0] + i.column) * i.width + i.c},
    "place is the point's number, not a pixel's: row * w + column.":
        {"address": lambda i: i.p * i.width + i.c},
    "only the last corner counts: share and place need [p][corner].":
        {"corners": (0, 0, 0, 1)},
}  # fmt: skip
EARLY = (
    "this place was read before the thread that finds the point had written it. A "
    "barrier, __syncthreads();, is missing between the two.",
    "there is a __syncthreads();, but threads get from writing to reading without it. "
    "Put it between the two, outside of the if: all threads of the block must pass it.",
)
NO_PIXEL = (
    "place is no number of a pixel, row * w + column: it is multiplied by width later, "
    "where value is read."
)
NO_PLACE = (
    "a corner outside the map must have a place too, one that exists (0 will do): its "
    "share is 0."
)
once_per_point = puzzle(__name__, "once_per_point", """
    Check puzzle 2, the kernel `once_per_point`: share, place, the barrier.""",
    *(
        Launch(
            4, 64, (*case, _unwritten(4, 64), 5, *SIZE), 3,
            Trial([case], _read, MISPLACED, nan=NOTHING),
            {
                **cures,
                "race": EARLY,
                "barrier": "__syncthreads() stands inside the if: the threads that "
                "skip it never arrive. All threads of a block must pass it.",
            },
        )
        for case, cures in zip(_points(4, 5, 64), (
            {"bounds value[-64]": EARLY, "bounds": NO_PIXEL}, {"bounds": NO_PLACE}))
    ),
    praise="each point was found once, and all threads waited for it.",
)  # fmt: skip


def _fours(
    value, place, share, address=None, taken=(0, 1, 2, 3), kept=(1,) * 4, times=(1,) * 4
):
    """What threads make of rows[address(place, lane)], `[Q, 32]`, or a mistake with it.

    Of .x .y .z .w: which of four's each sum has `taken`, `kept`, multiplied by s.
    """
    lane, place = torch.arange(8), place[..., None]
    at = address(place, lane) if address else place * 8 + lane
    read = value.view(-1, 4)[at][..., list(taken)]  # [Q, corners, 8, 4]
    factor = torch.where(torch.tensor(times) > 0, share[..., None, None], 1.0)
    return (read * factor * torch.tensor(kept)).sum(1).flatten(1)


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
            {"taken": tuple(source if part == to else part for part in range(4))}
        for to, source in product((1, 2, 3), range(4)) if to != source
    },
    **{
        f"four.{part} was not multiplied by s.":
            {"times": tuple(other != part for other in "xyzw")} for part in "yzw"
    },
}  # fmt: skip
PLACE, SHARE = numbers(2, 6, 5)
FOURS_GIVEN = (numbers(24, 32), (24 * PLACE).int(), SHARE.clone())


def _narrow(trace: lab.Trace) -> str | None:
    least = min(int(size) for size in trace.of("value", "load")["bytes"])
    return str(least) if least < 16 else None


four_at_once = puzzle(__name__, "four_at_once", """
    Check puzzle 3, the kernel `four_at_once`: address, arithmetic, and width.""",
    Launch(
        1, 64, (*FOURS_GIVEN, _unwritten(6, 32), 6, 5), 3,
        Trial([FOURS_GIVEN], _fours, FOURS, nan=NOTHING),
        {
            "bounds": "rows counts in float4, four channels each: pixel p begins at "
            "p * 8, and lane reads the one at p * 8 + lane.",
            "alignment": "a float4 begins at a multiple of 16 bytes.",
        },
        {"right numbers, but value was read {} bytes at a time: read a whole float4 "
         "from rows.": _narrow},
    ),
    praise="eight threads read a row of 32 channels, sixteen bytes each.",
)  # fmt: skip


def _exchanged(
    gradient, found, steps=(16, 8, 4, 2, 1), partner=torch.bitwise_xor, add=1
):
    """What the lanes know at last, `[P, 32]`; without a partner a lane reads itself."""
    sums, lane = gradient * found, torch.arange(32)
    for step in steps:
        source = partner(lane, torch.tensor(step))
        source = torch.where((source >= 0) & (source < 32), source, lane)
        sums = sums[:, source] + add * sums
    return sums


EXCHANGES = {
    "the partner's number replaced the sum: add it, sum +=.": {"add": 0},
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
    "a quarter each time leaves lanes out: halve the step, step /= 2.":
        {"steps": (16, 4, 1)},
}  # fmt: skip
PRODUCTS = (numbers(32), numbers(3, 32))
butterfly = puzzle(__name__, "butterfly", """
    Check puzzle 4, the kernel `butterfly`: all 32 lanes know the sum.""",
    Launch(
        3, 32, (*PRODUCTS, _unwritten(3, 32)), 2,
        Trial([PRODUCTS], _exchanged, EXCHANGES, nan=NOTHING),
        {"lanes": "the mask names the lanes that take part, and all 32 do: 0xffffffff, "
         "here called all."},
    ),
    praise="after five exchanges every lane knows the sum.",
)  # fmt: skip

ENTRIES = (12 * numbers(300)).int() + 7  # the pixel of each
PER_BLOCK = torch.stack([part.bincount(minlength=40) for part in ENTRIES.split(128)])


def _adds(trace: lab.Trace) -> int:
    return len(trace.of("hits", "atomic"))


def _count_adds(trace: lab.Trace) -> str:
    adds, touched = _adds(trace), int((PER_BLOCK > 0).sum())
    said = f"{adds} adds to global memory in place of {len(ENTRIES)}."
    if adds > touched:
        said += f" {touched} would do: if nobody counted a pixel, do not add its zero."
    return said


count_in_block = puzzle(__name__, "count_in_block", """
    Check puzzle 5, the kernel `count_in_block`: one global add for each pixel.""",
    Launch(
        3, 128, (ENTRIES, torch.zeros(40, dtype=torch.int32), len(ENTRIES), 40), 1,
        Trial([()], PER_BLOCK.sum(0), {
            "each block added 1: it should add what it counted, mine[p].":
                (PER_BLOCK > 0).sum(0),
            "a plain = or +=: other blocks add to hits too.": PER_BLOCK[-1],
            "nothing was counted: each thread adds 1 to mine[pixel[i]].":
                torch.zeros(40),
        }, unit="pixel"),
        {
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
        {"right numbers, with {} adds to hits: count in mine first, then add at most "
         "once for each pixel.": lambda trace: _adds(trace) > 120 and _adds(trace)},
        remark=_count_adds,
    ),
    praise="counted in the block first:",
)  # fmt: skip
