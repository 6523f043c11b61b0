"""One verdict: what `data check` says of a folder is what training does with it."""

import io
import json
import os
import shutil
import socket

import pytest
from PIL import Image

from detr_steps.cli import main
from detr_steps.data.check import check_folder, check_path
from detr_steps.data.coco import CocoFolder
from detr_steps.data.coco_json import find_folders
from detr_steps.data.transforms import Augment

pytestmark = pytest.mark.filterwarnings("ignore:left out")


def changed(folder, change):
    """Change the JSON of a folder in place."""
    images, file = folder
    raw = json.loads(file.read_text())
    change(raw)
    file.write_text(json.dumps(raw))
    return images, file


def training(images, file):
    """Batches of a folder, or the error that says why not."""
    data = CocoFolder(images, file, augment=Augment.small(48), workers=0)
    return data, data.batches(2)


def every(kind, **values):
    def change(raw):
        for entry in raw[kind]:
            entry.update(values)

    return change


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (lambda raw: raw.update(annotations=[]), "no box to learn from"),
        (lambda raw: raw.pop("annotations"), "no box to learn from"),
        (every("annotations", iscrowd=1), "no box to learn from"),
        (every("annotations", bbox=None), "no box to learn from"),
        (every("annotations", bbox="1234"), "no box to learn from"),
        (every("annotations", image_id="x"), "no box to learn from"),
        (every("annotations", category_id=99), "no box to learn from"),
        (lambda raw: raw.update(categories=[]), "no category"),
        (every("categories", id="cat"), "no category"),
        (lambda raw: raw.update(images=[]), "no usable image"),
        (every("images", file_name="nothing.png"), "no usable image"),
        (every("images", id=None), "no usable image"),
        (every("annotations", bbox=[0.1, 0.1, 0.2, 0.2]), "boxes look relative"),
        (lambda raw: raw.update(images={}), "unreadable annotations"),
    ],
)
def test_what_stops_training_stops_the_check(good_folder, change, kind):
    folder = changed(good_folder, change)
    report = check_folder(*folder)
    assert report.exit_status == 2 and kind in report.counts
    assert str(report).endswith("Not usable yet.")
    with pytest.raises(ValueError) as error:
        training(*folder)
    assert len(str(error.value).splitlines()) == 1
    if kind != "unreadable annotations":
        assert f"{folder[1]}: {kind} (" in str(error.value)


def test_boxes_on_pictures_that_are_not_there_are_none_to_learn_from(good_folder):
    """The other pictures are background: training on them would learn "nothing"."""

    def on_the_first(raw):
        for annotation in raw["annotations"]:
            annotation["image_id"] = 100

    images, file = changed(good_folder, on_the_first)
    assert check_folder(images, file).exit_status == 0
    (images / "0.png").write_bytes(b"broken")
    report = check_folder(images, file)
    assert report.exit_status == 2 and report.counts["no box to learn from"] == 1
    with pytest.raises(
        ValueError, match="no picture with a box can be read; the first"
    ):
        training(images, file)
    (images / "0.png").unlink()
    assert check_folder(images, file).counts["no box to learn from"] == 1
    with pytest.raises(ValueError, match="no box to learn from"):
        training(images, file)


ENCODINGS = "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_of_unicode_is_found_and_read(good_folder, encoding):
    images, file = good_folder
    raw = json.loads(file.read_text())
    raw["categories"][0]["name"] = "собака"
    raw["images"][0]["file_name"] = "画.png"
    (images / "0.png").rename(images / "画.png")
    file.write_bytes(json.dumps(raw, ensure_ascii=False).encode(encoding))
    (report,) = check_path(images.parent)
    assert (report.images, report.exit_status, report.problems) == (images, 0, [])
    assert training(images, file)[0].class_names == ["cat", "собака"]


def test_a_file_in_an_old_encoding_says_so_once(good_folder):
    images, file = good_folder
    text = file.read_text().replace("dog", "pêche")
    file.write_bytes(text.encode("latin-1"))
    (report,) = check_path(images.parent)
    assert report.exit_status == 2
    with pytest.raises(ValueError, match="save it as UTF-8") as error:
        training(images, file)
    assert str(error.value) in str(report)


def moved(folder, images, file):
    """The same folder in another layout: (its root, pictures, annotations)."""
    root = folder[0].parent
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    shutil.move(folder[1], root / file)
    aside = folder[0].rename(root / "aside")
    (root / images).parent.mkdir(parents=True, exist_ok=True)
    aside.rename(root / images)
    return root, root / images, root / file


@pytest.mark.parametrize(
    ("images", "file"),
    [
        ("data", "labels.json"),  # FiftyOne
        ("train/data", "train/labels.json"),
        ("images", "result.json"),  # Label Studio
        ("train2017", "annotations/instances_train2017.json"),
        ("images/default", "annotations/instances_default.json"),  # CVAT
        ("train/images", "annotations/train.json"),
        ("train/images", "train/annotations/instances.json"),
    ],
)
def test_layouts_of_label_tools_are_found(good_folder, images, file):
    root, images, file = moved(good_folder, images, file)
    assert find_folders(root) == find_folders(file) == [(images, file)]
    assert [report.exit_status for report in check_path(root)] == [0]
    assert len(training(images, file)[0]) == 12


@pytest.mark.parametrize("name", ["images/{}", "images\\{}", "C:\\my\\images\\{}"])
def test_a_name_that_repeats_the_folder_is_found(good_folder, name):
    """Label Studio writes images/x.png: it passed the check and failed in training."""

    def prefixed(raw):
        for image in raw["images"]:
            image["file_name"] = name.format(image["file_name"])

    images, file = changed(good_folder, prefixed)
    report = check_folder(images, file)
    assert report.usable == 12 and report.exit_status == 0
    assert report.counts == {"path shortened": 12}
    data, _ = training(images, file)
    assert data.annotations.path(3) == images / "3.png"
    # the folder above is right as well, and both commands take what is printed
    (found,) = check_path(images.parent)
    assert len(training(found.images, found.annotations)[0]) == found.usable == 12
    assert str(found).endswith(f"Train with --train {found.images} {file}")


def test_another_folders_name_is_not_dropped(good_folder):
    """train/1.png must not be taken for the 1.png of another folder."""

    def prefixed(raw):
        for image in raw["images"]:
            image["file_name"] = f"train/{image['file_name']}"

    images, file = changed(good_folder, prefixed)
    assert check_folder(images, file).counts["missing file"] == 12


def test_two_names_that_would_meet_in_one_file_are_both_missing(good_folder):
    def ambiguous(raw):
        raw["images"][0]["file_name"] = "a/images/0.png"
        raw["images"][1]["file_name"] = "b/images/0.png"
        raw["images"][2]["file_name"] = "images/3.png"  # the one of another entry

    report = check_folder(*changed(good_folder, ambiguous))
    assert report.counts["missing file"] == 3 and report.usable == 9


def test_pictures_elsewhere_are_given_by_hand(good_folder, tmp_path, capsys):
    images, file = good_folder
    elsewhere = shutil.move(images, tmp_path / "elsewhere")
    assert main(["data", "check", str(file)]) == 2
    assert main(["data", "check", str(file), "--images", str(elsewhere)]) == 0
    assert f"pictures in {elsewhere}\n" in capsys.readouterr().out
    assert main(["data", "check", str(file), "--images", str(images)]) == 2
    assert (
        capsys.readouterr().err == f"detr-steps: {images}: no such folder of pictures\n"
    )


def make_socket(path):
    server = socket.socket(socket.AF_UNIX)
    there = os.getcwd()
    os.chdir(path.parent)  # the whole path may be too long for a socket
    try:
        server.bind(path.name)
    finally:
        os.chdir(there)
        server.close()


UNREADABLE = {
    "it is a named pipe": os.mkfifo,
    "it is a socket": make_socket,
    "it is a folder": os.mkdir,
    "it is a device": lambda path: path.symlink_to("/dev/zero"),
    "symbolic links": lambda path: path.symlink_to(path.name),
}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes by name")
@pytest.mark.parametrize("detail", UNREADABLE)
@pytest.mark.parametrize("sized", [True, False])
def test_what_is_no_plain_file_is_named_and_never_opened(good_folder, detail, sized):
    images, file = good_folder
    (images / "0.png").unlink()
    UNREADABLE[detail](images / "0.png")
    if not sized:  # then its header would be read
        changed(good_folder, lambda raw: raw["images"][0].pop("width"))
    report = check_folder(images, file)
    (lost,) = [p for p in report.problems if p.kind == "unreadable file"]
    assert lost.file == "0.png" and detail in lost.detail
    data, batches = training(images, file)
    assert lost in data.problems and len(data) == report.usable == 11
    assert len([next(batches) for _ in range(12)]) == 12


IMPOSSIBLE = ["x" * 256 + ".png", "\ud800.png", "a\0b.png", "x/" * 3000 + "a.png"]
IMPOSSIBLE += ["new\nline.png", "\x1b[31m.png", "../..", "/", ".", "a" * 256 + "/b.png"]


@pytest.mark.parametrize("name", IMPOSSIBLE, ids=lambda name: ascii(name)[:20])
@pytest.mark.parametrize("sized", [True, False])
def test_names_that_cannot_be_are_missing_files(good_folder, name, sized, capsys):
    def rename(raw):
        raw["images"][0]["file_name"] = name
        if not sized:
            raw["images"][0].pop("width")

    images, file = changed(good_folder, rename)
    report = check_folder(images, file)
    lost = [p for p in report.problems if p.kind in ("missing file", "unreadable file")]
    assert len(lost) == 1 and report.usable == 11 and report.exit_status == 1
    data, _ = training(images, file)
    assert len(data) == 11 and lost[0] in data.problems
    # and the report can be printed: one line for it, in any terminal
    assert main(["data", "check", str(images.parent), "--all"]) == 1
    text = capsys.readouterr().out
    assert text.encode("utf-8").decode("utf-8") == text and "\x1b" not in text
    heading = text.splitlines().index(
        next(line for line in text.splitlines() if line.startswith(f"  {lost[0].kind}"))
    )
    assert text.splitlines()[heading + 1] == f"    {lost[0]}"


def test_a_named_pipe_beside_the_annotations_does_not_hang(good_folder):
    images, file = good_folder
    if not hasattr(os, "mkfifo"):
        pytest.skip("Windows has no pipes by name")
    os.mkfifo(images.parent / "notes.json")
    assert find_folders(images.parent) == [(images, file)]
    with pytest.raises(FileNotFoundError, match="no such folder or file"):
        find_folders(images.parent / "notes.json")


@pytest.mark.parametrize("text", ['"\\ud800.png"', '"a\tb.png"', '"\\x.png"'])
def test_odd_names_do_not_stop_the_search(good_folder, text):
    images, file = good_folder
    file.write_text(file.read_text().replace('"0.png"', text))
    (found,) = check_path(images.parent)
    assert found.images == images
    assert found.exit_status == check_folder(images, file).exit_status


@pytest.mark.parametrize(
    "bbox",
    ["1234", {"1": 1, "2": 2, "30": 3, "40": 4}, [5, 5, 10], [5, 5, 10, 10, 1]]
    + [[True, 5, 10, 10], ["1_0", 5, 10, 10], [[5], 5, 10, 10], None, 7, [None] * 4],
)
def test_bad_boxes_are_named(good_folder, bbox):
    folder = changed(good_folder, lambda raw: raw["annotations"][0].update(bbox=bbox))
    problems = check_folder(*folder).problems
    assert [(p.kind, p.file, p.annotation) for p in problems] == [
        ("bad box", "0.png", 1000)
    ]
    assert training(*folder)[0].problems == problems


def test_flags_and_areas_that_mean_nothing_are_named(good_folder):
    def odd(raw):
        values = ["true", True, 1.0, "1", "maybe", 2, [], 0, "0", None, False, ""]
        for annotation, value in zip(raw["annotations"], values):
            annotation["iscrowd"] = value
        for annotation, value in zip(raw["annotations"], [1e300, -1, "x", True, 50]):
            annotation["area"] = value

    images, file = changed(good_folder, odd)
    data = CocoFolder(images, file)
    crowd, areas = data.annotations.crowd, data.annotations.areas
    assert crowd[:12].tolist() == [True] * 4 + [False] * 8
    assert areas[:6].tolist() == [120, 300, 120, 315, 50, 330]
    assert check_folder(images, file).counts == {
        "bad crowd flag": 3,
        "bad area": 4,
        "crowd": 4,
    }


def test_one_file_in_two_entries_is_said(good_folder):
    def twice(raw):
        raw["images"][1] |= {"file_name": "0.png", "width": 40, "height": 60}

    report = check_folder(*changed(good_folder, twice))
    note = next(p for p in report.problems if p.kind == "duplicate file name")
    assert str(note) == "0.png: ids 100, 101" and note.cost == "note"


def test_a_report_with_names_in_any_script_is_printed_on_any_console(
    good_folder, monkeypatch
):
    def translated(raw):
        raw["images"][0]["file_name"] = "画.png"

    images, file = changed(good_folder, translated)
    console = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr("sys.stdout", console)
    assert main(["data", "check", str(file)]) == 1
    console.flush()
    assert "    \\u753b.png\n" in console.buffer.getvalue().decode("cp1252")


def test_what_is_to_be_typed_can_be_typed(good_folder):
    root = good_folder[0].parent.rename(good_folder[0].parent.with_name("my set"))
    images, file = root / "images", root / "annotations" / "instances.json"
    text = str(check_folder(images, file))
    assert text.endswith(f"Train with --train '{images}' '{file}'")
    (images / "0.png").unlink()
    assert (
        f"check '{file}' --images '{images}' --all"
        in CocoFolder(images, file).left_out()
    )


@pytest.mark.parametrize("size", [(10**13, 10**13), (-40, -30), (True, True), (0, 30)])
def test_sizes_that_no_picture_has_are_read_from_the_picture(builder, size):
    builder.category(1, "thing")
    builder.picture("a.png", 1, Image.new("RGB", (40, 30)), size)
    builder.box(1, 1, [5, 5, 10, 10])
    folder = builder.write()
    assert check_folder(*folder).counts["no stored size"] == 1
    data, batches = training(*folder)
    assert data.annotations.size(0) == (30, 40)
    assert next(batches)[1][0]["boxes"].shape == (1, 4)
