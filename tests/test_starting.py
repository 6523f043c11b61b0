"""What a description starts from, part by part, and who teaches it the matching."""

import json

import pytest
import torch
from small import small_config

from detr_steps import experiment, zoo
from detr_steps.data.scenes import Scenes
from detr_steps.describable import to_json

SCENES = {part: to_json(Scenes(part, size=32)) for part in ("train", "val")}


def describe(start=None, settings=None, queries=8, **others):
    recipe = {"steps": 2, "batch": 2, "evaluate_images": 2, "warmup": 0}
    return {
        "recipe": recipe | (settings or {}),
        "model": to_json(small_config(queries=queries)),
        "start": start or {},
        "data": SCENES["train"],
        "validation": SCENES["val"],
    } | others


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A finished run of another seed."""
    out = tmp_path_factory.mktemp("source") / "run"
    experiment.run(describe(settings={"seed": 3}), out, device="cpu")
    return str(out)


def test_parts_are_taken_over_and_others_are_fresh(source):
    parts = {"decoder": source, "queries": source, "class_head.bias": source}
    model = experiment.build(describe({"parts": parts})).state_dict()
    fresh = experiment.build(describe()).state_dict()
    theirs = zoo.weights(source)
    for name, value in model.items():
        taken = name.startswith(("decoder.", "queries.")) or name == "class_head.bias"
        assert torch.equal(value, (theirs if taken else fresh)[name]), name
        if taken and not name.endswith("bias") and "norm" not in name:
            assert not torch.equal(value, fresh[name]), name


def test_a_transplant_stays_frozen_while_the_rest_learns(source, tmp_path):
    start = {"parts": {"encoder": source}}
    description = describe(start, {"freeze": ["encoder"]})
    experiment.run(description, tmp_path / "run", device="cpu")
    after, theirs = zoo.weights(tmp_path / "run"), zoo.weights(source)
    for name, value in after.items():
        if name.startswith("encoder."):
            assert torch.equal(value, theirs[name])
    assert not torch.equal(after["queries.weight"], theirs["queries.weight"])
    said = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert said["start"] == start and said["recipe"]["freeze"] == ["encoder"]


@pytest.mark.parametrize(
    ("part", "queries", "says"),
    [
        ("anchors", 8, "the model has no part 'anchors'"),
        ("enc", 8, "the model has no part 'enc'"),
        ("queries", 9, r"queries.weight is \[8, 32\] there and \[9, 32\] here"),
    ],
)
def test_parts_that_do_not_fit_are_named(source, part, queries, says):
    with pytest.raises(ValueError, match=says):
        experiment.build(describe({"parts": {part: source}}, queries=queries))


def test_parts_without_sources_are_named(source):
    with pytest.raises(ValueError, match="start: parts are .*for each part"):
        experiment.build(describe({"parts": source}))


def test_a_source_without_the_part_is_named():
    with pytest.raises(ValueError, match="shapes-backbone has no part 'encoder'"):
        experiment.build(describe({"parts": {"encoder": "shapes-backbone"}}))


def test_a_teacher_named_in_a_description_teaches(source, tmp_path):
    taught = describe(teacher={"weights": source, "steps": 1})
    experiment.run(taught, tmp_path / "taught", device="cpu")
    experiment.run(describe(), tmp_path / "alone", device="cpu")
    one, other = zoo.weights(tmp_path / "taught"), zoo.weights(tmp_path / "alone")
    assert not torch.equal(one["queries.weight"], other["queries.weight"])
    said = json.loads((tmp_path / "taught" / "recipe.json").read_text())
    assert said["teacher"] == taught["teacher"]


@pytest.mark.parametrize(
    ("teacher", "says"),
    [
        ("detr-tiny", 'the teacher is .detr-tiny.: give {"weights"'),
        ({"steps": 3}, "the teacher is"),
        ({"weights": "detr-tiny", "step": 3}, "the teacher is"),
        ({"weights": "detr-tiny", "steps": 0}, "one at least"),
        ({"weights": "shapes-backbone"}, "Classifier matches no queries"),
    ],
)
def test_a_teacher_that_is_none_is_named(tmp_path, teacher, says):
    with pytest.raises(ValueError, match=says):
        experiment.run(describe(teacher=teacher), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_other_class_names_is_named(source, tmp_path):
    names = ["a", "b", "c", "d", "e", "f"]
    description = describe(teacher={"weights": source}, class_names=names)
    with pytest.raises(ValueError, match="knows the classes disc, .* the run a, b"):
        experiment.run(description, tmp_path / "run", device="cpu")


def test_the_zoo_knows_what_a_run_waits_for():
    start = {"backbone": "shapes-backbone", "parts": {"encoder": "detr-tiny"}}
    description = describe(start, teacher={"weights": "deformable-tiny"})
    needed = ["shapes-backbone", "detr-tiny", "deformable-tiny"]
    assert sorted(zoo.sources(description)) == sorted(needed)
    assert zoo.sources(describe({"parts": "detr-tiny"}, teacher="detr-tiny")) == []
    assert zoo.sources(describe({"backbone": "mine.pth"})) == []
