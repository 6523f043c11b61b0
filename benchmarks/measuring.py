"""What the benchmarks share: taking turns, the machine's name, and where results go."""

import platform
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from detr_steps.files import write_json, write_whole

RESULTS = Path(__file__).parent / "results"
MEASURED = Path(__file__).parents[1] / "data" / "measured"  # what chapters read


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def take_turns(jobs: Mapping[str, Callable], rounds: int) -> dict[str, float]:
    """Median seconds of each job; the first turn of each only warms up.

    In turns, because a machine that is busy for a while then slows all of them down.
    """
    taken: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds + 1):
        for name, job in jobs.items():
            taken[name].append(seconds(job))
    return {name: statistics.median(each[1:]) for name, each in taken.items()}


def machine() -> str:
    """The processor, as far as the system tells its name, and the version of torch."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        name = next(line for line in lines if line.startswith("model name"))
        name = name.split(":")[1].strip()
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, torch {torch.__version__}"


def save(path: Path, result: dict, page: str = "") -> None:
    """Write the numbers, and print and write their page beside the other pages."""
    write_json(path, result)
    if page:
        folder = RESULTS if path.parent == MEASURED else path.parent
        file = folder / f"{path.stem}.md"
        write_whole(file, lambda part: part.write_text(page, encoding="utf-8"))
        print(page)


def memory(work: Callable[[], object]) -> tuple[object, int, int]:
    """Result of a call, most bytes of tensors that it held at once, bytes it kept."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        result = work()
    events = seen.profiler.kineto_results.events()
    changes = [event for event in events if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return result, most, held


def markdown_table(head: list[str], align: str, rows: list[list[object]]) -> list[str]:
    """Lines of a table; `align` has l or r for each column."""
    rule = [{"l": ":--", "r": "--:"}[each] for each in align]
    return ["| " + " | ".join(map(str, row)) + " |" for row in (head, rule, *rows)]
