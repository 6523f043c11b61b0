"""How long the compiled op takes to build: the first time, and after an edit.

    python -m benchmarks.build_times [--rounds 3] [--gpus 75 90]

Everything is built from a copy of the sources into an empty folder, with as many
compilers at a time as there are cores. An edit adds a line to one file. The part for
GPUs is built and linked where there is nvcc, with or without a GPU, but not loaded.
The part for the CPU is loaded, and a reader's kernel runs in the emulator. Medians in
seconds, importing torch not counted. Run it on a machine that does nothing else.
Results: benchmarks/results/build_times.json and .md.
"""

import argparse
import multiprocessing
import os
import shutil
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from detr_steps.cuda_lab import emulator
from detr_steps.ops import building, compiled, compiled_cuda

from .measuring import RESULTS, machine, markdown_table, save, seconds

QUIET = 0.75  # processes that want to run, on average, for each core
COLD, ONE_EDIT, ALL_EDIT = "cold", "edit", "edit of what all kernels include"
GOALS = {("cpu", COLD): 15, ("cpu", ONE_EDIT): 5, ("cuda", COLD): 30,
         ("cuda", ONE_EDIT): 5, ("emulator", ONE_EDIT): 5}  # fmt: skip
CPU_EDIT = "ms_deform_attn_cpu.h"
CUDA_EDITS = {  # a file, and what its edit is an example of
    "cuda/backward_sorted.cuh": ONE_EDIT,
    "cuda/forward_tiles.cuh": ONE_EDIT,
    "cuda/backward_vectors.cuh": ONE_EDIT,
    "cuda/forward_naive.cuh": ONE_EDIT,
    "ms_deform_attn_cuda.h": ONE_EDIT,
    "cuda/points.cuh": ALL_EDIT,
}
TEXT = """
__global__ void twice(const float* from, float* to, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) to[i] = 2 * from[i];
}
"""
Row = tuple[str, str, str]  # part, what was done, which file was edited
Times = dict[Row, float]


# --- what is timed, each in a process of its own --------------------------------------


def build_cpu(folder: Path) -> float:
    """Build, if need be, and load the part for the CPU."""
    compiled.sources = lambda: folder
    return seconds(compiled.load_library)


def cpu(folder: Path, _: int) -> Times:
    """Both rows of the part for the CPU."""
    times = {("cpu", COLD, ""): fresh(build_cpu, folder)}
    edit(folder / CPU_EDIT)
    return times | {("cpu", ONE_EDIT, CPU_EDIT): fresh(build_cpu, folder)}


def cuda(folder: Path, gpu: int) -> Times:
    """All rows of the part for GPUs of one kind."""
    shelf, name = building.cache(), f"cuda, sm_{gpu}"
    shelf.mkdir(parents=True)

    def build() -> float:
        work = Path(tempfile.mkdtemp(dir=shelf))
        gpus = [divmod(gpu, 10)]
        return seconds(
            lambda: compiled_cuda.build_library(
                compiled.PARTS["cuda"], folder, work, gpus
            )
        )

    times = {(name, COLD, ""): build()}
    for file, kind in CUDA_EDITS.items():
        edit(folder / file)
        times[name, kind, file] = build()
    return times


def reader(folder: Path, _: int) -> Times:
    """Rows of a reader's kernel, compiled and run in the emulator."""
    n = 1000
    given, result = torch.ones(n), torch.zeros(n)

    def run(text: str) -> None:
        kernel = emulator.compile(text, "twice", folder=folder)
        kernel((n + 255) // 256, 256, given, result, n)

    return {
        ("emulator", COLD, ""): seconds(lambda: run(TEXT)),
        ("emulator", ONE_EDIT, "the kernel"): seconds(
            lambda: run(TEXT.replace("2 *", "3 *"))
        ),
    }


def edit(path: Path) -> None:
    """Change a file as little as possible."""
    path.write_text(path.read_text("utf-8") + "// edited\n", "utf-8")


def fresh(function: Callable, *arguments) -> float | Times:
    """Call it in a new process: a library is loaded once, and caches are empty."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def in_a_copy(function: Callable[[Path, int], Times], gpu: int = 0) -> Times:
    """Measure with sources and results of its own."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(shutil.copytree(compiled.sources(), Path(root, "kernels")))
        os.environ["TORCH_EXTENSIONS_DIR"] = str(Path(root, "shelf"))
        try:
            if function is cpu:  # starts processes itself
                return cpu(folder, gpu)
            return fresh(function, folder, gpu)
        finally:
            del os.environ["TORCH_EXTENSIONS_DIR"]


# --- all of it ------------------------------------------------------------------------


def measure(rounds: int, gpus: list[int]) -> dict:
    """Everything, `rounds` times, one after another."""
    loads, times = [os.getloadavg()[0]], defaultdict(list)
    jobs = [(cpu, 0), (reader, 0)]
    jobs += [(cuda, gpu) for gpu in gpus if compiled_cuda.nvcc()]
    for _ in range(rounds):
        for job, gpu in jobs:
            for row, taken in in_a_copy(job, gpu).items():
                times[row].append(taken)
    rows = [
        {"part": part, "what": what, "file": file, "seconds": statistics.median(taken),
         "all": [round(each, 2) for each in taken]}
        for (part, what, file), taken in times.items()
    ]  # fmt: skip
    return {
        "machine": machine(),
        "cores": os.cpu_count(),
        "nvcc": compiled_cuda.toolkit() or "none: nothing built for GPUs",
        "rounds": rounds,
        "load_before": round(loads[0], 2),
        "rows": [row | {"seconds": round(row["seconds"], 2)} for row in rows],
    }


def goal(row: dict) -> float | None:
    """The seconds that a row may take; None where nothing was promised."""
    return GOALS.get((row["part"].partition(",")[0], row["what"]))


def as_markdown(result: dict) -> str:
    """The page of the results."""
    about = (
        f"{result['machine']}, {result['cores']} cores, nvcc {result['nvcc']}; medians "
        f"of {result['rounds']}. {quiet(result['load_before'] / result['cores'])}"
    )
    rows = []
    for row in result["rows"]:
        name = f"`{row['file']}`" if "." in row["file"] else row["file"]
        each = f"{row['seconds']:.1f}", goal(row) or ""
        rows.append([row["part"], row["what"], name, *each])
    table = markdown_table(["part", "what", "edited", "seconds", "goal"], "lllrr", rows)
    return "\n".join(["# Build times of the compiled op", "", about, "", *table, ""])


def quiet(load: float) -> str:
    """Whether the machine had other things to do."""
    told = f"Load at the start: {load:.2f} of each core"
    return f"{told}." if load < QUIET else f"{told}: busy, so these times are too long."


def main() -> None:
    """Measure, print the page, write numbers and page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--gpus", type=int, nargs="*", default=[75, 90], help="as in sm_90"
    )
    parser.add_argument("--out", type=Path, default=RESULTS / "build_times.json")
    chosen = parser.parse_args()
    result = measure(chosen.rounds, chosen.gpus)
    save(chosen.out, result, as_markdown(result))


if __name__ == "__main__":
    main()
