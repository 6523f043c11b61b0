"""A reader's drawing of who reads what, against what a kernel's warp did."""

from collections.abc import Callable, Sequence

from . import Verdict, right, wrong

LANES, WIDTH, EIGHT = 32, 32, 8  # of a warp; channels; numbers of a sector
Load = list[tuple[int, int]]  # (lane, number): as of viz.warp_loads
EIGHTS = [(lane // EIGHT, lane % EIGHT) for lane in range(LANES)]
SLIPS = {  # where the kernel's lanes take EIGHTS
    "these are 32 channels of one query, but here a query has only eight lanes.": (
        lambda lane: (0, lane)
    ),
    "these are 32 queries, but here eight lanes share one.": lambda lane: (lane, 0),
    "swapped: i / 8 is the query, i % 8 the channel.": (
        lambda lane: (lane % EIGHT, lane // EIGHT)
    ),
}


def drawn(
    takes: Callable[[int], tuple[int, int] | None], pixels: Sequence[int], load: Load
) -> tuple[Verdict, dict[str, Load]]:
    """Check which query and channel each lane takes, and draw it (chapter 07).

    `takes(lane)` the reader's (q, c); `pixels` the pixel that each query reads;
    `load` what the kernel's warp did. Returns also what `viz.reads` draws: nothing
    as long as a lane is without a place.
    """
    pairs = [takes(lane) for lane in range(LANES)]
    if any(pair is None for pair in pairs):
        return wrong("not yet: return a lane's query and channel, (q, c)."), {}
    if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        return wrong("return two numbers, the query and the channel: (q, c)."), {}
    for q, c in pairs:
        if q not in range(len(pixels)) or c not in range(WIDTH):
            return wrong(f"there is no (q, c) = ({q}, {c}). In Python C's / is //."), {}
    mine = _load(pairs, pixels)
    verdict = right(_used(mine))
    if dict(mine) != dict(load):
        verdict = wrong(_difference(mine, sorted(load), pixels))
    return verdict, {"drawn": mine, "the kernel": load}


def _load(pairs: Sequence[tuple[int, int]], pixels: Sequence[int]) -> Load:
    return [(lane, pixels[q] * WIDTH + c) for lane, (q, c) in enumerate(pairs)]


def _used(load: Load) -> str:
    numbers = {number for _, number in load}
    moved = len({number // EIGHT for number in numbers})
    return (
        f"as the kernel reads: {moved} sectors, of whose {moved * EIGHT} numbers "
        f"{len(numbers)} are used."
    )


def _difference(mine: Load, real: Load, pixels: Sequence[int]) -> str:
    for words, slip in SLIPS.items() if real == _load(EIGHTS, pixels) else ():
        if mine == _load([slip(lane) for lane in range(LANES)], pixels):
            return words
    lane = next(lane for lane, (a, b) in enumerate(zip(mine, real)) if a != b)
    (row, column), (pixel, channel) = (
        divmod(load[lane][1], WIDTH) for load in (mine, real)
    )
    return (
        f"lane {lane} reads channel {channel} of pixel {pixel}; you drew channel "
        f"{column} of pixel {row}."
    )
