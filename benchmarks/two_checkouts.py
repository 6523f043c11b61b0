"""Time of a training step in this checkout against another one, in one process.

    python -m benchmarks.two_checkouts OTHER [--rounds 9] [--models tiny coco_r50]

OTHER is the folder of another checkout of this repository, e.g. of a `git worktree`.
Both packages are imported side by side and take turns; what counts is the processor
time of one thread, which other work on the machine disturbs least. Medians and the
ratio this : other go to the screen. Sampling is PyTorch's: an operator of one name
cannot be registered by two packages.
"""

import argparse
import importlib.util
import os
import statistics
import sys
import time
from pathlib import Path
from types import ModuleType

import torch

os.environ["DETR_STEPS_BACKEND"] = "torch"
import detr_steps  # noqa: E402

CASES = {  # pixels of a side, pictures
    "tiny": (128, 16),
    "coco_r50": (320, 1),
}
OBJECTS = 8


def other_package(folder: Path) -> ModuleType:
    """Import `detr_steps` of another checkout under another name."""
    file = folder / "detr_steps" / "__init__.py"
    spec = importlib.util.spec_from_file_location(
        "detr_steps_other", file, submodule_search_locations=[str(file.parent)]
    )
    module = importlib.util.module_from_spec(spec)
    sys.modules["detr_steps_other"] = module
    spec.loader.exec_module(module)
    return module


class Step:
    """A training step of one model: forward, loss, backward."""

    def __init__(self, package: ModuleType, system: str, preset: str) -> None:
        side, pictures = CASES[preset]
        torch.manual_seed(0)
        config = getattr(getattr(package, f"{system}Config"), preset)()
        self.model = config.build().train()
        draw = torch.Generator().manual_seed(1)
        pixels = torch.randn(pictures, 3, side, side, generator=draw)
        self.batch = package.ImageBatch.from_pixels(pixels)
        boxes = torch.rand(pictures, OBJECTS, 4, generator=draw) * 0.2 + 0.3
        labels = torch.arange(OBJECTS) % config.classes
        self.targets = [{"boxes": each, "labels": labels} for each in boxes]

    def seconds(self) -> float:
        """Processor time of one step."""
        begin = time.process_time()
        output = self.model(self.batch)
        self.model.loss(output, self.targets)["total"].backward()
        return time.process_time() - begin


def compare(other: ModuleType, system: str, preset: str, rounds: int) -> None:
    """Print the medians and their ratio for one model."""
    steps = [Step(package, system, preset) for package in (detr_steps, other)]
    for step in steps:
        step.seconds()  # the first step also builds and allocates
    taken = [[], []]
    for turn in range(rounds):
        for which in (0, 1) if turn % 2 else (1, 0):
            taken[which].append(steps[which].seconds())
    this, theirs = map(statistics.median, taken)
    ratios = [a / b for a, b in zip(*taken)]
    print(
        f"{system} {preset}: {this:.3f} s against {theirs:.3f} s, "
        f"ratio {this / theirs:.3f} (of pairs: {statistics.median(ratios):.3f})"
    )


def main() -> None:
    """Compare both systems at both sizes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("other", type=Path)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--models", nargs="+", default=list(CASES), choices=CASES)
    options = parser.parse_args()
    torch.set_num_threads(1)
    other = other_package(options.other)
    for preset in options.models:
        for system in ("DETR", "DeformableDETR"):
            compare(other, system, preset, options.rounds)


if __name__ == "__main__":
    main()
