"""COCO's panoptic files: read as they are, written so that they come back, refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from detr_steps.data.export import export
from detr_steps.data.panoptic_files import (
    Answer,
    PanopticFiles,
    ids_of,
    ids_to_rgb,
    read_ids,
    rgb_to_ids,
    write_panoptic,
)
from detr_steps.data.panoptic_scenes import PanopticScenes
from detr_steps.data.scenes import Scenes
from detr_steps.detections import Panoptic, Segment

CATEGORIES = [
    {"id": 1, "name": "cat", "supercategory": "animal", "isthing": 1},
    {"id": 92, "name": "banner", "supercategory": "textile", "isthing": 0},
    {"id": 18, "name": "dog", "supercategory": "animal", "isthing": 1},
]
IDS = np.array([[3226956, 3226956, 0, 7], [3226956, 7, 7, 7]])


@pytest.fixture
def coco(tmp_path):
    """Files as COCO's `panoptic_val2017`: a JSON, beside it a folder of its name."""
    folder = tmp_path / "panoptic_val2017"
    folder.mkdir()
    Image.fromarray(ids_to_rgb(IDS)).save(folder / "000000000139.png")
    segments = [
        {
            "id": 3226956,
            "category_id": 18,
            "iscrowd": 0,
            "bbox": [0, 0, 2, 2],
            "area": 3,
        },
        {"id": 7, "category_id": 92, "iscrowd": 1, "bbox": [1, 0, 3, 2], "area": 4},
    ]
    segments[0]["bbox"], segments[1]["bbox"] = [0, 0, 2, 2], [1, 0, 3, 2]
    image = {"id": 139, "file_name": "000000000139.jpg", "height": 2, "width": 4}
    row = {"image_id": 139, "file_name": "000000000139.png", "segments_info": segments}
    content = {"images": [image], "annotations": [row], "categories": CATEGORIES}
    file = tmp_path / "panoptic_val2017.json"
    file.write_text(json.dumps(content))
    return file


def change(file, edit) -> None:
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def segments_of(content) -> list:
    return content["annotations"][0]["segments_info"]


def test_cocos_own_files(coco):
    files = PanopticFiles(coco)
    assert files.class_names == ["cat", "dog", "banner"] and files.things == 2
    assert files.category_ids == [1, 18, 92]
    (image,) = files.images
    assert (image.id, image.picture, image.size) == (139, "000000000139.jpg", (2, 4))
    ids, segments = files[0]
    assert np.array_equal(ids, IDS)
    assert segments == {3226956: (1, False), 7: (2, True)}


def test_ids_are_colours_as_coco_writes_them():
    ids = np.array([[0, 1, 255, 256], [65535, 65536, 2**24 - 1, 3226956]])
    assert np.array_equal(rgb_to_ids(ids_to_rgb(ids)), ids)
    assert ids_to_rgb(np.array([[3226956]])).tolist() == [[[76, 61, 49]]]
    with pytest.raises(ValueError, match="from 0 to 16777215"):
        ids_to_rgb(np.array([[2**24]]))


def test_scenes_that_were_exported(tmp_path):
    scenes = PanopticScenes("val", size=64)
    folder = export(Scenes("val", size=64), tmp_path / "set", [0, 5])
    files = PanopticFiles(folder / "annotations" / "panoptic.json")
    assert files.class_names == scenes.class_names and files.things == scenes.things
    for index, target in enumerate(scenes.draw([0, 5]).targets):
        ids, segments = files[index]
        assert np.array_equal(ids, ids_of(target["masks"].numpy()))
        assert [label for label, _ in segments.values()] == target["labels"].tolist()


FOUND = Panoptic(
    torch.from_numpy(np.array([[1, 1, 2], [0, 3, 3]])),
    (Segment(1, 0, 0.9, 2), Segment(2, 2, 0.95, 1), Segment(3, 0, 0.99, 2)),
)
NOTHING = Panoptic(torch.zeros(2, 2, dtype=torch.int64), ())
BY_LABEL = [CATEGORIES[0], CATEGORIES[2], CATEGORIES[1]]


def test_answers_come_back(tmp_path):
    answers = [Answer(5, "a.jpg", FOUND), Answer("x", "b.png", NOTHING)]
    assert write_panoptic(tmp_path / "out.json", iter(answers), BY_LABEL) == 2
    files = PanopticFiles(tmp_path / "out.json")
    assert np.array_equal(files[0].ids, FOUND.ids)
    assert files[0].segments == {1: (0, False), 2: (2, False), 3: (0, False)}
    assert not files[1].ids.any() and files[1].segments == {}
    assert [image.id for image in files.images] == [5, "x"]
    (row, _) = json.loads((tmp_path / "out.json").read_text())["annotations"]
    assert row["segments_info"][1] == {
        "id": 2,
        "category_id": 92,
        "area": 1,
        "bbox": [2, 0, 1, 1],
        "iscrowd": 0,
        "score": 0.95,
    }


def test_what_has_no_category_becomes_void(tmp_path):
    categories = [CATEGORIES[0], CATEGORIES[2], None]
    write_panoptic(tmp_path / "out.json", [Answer(5, "a.jpg", FOUND)], categories)
    ids, segments = PanopticFiles(tmp_path / "out.json")[0]
    assert set(segments) == {1, 3} and ids[0, 2] == 0
    assert FOUND.ids[0, 2] == 2  # the answer itself stays as it was


def test_pictures_of_one_name_are_both_written(tmp_path):
    answers = [Answer(1, "a.jpg", FOUND), Answer(2, "a.png", NOTHING)]
    write_panoptic(tmp_path / "out.json", answers, BY_LABEL)
    files = PanopticFiles(tmp_path / "out.json")
    assert len({image.file for image in files.images}) == 2
    assert files[0].ids.any() and not files[1].ids.any()


@pytest.mark.parametrize("there", ["out.json", "out"])
def test_nothing_is_overwritten(tmp_path, there):
    (tmp_path / there).write_text("mine")
    with pytest.raises(FileExistsError, match="there already"):
        write_panoptic(tmp_path / "out.json", [Answer(1, "a", FOUND)], BY_LABEL)
    assert (tmp_path / there).read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == [there]


def test_a_file_without_ending_would_be_its_own_folder(tmp_path):
    with pytest.raises(ValueError, match="call it .*out.json"):
        write_panoptic(tmp_path / "out", [], BY_LABEL)


def test_nothing_is_half_written(tmp_path):
    def answers():
        yield Answer(1, "a.jpg", FOUND)
        raise RuntimeError("the model failed")

    with pytest.raises(RuntimeError):
        write_panoptic(tmp_path / "out.json", answers(), BY_LABEL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (lambda c: segments_of(c).pop(), "has the segment 7, which .* not list for"),
        (
            lambda c: segments_of(c).append({"id": 9, "category_id": 1}),
            "no pixel of segment 9, which .* lists for image 139",
        ),
        (lambda c: c["images"][0].update(height=3), "2 x 4 pixels, .* says 3 x 4"),
    ],
)
def test_png_and_json_that_disagree(coco, edit, fault):
    change(coco, edit)
    with pytest.raises(ValueError, match=fault):
        PanopticFiles(coco)[0]


@pytest.mark.parametrize(
    ("edit", "fault"),
    [
        (lambda c: c["categories"][1].pop("isthing"), "92 .'banner'. has no isthing"),
        (lambda c: c["categories"][1].update(isthing="no"), "has no isthing"),
        (lambda c: c["categories"][1].update(id=1), "two categories"),
        (lambda c: c["categories"][1].pop("name"), "no id or no name"),
        (lambda c: segments_of(c)[1].update(category_id=5), "category 5, not listed"),
        (lambda c: segments_of(c)[1].update(id=3226956), "3226956 is listed twice"),
        (lambda c: segments_of(c)[1].update(id=0), "an id from 1"),
        (lambda c: segments_of(c)[1].update(id="7"), "an id from 1"),
        (lambda c: c["annotations"][0].update(image_id=8), "image 8, which is not"),
        (lambda c: c.pop("categories"), "no list 'categories'"),
    ],
)
def test_bad_json_is_named(coco, edit, fault):
    change(coco, edit)
    with pytest.raises(ValueError, match=fault) as error:
        PanopticFiles(coco)
    assert str(coco) in str(error.value)


def test_void_only_is_fine(coco):
    change(coco, lambda c: segments_of(c).clear())
    png = coco.with_suffix("") / "000000000139.png"
    Image.fromarray(ids_to_rgb(IDS * 0)).save(png)
    assert PanopticFiles(coco)[0].segments == {}


def test_pngs_that_are_none(coco):
    png = coco.with_suffix("") / "000000000139.png"
    Image.fromarray(ids_to_rgb(IDS)).convert("P").save(png)
    with pytest.raises(ValueError, match="PNG of mode P: segment ids need"):
        PanopticFiles(coco)[0]
    Image.fromarray(ids_to_rgb(IDS)).save(png, format="JPEG")
    with pytest.raises(ValueError, match="a JPEG of mode RGB"):
        read_ids(png)
    png.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="000000000139.png"):
        PanopticFiles(coco)[0]
    png.unlink()
    with pytest.raises(ValueError, match="000000000139.png"):
        PanopticFiles(coco)[0]
    shutil.rmtree(coco.with_suffix(""))
    with pytest.raises(FileNotFoundError, match="no such folder of segment PNGs"):
        PanopticFiles(coco)


def test_masks_that_overlap_are_named():
    masks = np.zeros((3, 2, 4), dtype=bool)
    masks[0, 0], masks[2, :, 1] = True, True
    with pytest.raises(ValueError, match="image 4: masks 0 and 2 share 1 pixels"):
        ids_of(masks, "image 4")
    masks[2, 0] = False
    assert ids_of(masks).tolist() == [[1, 1, 1, 1], [0, 3, 0, 0]]
    assert ids_of(np.zeros((0, 2, 2))).tolist() == [[0, 0], [0, 0]]
