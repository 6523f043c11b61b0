"""Rewrites older recipe.json files in today's words: kinds, field names, new fields.

    python tools/rewrite_recipes.py data/zoo/*/recipe.json

A file that is up to date is left as it is. What changed since the first edition:
`hidden` is `ffn_channels`, the kind of classifier has a field of its own (`Softmax`,
`Focal`), the two stages are a query source, and the training scheme is named; later the
weights of the decoder layers' losses got a field, `layer_weights`.
"""

import json
import sys
from pathlib import Path

DETECTORS = ("DETRConfig", "DeformableDETRConfig")


def renewed(description: dict) -> dict:
    """The same run in today's words; raises KeyError for a file of neither edition."""
    model = description["model"]
    if model["kind"] in DETECTORS and "hidden" in model:
        model = _detector(dict(model))
    if "scheme" in model and "layer_weights" not in model:
        model = _with_layer_weights(model)
    return description | {"model": model}


def _detector(old: dict) -> dict:
    new = {}
    for key, value in old.items():
        if key == "hidden":
            new["ffn_channels"] = value
        elif key == "two_stage":
            new["query_source"] = {"kind": "Proposals" if value else "LearnedPoints"}
        elif key == "loss":
            weights = ("classification", "box", "giou")
            new["loss"] = {"kind": "LossWeights"} | {k: value[k] for k in weights}
            new["classification"] = _classification(value)
        else:
            new[key] = value
    return new | {"scheme": {"kind": "Plain"}}


def _classification(loss: dict) -> dict:
    if loss["kind"] == "FocalWeights":
        return {"kind": "Focal", "alpha": loss["alpha"], "gamma": loss["gamma"]}
    return {"kind": "Softmax", "no_object": loss["no_object"]}


def _with_layer_weights(old: dict) -> dict:
    new = {}
    for key, value in old.items():
        new[key] = value
        if key == "loss":
            new["layer_weights"] = {"kind": "LayerWeights", "schedule": "uniform"}
    return new


def rewrite(path: Path) -> bool:
    """Renew one file in place; whether anything changed."""
    before = json.loads(path.read_text(encoding="utf-8"))
    after = renewed(before)
    if after == before:
        return False
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(after, indent=2, ensure_ascii=False) + "\n", "utf-8")
    part.replace(path)
    return True


if __name__ == "__main__":
    for name in sys.argv[1:]:
        print("rewritten" if rewrite(Path(name)) else "unchanged", name)
