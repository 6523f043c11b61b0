"""`detr-steps evaluate`: the same score whatever the ids, on the data it should be."""

import io
import json
import shutil
import sys

import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from small import small_config

from detr_steps import experiment, zoo
from detr_steps.cli import main
from detr_steps.data.coco import CocoFolder
from detr_steps.data.export import export
from detr_steps.data.scenes import Scenes
from detr_steps.describable import to_json

NAMES = [*Scenes().class_names]


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Twelve scenes that the shipped weights know, as a COCO-format folder."""
    return export(Scenes("val"), tmp_path_factory.mktemp("set") / "own", range(12))


@pytest.fixture
def folder(scenes, tmp_path):
    return shutil.copytree(scenes, tmp_path / "own")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, scenes):
    """A run on own pictures, validated on others, that has barely begun."""
    root = tmp_path_factory.mktemp("run")
    other = export(Scenes("train"), root / "train", range(4))
    description = zoo.recipe("detr-tiny")
    description["model"] = to_json(small_config(classes=6, queries=8))
    description["start"] = {}
    settings = {"steps": 2, "batch": 2, "evaluate_images": 2, "warmup": 0, "keep": []}
    description["recipe"] |= settings
    description.pop("sha256")
    (root / "small.json").write_text(json.dumps(description))
    command = ["train", str(root / "small.json"), "--workers", "0", "--device", "cpu"]
    pictures = ["--train", *pair(other)]
    for name, more in (("run", ["--val", *pair(scenes)]), ("alone", [])):
        out = ["--out", str(root / name), "--size", "64"]
        assert main([*command, *pictures, *more, *out]) == 0
    return root


def file_of(folder):
    return folder / "annotations" / "instances.json"


def pair(folder):
    return [str(folder / "images"), str(file_of(folder))]


def change(folder, edit):
    raw = json.loads(file_of(folder).read_text())
    edit(raw)
    file_of(folder).write_text(json.dumps(raw))


def scores(capsys, *words):
    code = main(["evaluate", *map(str, words)])
    said = capsys.readouterr()
    assert code == 0, said.err
    lines = (line.rsplit(maxsplit=1) for line in said.out.splitlines())
    return {name: value for name, value in lines}, said.err


def renumber(raw):
    """Ids with gaps, in another order."""
    new = {number: 500 - 7 * number for number in range(1, 7)}
    for category in raw["categories"]:
        category["id"] = new[category["id"]]
    for annotation in raw["annotations"]:
        annotation["category_id"] = new[annotation["category_id"]]


def in_front(raw):
    """What label tools put there: a super-category without an object."""
    for category in raw["categories"]:
        category["id"] += 1
    for annotation in raw["annotations"]:
        annotation["category_id"] += 1
    raw["categories"].insert(0, {"id": 1, "name": "shapes"})


def as_texts(raw):
    for entry in raw["categories"]:
        entry["id"] = f"{entry['id']:03d}"


@pytest.mark.parametrize("edit", [renumber, in_front, as_texts])
def test_the_score_does_not_depend_on_ids(folder, edit, capsys):
    words = ["detr-tiny", "--data", *pair(folder)]
    before, _ = scores(capsys, *words)
    assert float(before["AP"]) > 0.2
    change(folder, edit)
    after, errors = scores(capsys, *words)
    assert after == before
    assert ("does not know 'shapes'" in errors) == (edit is in_front)


def test_categories_that_cannot_be_matched_are_refused_by_name(folder, capsys):
    def rename(raw):
        raw["categories"][2]["name"] = "Unheard of"

    change(folder, rename)
    assert main(["evaluate", "detr-tiny", "--data", *pair(folder)]) == 2
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert "does not know 'Unheard of'" in said.err
    assert f"the data have no category {NAMES[2]!r}" in said.err


def test_a_run_scores_on_the_pictures_it_was_validated_on(
    trained, scenes, capsys, monkeypatch
):
    opened = []
    init = CocoFolder.__init__

    def noting(self, images, *args, **kwargs):
        opened.append(str(images))
        init(self, images, *args, **kwargs)

    monkeypatch.setattr(CocoFolder, "__init__", noting)
    mine, errors = scores(capsys, trained / "run")
    assert opened == [str(scenes / "images")] and errors == ""
    assert mine == scores(capsys, trained / "run", "--data", *pair(scenes))[0]


def test_ap_on_training_pictures_is_said(trained, capsys):
    _, errors = scores(capsys, trained / "alone")
    assert "measured on the training pictures" in errors and "--data" in errors
    assert "training pictures" not in scores(capsys, trained / "run")[1]


def describe(trained, tmp_path, edit):
    run = shutil.copytree(trained / "run", tmp_path / "other")
    description = json.loads((run / "recipe.json").read_text())
    edit(description)
    (run / "recipe.json").write_text(json.dumps(description))
    return str(run)


def forgets(description):
    description["data"] = description["validation"] = {"kind": "folder"}


def of_scenes(description):
    """As runs on own pictures noted it before they remembered these."""
    scenes = zoo.recipe("detr-tiny")
    description |= {"data": scenes["data"], "validation": scenes["validation"]}


@pytest.mark.parametrize("edit", [forgets, of_scenes])
def test_a_run_that_does_not_know_its_pictures_asks_for_them(
    trained, tmp_path, scenes, edit, capsys
):
    run = describe(trained, tmp_path, edit)
    assert main(["evaluate", run]) == 2
    said = capsys.readouterr()
    assert said.out == "" and "add --data IMAGES JSON" in said.err
    assert scores(capsys, run, "--data", *pair(scenes))[0]["AP"]


def test_a_coco_recipe_has_nothing_to_score(capsys):
    assert main(["evaluate", "detr-coco-r50"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "a recipe and no weights" in said


def test_pictures_that_have_moved_and_annotations_that_changed(
    trained, tmp_path, folder, capsys
):
    def moved(description):
        images, annotations = pair(folder)
        place = {"images": images, "annotations": annotations}
        description["validation"] |= place

    run = describe(trained, tmp_path, moved)
    change(folder, lambda raw: raw["annotations"].pop())
    assert "has changed since the run was begun" in scores(capsys, run)[1]
    shutil.rmtree(folder)
    assert main(["evaluate", run]) == 2
    assert "--data IMAGES JSON says where" in capsys.readouterr().err


def test_what_is_left_out_of_the_data_is_said(folder, capsys):
    def spoil(raw):
        raw["annotations"][0]["bbox"] = [5, 5, 0, 10]

    change(folder, spoil)
    _, errors = scores(capsys, "detr-tiny", "--data", *pair(folder))
    assert "empty box, 1x" in errors


def test_two_categories_of_one_name_are_both_printed(trained, tmp_path, scenes, capsys):
    """And a class called as one of the numbers hides none."""
    names = ["part", "AP", "part", *NAMES[3:]]

    def rename(description):
        description["class_names"] = names

    run = describe(trained, tmp_path, rename)
    folder = shutil.copytree(scenes, tmp_path / "own")

    def call(raw):
        for category, name in zip(raw["categories"], names):
            category["name"] = name

    change(folder, call)
    assert main(["evaluate", run, "--data", *pair(folder)]) == 0
    lines = [
        line.rsplit(maxsplit=1)[0] for line in capsys.readouterr().out.splitlines()
    ]
    assert lines.count("AP") == 2 and {"part (1)", "part (2)"} <= {*lines}


def text_ids(raw):
    """Image ids that are no numbers, category ids that look like none."""
    for image in raw["images"]:
        image["id"] = f"picture {image['id']}"
    for annotation in raw["annotations"]:
        annotation["image_id"] = f"picture {annotation['image_id']}"
    for entry in raw["categories"]:
        entry["id"] = f"{entry['id']:03d}"
    for annotation in raw["annotations"]:
        annotation["category_id"] = f"{annotation['category_id']:03d}"


@pytest.mark.parametrize("edit", [lambda raw: None, renumber, text_ids])
def test_results_score_the_same_in_pycocotools(folder, tmp_path, edit, capsys):
    change(folder, edit)
    file = tmp_path / "new" / "results.json"
    words = ["detr-tiny", "--data", *pair(folder), "--results", str(file)]
    said, errors = scores(capsys, *words)
    assert str(file) in errors
    truth = COCO(str(file_of(folder)))
    judge = COCOeval(truth, truth.loadRes(str(file)), "bbox")
    judge.evaluate()
    judge.accumulate()
    judge.summarize()
    capsys.readouterr()
    assert judge.stats[0] == pytest.approx(float(said["AP"]), abs=2e-4)
    for row in json.loads(file.read_text()):
        assert row.keys() == {"image_id", "category_id", "bbox", "score"}


def test_results_replace_no_file(folder, capsys):
    file = file_of(folder)
    before = file.read_bytes()
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", "detr-tiny", "--limit", "1", "--results", str(file)])
    assert ended.value.code == 2 and "is there already" in capsys.readouterr().err
    assert file.read_bytes() == before


def test_results_of_scenes_have_the_ids_of_their_export(scenes, tmp_path, capsys):
    file = tmp_path / "results.json"
    scores(capsys, "detr-tiny", "--limit", "3", "--results", file)
    COCO(str(file_of(scenes))).loadRes(str(file))
    rows = json.loads(file.read_text())
    assert {row["image_id"] for row in rows} == {0, 1, 2}
    assert {row["category_id"] for row in rows} <= {*range(1, 7)}


def test_a_console_without_the_letters_still_gets_the_scores(
    trained, tmp_path, scenes, monkeypatch
):
    names = ["螺丝", *NAMES[1:]]
    run = describe(trained, tmp_path, lambda d: d.update(class_names=names))
    folder = shutil.copytree(scenes, tmp_path / "own")
    change(folder, lambda raw: raw["categories"][0].update(name=names[0]))
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", console)
    assert main(["evaluate", run, "--data", *pair(folder)]) == 0
    console.flush()
    text = console.buffer.getvalue().decode("cp1252")
    assert "\\u87ba\\u4e1d" in text and NAMES[5] in text


def test_a_run_notes_the_ids_of_its_classes(trained):
    description = zoo.recipe(trained / "run")
    assert experiment.category_ids(description) == [1, 2, 3, 4, 5, 6]
    assert description["category_ids"] == [1, 2, 3, 4, 5, 6]
