"""`detr-steps train` prints what it leaves out of somebody's own data, always."""

import json
import re

import pytest
from small import small_config

from detr_steps import zoo
from detr_steps.cli import main
from detr_steps.describable import to_json

pytestmark = pytest.mark.filterwarnings("ignore:left out", "ignore:__array__")


@pytest.fixture
def train(tmp_path, capsys):
    """Train one step on a folder: exit status, what was printed, what went wrong."""
    recipe = zoo.recipe("detr-tiny")
    recipe["model"] = to_json(small_config(classes=6))
    recipe["start"] = {}
    recipe["recipe"] |= {"steps": 1, "batch": 2, "evaluate_images": 4, "seed": -1}
    (tmp_path / "small.json").write_text(json.dumps(recipe))

    def run(images, file, out="run", **options):
        words = ["train", tmp_path / "small.json", "--out", tmp_path / out]
        words += ["--size", 48, "--device", "cpu", "--train", images, file]
        for name, values in options.items():
            words += [f"--{name}", *values]
        status = main([str(word) for word in words])
        return status, *capsys.readouterr()

    return run


def test_lost_boxes_and_pictures_are_printed_before_the_first_step(train, good_folder):
    images, file = good_folder
    raw = json.loads(file.read_text())
    for annotation in raw["annotations"][2:]:
        annotation["image_id"] = f"picture {annotation['image_id']}"
    file.write_text(json.dumps(raw))
    (images / "5.png").unlink()
    status, out, _ = train(images, file)
    assert status == 0
    lines = out.splitlines()
    assert "  unknown image, 22x: the annotation is left out" in lines
    assert "  missing file, 1x: the image is left out" in lines
    assert json.loads(lines[-1])["step"] == 1  # the record is still the last line


def test_pictures_found_broken_on_the_way_are_printed_after_it(train, good_folder):
    images, file = good_folder
    for number in range(1, 12):
        (images / f"{number}.png").write_bytes(b"broken")
    status, out, _ = train(images, file)
    assert status == 0 and "  unreadable file, " in out
    assert re.search(r"images/\d+\.png: cannot identify image file", out)


def test_what_validation_leaves_out_is_printed_as_well(train, good_folder):
    images, file = good_folder
    raw = json.loads(file.read_text())
    raw["annotations"][0]["bbox"] = "1234"
    other = file.with_name("val.json")
    other.write_text(json.dumps(raw))
    status, out, _ = train(images, file, val=(images, other))
    assert status == 0 and f"{other}: not all of it is used as it is\n" in out
    assert "    0.png, annotation 1000: bbox '1234'\n" in out
    assert f"{file}: " not in out


def test_clean_data_print_nothing_but_the_record(train, good_folder):
    status, out, _ = train(*good_folder)
    assert status == 0 and len(out.splitlines()) == 1


@pytest.mark.parametrize("fault", ["no picture", "no box", "no file"])
def test_data_that_cannot_be_trained_on_are_one_line(train, good_folder, fault):
    images, file = good_folder
    if fault == "no picture":
        for picture in images.iterdir():
            picture.write_bytes(b"broken")
    if fault == "no box":
        file.write_text(json.dumps(json.loads(file.read_text()) | {"annotations": []}))
    if fault == "no file":
        file = file.with_name("nothing.json")
    status, _, err = train(images, file)
    assert status == 2
    last = err.splitlines()[-1]
    assert last.startswith("detr-steps: ") and "Traceback" not in err
    assert main(["data", "check", str(file), "--images", str(images)]) == 2
