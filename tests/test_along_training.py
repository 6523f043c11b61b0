"""The curves of chapter 04: of every kept step, each number from its place."""

import json

import pytest
import torch
from small import small_config, small_tsp_config

from benchmarks import along_training
from detr_steps.analysis.matching_stability import matches_along
from detr_steps.analysis.sparsity import sparsity_by_layer
from detr_steps.data.scenes import Scenes
from detr_steps.describable import to_json
from detr_steps.files import write_tensors
from detr_steps.training import kept_weights
from detr_steps.training.folder import kept_file

DATA = Scenes("val", size=64)


def run_of(folder, config):
    """A run that has kept two steps."""
    scenes = to_json(DATA)
    description = {"recipe": {"steps": 4}, "model": to_json(config)}
    description |= {"data": scenes, "validation": scenes}
    (folder / "recipe.json").write_text(json.dumps(description))
    torch.manual_seed(0)
    for step in (0, 4):
        weights = config.build().state_dict()
        write_tensors(kept_file(folder, step), weights, {"step": step})
    return folder


def test_a_run_has_both_curves(tmp_path):
    run = run_of(tmp_path, small_config(queries=9))
    found = json.loads(json.dumps(along_training.measure(run, 5)))
    assert found["steps"] == [0, 4] and found["images"] == 5
    model = small_config(queries=9).build()
    curve = matches_along(model, kept_weights(run), DATA, range(5))
    (row,) = found["instability"]
    assert row == pytest.approx(curve.instability()[0].tolist(), abs=1e-4)
    assert 0 < max(row) <= found["most"]
    model.load_state_dict(dict(kept_weights(run))[4])
    images = DATA.draw(range(5)).images
    for name, layers in sparsity_by_layer(model, images).items():
        for part in along_training.PARTS:
            values = getattr(layers, part)
            mine = torch.tensor(found["sparsity"][name][part])[1]
            assert torch.allclose(mine, values, atol=1e-3), (name, part)


def test_queries_that_are_others_in_each_image_have_no_changes(tmp_path):
    found = along_training.measure(run_of(tmp_path, small_tsp_config()), 2)
    assert found["steps"] == [0, 4] and "instability" not in found
    assert list(found["sparsity"]) == ["decoder_self"]


def test_a_run_that_kept_nothing_is_named(tmp_path):
    run = run_of(tmp_path, small_config())
    for file in (run / "kept").iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="no weights were kept"):
        along_training.measure(run, 2)
