"""The table of chapter 11: every column of a run, from what the run has left."""

import json

import pytest
import torch
from small import small_deformable_config

from benchmarks import last_layer, sets
from detr_steps import zoo
from detr_steps.data.scenes import Scenes
from detr_steps.describable import to_json
from detr_steps.evaluation import evaluate
from detr_steps.files import write_tensors


def test_a_run_has_every_column(tmp_path):
    """Of an untrained model: numbers that mean little, but each from its place."""
    torch.manual_seed(0)
    model = small_deformable_config(queries=9).build().eval()
    scenes = {k: to_json(Scenes(k, size=64)) for k in ("train", "val")}
    description = {
        "recipe": {"steps": 4},
        "model": to_json(model.config),
        "data": scenes["train"],
        "validation": scenes["val"],
    }
    (tmp_path / "recipe.json").write_text(json.dumps(description))
    record = tmp_path / "record.jsonl"
    record.write_text('{"step": 3, "seconds": 4.0}\n')
    with pytest.raises(ValueError, match="at step 3 of 4: let it finish"):
        last_layer.measure(tmp_path, 6)
    record.write_text('{"step": 4, "seconds": 6.0}\n')
    write_tensors(tmp_path / "model.safetensors", model.state_dict(), {"step": 4})
    found = json.loads(json.dumps(last_layer.measure(tmp_path, 6)))
    assert found["seconds_per_step"] == 1.5 and found["images"] == 6
    assert len(found["AP_by_layer"]) == 3 and len(found["better_layers"]) == 2
    own = evaluate(model, Scenes("val", size=64), limit=6)["AP"]
    assert found["AP_by_layer"][-1] == pytest.approx(own, abs=1e-6)
    assert set(found["TP_F"]) == {"winner", "candidate", "class", "greedy"}
    assert set(found["FP_E"]) == {"fp", "any", "class"}
    assert found["FP"] + found["TP"] >= 9 * 6 and 2 <= found["layers_to_exit"] <= 3
    for name in ("oracle_query", "oracle_objects", "oracle_image", "exit", "selector"):
        assert 0 <= found[f"AP_{name}"] <= 1


def test_a_step_is_timed_with_as_many_sets_as_its_recipe_refines():
    assert [sets.sets(name) for name in sets.NAMES] == [6, 13, 20, 32, 63]
    sets.step("sqr-13", batch=1)()  # forward, loss, backward


def test_what_the_chapter_reads_was_measured_of_these_recipes():
    found = zoo.measured("sets")["rows"]
    assert list(found) == list(sets.NAMES)
    assert all(found[name]["sets"] == sets.sets(name) for name in sets.NAMES)
    assert found["sqr-base"]["times_base"] == 1
