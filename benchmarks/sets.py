"""Time of a training step against the number of sets that the decoder refines.

    python -m benchmarks.sets [--rounds 7]

The recipes `sqr-base`, `sqr-13`, `sqr-20`, `sqr-32`, `sqr-dense` of the zoo: forward,
loss and backward of one batch of theirs, all in one process on one thread, taking
turns; medians, as ratios to the base's. Results: data/measured/sets.json, which chapter
11 holds against a count.
"""

import argparse

import torch

from detr_steps import zoo
from detr_steps.describable import from_json
from detr_steps.systems.sqr import Recollect

from .measuring import MEASURED, machine, save, take_turns
from .step_times import step

NAMES = "sqr-base", "sqr-13", "sqr-20", "sqr-32", "sqr-dense"


def sets(name: str) -> int:
    """How many sets a recipe's decoder refines in a training step."""
    config = from_json(zoo.recipe(name)["model"])
    if not isinstance(config.scheme, Recollect):
        return config.decoder_layers
    return sum(config.scheme.sets(config.decoder_layers))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    torch.set_num_threads(1)
    rounds = parser.parse_args().rounds
    taken = take_turns({name: step(name) for name in NAMES}, rounds)
    rows = {
        name: {"sets": sets(name), "times_base": taken[name] / taken[NAMES[0]]}
        for name in NAMES
    }
    for name, row in rows.items():
        print(name, row)
    found = {"machine": machine(), "seconds_base": taken[NAMES[0]], "rows": rows}
    save(MEASURED / "sets.json", found)


if __name__ == "__main__":
    main()
