"""What a missing `detach` does to training: a refining recipe again, without it.

    python -m benchmarks.undetached more-refine [--seeds 0 1 2] [--out runs/undetached]

The zoo's recipe as it is, seed by seed, but every decoder layer hands the next one its
boxes with their gradient. The opponent is the recipe's own record, seed by seed from
the same weights. Of each: AP at every evaluation, losses and norms of the gradient at
every line of the record. Results: data/measured/undetached.json, where rows of other
recipes are kept; chapter 08 reads it.
"""

import argparse
import json
from pathlib import Path

import torch

from detr_steps import experiment, zoo
from detr_steps.systems.deformable_detr import DeformableDETR
from detr_steps.training import Recipe, train

from .measuring import MEASURED, save

FILE = MEASURED / "undetached.json"
DIGITS = 4
KEPT = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "total", "gradient_norm")


class Undetached(DeformableDETR):
    """Refinement whose boxes carry their gradient into all later layers."""

    def step(self, index, queries, memory, trace=False):
        queries, prediction, seen = super().step(index, queries, memory, trace)
        return queries._replace(references=prediction.boxes), prediction, seen


def undetached(description: dict) -> Undetached:
    """The described model with what it starts from, its boxes not detached.

    Raises: ValueError for a model that does not refine boxes.
    """
    model = experiment.build(description)
    if not getattr(model.config, "refine", False):
        raise ValueError("nothing to detach: the model does not refine boxes")
    other = Undetached(model.config)
    other.load_state_dict(model.state_dict())
    return other


def run(name: str, seed: int, out: Path) -> list[dict]:
    """Train a recipe of the zoo without `detach`; returns the record."""
    description = zoo.recipe(name)
    description["recipe"] = description["recipe"] | {"seed": seed}
    recipe = Recipe.from_dict(description["recipe"], name)
    model = undetached(description)
    data, validation = experiment.open_data(description)
    validate = experiment.validator(model, validation, recipe)
    return train(model, data, recipe, out, validate=validate, device="cpu")


def curves(record: list[dict]) -> dict[str, list]:
    """`[step, value]` of each number that is kept, without those of epochs."""
    return {
        key: [[x["step"], round(x[key], DIGITS)] for x in record if key in x]
        for key in KEPT
    }


def main() -> None:
    """Train, write after each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/undetached"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in options.seeds:
        record = run(options.name, seed, options.out / f"{options.name}-seed{seed}")
        rows = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}
        rows[f"{options.name}-seed{seed}"] = curves(record)
        save(FILE, dict(sorted(rows.items())))


if __name__ == "__main__":
    main()
