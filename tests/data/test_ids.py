"""Ids as files write them: no box is lost in silence, none goes to another picture."""

import json

import pytest

from detr_steps.data.annotations import read_annotations
from detr_steps.data.coco import CocoFolder
from detr_steps.data.ids import ById, is_id, meaning, whole_number
from detr_steps.data.transforms import Augment


@pytest.mark.parametrize("value", [7, 7.0, "7", "7.0", "007", " 7", "+7", "7."])
def test_all_spellings_of_a_whole_number_mean_it(value):
    assert is_id(value) and meaning(value) == whole_number(value) == 7
    known = ById()
    known.add(7, "seven")
    assert known.find(value) == "seven"


@pytest.mark.parametrize(
    ("value", "means"),
    [("7a", "7a"), (" a ", "a"), ("1_0", "1_0"), ("7.5", "7.5"), (7.5, "7.5")]
    + [("-0", 0), (-3.0, -3), ("0" * 30, 0), ("٧", "٧"), ("1e3", "1e3")]
    + [("9" * 5000, "9" * 5000)],
)
def test_everything_else_is_a_text(value, means):
    assert meaning(value) == means
    assert whole_number(value) == (means if isinstance(means, int) else None)


@pytest.mark.parametrize(
    "value", [None, True, False, "", " ", [], {}, float("nan"), 1e400, 2.0**53, -1e300]
)
def test_what_is_no_id_is_found_nowhere(value):
    known = ById()
    for number in (0, 1, 2**53):  # Python takes True for 1, and 2.0**53 for 2**53
        known.add(number, number)
    assert not is_id(value) and whole_number(value) is None
    assert known.find(value) is None and value not in known and known.alike(value) == []


def test_what_is_written_the_same_comes_first():
    known = ById()
    for value in (7, "7", "007", 8):
        assert value not in known
        known.add(value, repr(value))
    assert [known.find(v) for v in (7, 7.0, "7", "007")] == ["7", "7", "'7'", "'007'"]
    assert known.find(" 7") is known.find("7.0") is None  # any of three
    assert known.alike(" 7") == [7, "7", "007"]
    assert known.find("8.0") == "8" and known.find(9) is None


def boxes(folder, **changes):
    """x of each box by file, after changing entries of images and annotations."""
    images, file = folder
    raw = json.loads(file.read_text())
    for kind, change in changes.items():
        for entry in raw[kind]:
            change(entry)
    file.write_text(json.dumps(raw))
    data = read_annotations(file, images)
    found = {
        name: data.boxes[data.objects(i), 0].tolist()
        for i, name in enumerate(data.files)
    }
    return found, data


SPELLINGS = [float, str, "{}.0".format, "{:07}".format, " {}".format]


@pytest.mark.parametrize("spell", SPELLINGS)
@pytest.mark.parametrize("kind", ["images", "annotations"])
def test_no_box_is_lost_to_another_spelling(good_folder, kind, spell):
    before, _ = boxes(good_folder)
    key = {"images": "id", "annotations": "image_id"}[kind]
    after, data = boxes(good_folder, **{kind: lambda e: e.update({key: spell(e[key])})})
    assert after == before and data.problems == []
    assert data.image_ids.tolist() == [*range(100, 112)]


@pytest.mark.parametrize("spell", SPELLINGS)
@pytest.mark.parametrize("kind", ["categories", "annotations"])
def test_no_category_is_lost_to_another_spelling(good_folder, kind, spell):
    key = {"categories": "id", "annotations": "category_id"}[kind]
    change = {kind: lambda entry: entry.update({key: spell(entry[key])})}
    _, data = boxes(good_folder, **change)
    assert data.problems == [] and data.names == {3: "cat", 7: "dog"}
    assert data.categories.tolist() == [3, 7] * 12


def test_three_images_with_ids_that_look_alike_keep_their_own_boxes(good_folder):
    new = dict(zip(range(100, 104), [7, "7", "007", "a"]))

    def image(entry):
        entry["id"] = new.get(entry["id"], entry["id"])

    def annotation(entry):
        entry["image_id"] = new.get(entry["image_id"], entry["image_id"])
        entry["bbox"][0] = float(len(str(entry["image_id"])))

    found, data = boxes(good_folder, images=image, annotations=annotation)
    assert [found[f"{i}.png"] for i in range(4)] == [[1, 1], [1, 1], [3, 3], [1, 1]]
    assert data.problems == []
    # the model's world has numbers only, and each image one of its own
    assert data.image_ids[:4].tolist() == [7, 0, 1, 2]


def test_an_id_that_fits_two_images_is_reported_with_both(good_folder):
    images, file = good_folder
    raw = json.loads(file.read_text())
    raw["images"][0]["id"], raw["images"][1]["id"] = 7, "007"
    for annotation in raw["annotations"][:4]:
        annotation["image_id"] = " 7"
    file.write_text(json.dumps(raw))
    problems = read_annotations(file, images).problems
    lost = [p for p in problems if p.kind == "unknown image"]
    assert len(lost) == 4 and lost[0].annotation == 1000
    assert lost[0].detail == "image ' 7' may be any of the ids 7, '007'"


def test_a_text_id_never_takes_the_number_of_another_image(builder):
    """Evaluation tells images apart by number: "a", in place 0, is not image 0."""
    builder.category(1, "thing")
    for name, number in (("x.png", "a"), ("y.png", 0), ("z.png", 1), ("w.png", "b")):
        builder.picture(name, number, _picture())
        builder.box(number, 1, [2, 2, 9, 9])
    data = CocoFolder(*builder.write(), augment=Augment.none(None), workers=0)
    ids = [t["image_id"] for _, ts in data.evaluation_batches(2) for t in ts]
    assert ids == [2, 0, 1, 3]


def test_two_categories_that_look_alike_do_not_share_boxes(builder):
    builder.category(7, "cat")
    builder.category("07", "dog")
    builder.picture("a.png", 1, _picture())
    for category in (7, "07", "7"):
        builder.box(1, category, [2, 2, 9, 9])
    data = read_annotations(*builder.write()[::-1])
    assert data.categories.tolist() == [7]
    kinds = [p.kind for p in data.problems]
    assert kinds == ["duplicate category id", "unknown category", "unknown category"]


def test_floats_too_large_to_be_exact_are_no_ids(builder):
    """9007199254740993.0 is read as …992: another picture's id."""
    builder.category(1, "thing")
    builder.picture("a.png", 2**53, _picture())
    builder.box(2.0**53, 1, [2, 2, 9, 9])
    data = read_annotations(*builder.write()[::-1])
    assert [p.kind for p in data.problems][0] == "unknown image"
    assert len(data.boxes) == 0


@pytest.mark.parametrize("value", [None, True, "", float("nan"), [7], {"id": 7}])
@pytest.mark.parametrize("key", ["id", "file_name"])
def test_an_image_entry_without_id_or_name_is_reported(good_folder, key, value):
    images, file = good_folder
    raw = json.loads(file.read_text())
    raw["images"][3][key] = value
    file.write_text(json.dumps(raw))
    (bad,) = [
        p
        for p in read_annotations(file, images).problems
        if p.kind == "bad image entry"
    ]
    assert bad.detail == "entry 3 has no id or no file_name" and bad.cost == "lost"
    assert bad.file == ("3.png" if key == "id" else "" if not value else repr(value))


def test_an_image_entry_that_is_none_is_reported(good_folder):
    images, file = good_folder
    raw = json.loads(file.read_text())
    raw["images"].insert(0, "0.png")
    file.write_text(json.dumps(raw))
    data = read_annotations(file, images)
    assert [p.kind for p in data.problems] == ["bad image entry"]
    assert len(data.files) == 12


def _picture():
    from PIL import Image

    return Image.new("RGB", (40, 30))
