import json
import shutil

import pytest

from detr_steps.data.check import check_folder, check_path, find_folders
from detr_steps.data.problems import KINDS


def test_every_fault_is_found_with_file_and_annotation(broken_folder):
    report = check_folder(*broken_folder)
    found = {(p.kind, p.file, p.annotation) for p in report.problems}
    expected = {
        ("missing file", "missing.jpg", None),
        ("unreadable file", "truncated.jpg", None),
        ("wrong shape", "other.png", None),
        ("other size", "resized.png", None),
        ("turned picture", "turned.jpg", None),
        ("picture left turned", "as_stored.jpg", None),
        ("duplicate image id", "again.png", None),
        ("no boxes", "empty.png", None),
        ("not-a-number box", "cmyk.jpg", 11),
        ("empty box", "cmyk.jpg", 12),
        ("box outside", "cmyk.jpg", 13),
        ("box over the edge", "cmyk.jpg", 14),
        ("unknown category", "cmyk.jpg", 15),
        ("unknown image", "", 16),
        ("bad box", "cmyk.jpg", 17),
        ("repeated annotation", "cmyk.jpg", 1),
        ("duplicate annotation id", "palette.png", 14),
        ("bad mask", "palette.png", 19),
        ("crowd", "palette.png", 18),
        ("unused category", "", None),
    }
    assert found == expected
    assert all(count == 1 for count in report.counts.values())
    assert report.exit_status == 1


def test_the_report_reads_like_a_list_of_things_to_do(broken_folder):
    text = str(check_folder(*broken_folder))
    assert "missing file, 1x: the image is left out\n    missing.jpg\n" in text
    assert "cmyk.jpg, annotation 12: x 5 y 5 w 0 h 10 in 40x30" in text
    order = [text.index(h) for h in ("\nLeft out", "\nChanged", "\nGood to know")]
    assert order == sorted(order)
    images, file = broken_folder
    assert text.endswith(f"The rest can be used.\nTrain with --train {images} {file}")


def test_long_lists_are_cut_unless_asked_for(good_folder):
    shutil.rmtree(good_folder[0])
    good_folder[0].mkdir()
    report = check_folder(*good_folder)
    assert "missing file, 12x" in str(report) and "… and 2 more" in str(report)
    assert "more" not in report.text(shown=None)
    assert report.exit_status == 2 and "no usable image" in report.counts


def test_a_clean_folder_is_clean(good_folder):
    report = check_folder(*good_folder)
    assert (report.pictures, report.objects, report.problems) == (12, 24, [])
    assert report.exit_status == 0 and "All of it can be used." in str(report)


def test_headers_alone_do_not_show_truncation(broken_folder):
    counts = check_folder(*broken_folder, decode=False).counts
    assert "unreadable file" not in counts and counts["wrong shape"] == 1


@pytest.mark.parametrize("text", ["", "[]", '{"images": 3}', '{"images": []}'])
def test_unreadable_annotations_are_a_report_not_a_crash(good_folder, text):
    good_folder[1].write_text(text)
    report = check_folder(*good_folder)
    assert report.exit_status == 2 and list(report.counts) == ["unreadable annotations"]


ODD = [None, 3, "x", [], {}, [1], -1, 1e400, "nan", True, [None] * 4, 10**30]


@pytest.mark.parametrize("key", ["id", "image_id", "category_id", "bbox", "iscrowd"])
@pytest.mark.parametrize("value", ODD, ids=str)
def test_odd_values_in_annotations_never_crash(good_folder, key, value):
    raw = json.loads(good_folder[1].read_text())
    raw["annotations"][0][key] = value
    raw["annotations"][1] = value
    good_folder[1].write_text(json.dumps(raw))
    assert check_folder(*good_folder, decode=False).pictures == 12


@pytest.mark.parametrize("key", ["area", "segmentation"])
@pytest.mark.parametrize("value", ODD, ids=str)
def test_odd_areas_and_masks_never_crash(good_folder, key, value):
    raw = json.loads(good_folder[1].read_text())
    raw["annotations"][0][key] = value
    good_folder[1].write_text(json.dumps(raw))
    assert check_folder(*good_folder, decode=False).objects == 24


@pytest.mark.parametrize("key", ["id", "file_name", "width", "height"])
@pytest.mark.parametrize("value", ODD, ids=str)
def test_odd_values_in_images_never_crash(good_folder, key, value):
    raw = json.loads(good_folder[1].read_text())
    raw["images"][0][key] = value
    raw["categories"].append({"id": value, "name": value})
    raw["categories"].append(value)
    good_folder[1].write_text(json.dumps(raw))
    assert check_folder(*good_folder, decode=False).pictures >= 11


def test_every_kind_says_what_training_does():
    assert all(
        cost in ("stop", "lost", "changed", "note") for cost, _ in KINDS.values()
    )
    assert all(action for _, action in KINDS.values())


def test_usual_layouts_are_found(good_folder, tmp_path):
    images, file = good_folder
    root = tmp_path / "coco"
    for split in ("train2017", "val2017"):
        shutil.copytree(images, root / split)
    (root / "annotations").mkdir()
    for name in ("instances_train2017", "instances_val2017", "captions_train2017"):
        shutil.copy(file, root / "annotations" / f"{name}.json")
    (root / "notes.json").write_text('{"a": 1}')
    assert find_folders(root) == [
        (root / split, root / "annotations" / f"instances_{split}.json")
        for split in ("train2017", "val2017")
    ]
    # images/ beside annotations/, and the file given itself
    assert find_folders(images.parent) == find_folders(file) == [(images, file)]
    # annotations among their pictures, one folder per split
    mixed = tmp_path / "mixed"
    shutil.copytree(images, mixed / "train")
    shutil.copy(file, mixed / "train" / "_annotations.coco.json")
    expected = [(mixed / "train", mixed / "train" / "_annotations.coco.json")]
    assert find_folders(mixed) == expected
    assert [r.exit_status for r in check_path(root)] == [0, 0]


def test_nothing_to_check_is_an_error_that_says_what_is_needed(tmp_path):
    with pytest.raises(FileNotFoundError, match="no COCO-format annotation file"):
        find_folders(tmp_path)
    with pytest.raises(FileNotFoundError, match="no such folder or file"):
        find_folders(tmp_path / "nowhere")
