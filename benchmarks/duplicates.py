"""How often does a model answer an object, and what does NMS mend? Run by run.

    python -m benchmarks.duplicates runs/zoo/more-*-seed* [--images 500]

Each run is a folder that `detr-steps train` or the zoo's queue has left, finished. Of
the last layer on the first validation images: AP, AP with NMS, answers for each object
that has any, the share of objects that have one. Results:
data/measured/duplicates.json, where rows of other runs are kept; chapters read it.
"""

import argparse
import json
from pathlib import Path

import torch

from detr_steps.analysis import predictions
from detr_steps.analysis.duplicates import duplicates
from detr_steps.describable import from_json

from .finished import finished
from .measuring import MEASURED, save

FILE = MEASURED / "duplicates.json"


def measure(run: Path, images: int) -> dict:
    """The row of a run; raises as `finished` does."""
    model, description, _ = finished(run)
    data = from_json(description["validation"])
    logits, boxes, targets = predictions(model, data, images)
    kind = model.config.classification
    found = duplicates(logits[-1], boxes[-1], targets, data, kind)
    return {key: round(value, 4) for key, value in found._asdict().items()}


def main() -> None:
    """Measure, print, write after each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--images", type=int, default=500)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {"runs": {}}
    rows = found["runs"] if found.get("images") == options.images else {}
    for run in options.runs:
        rows[run.name] = measure(run, options.images)
        print(run.name, json.dumps(rows[run.name]))
        save(FILE, {"images": options.images, "runs": dict(sorted(rows.items()))})


if __name__ == "__main__":
    main()
