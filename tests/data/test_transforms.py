import numpy as np
import pytest
from PIL import Image

from detr_steps.data.transforms import (
    Augment,
    Sample,
    crop,
    fitting_size,
    flip,
    resize,
)


def sample(width=64, height=48, boxes=((8, 4, 24, 20), (40, 30, 60, 46))):
    """A black picture whose boxes are filled: box k with gray 100 * (k + 1)."""
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    masks = np.zeros((len(boxes), height, width), dtype=bool)
    for k, (x0, y0, x1, y1) in enumerate(boxes):
        pixels[y0:y1, x0:x1] = 100 * (k + 1)
        masks[k, y0:y1, x0:x1] = True
    return Sample.start(Image.fromarray(pixels), np.array(boxes), masks)


def box_of(mask):
    ys, xs = np.nonzero(mask)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def agree(result, tolerance):
    """Boxes, masks and pixels of every object tell the same story."""
    pixels = np.array(result.picture)[..., 0]
    assert len(result.kept) == len(result.boxes) == len(result.masks)
    for k, box, mask in zip(result.kept, result.boxes, result.masks):
        assert np.abs(np.subtract(box, box_of(mask))).max() <= tolerance
        seen = np.abs(pixels.astype(int) - 100 * (k + 1)) < 40
        assert (seen & mask).sum() >= 0.7 * mask.sum()


def test_flip_moves_picture_boxes_and_masks_together():
    result = flip(sample())
    assert result.boxes[0].tolist() == [40, 4, 56, 20]
    agree(result, 0)
    again = flip(result)
    assert np.array_equal(again.boxes, sample().boxes)


def test_resize_scales_both_axes_on_their_own():
    result = resize(sample(), (96, 96))
    assert result.picture.size == (96, 96)
    assert result.boxes[0].tolist() == [12, 8, 36, 40]
    agree(result, 1)


def test_crop_drops_what_is_outside_and_clips_the_rest():
    result = crop(sample(), top=10, left=10, height=20, width=30)
    assert result.kept.tolist() == [0]
    assert result.boxes.tolist() == [[0, 0, 14, 10]]
    agree(result, 0)
    # touching the border from outside leaves nothing
    assert len(crop(sample(), 20, 0, 10, 64).boxes) == 0


def test_relative_boxes_are_centres_and_sizes():
    boxes = sample(boxes=((16, 12, 48, 36),)).relative_boxes()
    assert boxes.tolist() == [[0.5, 0.5, 0.5, 0.5]]
    assert Sample.start(Image.new("RGB", (4, 4)), []).relative_boxes().shape == (0, 4)


@pytest.mark.parametrize(
    ("size", "short", "longest", "expected"),
    [
        ((480, 640), 800, 1333, (800, 1066)),  # 1066.67 is cut, not rounded
        ((640, 480), 800, 1333, (1066, 800)),
        ((427, 640), 800, 1333, (800, 1199)),
        ((300, 1000), 800, 1333, (400, 1333)),  # the long side binds
        ((800, 900), 800, 1333, (800, 900)),
        ((1, 12000), 800, 1333, (1, 1333)),  # never a side of 0
        ((500, 375), 600, None, (800, 600)),
    ],
)
def test_sizes_are_those_of_the_official_code(size, short, longest, expected):
    assert fitting_size(size, short, longest) == expected


@pytest.mark.parametrize("augment", [Augment(), Augment.paper(), Augment.none()])
def test_no_side_is_above_1333_pixels(augment):
    """The paper's limit: 1,333 exactly, for whoever does not choose another."""
    long = sample(1000, 300, ((0, 0, 1000, 300),))
    result = augment.still()(long, np.random.default_rng(0))
    assert result.picture.size == (1333, 400)


def test_small_at_800_pixels_is_the_paper():
    assert Augment.small(800) == Augment.paper() == Augment()
    assert Augment.small(128).longest == 213 and Augment.small(400).longest == 666
    assert Augment.none().longest == 1333 and Augment.none().short_sides == (800,)
    assert Augment.none(64).longest == 1333 and Augment.none(64, None).longest is None


def test_paper_sizes_flips_and_crops_all_occur():
    augment, original = Augment.paper(), sample(90, 60, ((0, 0, 90, 60),))
    shorts, ratios = set(), []
    for seed in range(60):
        result = augment(original, np.random.default_rng(seed))
        width, height = result.picture.size
        assert max(width, height) <= 1333
        shorts.add(min(width, height))
        ratios.append(abs(width / height - 1.5) > 0.02)
        agree(result, 1)
    allowed = set(range(480, 801, 32))
    assert len(shorts & allowed) >= 8
    assert 0.25 < np.mean(ratios) < 0.75  # half of them were cropped


def test_the_generator_alone_decides():
    augment = Augment.small(128)
    first, second = (augment(sample(), np.random.default_rng(5)) for _ in range(2))
    other = augment(sample(), np.random.default_rng(6))
    assert first.picture.tobytes() == second.picture.tobytes()
    assert np.array_equal(first.boxes, second.boxes)
    assert first.picture.tobytes() != other.picture.tobytes()


@pytest.mark.parametrize("size", [(64, 48), (1, 1), (300, 3)])
def test_small_scales_the_paper_and_survives_odd_pictures(size):
    augment = Augment.small(128)
    assert max(augment.short_sides) == 128 and augment.longest == 213
    for seed in range(20):
        picture = Image.new("RGB", size)
        start = Sample.start(picture, np.array([[0, 0, *size]]))
        result = augment(start, np.random.default_rng(seed))
        assert np.isfinite(result.boxes).all() and (result.relative_boxes() <= 1).all()


def test_still_leaves_nothing_to_chance():
    still = Augment.paper().still()
    first, second = (still(sample(), np.random.default_rng(s)) for s in (0, 1))
    assert first.picture.size == second.picture.size == (1066, 800)
    assert np.array_equal(first.boxes, second.boxes)
    unscaled = Augment.none(None)(sample(), np.random.default_rng(0))
    assert unscaled.picture.size == (64, 48)
