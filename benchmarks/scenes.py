"""How fast scenes are drawn, and their share of a training step of `detr-tiny`.

    python -m benchmarks.scenes [--threads 2] [--rounds 20]

Drawing and stepping take turns in one process; medians go to the screen and to
benchmarks/results/scenes.json.
"""

import argparse

import torch

from detr_steps import DETR, DETRConfig
from detr_steps.data.scenes import Scenes
from detr_steps.training import Recipe

from .measuring import RESULTS, machine, save, take_turns

BATCH = 16


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    taken = measure(options.rounds)
    draw, step = taken["draw"], taken["step"]
    result = {
        "threads": options.threads,
        "scenes_per_second": round(BATCH / draw),
        "share_of_step": round(draw / (draw + step), 3),
        "draw_ms": round(draw * 1000, 1),
        "step_ms": round(step * 1000, 1),
        "machine": machine(),
    }
    for name, value in result.items():
        print(f"{name:18} {value}")
    save(RESULTS / "scenes.json", result)


def measure(rounds: int) -> dict[str, float]:
    """Seconds of drawing a batch and of the step on it."""
    model, scenes = DETR(DETRConfig.tiny()), Scenes("train")
    optimiser = Recipe(steps=1).optimiser(model)
    batches, drawn = scenes.batches(BATCH), []

    def draw() -> None:
        drawn[:] = next(batches)

    def step() -> None:
        batch, targets = drawn
        model.loss(model(batch), targets)["total"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        optimiser.step()
        optimiser.zero_grad()

    return take_turns({"draw": draw, "step": step}, rounds)


if __name__ == "__main__":
    main()
