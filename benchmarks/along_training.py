"""What changes along a training: sparsity of every attention, who answers for what.

    python -m benchmarks.along_training runs/zoo/slow-base-seed* [--images 200]

Each run is a folder that `detr-steps train` or the zoo's queue has left, of a recipe
that keeps weights. At every kept step, on the first validation images: negative entropy
of the attention rows by layer and head, of 32 images; and how many queries have changed
their object since the step before, by layer, of all. Steps apart differ, so the changes
do: compare runs that keep the same steps. Results: data/measured/along_training.json,
where rows of other runs are kept; chapters read it.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import nn

from detr_steps.analysis.matching_stability import matches_along
from detr_steps.analysis.sparsity import sparsity_along
from detr_steps.data.dataset import Dataset
from detr_steps.describable import from_json
from detr_steps.training import kept_weights
from detr_steps.training.folder import read_description

from .measuring import MEASURED, save

FILE = MEASURED / "along_training.json"
MAPS = 32  # images whose attention is looked at: all in one batch
DIGITS = 4
PARTS = "row", "head_mean", "normalised"  # the averages over keys follow from the row


def sparsities(model: nn.Module, run: Path, data: Dataset, images: int) -> dict:
    """By attention and measure: `[F][Y][M]`, or `[F][Y]` of the heads' mean map."""
    batch, _ = next(iter(data.evaluation_batches(images, images)))
    curve = sparsity_along(model, kept_weights(run), batch)
    return {
        name: {
            part: torch.round(getattr(found, part), decimals=DIGITS).tolist()
            for part in PARTS
        }
        for name, found in curve.attentions.items()
    }


def changes(model: nn.Module, run: Path, data: Dataset, images: int) -> dict:
    """`instability [F - 1][Y]` per image, and the most it can be."""
    curve = matches_along(model, kept_weights(run), data, range(images))
    found = torch.round(curve.instability(), decimals=DIGITS)
    return {"steps": curve.steps, "instability": found.tolist(), "most": curve.highest}


def measure(run: Path, images: int) -> dict:
    """The row of a run. Raises: FileNotFoundError; ValueError where it kept nothing."""
    description = read_description(run)
    model = from_json(description["model"]).build().eval()
    data = from_json(description["validation"])
    images = min(images, len(data))
    row = {"images": images, "sparsity_images": min(MAPS, images)}
    row["sparsity"] = sparsities(model, run, data, row["sparsity_images"])
    if not getattr(model, "fixed_queries", True):
        return row | {"steps": [step for step, _ in kept_weights(run)]}
    return row | changes(model, run, data, images)


def main() -> None:
    """Measure, write after each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--images", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}
    for run in options.runs:
        rows[run.name] = measure(run, options.images)
        print(run.name, "steps", rows[run.name]["steps"])
        save(FILE, dict(sorted(rows.items())))


if __name__ == "__main__":
    main()
