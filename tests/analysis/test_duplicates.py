"""Answers that repeat: counted by hand, and mended by NMS."""

import json

import pytest
import torch
from small import small_deformable_config

from benchmarks import duplicates as benchmark
from detr_steps.analysis.duplicates import duplicates
from detr_steps.data.scenes import Scenes
from detr_steps.describable import to_json
from detr_steps.files import write_tensors
from detr_steps.objective.classification import Focal

SCENES = Scenes("val", size=64)
FAR = torch.tensor([0.05, 0.05, 0.02, 0.02])


def answers(times, score=0.9):
    """Each object of two pictures answered so many times, a little smaller each."""
    targets = SCENES.draw([0, 1]).targets
    most = max(len(t["labels"]) for t in targets)
    logits = torch.full((2, most * times, 6), -9.0)
    boxes = FAR.expand(2, most * times, 4).clone()
    for image, target in enumerate(targets):
        for n, (box, label) in enumerate(zip(target["boxes"], target["labels"])):
            for copy in range(times):
                query = n * times + copy
                boxes[image, query, :2] = box[:2]
                boxes[image, query, 2:] = box[2:] * (1 - 0.02 * copy)
                sure = torch.logit(torch.tensor(score)) - 0.2 * n - 0.05 * copy
                logits[image, query, label] = sure
    return logits, boxes, targets


def test_one_answer_each_needs_no_nms():
    found = duplicates(*answers(1), SCENES, Focal())
    assert found.ap == pytest.approx(1.0, abs=1e-3) == found.ap_nms
    assert found.answers == found.found == 1.0


def test_three_answers_cost_ap_and_nms_brings_it_back():
    found = duplicates(*answers(3), SCENES, Focal())
    assert found.answers == 3.0 and found.found == 1.0
    assert found.ap < 0.99 < found.ap_nms


def test_weak_and_misplaced_answers_are_none():
    assert duplicates(*answers(2, score=0.25), SCENES, Focal()).found == 0
    logits, boxes, targets = answers(1)
    aside = boxes + torch.tensor([0.3, 0, 0, 0])
    assert duplicates(logits, aside, targets, SCENES, Focal()).answers == 0


def test_a_run_has_its_row(tmp_path):
    torch.manual_seed(0)
    model = small_deformable_config(queries=9).build().eval()
    description = {
        "recipe": {"steps": 4},
        "model": to_json(model.config),
        "validation": to_json(SCENES),
    }
    (tmp_path / "recipe.json").write_text(json.dumps(description))
    (tmp_path / "record.jsonl").write_text('{"step": 4, "seconds": 6.0}\n')
    write_tensors(tmp_path / "model.safetensors", model.state_dict(), {"step": 4})
    row = benchmark.measure(tmp_path, 6)
    assert set(row) == {"ap", "ap_nms", "answers", "found"}
    assert all(0 <= row[key] <= 1 for key in ("ap", "ap_nms", "found"))
