"""The compiled op of deformable attention against torch's operators, on a CPU.

    python -m benchmarks.deformable_cpu [--rounds 9] [--threads 1 2] [--steps 5]

Both compute the same numbers (tests/ops/test_compiled.py). They take turns in one
process; medians and their ratio. Where transformers is installed, its function for the
same sum, of torch's operators too, takes part as a peer that is not ours. Points are
either `gaussian` (a pixel's own points, about two pixels away, as after some training)
or `uniform` (anywhere; the worst for caches). A training step is deformable-tiny's on
16 scenes, forward, loss and backward. Run it on a machine that does nothing else: a
busy one slows them down by different factors.
Results: data/measured/deformable_cpu.json, which chapter 07 reads, and
benchmarks/results/deformable_cpu.md.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from detr_steps import experiment, zoo
from detr_steps.data.scenes import Scenes
from detr_steps.ops import backend
from detr_steps.ops.read_points import read_points

from .gpu.cases import PHOTO, Shape, make
from .measuring import MEASURED, machine, markdown_table, save, seconds, take_turns

try:
    import transformers.models.deformable_detr.modeling_deformable_detr as transformers
except ImportError:
    transformers = None

PEER = "transformers"
ROOT = Path(__file__).parents[1]
SCENES = ((16, 16), (8, 8), (4, 4))  # strides 8, 16 and 32 of 128 x 128 pixels
FINE = ((32, 32), *SCENES)
BUILD = "from detr_steps.ops import compiled; compiled.load_library()"
BACKENDS = {"torch": "torch", "compiled": "cpp"}
CASES = {  # with M = 8 heads and K = 4 points a level
    "deformable-tiny, encoder": ("gaussian", Shape(16, None, 8, 16, SCENES, (4,) * 3)),
    "deformable-tiny, decoder": ("uniform", Shape(16, 50, 8, 16, SCENES, (4,) * 3)),
    "stride 4 too, encoder": ("gaussian", Shape(16, None, 8, 8, FINE, (4,) * 4)),
    "COCO, encoder, local": ("gaussian", Shape(2, None, 8, 32, PHOTO, (4,) * 4)),
    "COCO, encoder, uniform": ("uniform", Shape(2, None, 8, 32, PHOTO, (4,) * 4)),
    "COCO, decoder, local": ("gaussian", Shape(2, 300, 8, 32, PHOTO, (4,) * 4)),
    "COCO, decoder, uniform": ("uniform", Shape(2, 300, 8, 32, PHOTO, (4,) * 4)),
}


def compare(jobs: dict[str, Callable], rounds: int) -> dict[str, float]:
    """Seconds of each, and how often `compiled` is in `torch`, and in the peer."""
    found = take_turns(jobs, rounds)
    ratios = {"ratio": found["torch"] / found["compiled"]}
    if PEER in found:
        ratios["peer_ratio"] = found[PEER] / found["compiled"]
    return found | ratios


def measure(name: str, rounds: int) -> dict[str, dict[str, float]]:
    """Compare the forward and the backward pass of one case."""
    spread, shape = CASES[name]
    drawn, levels = make(shape, spread), (len(shape.sizes), -1)
    by_level = drawn.locations.unflatten(3, levels), drawn.weights.unflatten(3, levels)
    given = [x.requires_grad_() for x in (drawn.value, *by_level)]

    def read(name: str) -> Tensor:
        with backend.use(name):
            return read_points(given[0], shape.sizes, *given[1:])

    def peer() -> Tensor:
        core = transformers.MultiScaleDeformableAttention()
        return core(given[0], None, shape.sizes, None, *given[1:], 64)

    forward = {label: lambda name=name: read(name) for label, name in BACKENDS.items()}
    if transformers:
        forward[PEER] = peer
    results = {label: job() for label, job in forward.items()}

    def gradients(result: Tensor) -> object:
        return torch.autograd.grad(result, given, drawn.grad, retain_graph=True)

    backward = {label: lambda r=r: gradients(r) for label, r in results.items()}
    return {"forward": compare(forward, rounds), "backward": compare(backward, rounds)}


def training_step(rounds: int) -> dict[str, float]:
    """Compare a whole step of deformable-tiny."""
    model = experiment.build(zoo.recipe("deformable-tiny")).train()
    batch, targets = next(Scenes("train").batches(16))

    def step(name: str) -> None:
        model.zero_grad()
        with backend.use(name):
            model.loss(model(batch), targets)["total"].backward()

    jobs = {label: lambda name=name: step(name) for label, name in BACKENDS.items()}
    return compare(jobs, rounds)


def build_seconds() -> float:
    """The first build: a process that builds, less one that finds it built."""
    with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"TORCH_EXTENSIONS_DIR": folder}
        command = [sys.executable, "-c", BUILD]
        first, second = (
            seconds(lambda: subprocess.run(command, env=env, cwd=ROOT, check=True))
            for _ in range(2)
        )
    return first - second


def rows_of(threads: int, cases: list[str], rounds: int, steps: int) -> list[dict]:
    """A row for each case and pass, and one for the training step."""
    torch.set_num_threads(threads)
    found = {(case, way): row for case in cases
             for way, row in measure(case, rounds).items()}  # fmt: skip
    found["deformable-tiny", "training step"] = training_step(steps)
    return [
        {"case": case, "way": way, "threads": threads}
        | {key: round(number, 5) for key, number in row.items()}
        for (case, way), row in found.items()
    ]


def as_markdown(result: dict) -> str:
    """The results as a page with one table for each number of threads."""
    lines = [
        "# Deformable attention on a CPU: compiled against torch's operators",
        "",
        f"{result['machine']}. Medians of {result['rounds']} turns. Cold build: "
        f"{result['build']:.1f} s.",
    ]
    head = ["case", "", "torch (ms)", "transformers (ms)", "compiled (ms)",
            "torch : compiled", "transformers : compiled"]  # fmt: skip
    for threads in dict.fromkeys(row["threads"] for row in result["rows"]):
        rows = [_cells(row) for row in result["rows"] if row["threads"] == threads]
        table = markdown_table(head, "llrrrrr", rows)
        lines += ["", f"## Threads: {threads}", "", *table]
    return "\n".join(lines) + "\n"


def _cells(row: dict) -> list[str]:
    def told(key: str, scale: float = 1.0) -> str:
        return f"{scale * row[key]:,.1f}" if key in row else ""

    times = [told(key, 1e3) for key in ("torch", PEER, "compiled")]
    return [row["case"], row["way"], *times, told("ratio"), told("peer_ratio")]


def main() -> None:
    """Measure, print the page, write numbers and page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=5, help="training steps of each")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count()])
    parser.add_argument("--only", default="", help="cases whose names contain this")
    parser.add_argument("--out", type=Path, help="another file for the numbers")
    chosen = parser.parse_args()
    if backend.trouble():
        raise SystemExit(f"no compiled op: {backend.trouble()}")
    cases = [name for name in CASES if chosen.only in name]
    rows = [
        row
        for threads in chosen.threads
        for row in rows_of(threads, cases, chosen.rounds, chosen.steps)
    ]
    result = {
        "machine": machine(),
        "rounds": chosen.rounds,
        "build": round(build_seconds(), 2),
        "rows": rows,
    }
    if chosen.only and not chosen.out:  # a part is no record
        print(as_markdown(result))
        return
    save(chosen.out or MEASURED / "deformable_cpu.json", result, as_markdown(result))


if __name__ == "__main__":
    main()
