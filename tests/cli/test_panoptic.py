"""`predict --panoptic` and `evaluate --panoptic`: segments that come back, scores."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from small import small_panoptic

from detr_steps import zoo
from detr_steps.cli import main
from detr_steps.cli.segments import middle, paint
from detr_steps.data.export import export
from detr_steps.data.panoptic_files import PanopticFiles
from detr_steps.data.scenes import Scenes
from detr_steps.describable import to_json
from detr_steps.detections import Panoptic, Segment
from detr_steps.evaluation import evaluate_panoptic
from detr_steps.experiment import open_data
from detr_steps.files import write_tensors


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose model is sure of whatever it says."""
    model = small_panoptic(classes=10, things=6)
    with torch.no_grad():
        model.class_head.weight.mul_(20)
        model.mask_head.blocks[0].conv.weight[:, 32:] *= 100
    place = tmp_path_factory.mktemp("model") / "run"
    place.mkdir()
    description = zoo.recipe("panoptic-tiny") | {"model": to_json(model.config)}
    description.pop("sha256", None)
    for part in ("data", "validation"):
        description[part]["size"] = 32
    (place / "recipe.json").write_text(json.dumps(description))
    write_tensors(place / "model.safetensors", model.state_dict(), {})
    return place


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return export(
        Scenes("val", size=64), tmp_path_factory.mktemp("set") / "val", [3, 8]
    )


def command(*words, code=0):
    assert main([*map(str, words)]) == code


def test_segments_come_back_from_their_files(run, folder, tmp_path, capsys):
    out, results = tmp_path / "out", tmp_path / "found.json"
    words = ("predict", folder / "images", "--panoptic", "--model", run, "--out", out)
    command(*words, "--threshold", 0.3, "--results", results)
    said = capsys.readouterr().out
    assert said.count(" segments -> ") == 2 and "image ids: the numbers" in said
    files = PanopticFiles(results)
    assert (
        files.class_names
        == PanopticFiles(folder / "annotations" / "panoptic.json").class_names
    )
    assert files.things == 6 and [image.id for image in files.images] == [3, 8]
    for index, name in enumerate(("000000000003", "000000000008")):
        content = json.loads((out / f"{name}.json").read_text())
        ids, segments = files[index]
        assert [row["id"] for row in content["segments"]] == sorted(segments)
        for row in content["segments"]:
            assert row["area"] == (ids == row["id"]).sum() and row["score"] > 0.3
            assert segments[row["id"]] == (row["label"], False)
            assert row["category_id"] == files.category_ids[row["label"]]
            assert row["isthing"] == (row["label"] < 6)
            assert row["name"] == files.class_names[row["label"]]
        with Image.open(out / f"{name}.png") as drawing:
            assert drawing.size == (64, 64)
    assert sum(len(files[i].segments) for i in (0, 1)) > 1


def test_no_kept_query_is_an_answer_too(run, folder, tmp_path, capsys):
    results = tmp_path / "found.json"
    words = ("predict", folder / "images", "--panoptic", "--model", run)
    command(*words, "--out", tmp_path / "o", "--threshold", 1, "--results", results)
    assert capsys.readouterr().out.count(": 0 segments -> ") == 2
    assert PanopticFiles(results)[1].segments == {}


def test_a_broken_picture_stops_no_other(run, folder, tmp_path, capsys):
    (tmp_path / "bad.png").write_bytes(b"none")
    good = folder / "images" / "000000000003.png"
    results = tmp_path / "found.json"
    words = ("predict", tmp_path / "bad.png", good, "--panoptic", "--model", run)
    command(*words, "--out", tmp_path / "o", "--results", results, code=1)
    assert "left out" in capsys.readouterr().out
    assert len(PanopticFiles(results)) == 1


def test_a_folder_of_that_name_is_not_touched(run, folder, tmp_path, capsys):
    (tmp_path / "found").mkdir()
    words = ("predict", folder / "images", "--panoptic", "--model", run)
    results = tmp_path / "found.json"
    command(*words, "--out", tmp_path / "o", "--results", results, code=2)
    assert "found is there already" in capsys.readouterr().err
    assert not results.exists() and not any((tmp_path / "found").iterdir())


def test_a_model_without_masks_is_told_so(folder, tmp_path, capsys):
    for words in (
        ("predict", folder / "images", "--out", tmp_path / "o", "--panoptic"),
        ("evaluate", "detr-tiny", "--panoptic"),
    ):
        command(*words, code=2)
        assert "a DETR, which paints no masks" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def scores(text) -> dict:
    rows = (line.rsplit(maxsplit=1) for line in text.splitlines())
    return {name.strip(): value for name, value in rows}


def test_scores_of_the_runs_own_scenes(run, capsys):
    command("evaluate", run, "--panoptic", "--limit", 6)
    found = scores(capsys.readouterr().out)
    data = open_data(zoo.recipe(run))[1]
    wanted = evaluate_panoptic(zoo.load(run), data, limit=6)
    for name in ("PQ", "PQ_stuff", "mask_AP", "AP"):
        assert found[name] == f"{wanted[name]:.4f}"


def test_scores_of_a_folder_are_those_of_its_scenes(run, folder, capsys):
    file = folder / "annotations" / "panoptic.json"
    command("evaluate", run, "--panoptic", "--data", folder / "images", file)
    found = scores(capsys.readouterr().out)
    assert {"PQ", "PQ_things", "mask_AP50", "clouds", "disc"} <= found.keys()


def test_ground_truth_that_is_missing_or_disagrees(run, folder, tmp_path, capsys):
    boxes = folder / "annotations" / "instances.json"
    words = ("evaluate", run, "--panoptic", "--data", folder / "images")
    command(*words, boxes, code=2)
    assert "has no isthing" in capsys.readouterr().err
    file = folder / "annotations" / "panoptic.json"
    content = json.loads(file.read_text())
    content["categories"][7]["isthing"] = 1
    other = tmp_path / "panoptic.json"
    other.write_text(json.dumps(content))
    (tmp_path / "panoptic").symlink_to(folder / "panoptic")
    command(*words, other, code=2)
    assert "is a thing there and not in the model" in capsys.readouterr().err
    content["categories"][7] |= {"isthing": 0, "name": "sand"}
    other.write_text(json.dumps(content))
    command(*words, other, code=2)
    assert "does not know 'sand'" in capsys.readouterr().err
    command(*words, file, "--results", tmp_path / "x.json", code=2)
    assert "predict --panoptic --results" in capsys.readouterr().err


def test_neighbours_of_one_class_are_told_apart():
    ids = torch.ones(40, 60, dtype=torch.int64)
    ids[:, 30:] = 2
    found = Panoptic(ids, (Segment(1, 0, 0.9, 1200), Segment(2, 0, 0.8, 1200)))
    picture = Image.new("RGB", (60, 40), "gray")
    drawn = np.array(paint(picture, found, lambda label: "a"))
    assert drawn.shape == (40, 60, 3)
    assert (drawn[0, 0] != drawn[0, 59]).any() and (drawn[0, 30] == 255).all()
    assert np.array(picture).std() == 0  # the picture itself stays


def test_a_name_stands_on_its_segment():
    ring = np.ones((9, 9), dtype=bool)
    ring[2:7, 2:7] = False
    y, x = middle(ring)
    assert ring[y, x]
