"""`detr-steps predict`: one result for each picture, and no file is lost."""

import io
import json
import os
import re
import shutil
import sys

import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from small import RESNET, small_config

from detr_steps import interop, zoo
from detr_steps.cli import main, outputs
from detr_steps.cli.predict import draw, image_ids
from detr_steps.data.coco_names import COCO_NAMES
from detr_steps.data.export import export
from detr_steps.data.scenes import Scenes
from detr_steps.describable import to_json
from detr_steps.detections import Detections
from detr_steps.files import write_tensors
from detr_steps.systems.detr import DETR
from detr_steps.training import device as devices

NAMES = [*Scenes().class_names]
LINE = re.compile(
    r"(?P<picture>.+): \d+ objects -> (?P<png>.+\.png), (?P<json>.+\.json)"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A run whose model answers at once, whatever it says."""
    return write_run(tmp_path_factory.mktemp("model") / "run")


def write_run(run, **changes):
    config = small_config(classes=6)
    torch.manual_seed(0)
    description = zoo.recipe("detr-tiny") | {"model": to_json(config)} | changes
    description.pop("sha256")
    run.mkdir()
    (run / "recipe.json").write_text(json.dumps(description))
    write_tensors(run / "model.safetensors", DETR(config).state_dict(), {})
    return run


@pytest.fixture
def there(tmp_path, monkeypatch):
    """An empty folder in which the commands are given."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def picture(path, shade=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), (shade, 100, 50)).save(path)
    return path


def predict(model, *words, code=0, threshold="0"):
    command = ["predict", *map(str, words), "--model", str(model)]
    assert main([*command, "--threshold", threshold]) == code


def results(capsys):
    """What was printed: picture -> its PNG and JSON file, which must be there."""
    found = {}
    for line in capsys.readouterr().out.splitlines():
        if match := LINE.fullmatch(line):
            assert os.path.isfile(match["png"]) and os.path.isfile(match["json"])
            found[match["picture"]] = (match["png"], match["json"])
    return found


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def assert_kept(before):
    assert all(path.read_bytes() == content for path, content in before.items())


# Nothing is lost


def test_the_pictures_own_folder_may_take_the_results(there, model, capsys):
    picture(there / "photo.png")
    picture(there / "set" / "a.png")
    picture(there / "set" / "b.jpg")
    before = contents(there)
    predict(model, "photo.png", "--out", ".")
    predict(model, "set/a.png", "set/b.jpg", "--out", "set")
    found = results(capsys)
    assert found["photo.png"][0] == "photo-2.png" and len(found) == 3
    assert_kept(before)


def test_files_of_others_are_not_replaced(there, model, capsys):
    picture(there / "notes.jpg")
    out = there / "out"
    out.mkdir()
    (out / "notes.json").write_text('{"mine": true}')
    (out / "notes-2.png").write_bytes(b"no picture")
    (out / "notes-3.json").mkdir()
    (out / "notes-4.json").write_text("[" * 100_000)
    (out / "notes-5.json").write_text('["made_by", "detr-steps predict"]')
    picture(out / "notes-6.png")
    before = contents(there)
    predict(model, "notes.jpg", "--out", "out")
    assert results(capsys)["notes.jpg"][0] == os.path.join("out", "notes-7.png")
    assert_kept(before)


@pytest.mark.skipif(os.name == "nt", reason="needs links and pipes")
def test_links_and_pipes_are_left_alone(there, model, capsys):
    picture(there / "photo.jpg")
    (there / "out").mkdir()
    predict(model, "photo.jpg", "--out", "elsewhere")
    link = there / "out" / "photo.png"
    link.symlink_to(there / "elsewhere" / "photo.png")
    (there / "out" / "photo-2.json").symlink_to(there / "nowhere")
    os.mkfifo(there / "out" / "photo-3.json")
    before = contents(there)
    results(capsys)
    predict(model, "photo.jpg", "--out", "out", threshold="1")
    assert results(capsys)["photo.jpg"][0] == os.path.join("out", "photo-4.png")
    assert_kept(before)
    assert link.is_symlink()


def test_the_same_command_again_writes_over_its_own(there, model, capsys):
    for name in ("a/one.png", "b/one.png", "one.jpg"):
        picture(there / name)
    words = ["a/one.png", "b/one.png", "one.jpg", "--out", "out"]
    predict(model, *words)
    first, before = results(capsys), contents(there / "out")
    predict(model, *words)
    assert results(capsys) == first and contents(there / "out") == before
    predict(model, *words, threshold="1")
    assert results(capsys) == first and contents(there / "out").keys() == before.keys()
    assert contents(there / "out") != before


def test_what_was_found_on_another_picture_is_kept(there, model, capsys):
    picture(there / "a" / "one.png", 10)
    picture(there / "b" / "one.png", 200)
    predict(model, "a/one.png", "--out", "out")
    before = contents(there)
    predict(model, "b/one.png", "--out", "out")
    assert_kept(before)
    assert results(capsys)["b/one.png"][0] == os.path.join("out", "one-2.png")


def test_a_drawing_can_be_a_picture_and_is_kept(there, model, capsys):
    """Both are named: the drawing is an input, though this tool has made it."""
    picture(there / "photo.png")
    predict(model, "photo.png", "--out", "out")
    drawing = there / "out" / "photo.png"
    before = drawing.read_bytes()
    results(capsys)
    predict(model, "photo.png", "out/photo.png", "--out", "out", threshold="1")
    assert drawing.read_bytes() == before
    assert len({png for png, _ in results(capsys).values()}) == 2


def test_results_are_no_other_file(there, model, capsys):
    picture(there / "photo.jpg")
    (there / "mine.json").write_text("[]")
    with pytest.raises(SystemExit) as ended:
        predict(model, "photo.jpg", "--results", "mine.json")
    assert ended.value.code == 2 and "is there already" in capsys.readouterr().err
    assert (there / "mine.json").read_text() == "[]"
    predict(model, "photo.jpg", "--out", ".", "--results", "photo.json")
    assert results(capsys)["photo.jpg"][1] == "photo-2.json"
    assert isinstance(json.loads((there / "photo.json").read_text()), list)


def test_out_that_is_a_file_is_refused(there, model, capsys):
    picture(there / "photo.png")
    (there / "out").write_text("mine")
    predict(model, "photo.png", "--out", "out", code=2)
    assert "out is no folder" in capsys.readouterr().err


# One result for each picture


NAMED = [
    ["a/one.png", "b/one.png"],
    ["two.png", "two.jpg", "two.bmp"],
    ["x_jpg.rf.0a1b.png", "x_jpg.rf.0a1c.png"],
    ["frame.0001.jpg", "frame.0002.jpg", "frame.png"],
    ["one.png", "sub/one.png", "one-2.png"],
    ["A.png", "a.jpg"],
    [".hidden.png", "space in it.png", "100%.png", "-x.png", "naïve.png", "图.png"],
    ["y" * 240 + ".png", "y" * 240 + ".jpg", "é" * 120 + ".png"],
    ["photo.json.png", "photo.png"],
]


@pytest.mark.parametrize("names", NAMED, ids=lambda names: names[0][:20])
def test_one_result_for_each_picture(there, model, names, capsys):
    for shade, name in enumerate(names):
        picture(there / name, shade)
    predict(model, *(f"./{name}" for name in names), "--out", "out")
    found = results(capsys)
    assert [*found] == names
    written = {os.path.normcase(file) for pair in found.values() for file in pair}
    assert len(written) == 2 * len(names)
    for name, (_, file) in found.items():
        said = json.loads(open(file, encoding="utf-8").read())
        assert said["image"] == os.path.basename(name)
        assert said["source"] == os.path.abspath(name)


def test_a_picture_named_twice_has_one_result(there, model, capsys):
    picture(there / "one.png")
    predict(model, "one.png", "./one.png", ".", "--out", "out")
    assert len(results(capsys)) == 1


def test_a_picture_that_names_itself_oddly(there, model, capsys):
    """A line break and bytes that are no text: one line, and JSON that can be read."""
    name = "line\nbreak\udcff.png"
    try:
        picture(there / name)
    except (OSError, UnicodeError):
        pytest.skip("no such names on this file system")
    predict(model, name, "--out", "out")
    (line,) = capsys.readouterr().out.splitlines()
    assert "line\\nbreak\\udcff.png: " in line
    (file,) = (there / "out").glob("*.json")
    assert json.loads(file.read_text("utf-8"))["image"] == "line\\nbreak\\udcff.png"


def test_a_folder_stands_for_its_pictures(there, model, capsys):
    for name in ("b.PNG", "a.jpg", "c.webp", "sub/d.png"):
        picture(there / "set" / name)
    (there / "set" / "notes.txt").write_text("no picture")
    (there / "set" / "e.png").mkdir()
    (there / "set" / "broken.jpeg").write_bytes(b"no picture")
    predict(model, "set", "--out", "set", code=1)
    found = results(capsys)
    assert [os.path.basename(path) for path in found] == ["a.jpg", "b.PNG", "c.webp"]
    predict(model, "set", "--out", "set", code=1)
    assert results(capsys) == found  # the drawings among them are none
    (there / "empty").mkdir()
    predict(model, "empty", code=2)
    assert "no picture in this folder" in capsys.readouterr().err


def test_a_missing_file_does_not_stop_the_others(there, model, capsys):
    picture(there / "one.png")
    predict(model, "gone.png", "x" * 300 + ".png", "one.png", code=1)
    said = capsys.readouterr().out
    assert "left out gone.png" in said and "one.png: " in said


# What is written


def test_json_says_size_and_category(there, tmp_path, capsys):
    run = write_run(
        tmp_path / "run",
        class_names=["bolt", "nut", "bolt", "螺丝", "e", "f"],
        category_ids=[3, 7, 8, 20, 21, 90],
    )
    picture(there / "photo.png")
    predict(run, "photo.png")
    said = json.loads((there / "predictions" / "photo.json").read_text("utf-8"))
    assert (said["width"], said["height"]) == (40, 30) and "image_id" not in said
    assert len(said["detections"]) == small_config().queries
    names = ["bolt", "nut", "bolt", "螺丝", "e", "f"]
    for each in said["detections"]:
        label = each["label"]
        assert each["name"] == names[label]
        assert each["category_id"] == [3, 7, 8, 20, 21, 90][label]


def test_official_weights_have_cocos_own_ids(there, capsys):
    detr = small_config(classes=91, backbone=RESNET, heads=8).build()
    torch.save(interop.to_official(detr.state_dict()), there / "detr.pth")
    picture(there / "photo.png")
    command = ["predict", "photo.png", "--official", "detr.pth", "--threshold", "0"]
    assert main(command) == 0
    said = json.loads((there / "predictions" / "photo.json").read_text("utf-8"))
    assert said["detections"]
    for each in said["detections"]:
        assert each["category_id"] == each["label"]
        assert each["name"] == COCO_NAMES[each["label"]]


def test_results_fit_the_annotations_of_the_same_pictures(there, capsys):
    """Ids from the file names, categories as the export numbers them."""
    folder = export(Scenes("val"), there / "own", range(5, 9))
    words = ["predict", "own/images", "--threshold", "1", "--results", "new/r.json"]
    assert main(words) == 0
    assert "numbers in the file names" in capsys.readouterr().out
    truth = COCO(str(folder / "annotations" / "instances.json"))
    found = truth.loadRes(str(there / "new" / "r.json"))
    assert sorted(truth.getImgIds()) == [5, 6, 7, 8]
    for number in truth.getImgIds():
        rows = found.loadAnns(found.getAnnIds(number))
        assert len(rows) == 25  # of any score: AP needs them
        best = max(rows, key=lambda row: row["score"])
        ours = truth.loadAnns(truth.getAnnIds(number, best["category_id"]))
        assert min(distance(best["bbox"], each["bbox"]) for each in ours) < 8
    said = json.loads((there / "predictions" / "000000000005.json").read_text())
    assert said["image_id"] == 5 and said["detections"] == []


def distance(one, other):
    return max(abs(a - b) for a, b in zip(one, other))


@pytest.mark.parametrize(
    ("names", "ids"),
    [
        (["000000000139.jpg", "000000000285.jpg"], [139, 285]),
        (["COCO_val2014_000000000042.jpg", "7.png"], [42, 7]),
        (["b.png", "a.png"], [1, 2]),
        (["1.png", "a.png"], [1, 2]),
        (["a/7.png", "b/7.png"], [1, 2]),
        (["0" + "9" * 20 + ".png"], [999999999999999]),
    ],
)
def test_image_ids(names, ids, tmp_path):
    numbers = image_ids([tmp_path / name for name in names])
    assert [*numbers.values()] == ids


def test_a_drawing_says_whose_it_is_but_not_where_that_lies(there, model):
    path = picture(there / "photo.png")
    predict(model, "photo.png")
    drawing = there / "predictions" / "photo.png"
    shutil.copy(drawing, there / "copy.jpg")  # a PNG under any name
    for file in (drawing, drawing.with_suffix(".json"), there / "copy.jpg"):
        assert outputs.made_for(file) == outputs.source_of(path)
    assert outputs.made_for(path) is None
    assert os.fsencode(there) not in drawing.read_bytes()


def test_names_in_any_script_do_not_end_on_a_poor_console(
    there, tmp_path, monkeypatch, capsys
):
    names = ["螺丝", "عربي", "Шуруп", "👍", "naïve", "half\ud800\n"]

    def one_of_each(self, batch, sizes):
        boxes = torch.tensor([[1.0, 2, 30, 20]] * len(names))
        labels = torch.arange(len(names))
        return [Detections(boxes, torch.linspace(0.9, 0.4, len(names)), labels)]

    monkeypatch.setattr(DETR, "detect", one_of_each)
    run = write_run(tmp_path / "run", class_names=names)
    picture(there / "图.png")
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", console)
    predict(run, "图.png")
    console.flush()
    assert "\\u56fe.png: 6 objects" in console.buffer.getvalue().decode("cp1252")
    said = json.loads((there / "predictions" / "图.json").read_text("utf-8"))
    assert [each["name"] for each in said["detections"]] == [
        *names[:5],
        "half\\ud800\\n",
    ]


# Arguments


@pytest.mark.parametrize("name", ["cuda", "xpu", "mps", "gpu", "0", "tpu"])
def test_a_device_that_is_not_there_is_answered(name, there, monkeypatch, capsys):
    monkeypatch.setattr(devices, "_count", lambda kind: 0)
    picture(there / "photo.png")
    assert main(["predict", "photo.png", "--device", name]) == 2
    assert f"no device '{name}' here: there is cpu" in capsys.readouterr().err
    assert not (there / "predictions").exists()


@pytest.mark.parametrize("command", [["predict", "photo.png", "--model"], ["evaluate"]])
def test_a_model_without_boxes_is_refused_in_one_line(command, there, capsys):
    picture(there / "photo.png")
    assert main([*command, "shapes-backbone"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "Classifier and finds no boxes" in said


@pytest.mark.parametrize("value", ["nan", "-0.1", "1.5", "high", "inf"])
def test_a_threshold_that_cannot_be_ends_in_one_line(value, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["predict", "x.png", f"--threshold={value}"])
    assert ended.value.code == 2 and value in capsys.readouterr().err


def test_names_stay_on_the_picture():
    """Also of a box at its right edge, and above one at its top."""
    blank = Image.new("RGB", (300, 200))
    box = torch.tensor([[280.0, 0.0, 299.0, 20.0]])
    found = Detections(box, torch.tensor([0.5]), torch.tensor([0]))
    drawn = draw(blank, found, ["a long name of a class"])
    assert drawn.size == blank.size and drawn.getbbox()[0] < 200
    assert blank.getbbox() is None
