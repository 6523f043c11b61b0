"""Pictures with panoptic ground truth: targets of scenes, in another numbering."""

import numpy as np
import pytest
import torch
from PIL import Image

from detr_steps.data.export import export
from detr_steps.data.panoptic_files import PanopticFiles
from detr_steps.data.panoptic_folder import PanopticFolder
from detr_steps.data.panoptic_scenes import PanopticScenes
from detr_steps.data.scenes import Scenes
from detr_steps.data.transforms import Augment

SCENES = PanopticScenes("val", size=64)
INDICES = [3, 8, 5]


@pytest.fixture
def place(tmp_path):
    return export(Scenes("val", size=64), tmp_path / "set", INDICES)


def opened(place, **options) -> PanopticFolder:
    files = PanopticFiles(place / "annotations" / "panoptic.json")
    return PanopticFolder(place / "images", files, **options)


def test_targets_are_those_of_the_scenes(place):
    folder = opened(place, augment=Augment.none(None))
    drawn = SCENES.draw(INDICES)
    (one, first), (two, second) = folder.evaluation_batches(2)
    assert len(one) == 2 and len(two) == 1
    assert (one.pixels - drawn.images.pixels[:2]).abs().max() < 1 / 255 / 0.2
    for target, wanted in zip([*first, *second], drawn.targets, strict=True):
        for key in ("labels", "masks", "area"):
            assert torch.equal(target[key], wanted[key])
        assert torch.allclose(target["boxes"], wanted["boxes"])
        assert (target["image_id"], target["size"]) == (wanted["image_id"], (64, 64))
        assert not target["iscrowd"].any()
    (_, only), *_ = folder.evaluation_batches(5, limit=1)
    assert len(only) == 1


def test_pictures_are_scaled_and_masks_are_not(place):
    pixels, target = opened(place, augment=Augment.none(32))[0]
    assert pixels.shape == (3, 32, 32) and target["masks"].shape[1:] == (64, 64)


def test_another_numbering(place):
    labels = [5, 4, 3, 2, 1, 0, 6, 8, 7, None]
    names = [f"class {i}" for i in range(9)]
    folder = opened(place, labels=labels, class_names=names, things=6)
    assert folder.class_names == names and folder.things == 6
    theirs = SCENES.draw(INDICES).targets[0]["labels"]
    assert folder[0][1]["labels"].tolist() == [labels[label] for label in theirs]
    with pytest.raises(ValueError, match="'disc' is a thing there and not in the"):
        opened(place, labels=[7, *range(1, 10)], class_names=SCENES.class_names)


def test_a_picture_of_another_size_is_named(place):
    file = place / "images" / "000000000003.png"
    Image.fromarray(np.zeros((60, 64, 3), dtype=np.uint8)).save(file)
    with pytest.raises(ValueError, match="000000000003.png: wrong shape"):
        opened(place)[0]
    with pytest.raises(FileNotFoundError, match="no such folder of pictures"):
        PanopticFolder(place / "none", opened(place).files)
