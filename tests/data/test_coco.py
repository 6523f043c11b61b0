import json
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from detr_steps.data.coco import CocoFolder
from detr_steps.data.transforms import Augment
from detr_steps.images import denormalise

# Folders with broken files warn; the tests that are about warnings look at them.
pytestmark = pytest.mark.filterwarnings("ignore:left out", "ignore:__array__")


def take(iterator, count):
    return [next(iterator) for _ in range(count)]


def same(first, second):
    assert len(first) == len(second)
    for (images, targets), (other, others) in zip(first, second):
        assert torch.equal(images.pixels, other.pixels)
        assert torch.equal(images.padding, other.padding)
        for a, b in zip(targets, others, strict=True):
            assert a.keys() == b.keys()
            for key in a:
                assert np.array_equal(a[key], b[key]), key


def folder(paths, **options):
    options = {"augment": Augment.small(48), "workers": 0} | options
    return CocoFolder(*paths, **options)


def ids(batches):
    return [target["image_id"] for _, targets in batches for target in targets]


def test_category_ids_become_labels_without_gaps(good_folder):
    data = folder(good_folder)
    assert (data.classes, data.class_names) == (2, ["cat", "dog"])
    assert data.category_ids == [3, 7]
    _, targets = next(data.evaluation_batches(1))
    assert targets[0]["labels"].tolist() == [0, 1]


def test_raw_ids_are_kept_on_request(good_folder):
    data = folder(good_folder, labels="ids")
    assert data.classes == 8 and data.class_names[7] == "dog"
    _, targets = next(data.evaluation_batches(1))
    assert targets[0]["labels"].tolist() == [3, 7]
    assert data.class_names[0] == "(no 0)"
    with pytest.raises(ValueError, match="labels='id'"):
        folder(good_folder, labels="id")


def test_validation_data_take_their_labels_from_training_data(good_folder):
    train = folder(good_folder)
    raw = json.loads(good_folder[1].read_text())
    raw["categories"] = [{"id": 7, "name": "dog"}]
    raw["annotations"] = [a for a in raw["annotations"] if a["category_id"] == 7]
    file = good_folder[1].with_name("val.json")
    file.write_text(json.dumps(raw))
    val = folder((good_folder[0], file), like=train)
    assert next(val.evaluation_batches(1))[1][0]["labels"].tolist() == [1]
    raw["categories"][0]["name"] = "horse"
    file.write_text(json.dumps(raw))
    with pytest.raises(ValueError, match="category 7 is 'horse' here and 'dog'"):
        folder((good_folder[0], file), like=train)


def test_every_image_comes_once_an_epoch_in_a_new_order(good_folder):
    data = folder(good_folder)
    seen = ids(take(data.batches(4), 6))
    assert sorted(seen[:12]) == sorted(seen[12:]) == list(range(100, 112))
    assert seen[:12] != seen[12:]
    assert seen != ids(take(data.batches(4, seed=1), 6))


def test_batches_are_padded_and_boxes_relative_to_the_picture(good_folder):
    data = folder(good_folder, augment=Augment.none(None))
    (images, targets), *_ = take(data.batches(4), 1)
    for i, target in enumerate(targets):
        height, width = target["size"]
        assert (~images.padding[i]).sum() == height * width
        assert images.padding[i, height:].all() and images.padding[i, :, width:].all()
        expected = [7 / width, 9 / height, 10 / width, 12 / height]
        assert target["boxes"][0].tolist() == pytest.approx(expected)
        assert target["boxes"].dtype == torch.float32


@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_nothing(good_folder, workers):
    straight = take(folder(good_folder).batches(5, seed=3), 4)
    same(straight, take(folder(good_folder, workers=workers).batches(5, seed=3), 4))


def test_resuming_continues_exactly_there(good_folder):
    data = folder(good_folder)
    straight = take(data.batches(5), 6)
    same(straight[4:], take(data.batches(5, start=4), 2))
    with_workers = folder(good_folder, workers=2)
    same(straight[3:], take(with_workers.batches(5, start=3), 3))


def test_reading_batches_leaves_global_random_numbers_alone(good_folder):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    take(folder(good_folder).batches(2), 2)
    assert torch.equal(torch.rand(3), expected)


def test_two_processes_share_the_same_global_batch(good_folder):
    data = folder(good_folder)
    whole = ids(take(data.batches(6), 3))
    parts = [take(data.batches(6, rank=r, world=2), 3) for r in (0, 1)]
    for step in range(3):
        mine = [ids(part[step : step + 1]) for part in parts]
        together = whole[6 * step : 6 * step + 6]
        assert [together[0::2], together[1::2]] == mine
    with pytest.raises(ValueError, match="smaller than 2 processes"):
        data.batches(1, world=2)


def test_evaluation_sees_each_image_once_without_chance(good_folder):
    data = folder(good_folder)
    batches = list(data.evaluation_batches(5))
    assert ids(batches) == list(range(100, 112))
    same(batches, list(data.evaluation_batches(5)))
    assert ids(data.evaluation_batches(5, limit=3)) == [100, 101, 102]
    halves = [ids(data.evaluation_batches(2, 7, rank=r, world=2)) for r in (0, 1)]
    assert sorted(sum(halves, [])) == list(range(100, 107))
    target = batches[0][1][1]
    assert target["size"] == (58, 43) and target["area"].tolist() == [120, 315]
    assert not target["iscrowd"].any()


def test_broken_data_train_without_a_crash(broken_folder):
    with pytest.warns(UserWarning, match="truncated.jpg: unreadable file"):
        data = folder(broken_folder)
        batches = take(data.batches(7), 12)
    assert set(ids(batches)) == {1, 2, 3, 4, 7, 8}
    for images, targets in batches:
        assert len(targets) == 7 and torch.isfinite(images.pixels).all()
        for target in targets:
            boxes = target["boxes"]
            assert torch.isfinite(boxes).all() and (boxes[:, 2:] > 0).all()
            assert len(boxes) == len(target["labels"])
            corners = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
            assert all(((c > -1e-6) & (c < 1 + 1e-6)).all() for c in corners)


def test_each_broken_file_is_reported_once(broken_folder):
    data = folder(broken_folder, workers=1)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        take(data.batches(7), 6)
        take(data.batches(7), 3)
    messages = sorted(str(w.message) for w in seen if "left out" in str(w.message))
    assert len(messages) == len(data.skipped) == 2
    assert "other.png: wrong shape (the file is 40x30" in messages[0]
    assert "truncated.jpg: unreadable file (image file is truncated" in messages[1]


def test_stand_ins_do_not_depend_on_workers_or_history(broken_folder):
    straight = take(folder(broken_folder).batches(5), 6)
    same(straight, take(folder(broken_folder, workers=2).batches(5), 6))
    same(straight[4:], take(folder(broken_folder).batches(5, start=4), 2))


def test_a_folder_of_nothing_but_broken_files_says_so(good_folder):
    images, _ = good_folder
    for file in images.iterdir():
        file.write_bytes(b"no picture")
    with pytest.raises(ValueError, match="no picture can be read; the first: "):
        folder(good_folder)
    for file in images.iterdir():
        file.unlink()
    with pytest.raises(ValueError, match="lists no picture that lies in"):
        folder(good_folder)


def test_crowds_are_for_evaluation_only(broken_folder):
    data = folder(broken_folder)
    trained = [t for _, ts in take(data.batches(7), 4) for t in ts]
    scored = [t for _, ts in data.evaluation_batches(3) for t in ts]
    assert max(len(t["boxes"]) for t in trained if t["image_id"] == 2) == 3
    (target,) = (t for t in scored if t["image_id"] == 2)
    assert target["iscrowd"].tolist() == [False, False, True, False]
    assert target["area"].tolist() == [100, 100, 30, 81]


def test_turned_pictures_fit_their_boxes(broken_folder):
    data = folder(broken_folder, augment=Augment.none(None))
    sizes = {
        target["image_id"]: (target["size"], tuple((~pad).nonzero().amax(0) + 1))
        for images, targets in data.evaluation_batches(4)
        for target, pad in zip(targets, images.padding)
    }
    assert sizes[3] == ((40, 30), (40, 30))  # turned upright
    assert sizes[4] == ((30, 40), (30, 40))  # annotated as stored
    assert sizes[8] == ((60, 80), (30, 40))  # file shrunk since it was annotated


def test_boxes_of_a_shrunk_file_stay_relative(broken_folder):
    data = folder(broken_folder, augment=Augment.none(None))
    targets = [t for _, ts in data.evaluation_batches(4) for t in ts]
    (target,) = (t for t in targets if t["image_id"] == 8)
    assert target["boxes"][0].tolist() == pytest.approx(
        [10 / 80, 10 / 60, 10 / 80, 10 / 60]
    )


def test_cmyk_red_stays_red(broken_folder):
    data = folder(broken_folder, augment=Augment.none(None))
    images, _ = next(data.evaluation_batches(1))
    colour = denormalise(images.pixels[0]).mean((1, 2))
    assert colour[0] > 0.9 and colour[1:].max() < 0.1


def test_masks_follow_the_augmentation(builder):
    builder.category(1, "thing")
    shape = [[10, 5, 30, 5, 30, 25, 10, 25]]
    picture = Image.new("RGB", (40, 30))
    picture.paste((255, 255, 255), (10, 5, 30, 25))
    builder.picture("a.png", 1, picture)
    builder.box(1, 1, [10, 5, 20, 20], segmentation=shape)
    builder.box(1, 1, [0, 0, 4, 30])  # no mask: its box is filled
    data = folder(builder.write(), masks=True, augment=Augment.small(60))
    for images, targets in take(data.batches(1), 12):
        (target,) = targets
        masks = target["masks"]
        assert masks.shape[1:] == images.pixels.shape[2:]
        assert len(masks) == len(target["boxes"])
        if len(masks) == 2:
            white = denormalise(images.pixels[0])[0] > 0.5
            both = (white & masks[0]).sum() / (white | masks[0]).sum()
            assert both > 0.9


def test_strings_as_ids_windows_paths_and_missing_sizes_are_understood(builder):
    builder.category("4", "thing")
    (builder.images / "deep").mkdir()
    builder.picture("deep/a.png", "x7", Image.new("RGB", (40, 30)))
    builder.raw["images"][0] |= {"file_name": "deep\\a.png", "width": None}
    builder.box("x7", "4", ["10", 5, 20, 20])
    data = folder(builder.write())
    assert [str(p) for p in data.problems] == ["deep/a.png: 40x30 pixels"]
    _, (target,) = next(data.evaluation_batches(1))
    assert target["size"] == (30, 40) and target["labels"].tolist() == [0]
    assert target["image_id"] == 0  # its position: the model's world has numbers only


def test_images_without_boxes_are_background(builder, good_folder):
    data = folder(good_folder)
    raw = json.loads(good_folder[1].read_text())
    kept = [a for a in raw["annotations"] if a["image_id"] != 105]
    good_folder[1].write_text(json.dumps(raw | {"annotations": kept}))
    data = folder(good_folder)
    targets = [t for _, ts in take(data.batches(12), 1) for t in ts]
    (empty,) = (t for t in targets if t["image_id"] == 105)
    assert empty["boxes"].shape == (0, 4) and empty["labels"].shape == (0,)
    good_folder[1].write_text(json.dumps(raw | {"annotations": []}))
    with pytest.raises(ValueError, match="no box to learn from"):
        folder(good_folder).batches(2)
    assert len(list(folder(good_folder).evaluation_batches(4))) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda b: [b[0], b[1], b[0] + b[2], b[1] + b[3]], "x0 y0 x1 y1"),
        (lambda b: [v / 100 for v in b], "boxes look relative"),
    ],
)
def test_boxes_in_a_wrong_format_stop_training(good_folder, change, message):
    raw = json.loads(good_folder[1].read_text())
    for annotation in raw["annotations"]:
        annotation["bbox"] = change(annotation["bbox"])
    good_folder[1].write_text(json.dumps(raw))
    with pytest.raises(ValueError, match=message):
        folder(good_folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not readable as JSON"),
        ("[1]", "holds a list"),
        ('{"images": [], "annotations": []}', "no list 'categories'"),
        ('{"images": [], "categories": []}', "no category"),
    ],
)
def test_files_that_are_not_coco_format_are_named(good_folder, text, message):
    good_folder[1].write_text(text)
    with pytest.raises(ValueError, match=message):
        folder(good_folder)


def test_missing_folder_and_file(good_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no such folder of pictures"):
        CocoFolder(tmp_path / "nowhere", good_folder[1])
    with pytest.raises(FileNotFoundError, match="no such annotation file"):
        CocoFolder(good_folder[0], tmp_path / "nothing.json")
