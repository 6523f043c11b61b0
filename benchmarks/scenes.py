"""How fast scenes are drawn, and their share of a training step of `detr-tiny`.

    python benchmarks/scenes.py [--threads 2] [--rounds 20]

Drawing and stepping take turns in one process; medians go to the screen and to
benchmarks/results/scenes.json.
"""

import argparse
import platform
import statistics
import time
from pathlib import Path

import torch

from detr_steps import DETR, DETRConfig
from detr_steps.data.scenes import Scenes
from detr_steps.files import write_json
from detr_steps.training import Recipe

RESULTS = Path(__file__).parent / "results" / "scenes.json"
BATCH = 16


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    draws, steps = measure(options.rounds)
    draw, step = statistics.median(draws), statistics.median(steps)
    result = {
        "threads": options.threads,
        "scenes_per_second": round(BATCH / draw),
        "share_of_step": round(draw / (draw + step), 3),
        "draw_ms": round(draw * 1000, 1),
        "step_ms": round(step * 1000, 1),
        "machine": f"{platform.machine()}, torch {torch.__version__}",
    }
    for name, value in result.items():
        print(f"{name:18} {value}")
    write_json(RESULTS, result)


def measure(rounds: int) -> tuple[list[float], list[float]]:
    """Seconds of drawing a batch and of the step on it, after two warm-up rounds."""
    model, scenes = DETR(DETRConfig.tiny()), Scenes("train")
    optimiser = Recipe(steps=1).optimiser(model)
    draws, steps = [], []
    batches = scenes.batches(BATCH)
    for _ in range(rounds + 2):
        start = time.perf_counter()
        batch, targets = next(batches)
        drawn = time.perf_counter()
        model.loss(model(batch), targets)["total"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimiser.step()
        optimiser.zero_grad()
        draws.append(drawn - start)
        steps.append(time.perf_counter() - drawn)
    return draws[2:], steps[2:]


if __name__ == "__main__":
    main()
