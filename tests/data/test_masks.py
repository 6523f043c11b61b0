"""Masks: what no tool can have meant is named, never handed to pycocotools."""

import math

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from detr_steps.data.annotations import read_annotations
from detr_steps.data.coco import CocoFolder
from detr_steps.data.masks import (
    BadMask,
    check_segmentation,
    draw_mask,
    encode_mask,
    run_lengths,
)
from detr_steps.data.transforms import Augment, resize_masks

SIZE = 64, 96
BOX = np.array([3.0, 4.0, 13.0, 24.0])
POLYGON = [10.0, 10.0, 60.0, 12.0, 30.0, 50.0]


def runs(counts, size=(64, 96)):
    return {"size": [*size] if isinstance(size, tuple) else size, "counts": counts}


BAD = [
    # these polygons ended the process inside pycocotools
    *([[bad, *POLYGON[1:]]] for bad in (math.nan, math.inf, -math.inf, 2.0**40)),
    *([[*POLYGON[:5], bad]] for bad in (math.nan, math.inf, -(2**40), 10**400, 1e300)),
    *([[*POLYGON[:2], math.nan, *POLYGON[3:]]], [[math.inf, -math.inf] * 3]),
    *([POLYGON[:5]], [POLYGON[:4]], [POLYGON, []], POLYGON, [[POLYGON]], [None]),
    *([[True] * 6], [["1", "2", "3", "4", "5", "6"]], "x", 5, True),
    # these run lengths came out as memory that nobody had written
    *map(runs, ([5, 10], [], [6144.0], "\x00", "ooooooo", "0")),
    *map(runs, ([-5, 6149], [2**40], [6145], [6143], [10**400], [True] * 6144)),
    *map(runs, (["6144"], None, 6144, "", "é", "\ud800", "`", "oooooooooooooooo1")),
    *(runs([6144], size) for size in (5, None, "x", [64], [96, 64], ["64", "96"])),
    *(runs([10**13], size) for size in ([10**6, 10**7], [64, 10**13], [-64, -96])),
    *({"counts": [6144]}, {"size": [64, 96]}, {"size": {64: 1, 96: 2}, "counts": "P"}),
]


@pytest.mark.parametrize("mask", BAD, ids=lambda mask: repr(mask)[:50])
def test_bad_masks_are_named_and_never_drawn(mask):
    with pytest.raises(BadMask):
        check_segmentation(mask, SIZE)
    with pytest.raises(BadMask):
        draw_mask(mask, BOX, SIZE)


@pytest.mark.parametrize("mask", BAD, ids=lambda mask: repr(mask)[:50])
def test_a_bad_mask_is_a_problem_with_file_and_annotation(builder, mask):
    builder.category(1, "thing")
    builder.picture("a.png", 1, Image.new("RGB", SIZE[::-1]))
    builder.box(1, 1, [3, 4, 10, 20], 77, segmentation=mask)
    images, file = builder.write()
    (problem,) = read_annotations(file, images).problems
    assert (problem.kind, problem.file, problem.annotation) == ("bad mask", "a.png", 77)
    assert problem.detail and len(str(problem).splitlines()) == 1
    data = CocoFolder(images, file, augment=Augment.none(None), masks=True, workers=0)
    _, (target,) = next(data.evaluation_batches(1))
    assert target["masks"].sum() == 200 and target["masks"][0, 4:24, 3:13].all()


def test_a_size_that_no_picture_has_takes_no_memory(builder):
    """10^13 bytes were asked for: now the picture's own size is used."""
    builder.category(1, "thing")
    builder.picture("a.png", 1, Image.new("RGB", (96, 96)), (10**13, 10**13))
    builder.box(1, 1, [3, 4, 10, 20], 77, segmentation=runs([1], (10**13, 10**13)))
    images, file = builder.write()
    data = CocoFolder(images, file, augment=Augment.none(None), masks=True, workers=0)
    assert [p.kind for p in data.problems] == ["no stored size", "bad mask"]
    _, (target,) = next(data.evaluation_batches(1))
    assert target["masks"].shape == (1, 96, 96) and target["masks"].sum() == 200
    # scaled down since it was annotated: memory for the small picture only
    drawn = draw_mask([[0, 0, 5e5, 0, 5e5, 1e6, 0, 1e6]], BOX, (10**6, 10**6), SIZE)
    assert drawn.shape == SIZE and drawn[:, :48].all() and not drawn[:, 48:].any()


def blobs(seed, size=SIZE):
    noise = np.random.default_rng(seed).random(size)
    return noise > np.random.default_rng(seed + 100).choice([0.01, 0.5, 0.99, 2, -1])


@pytest.mark.parametrize("seed", range(12))
def test_run_lengths_are_those_of_pycocotools(seed):
    mask = blobs(seed)
    text = encode_mask(mask)
    counts = run_lengths(text, SIZE)
    # the other form, written by hand: column by column, the first run is of zeros
    flat = np.concatenate(([0], mask.T.ravel(), [2]))
    edges = np.flatnonzero(np.diff(flat))
    assert counts == np.diff(np.concatenate(([0], edges))).tolist()
    assert (draw_mask(text, BOX, SIZE) == mask).all()
    assert (draw_mask(runs(counts), BOX, SIZE) == mask).all()
    assert (coco_mask.decode(text).astype(bool) == mask).all()


@pytest.mark.parametrize("size", [(32, 48), (64, 97), (1, 1), (130, 33)])
def test_a_mask_for_a_scaled_picture_is_the_mask_scaled(size):
    mask = blobs(1)
    small = draw_mask(encode_mask(mask), BOX, SIZE, size)
    assert (small == resize_masks(mask[None], size)[0]).all()


def test_polygons_are_those_of_pycocotools():
    shapes = [POLYGON, [70, 5, 90, 5, 90, 30, 70, 30]]
    merged = coco_mask.merge(coco_mask.frPyObjects(shapes, *SIZE))
    expected = coco_mask.decode(merged).astype(bool)
    assert (draw_mask(shapes, BOX, SIZE) == expected).all() and expected.sum() > 900
    doubled = draw_mask([[2 * v for v in s] for s in shapes], BOX, (128, 192), SIZE)
    assert (doubled == expected).all()
    # a little over the edge is the usual rounding of label tools
    check_segmentation([[-5.0, -5.0, 100.0, 0.0, 50.0, 70.0]], SIZE)


def test_without_a_mask_the_box_is_filled():
    assert draw_mask(None, BOX, SIZE).sum() == 10 * 20
    assert draw_mask([], BOX, SIZE, (32, 48))[2:12, 2:6].all()
    thin = draw_mask(None, np.array([3.0, 4.0, 3.2, 4.1]), SIZE)
    assert thin.sum() == 1 and thin[4, 3]
