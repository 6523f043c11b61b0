"""A panoptic model through the recipe: a few steps, its record, what stays frozen."""

import json

import pytest
import torch
from runs import two_processes
from small import SIZES, small_config, small_panoptic_config

from detr_steps import PanopticDETR, experiment, zoo
from detr_steps.describable import from_json, to_json
from detr_steps.files import write_tensors
from detr_steps.systems.detr import DETR
from detr_steps.zoo import inspecting

ROWS = [name for name in zoo.recipes() if name.startswith("panoptic-tiny")]
SETTINGS = {"steps": 2, "batch": 2, "evaluate_images": 3, "evaluate_every": 2}
SETTINGS |= {"log_every": 1, "warmup": 0, "drops": []}


def short(name, **changes) -> dict:
    """The recipe of the zoo with a small model, small pictures and two steps."""
    description = json.loads(json.dumps(zoo.recipe(name)))
    whole = from_json(description["model"])
    model = small_panoptic_config(
        classes=10,
        things=6,
        mask_head=whole.mask_head,
        freeze_detector=whole.freeze_detector,
    )
    description["model"] = to_json(model)
    description["start"] = {}
    for part in ("data", "validation"):
        description[part]["size"] = 32
    description["recipe"] |= SETTINGS
    return description | changes


@pytest.fixture(scope="module")
def detector(tmp_path_factory):
    """The run of a small DETR that knows stuff."""
    run = tmp_path_factory.mktemp("detector") / "run"
    run.mkdir()
    config = small_config(classes=10, backbone=small_panoptic_config().backbone)
    description = zoo.recipe("detr-tiny-stuff") | {"model": to_json(config)}
    description.pop("sha256", None)  # of the weights that the zoo has
    (run / "recipe.json").write_text(json.dumps(description))
    torch.manual_seed(7)
    write_tensors(run / "model.safetensors", DETR(config).state_dict(), {})
    return run


def test_the_rows_are_there_and_differ_where_they_say():
    assert len(ROWS) == 8
    base = from_json(zoo.recipe("panoptic-tiny")["model"])
    assert isinstance(base.build(), PanopticDETR) and base.freeze_detector
    heads = {name: from_json(zoo.recipe(name)["model"]).mask_head for name in ROWS}
    assert heads["panoptic-tiny-maps"].inputs == "maps"
    assert heads["panoptic-tiny-features"].inputs == "features"
    assert heads["panoptic-tiny-per-head"].softmax == "per head"
    assert heads["panoptic-tiny-stride16"].finer == 0
    assert heads["panoptic-tiny-unscaled"].map_scale == 1
    # one softmax for eight heads gives each an eighth: the same size in the mean
    scales = {name: head.map_scale for name, head in heads.items()}
    assert scales["panoptic-tiny"] == 8 * scales["panoptic-tiny-per-head"] == 512
    for name in ROWS:
        description = zoo.recipe(name)
        assert description["start"] == {"weights": "detr-tiny-stuff"}
        config = from_json(description["model"])
        assert config.detector == from_json(zoo.recipe("detr-tiny-stuff")["model"])


@pytest.mark.parametrize("name", ROWS)
def test_a_few_steps_and_a_record(name, tmp_path):
    description = short(name)
    record = experiment.run(description, tmp_path / "run", device="cpu")
    last = record[-1]
    assert {"PQ", "PQ_things", "PQ_stuff", "mask_AP", "AP"} <= last.keys()
    frozen = from_json(description["model"]).freeze_detector
    assert ("class" in last) != frozen
    for line in record:
        assert line["total"] > 0 and line["dice"] > 0 and line["mask"] > 0
    # an archive of runs takes such a record in
    settings = experiment.Recipe(**zoo.recipe(tmp_path / "run")["recipe"])
    file = tmp_path / "run" / "record.jsonl"
    assert inspecting.read_whole_record(file, settings, True) == record


def test_a_frozen_detector_comes_out_as_it_went_in(detector, tmp_path):
    description = short("panoptic-tiny", start={"weights": str(detector)})
    experiment.run(description, tmp_path / "run", device="cpu")
    before, after = zoo.weights(detector), zoo.weights(tmp_path / "run")
    assert all(torch.equal(after[name], value) for name, value in before.items())
    torch.manual_seed(0)
    fresh = from_json(description["model"]).build().state_dict()
    head = [name for name in after if name.startswith("mask_")]
    assert head and any(not torch.equal(after[name], fresh[name]) for name in head)


def test_jointly_trained_both_learn(detector, tmp_path):
    description = short("panoptic-tiny-joint", start={"weights": str(detector)})
    experiment.run(description, tmp_path / "run", device="cpu")
    before, after = zoo.weights(detector), zoo.weights(tmp_path / "run")
    assert not torch.equal(after["queries.weight"], before["queries.weight"])


def test_a_detector_without_stuff_starts_another_class_head(capsys):
    description = zoo.recipe("panoptic-tiny-joint") | {
        "start": {"weights": "detr-tiny"}
    }
    model = experiment.build(description)
    said = capsys.readouterr().err
    assert "started anew: the checkpoint has 6 classes" in said
    assert "mask head" in said
    wanted = zoo.weights("detr-tiny")["encoder.0.attention.query.weight"]
    assert torch.equal(model.encoder[0].attention.query.weight, wanted)


def test_a_frozen_detector_cannot_start_another_class_head():
    description = zoo.recipe("panoptic-tiny") | {"start": {"weights": "detr-tiny"}}
    with pytest.raises(ValueError, match="has 6 classes.*frozen and would not learn"):
        experiment.build(description)


def test_a_detector_of_another_size_is_refused(detector):
    wrong = small_panoptic_config(**(SIZES | dict(classes=10, ffn_channels=64)))
    description = short("panoptic-tiny", start={"weights": str(detector)})
    description["model"] = to_json(wrong)
    with pytest.raises(ValueError, match="another size|weights are missing"):
        experiment.build(description)


TRAINING = """
from small import small_panoptic
from detr_steps.data.panoptic_scenes import PanopticScenes
from detr_steps.evaluation import evaluate
train(
    small_panoptic(classes=10, things=6, freeze_detector={frozen}),
    PanopticScenes("train", size=32),
    recipe(batch=4, steps=3, log_every=1, save_every=2),
    out,
    validate=lambda m: evaluate(m, PanopticScenes("val", size=32), batch=2, limit=5),
    device="cpu",
    progress=False,
)
"""


@pytest.mark.parametrize("frozen", [False, True])
def test_two_processes_learn_and_score_the_same_as_one(tmp_path, frozen):
    """The head is asked for masks after the forward pass that torch wraps."""
    code = TRAINING.format(frozen=frozen)
    exec("from runs import *\n" + code, {"out": tmp_path / "one"})
    two_processes(code, tmp_path)
    one, two = (zoo.record(tmp_path / name) for name in ("one", "two"))
    assert "PQ" in one[-1] and "mask_AP" in two[-1]
    for a, b in zip(one, two, strict=True):
        for name in a.keys() - {"seconds", "per_class"}:
            assert a[name] == pytest.approx(b[name], rel=1e-3, abs=1e-4), name
