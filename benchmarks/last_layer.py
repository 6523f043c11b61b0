"""Does the last layer know best? The columns of chapter 11's table, run by run.

    python -m benchmarks.last_layer runs/zoo/sqr-*-seed* [--images 500]

Each run is a folder that `detr-steps train` or the zoo's queue has left, finished. Of
its weights, on the first validation images: AP of every layer; TP-F and FP-E in every
reading, and which earlier layers were better; AP of the oracles, of an early exit with
the layers it costs, and of a selector trained on as many training images. Results:
data/measured/last_layer.json, where rows of other runs are kept; chapters read it.
"""

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor, nn

from detr_steps.analysis import ap_by_layer, predictions
from detr_steps.analysis.fading import FP_READINGS, READINGS, rates
from detr_steps.analysis.judging import as_corners
from detr_steps.analysis.oracle import (
    agreement,
    best_per_image,
    best_per_query,
    fit_selector,
    pick,
)
from detr_steps.data.dataset import Dataset
from detr_steps.describable import from_json

from .finished import finished
from .measuring import MEASURED, save

FILE = MEASURED / "last_layer.json"


def row(model: nn.Module, data: Dataset, training: Dataset, images: int) -> dict:
    """All columns of one model, in eval mode; shares and AP in [0, 1]."""
    kind = model.config.classification
    logits, boxes, targets = given = predictions(model, data, images)

    def ap(layers: Tensor) -> float:
        chosen = pick(logits, boxes, layers)
        return ap_by_layer(*chosen, targets, data, classification=kind)[0]

    parts = as_corners(*given, kind)
    found = {reading: rates(*parts, reading=reading) for reading in READINGS}
    false = {each: rates(*parts, fp_reading=each).fp_e for each in FP_READINGS}
    exits = agreement(logits, boxes, kind)
    selector = fit_selector(*predictions(model, training, images), kind)
    return {
        "images": images,
        "AP_by_layer": ap_by_layer(*given, data, classification=kind),
        "TP_F": {reading: each.tp_f for reading, each in found.items()},
        "FP_E": false,
        "TP": found["winner"].tp,
        "FP": found["winner"].fp,
        "better_layers": found["winner"].pairs.tolist(),
        "AP_oracle_query": ap(best_per_query(*given, kind)),
        "AP_oracle_objects": ap(best_per_query(*given, kind, rest=False)),
        "AP_oracle_image": ap(best_per_image(*given, kind)),
        "AP_exit": ap(exits),
        "layers_to_exit": float(exits.float().mean() + 1),
        "AP_selector": ap(selector.choose(logits, boxes, kind)),
    }


def measure(run: Path, images: int) -> dict:
    """The row of a run, with its pace; raises as `finished` does."""
    model, description, last = finished(run)
    data, training = (from_json(description[k]) for k in ("validation", "data"))
    pace = {"steps": last["step"], "seconds_per_step": last["seconds"] / last["step"]}
    return pace | row(model, data, training, images)


def main() -> None:
    """Measure, print, write after each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--images", type=int, default=500)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(FILE.read_text("utf-8")) if FILE.exists() else {}
    for run in options.runs:
        rows[run.name] = measure(run, options.images)
        print(run.name, json.dumps(rows[run.name]))
        save(FILE, dict(sorted(rows.items())))


if __name__ == "__main__":
    main()
