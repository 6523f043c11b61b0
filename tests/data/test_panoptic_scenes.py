"""Scenes with stuff: every pixel in one mask, boxes from masks, the same pictures."""

import pytest
import torch

from detr_steps.boxes import cxcywh_to_xyxy
from detr_steps.data.panoptic_scenes import PanopticScenes, boxes_of
from detr_steps.data.scenes import Scenes
from detr_steps.describable import from_json, to_json

SCENES = PanopticScenes("val", size=64)


@pytest.fixture(scope="module")
def drawn():
    return SCENES.draw(range(40))


def test_the_pictures_and_the_things_are_those_of_scenes(drawn):
    plain = Scenes("val", size=64).draw(range(40))
    assert torch.equal(drawn.rgb, plain.rgb)
    for index, (one, other) in enumerate(zip(drawn.targets, plain.targets)):
        n = len(other["labels"])
        for key in ("boxes", "labels", "area"):
            assert torch.equal(one[key][:n], other[key])
        assert torch.equal(one["masks"][:n], plain.masks(index))
        assert torch.equal(drawn.masks(index), one["masks"])
        assert one["image_id"] == other["image_id"]


def test_every_pixel_is_in_exactly_one_mask(drawn):
    for target in drawn.targets:
        assert (target["masks"].sum(0) == 1).all()
        assert torch.equal(target["masks"].sum((1, 2)).float(), target["area"])
        assert len(target["masks"]) == len(target["labels"]) == len(target["boxes"])


def test_stuff_is_one_segment_for_each_texture_between_the_objects(drawn):
    for index, target in enumerate(drawn.targets):
        labels = target["labels"]
        stuff = labels >= SCENES.things
        assert (labels[stuff].diff() > 0).all() and not stuff[: (~stuff).sum()].any()
        kinds = drawn.stuff[index][drawn.owner[index] == 0].unique()
        assert torch.equal(labels[stuff] - SCENES.things, kinds)
        for label, mask in zip(labels[stuff], target["masks"][stuff]):
            assert (drawn.stuff[index][mask] == label - SCENES.things).all()


def test_boxes_are_tight(drawn):
    for target in drawn.targets:
        for box, mask in zip(target["boxes"], target["masks"]):
            x0, y0, x1, y1 = (cxcywh_to_xyxy(box) * 64).round().int().tolist()
            rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
            assert (x0, x1) == (columns.min(), columns.max() + 1)
            assert (y0, y1) == (rows.min(), rows.max() + 1)


def test_boxes_of_masks_of_any_shape():
    masks = torch.zeros(2, 3, 4, 8, dtype=torch.bool)
    masks[0, 1, 1:3, 2:4] = True
    masks[1, 2, 3, 7] = True
    found = boxes_of(masks)
    assert found[0, 1].tolist() == [3 / 8, 0.5, 0.25, 0.5]
    assert found[1, 2].tolist() == [7.5 / 8, 3.5 / 4, 1 / 8, 0.25]
    assert (found[0, 0] == 0).all()


def test_batches_are_a_pure_function_of_seed_and_step():
    steps = SCENES.batches(3, start=5), SCENES.batches(3, start=6)
    next(steps[0])
    (one, first), (two, second) = map(next, steps)
    assert torch.equal(one.pixels, two.pixels)
    assert all(torch.equal(a["masks"], b["masks"]) for a, b in zip(first, second))
    images, targets = next(SCENES.evaluation_batches(2))
    assert len(images) == 2 and targets[1]["masks"].shape[1:] == (64, 64)


def test_names_and_description():
    assert SCENES.class_names[: SCENES.things] == Scenes().class_names
    assert SCENES.class_names[SCENES.things :] == Scenes().stuff_names
    assert SCENES.classes == len(SCENES.class_names) == 10
    assert from_json(to_json(SCENES)) == SCENES
    assert SCENES[3][1]["masks"].dtype == torch.bool
