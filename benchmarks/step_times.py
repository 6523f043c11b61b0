"""Time and memory of a training step of some recipes, against the first of them.

    python -m benchmarks.step_times slow-base slow-encoder-only slow-tsp-fcos …

Forward, loss and backward of one batch of each recipe, with its teacher if it has one,
without its optimiser; all in one process on one thread, taking turns; medians. Memory
is the most bytes of tensors that such a step holds at once, its gradients counted, its
weights not. Results: data/measured/step_times.json, under the first name; chapters read
it.
"""

import argparse
import json
from collections.abc import Callable

import torch

from detr_steps import zoo
from detr_steps.describable import from_json
from detr_steps.training.freezing import frozen
from detr_steps.training.teacher import Teacher

from .measuring import MEASURED, machine, memory, save, take_turns

FILE = MEASURED / "step_times.json"


def step(name: str, batch: int | None = None) -> Callable[[], None]:
    """A training step of a recipe without its optimiser, on one batch of its size."""
    recipe = zoo.recipe(name)
    torch.manual_seed(0)
    model = from_json(recipe["model"]).build().train()
    scenes = from_json(recipe["data"]).draw(range(batch or recipe["recipe"]["batch"]))
    given = {"targets": scenes.targets} if model.wants_targets else {}
    teacher = None
    if "teacher" in recipe:
        teacher = Teacher(zoo.load(recipe["teacher"]["weights"])).on("cpu")

    def run() -> None:
        model.zero_grad()
        with frozen(model, recipe["recipe"].get("freeze", ())):
            output = model(scenes.images, **given)
            matched = teacher and {
                "matched": teacher.match(scenes.images, scenes.targets)
            }
            model.loss(output, scenes.targets, **(matched or {}))["total"].backward()

    return run


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    steps = {name: step(name) for name in options.names}
    held = {name: round(memory(run)[1] / 1e6, 1) for name, run in steps.items()}
    taken = take_turns(steps, options.rounds)
    first = options.names[0]
    times = {name: round(taken[name] / taken[first], 3) for name in options.names}
    for name, ratio in times.items():
        print(f"{name:24} {ratio:.2f} {held[name]:8.1f} MB")
    found = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}
    found[first] = {
        "machine": machine(),
        "seconds": taken[first],
        "times": times,
        "megabytes": held,
    }
    save(FILE, dict(sorted(found.items())))


if __name__ == "__main__":
    main()
