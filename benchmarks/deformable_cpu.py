"""The compiled op of deformable attention against torch's operators, on a CPU.

    python benchmarks/deformable_cpu.py [--rounds 9] [--threads 1 2] [--steps 5]

Both compute the same numbers (tests/nn/test_compiled.py). They take turns in one
process; medians and their ratio. Where transformers is installed, its function for the
same sum, of torch's operators too, takes part as a peer that is not ours. Points are
either `local` (a pixel's own points, about two pixels away, as after some training) or
`uniform` (anywhere; the worst for caches). A training step is deformable-tiny's on 16
scenes, forward, loss and backward. Run it on a machine that does nothing else: a busy
one slows them down by different factors.
Results: benchmarks/results/deformable_cpu.json and .md; what chapter 07 shows of them,
data/measured/deformable_cpu.json, also without measuring again: --publish.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from detr_steps import experiment, zoo
from detr_steps.data.scenes import Scenes
from detr_steps.files import write_json
from detr_steps.ops import backend
from detr_steps.ops.read_points import read_points

try:
    import transformers.models.deformable_detr.modeling_deformable_detr as transformers
except ImportError:
    transformers = None

PEER = "transformers"
RESULTS = Path(__file__).parent / "results" / "deformable_cpu.json"
ROOT = Path(__file__).parent.parent
MEASURED = ROOT / "data" / "measured" / "deformable_cpu.json"
SCENES = ((16, 16), (8, 8), (4, 4))  # strides 8, 16 and 32 of 128 x 128 pixels
FINE = ((32, 32), (16, 16), (8, 8), (4, 4))
PHOTO = ((100, 134), (50, 67), (25, 34), (13, 17))  # of 1,072 x 800 pixels
BUILD = "from detr_steps.ops import compiled; compiled.load_library()"
BACKENDS = {"torch": "torch", "compiled": "cpp"}


@dataclass(frozen=True)
class Case:
    """B images, Q queries (None: every pixel asks), M = 8 heads of D, K = 4 points."""

    name: str
    images: int
    queries: int | None
    width: int  # D
    sizes: tuple[tuple[int, int], ...]
    local: bool = True

    def arguments(self) -> list[Tensor]:
        """Value, locations and weights, which want gradients."""
        torch.manual_seed(0)
        levels, tokens = len(self.sizes), sum(h * w for h, w in self.sizes)
        queries = self.queries or tokens
        value = torch.randn(self.images, tokens, 8, self.width)
        shape = (self.images, queries, 8, levels, 4)
        locations = torch.rand(*shape, 2)
        if self.local:
            extent = torch.tensor([(w, h) for h, w in self.sizes])[:, None]
            centres = (
                self._centres() if self.queries is None else torch.rand(queries, 2)
            )
            locations = (
                centres[:, None, None, None] + 2 * torch.randn(*shape, 2) / extent
            )
        weights = torch.rand(shape).flatten(-2).softmax(-1).view(shape)
        return [x.requires_grad_() for x in (value, locations, weights)]

    def _centres(self) -> Tensor:
        """Where the pixels of all levels are: `[S, 2]`."""
        levels = []
        for h, w in self.sizes:
            y, x = ((torch.arange(side) + 0.5) / side for side in (h, w))
            levels.append(torch.cartesian_prod(y, x).flip(-1))
        return torch.cat(levels)


CASES = (
    Case("deformable-tiny, encoder", 16, None, 16, SCENES),
    Case("deformable-tiny, decoder", 16, 50, 16, SCENES, local=False),
    Case("stride 4 too, encoder", 16, None, 8, FINE),
    Case("COCO, encoder, local", 2, None, 32, PHOTO),
    Case("COCO, encoder, uniform", 2, None, 32, PHOTO, local=False),
    Case("COCO, decoder, local", 2, 300, 32, PHOTO),
    Case("COCO, decoder, uniform", 2, 300, 32, PHOTO, local=False),
)


def seconds(work: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def take_turns(jobs: dict[str, Callable], rounds: int) -> dict[str, float]:
    """Median seconds of each job; the first turn of each only warms up."""
    taken = {name: [] for name in jobs}
    for _ in range(rounds + 1):
        for name, job in jobs.items():
            taken[name].append(seconds(job))
    return {name: statistics.median(each[1:]) for name, each in taken.items()}


def compare(jobs: dict[str, Callable], rounds: int) -> dict[str, float]:
    """Seconds of each, and how often `compiled` is in `torch`, and in the peer."""
    found = take_turns(jobs, rounds)
    ratios = {"ratio": found["torch"] / found["compiled"]}
    if PEER in found:
        ratios["peer_ratio"] = found[PEER] / found["compiled"]
    return found | ratios


def peer(case: Case, given: list[Tensor]) -> Tensor:
    """The same sum by the function that transformers has for it."""
    core = transformers.MultiScaleDeformableAttention()
    value, locations, weights = given
    return core(value, None, case.sizes, None, locations, weights, 64)


def measure(case: Case, rounds: int) -> dict[str, dict[str, float]]:
    """Compare the forward and the backward pass of one case."""
    given = case.arguments()

    def read(name: str) -> Tensor:
        with backend.use(name):
            return read_points(given[0], case.sizes, *given[1:])

    there = {label: lambda name=name: read(name) for label, name in BACKENDS.items()}
    if transformers:
        there[PEER] = lambda: peer(case, given)
    results = {label: job() for label, job in there.items()}
    grad = torch.randn_like(results["torch"])

    def back(result: Tensor) -> object:
        return torch.autograd.grad(result, given, grad, retain_graph=True)

    home = {label: lambda r=r: back(r) for label, r in results.items()}
    return {"forward": compare(there, rounds), "backward": compare(home, rounds)}


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


def as_row(name: str, way: str, row: dict[str, float]) -> str:
    """One line of the page's tables."""
    times = [
        f"{row[key] * 1e3:,.1f}" if key in row else ""
        for key in ("torch", PEER, "compiled")
    ]
    ratios = [
        f"{row[key]:.1f}" if key in row else "" for key in ("ratio", "peer_ratio")
    ]
    return "| " + " | ".join((name, way, *times, *ratios)) + " |"


def as_markdown(result: dict) -> str:
    """The results as a page with one table for each number of threads."""
    lines = [
        "# Deformable attention on a CPU: compiled against torch's operators",
        "",
        f"{result['processor']}, torch {result['torch']}. Medians of "
        f"{result['rounds']} turns. Cold build: {result['build']:.1f} s.",
    ]
    for threads, found in result["threads"].items():
        lines += ["", f"## Threads: {threads}", ""]
        lines += [
            "| case | | torch (ms) | transformers (ms) | compiled (ms) | torch : "
            "compiled | transformers : compiled |",
            "| :-- | :-- | --: | --: | --: | --: | --: |",
        ]
        rows = [
            (name, way, row)
            for name, ways in found["cases"].items()
            for way, row in ways.items()
        ]
        rows.append(("deformable-tiny", "training step", found["training_step"]))
        lines += [as_row(*row) for row in rows]
    return "\n".join(lines) + "\n"


def for_chapters(result: dict) -> dict:
    """What data/measured/deformable_cpu.json holds: a row for each case and way."""
    rows = []
    for threads, found in result["threads"].items():
        ways = [
            (case, way, row)
            for case, each in found["cases"].items()
            for way, row in each.items()
        ]
        ways.append(("deformable-tiny", "training step", found["training_step"]))
        rows += [
            {"case": case, "way": way, "threads": int(threads)}
            | {key: round(number, 5) for key, number in row.items()}
            for case, way, row in ways
        ]
    machine = f"{result['processor']}, torch {result['torch']}"
    return {"machine": machine, "rounds": result["rounds"], "rows": rows}


def processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        name = next(line for line in lines if line.startswith("model name"))
        return name.split(":")[1].strip()
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def parse() -> argparse.Namespace:
    """What the user asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=5, help="training steps of each")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, os.cpu_count()])
    parser.add_argument("--only", default="", help="cases whose names contain this")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument(
        "--publish", action="store_true", help="do not measure, write what there is"
    )
    return parser.parse_args()


def main() -> None:
    """Measure, print the page, write numbers and page; or only publish them."""
    chosen = parse()
    if chosen.publish:
        write_json(MEASURED, for_chapters(json.loads(chosen.out.read_text("utf-8"))))
        return
    if backend.trouble():
        raise SystemExit(f"no compiled op: {backend.trouble()}")
    found = {}
    for threads in chosen.threads:
        torch.set_num_threads(threads)
        cases = [case for case in CASES if chosen.only in case.name]
        found[str(threads)] = {
            "cases": {case.name: measure(case, chosen.rounds) for case in cases},
            "training_step": training_step(chosen.steps),
        }
    result = {
        "processor": processor(),
        "torch": torch.__version__,
        "rounds": chosen.rounds,
        "build": build_seconds(),
        "threads": found,
    }
    text = as_markdown(result)
    print(text)
    chosen.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(chosen.out, result)
    chosen.out.with_suffix(".md").write_text(text, encoding="utf-8")
    if chosen.out == RESULTS:
        write_json(MEASURED, for_chapters(result))


if __name__ == "__main__":
    main()
