"""Seconds of a call: on a card the median of graph replays, with inputs that rotate.

Inputs that were just used lie in the L2 cache, which no training step would find there:
so there are several sets of them, together larger than the cache twice over. A graph
holds many calls and is replayed: what Python and the launches cost is not measured.
"""

import statistics
import time
from collections.abc import Callable, Sequence

import torch

dry = False  # a dry run leaves the card alone, where there is one


def on_card() -> bool:
    """Whether a card computes."""
    return torch.cuda.is_available() and not dry


def sets_needed(bytes_of_one: int, at_most: int = 64) -> int:
    """How many sets of inputs exceed twice the cache."""
    if not on_card():
        return 2
    cache = torch.cuda.get_device_properties(0).L2_cache_size
    return min(at_most, max(2, -(-2 * cache // max(1, bytes_of_one))))


def seconds(calls: Sequence[Callable[[], object]], rounds: int = 30) -> float:
    """Median seconds of one of these calls, which take turns."""
    if not on_card():
        return _on_cpu(calls, min(rounds, 2))
    return _replayed(_captured(calls), len(calls), rounds)


def seconds_eager(calls: Sequence[Callable[[], object]], rounds: int = 10) -> float:
    """The same without a graph, for what cannot be captured: launches count too."""
    if not on_card():
        return _on_cpu(calls, min(rounds, 2))

    def run() -> None:
        for call in calls:
            call()

    run()
    return _events(run, rounds) / len(calls)


def _on_cpu(calls: Sequence[Callable[[], object]], rounds: int) -> float:
    taken = []
    for call in list(calls) * rounds:
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def _captured(calls: Sequence[Callable[[], object]]) -> torch.cuda.CUDAGraph:
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # what is set up once must not be in the graph
        for call in calls:
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    return graph


def _replayed(graph: torch.cuda.CUDAGraph, calls: int, rounds: int) -> float:
    for _ in range(3):
        graph.replay()
    return _events(graph.replay, rounds) / calls


def _events(work: Callable[[], object], rounds: int) -> float:
    """Median seconds between two events around the work."""
    taken = []
    for _ in range(rounds):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        work()
        end.record()
        end.synchronize()
        taken.append(start.elapsed_time(end) / 1e3)
    return statistics.median(taken)
