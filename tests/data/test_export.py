import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from detr_steps.boxes import cxcywh_to_xyxy
from detr_steps.data import export as module
from detr_steps.data.check import check_path
from detr_steps.data.coco import CocoFolder
from detr_steps.data.export import export
from detr_steps.data.scenes import Scenes
from detr_steps.data.transforms import Augment

pytestmark = pytest.mark.filterwarnings("ignore:__array__")
SCENES = Scenes("val", size=64)
INDICES = [0, 3, 70]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return export(SCENES, tmp_path_factory.mktemp("out") / "set", INDICES)


def content(folder):
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}


def test_pycocotools_reads_back_what_was_drawn(folder):
    data = COCO(folder / "annotations" / "instances.json")
    assert [c["name"] for c in data.dataset["categories"]] == SCENES.class_names
    scenes = SCENES.draw(INDICES)
    for row, (index, target) in enumerate(zip(INDICES, scenes.targets)):
        found = data.loadAnns(data.getAnnIds(index))
        assert [a["category_id"] - 1 for a in found] == target["labels"].tolist()
        masks = np.array([data.annToMask(a) for a in found], dtype=bool)
        assert np.array_equal(masks, scenes.masks(row).numpy())
        corners = cxcywh_to_xyxy(target["boxes"]).mul(64).numpy()
        boxes = np.array([a["bbox"] for a in found])
        boxes[:, 2:] += boxes[:, :2]
        assert np.allclose(boxes, corners, atol=1e-4)
        assert [a["area"] for a in found] == target["area"].tolist()
        assert [coco_mask.area(a["segmentation"]) for a in found] == [
            a["area"] for a in found
        ]
    ids = [a["id"] for a in data.dataset["annotations"]]
    assert ids == list(range(1, len(ids) + 1))


def test_our_own_reader_gives_the_same_targets_and_pictures(folder):
    assert [report.problems for report in check_path(folder)] != []
    paths = folder / "images", folder / "annotations" / "instances.json"
    data = CocoFolder(*paths, augment=Augment.none(None), masks=True, workers=0)
    (images, targets) = next(data.evaluation_batches(3))
    scenes = SCENES.draw(INDICES)
    assert (images.pixels - scenes.images.pixels).abs().max() < 1 / 255 / 0.2
    for row, (target, drawn) in enumerate(zip(targets, scenes.targets)):
        assert torch.allclose(target["boxes"], drawn["boxes"], atol=1e-6)
        assert torch.equal(target["masks"], scenes.masks(row))
        for key in ("labels", "area"):
            assert torch.equal(target[key], drawn[key])
        assert (target["image_id"], target["size"]) == (INDICES[row], (64, 64))


def test_every_pixel_belongs_to_one_panoptic_segment(folder):
    raw = json.loads((folder / "annotations" / "panoptic.json").read_text())
    isthing = {c["id"]: c["isthing"] for c in raw["categories"]}
    names = {c["id"]: c["name"] for c in raw["categories"]}
    assert list(names.values()) == SCENES.class_names + SCENES.stuff_names
    scenes = SCENES.draw(INDICES)
    for row, annotation in enumerate(raw["annotations"]):
        picture = np.array(Image.open(folder / "panoptic" / annotation["file_name"]))
        ids = picture.astype(int) @ [1, 256, 65536]
        segments = annotation["segments_info"]
        assert sorted(np.unique(ids)) == [s["id"] for s in segments]
        owner, stuff = scenes.owner[row].numpy(), scenes.stuff[row].numpy()
        assert len(segments) - len(np.unique(stuff[owner == 0])) == owner.max()
        for segment in segments:
            region = ids == segment["id"]
            assert region.sum() == segment["area"]
            if isthing[segment["category_id"]]:
                assert len(np.unique(owner[region])) == 1 and owner[region].min() > 0
            else:
                (kind,) = np.unique(stuff[region])
                assert names[segment["category_id"]] == SCENES.stuff_names[kind]
                assert owner[region].max() == 0


def test_the_same_call_writes_the_same_bytes(folder, tmp_path):
    assert content(export(SCENES, tmp_path / "again", INDICES)) == content(folder)


def test_chunks_do_not_show(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "AT_ONCE", 2)
    assert content(export(SCENES, tmp_path / "again", INDICES)) == content(folder)


def test_a_folder_with_content_is_left_alone_unless_told(tmp_path):
    mine = tmp_path / "set" / "mine.txt"
    mine.parent.mkdir()
    export(SCENES, mine.parent, [1])  # an empty folder is fine
    mine.write_text("precious")
    before = content(mine.parent)
    with pytest.raises(FileExistsError, match="set exists and is not empty"):
        export(SCENES, mine.parent, [2])
    assert content(mine.parent) == before
    export(SCENES, mine.parent, [2], overwrite=True)
    assert list((mine.parent / "images").iterdir())[0].name == "000000000002.png"
    assert [file.name for file in tmp_path.iterdir()] == ["set"]


def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    export(SCENES, tmp_path / "set", [1])
    before = content(tmp_path / "set")
    monkeypatch.setattr(module, "_write_json", full)
    with pytest.raises(OSError, match="No space left"):
        export(SCENES, tmp_path / "set", [2], overwrite=True)
    assert content(tmp_path / "set") == before
    assert [file.name for file in tmp_path.iterdir()] == ["set"]


SAMPLE = Path(__file__).parents[2] / "data" / "sample-coco"


def test_the_sample_in_the_repository_is_what_export_writes(tmp_path):
    # After a change of the drawings: detr-steps data export, and commit the sample.
    fresh = export(Scenes("val"), tmp_path / "sample", range(16))
    assert content(fresh).keys() == content(SAMPLE).keys()
    for name in ("instances.json", "panoptic.json"):
        old, new = (root / "annotations" / name for root in (SAMPLE, fresh))
        assert json.loads(old.read_text()) == json.loads(new.read_text())
    for file in fresh.glob("*/*.png"):
        new = np.array(Image.open(file), dtype=int)
        old = np.array(Image.open(SAMPLE / file.relative_to(fresh)), dtype=int)
        # pictures may differ by one step between machines, segment ids may not
        assert abs(new - old).max() <= (file.parent.name == "images")


def test_the_sample_is_sound():
    report, *others = check_path(SAMPLE)
    assert others == [] and report.exit_status == 0
    assert (report.pictures, len(report.class_names)) == (16, 6)
