"""Masks scored: AP of masks against pycocotools by hand, PQ of a whole model."""

import numpy as np
import pytest
import torch
from small import small_panoptic

from detr_steps.data.panoptic_scenes import PanopticScenes
from detr_steps.detections import Instances, Panoptic, Segment
from detr_steps.evaluation import (
    evaluate,
    evaluate_panoptic,
    mask_ap,
    pairs_at,
    panoptic_quality,
)
from detr_steps.evaluation.mask_ap import found_rows, true_rows
from detr_steps.evaluation.panoptic import panoptic_pair

DATA = PanopticScenes("val", size=32)


def perfect(target) -> tuple[Panoptic, Instances]:
    """The truth as an answer."""
    masks, labels = target["masks"], target["labels"]
    numbers = torch.arange(1, len(masks) + 1)
    ids = (masks * numbers[:, None, None]).sum(0)
    segments = tuple(
        Segment(n, int(label), 0.9, int(mask.sum()))
        for n, (label, mask) in enumerate(zip(labels, masks), start=1)
    )
    things = labels < DATA.things
    boxes, scores = torch.zeros(int(things.sum()), 4), torch.full((len(masks),), 0.9)
    found = Instances(boxes, scores[things], labels[things], masks[things])
    return Panoptic(ids, segments), found


@pytest.fixture(scope="module")
def targets() -> list[dict]:
    return DATA.draw(range(6)).targets


def test_the_truth_itself_is_perfect(targets):
    pairs = [panoptic_pair(perfect(t)[0], t, "x") for t in targets]
    quality = panoptic_quality(pairs, range(DATA.things))
    assert quality["things"]["pq"] == quality["stuff"]["pq"] == 1
    rows = [found_rows(perfect(t)[1]) for t in targets]
    truth = [true_rows(t, DATA.things) for t in targets]
    assert mask_ap(truth, rows, DATA.class_names[:6])["AP"] == pytest.approx(1)


def test_masks_decide_and_boxes_do_not(targets):
    """The right boxes around half of each mask are hardly ever a hit."""
    truth, rows = [], []
    for target in targets:
        found = perfect(target)[1]
        checks = torch.arange(32) % 2 == 0
        rows.append(found_rows(found._replace(masks=found.masks & checks)))
        truth.append(true_rows(target, DATA.things))
    result = mask_ap(truth, rows, DATA.class_names[:6])
    assert result["AP75"] < 0.1 and result["AP"] < 0.3


def test_stuff_is_no_object_and_crowds_are_excused(targets):
    target = targets[0]
    assert len(true_rows(target, 6)) == int((target["labels"] < 6).sum())
    crowded = target | {"iscrowd": torch.ones(len(target["labels"]))}
    result = mask_ap([true_rows(crowded, 6)], [[]], DATA.class_names[:6])
    assert result["AP"] is None
    with pytest.raises(ValueError, match="0 images with masks, 1 with targets"):
        mask_ap([[]], [], DATA.class_names[:6])


def test_void_and_crowds_of_a_target(targets):
    target = targets[0] | {"masks": targets[0]["masks"].clone()}
    target["masks"][-1] = False
    target["masks"][-1, 0, 0] = ~target["masks"][:-1, 0, 0].any()
    kept = target["masks"].any((1, 2))
    target |= {k: target[k][kept] for k in ("masks", "labels", "boxes", "area")}
    target["iscrowd"] = torch.zeros(len(target["labels"]), dtype=torch.bool)
    target["iscrowd"][0] = True
    pair = panoptic_pair(perfect(targets[0])[0], target, "x")
    assert pair.truth[1][1] and not any(
        crowd for _, crowd in list(pair.truth.values())[1:]
    )
    assert (pair.true == 0).sum() > 0


def test_overlapping_masks_are_named(targets):
    twice = targets[0] | {"masks": torch.ones_like(targets[0]["masks"])}
    with pytest.raises(ValueError, match="image 7: masks 0 and 1 share"):
        panoptic_pair(perfect(targets[0])[0], twice, "image 7")


@pytest.fixture(scope="module")
def model():
    model = small_panoptic(classes=10, things=6)
    with torch.no_grad():
        model.class_head.weight.mul_(20)  # or nobody is sure of anything
    return model.train()


def test_a_whole_model_is_scored_and_left_as_it_was(model):
    result = evaluate(model, DATA, batch=4, limit=6)
    assert result == evaluate_panoptic(model, DATA, batch=3, limit=6)
    names = {"PQ", "SQ", "RQ", "PQ_things", "PQ_stuff", "AP", "AP50"}
    assert names | {"mask_AP", "mask_AP50", "mask_AP_S"} <= result.keys()
    assert all(v is None or 0 <= v <= 1 for k, v in result.items() if k != "per_class")
    assert list(result["per_class"]) == DATA.class_names
    assert model.training


def test_the_scores_are_those_of_the_answers(model):
    """Put together by hand from `panoptic` and `instances`."""
    pairs, truth, rows = [], [], []
    for images, targets in DATA.evaluation_batches(3, 6):
        sizes = [t["size"] for t in targets]
        for found, target in zip(model.panoptic(images, sizes, 0.3), targets):
            pairs.append(panoptic_pair(found, target, "x"))
        for found, target in zip(model.instances(images, sizes, 0.0), targets):
            truth.append(true_rows(target, 6))
            rows.append(found_rows(found))
    result = evaluate_panoptic(model, DATA, batch=3, limit=6, threshold=0.3)
    quality = panoptic_quality(pairs, range(6))
    assert result["PQ"] == quality["all"]["pq"]
    assert result["SQ_stuff"] == quality["stuff"]["sq"]
    masks = mask_ap(truth, rows, DATA.class_names[:6], area_limits=DATA.area_limits)
    assert result["mask_AP"] == masks["AP"]
    assert sum(np.count_nonzero(pair.predicted) for pair in pairs) > 0


def test_pairs_at_several_thresholds_score_like_each_alone(model):
    thresholds = (0.0, 0.3, 2.0)  # the last keeps nothing
    pairs = pairs_at(model, DATA, thresholds, batch=4, limit=6)
    assert list(pairs) == list(thresholds) and model.training
    kept = [sum(len(pair.classes) for pair in pairs[t]) for t in thresholds]
    assert kept[0] >= kept[1] > kept[2] == 0
    for threshold in thresholds:
        alone = evaluate_panoptic(model, DATA, batch=4, limit=6, threshold=threshold)
        quality = panoptic_quality(pairs[threshold], range(DATA.things))
        assert quality["all"]["pq"] == alone["PQ"]
