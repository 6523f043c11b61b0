"""A reader's drawing of who reads what, against what a kernel's warp did."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from . import Verdict, right, wrong
from .progress import in_solution
from .trying import Trial, compare

LANES, WIDTH, EIGHT = 32, 32, 8  # of a warp; channels; numbers of a sector
Load = list[tuple[int, int]]  # (lane, number): as of viz.warp_loads
SLIPS = {  # where lane i of the kernel takes query i // 8, channel i % 8
    "these are 32 channels of one query, but here a query has only eight lanes.":
        lambda lane: (0, lane),
    "these are 32 queries, but here eight lanes share one.": lambda lane: (lane, 0),
    "swapped: i / 8 is the query, i % 8 the channel.":
        lambda lane: (lane % EIGHT, lane // EIGHT),
}  # fmt: skip


def drawn(
    takes: Callable[[int], tuple[int, int] | None], pixels: Sequence[int], load: Load
) -> tuple[Verdict, dict[str, Load]]:
    """Check which query and channel each lane takes, and draw it (chapter 07).

    `takes(lane)` the reader's (q, c); `pixels` the pixel that each query reads; `load`
    what the kernel's warp did. Returns also what `viz.reads` draws: nothing as long as
    a lane is without a place. What `takes` raises is raised.
    """
    if fault := _fault([takes(lane) for lane in range(LANES)], len(pixels)):
        return wrong(fault), {}

    def numbers(takes: Callable[[int], tuple[int, int]]) -> tuple[int, ...]:
        pairs = map(takes, range(LANES))
        return tuple(pixels[q] * WIDTH + c for q, c in pairs)

    mine, real = numbers(takes), tuple(number for _, number in sorted(load))
    by_eights = real == numbers(lambda lane: divmod(lane, EIGHT))
    slips = {words: numbers(slip) for words, slip in SLIPS.items() if by_eights}
    fault = compare([mine], Trial([()], real, slips, otherwise=_one_lane))
    panels = {"drawn": list(enumerate(mine)), "the kernel": load}
    verdict = wrong(fault) if fault else right(_used(set(mine)))
    return replace(verdict, folded=in_solution()), panels


def _fault(pairs: list, queries: int) -> str | None:
    """What is no pair of a query and a channel; None if all are."""
    if any(pair is None for pair in pairs):
        return "not yet: return a lane's query and channel, (q, c)."
    if not all(isinstance(pair, tuple) and len(pair) == 2 for pair in pairs):
        return "return two numbers, the query and the channel: (q, c)."
    for q, c in pairs:
        if q not in range(queries) or c not in range(WIDTH):
            return f"there is no (q, c) = ({q}, {c}). In Python C's / is //."
    return None


def _used(numbers: set[int]) -> str:
    moved = len({number // EIGHT for number in numbers})
    return (
        f"as the kernel reads: {moved} sectors, of whose {moved * EIGHT} numbers "
        f"{len(numbers)} are used."
    )


def _one_lane(mine: tuple[int, ...], real: tuple[int, ...]) -> str:
    lane = [a == b for a, b in zip(mine, real)].index(False)
    (row, column), (pixel, channel) = (divmod(x[lane], WIDTH) for x in (mine, real))
    return (
        f"lane {lane} reads channel {channel} of pixel {pixel}; you drew channel "
        f"{column} of pixel {row}."
    )
