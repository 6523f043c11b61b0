"""Scenes: exact for any index, honest targets, the promised variety."""

import hashlib

import pytest
import torch

from detr_steps.boxes import cxcywh_to_xyxy
from detr_steps.data import drawing, hashing
from detr_steps.data.layout import DISTRACTORS
from detr_steps.data.scenes import Scenes

# written once; a change means that the drawings and all records no longer fit
DIGEST = "b4233e644b91bd66a7cab9fb757d55d0a10d9fb6d0ba12d8a90d45647d527a93"


@pytest.fixture(scope="module")
def batch():
    return Scenes("val").draw(range(60))


def digest(scenes) -> str:
    state = hashlib.sha256()
    for target in scenes.targets:
        corners = cxcywh_to_xyxy(target["boxes"]) * 128
        state.update(corners.round().short().numpy().tobytes())
        state.update(target["labels"].numpy().tobytes())
    state.update(scenes.owner.to(torch.uint8).numpy().tobytes())
    state.update(scenes.stuff.to(torch.uint8).numpy().tobytes())
    return state.hexdigest()


def test_targets_are_the_same_on_every_machine(batch):
    assert digest(batch) == DIGEST


def test_any_index_alone_equals_the_same_index_in_a_batch(batch):
    alone = Scenes("val").draw([37])
    assert torch.equal(alone.owner[0], batch.owner[37])
    assert torch.equal(alone.targets[0]["boxes"], batch.targets[37]["boxes"])
    assert (alone.rgb[0] - batch.rgb[37]).abs().max() <= 1 / 255
    image, target = Scenes("val")[37]
    assert image.shape == (3, 128, 128)
    assert torch.equal(target["labels"], batch.targets[37]["labels"])


def test_number_of_threads_does_not_matter(batch):
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - min(threads, 2))
    try:
        again = Scenes("val").draw(range(60))
    finally:
        torch.set_num_threads(threads)
    assert digest(again) == digest(batch)
    assert (again.rgb - batch.rgb).abs().max() <= 1 / 255


@pytest.mark.parametrize("other", [{"split": "train"}, {"split": "val", "seed": 1}])
def test_split_and_seed_make_other_scenes(batch, other):
    assert digest(Scenes(**other).draw(range(60))) != digest(batch)


def test_negative_seeds_are_seeds_like_all_others(batch):
    """Seeds are 32-bit words: -1 is the highest, no error and no copy of another."""
    assert hashing.key(-1, -2) == hashing.key(2**32 - 1, 2**32 - 2)
    assert 0 <= hashing.key(-1) < 2**32
    worlds = [Scenes("val", 32, seed).draw(range(4)) for seed in (-1, -2, 1, 2, 0)]
    assert len({digest(world) for world in worlds}) == 5
    assert digest(Scenes("val", 32, 2**32 - 1).draw(range(4))) == digest(worlds[0])
    starts = [
        next(Scenes(size=32).batches(1, seed=seed))[1][0]["image_id"]
        for seed in (-1, -2, 1, 2, 0)
    ]
    assert len(set(starts)) == 5 and all(0 <= s < 1_000_000 for s in starts)


def test_boxes_are_tight_around_the_visible_masks(batch):
    for index, target in enumerate(batch.targets):
        masks = batch.masks(index)
        assert len(masks) == len(target["labels"])
        corners = (cxcywh_to_xyxy(target["boxes"]) * 128).round().long()
        for mask, box, area in zip(masks, corners.tolist(), target["area"]):
            rows, columns = mask.nonzero(as_tuple=True)
            tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box == [int(x) for x in tight]
            assert int(area) == int(mask.sum())


def test_boxes_are_sane(batch):
    for target in batch.targets:
        boxes = cxcywh_to_xyxy(target["boxes"])
        assert (boxes >= 0).all() and (boxes <= 1).all()
        assert (target["boxes"][:, 2:] > 0).all()
        assert 1 <= len(boxes) <= 8


def test_every_class_texture_size_and_count_occurs():
    scenes = Scenes("train").draw(range(200))
    labels = torch.cat([target["labels"] for target in scenes.targets])
    assert set(labels.tolist()) == set(range(6))
    assert set(scenes.stuff.unique().tolist()) == set(range(4))
    assert {len(target["labels"]) for target in scenes.targets} >= {1, 2, 5, 8}
    area = torch.cat([target["area"] for target in scenes.targets])
    for low, high in ((0, 16**2), (16**2, 32**2), (32**2, 128**2)):
        share = ((area >= low) & (area < high)).float().mean()
        assert share > 0.1


def test_occlusion_happens_and_stops_at_the_limit():
    """Compare what is visible with the same item drawn alone."""
    from detr_steps.data import layout as module

    world = Scenes("train")
    indices = torch.arange(150)
    keys = hashing.mix((indices ^ hashing.key(world.seed, 0)) & hashing.MASK)
    items = module.lay_out(world, keys)
    patches = module.cut_patches(items, 128)
    kept = module.take_out_hidden(patches, items.exists, 128, world.hidden)
    top = module.paint_order(patches, kept, 128)
    hidden = []
    for patch in patches:
        shown = module.visible_pixels(patch, top).sum((1, 2)) / patch.pixels
        objects = kept[patch.scene, patch.item] & (patch.item >= DISTRACTORS)
        hidden.append(1 - shown[objects])
    hidden = torch.cat(hidden)
    assert hidden.max() <= 0.6 + 1e-6
    assert (hidden > 0.3).float().mean() > 0.02  # hard cases are not rare


def test_distractors_are_painted_but_not_labelled():
    from detr_steps.data import layout as module

    keys = hashing.mix(torch.arange(50))
    items = module.lay_out(Scenes("train"), keys)
    assert items.exists[:, :DISTRACTORS].any()
    slim = items.half[:, :DISTRACTORS]
    assert torch.allclose(slim[..., 1] / slim[..., 0], torch.tensor(0.15625))


@pytest.mark.parametrize("size", [32, 64, 200, 512])
def test_other_sizes(size):
    scenes = Scenes("val", size=size)
    batch = scenes.draw(range(4))
    assert batch.rgb.shape == (4, 3, size, size)
    assert scenes.area_limits == (size / 8, size / 4)
    boxes = torch.cat([target["boxes"] for target in batch.targets])
    assert (boxes[:, 2:] > 0).all() and (boxes <= 1).all()


def test_pixels_are_colours(batch):
    assert batch.rgb.min() >= 0 and batch.rgb.max() <= 1
    assert batch.rgb.isfinite().all() and batch.rgb.std() > 0.1


def test_the_one_object_worlds():
    batch = Scenes("train", size=64, objects=(1, 1), lengths=(12, 112)).draw(range(50))
    assert {len(target["labels"]) for target in batch.targets} == {1}


def test_training_batches_resume_and_split_between_processes():
    scenes = Scenes("train", size=32)
    straight = scenes.batches(4, seed=3)
    wanted = [next(straight) for _ in range(3)][2]
    resumed = next(scenes.batches(4, start=2, seed=3))
    assert torch.equal(wanted[0].pixels, resumed[0].pixels)
    ids = [target["image_id"] for target in wanted[1]]
    halves = [
        [t["image_id"] for t in next(scenes.batches(4, 2, rank=r, world=2, seed=3))[1]]
        for r in range(2)
    ]
    assert sorted(halves[0] + halves[1]) == sorted(ids)
    other = next(scenes.batches(4, start=2, seed=4))
    assert other[1][0]["image_id"] != ids[0]


def test_evaluation_shows_each_scene_once():
    scenes = Scenes("val", size=32)
    ids = [
        target["image_id"]
        for _, targets in scenes.evaluation_batches(4, limit=10)
        for target in targets
    ]
    assert ids == list(range(10))
    assert len(scenes) == 2000 and len(Scenes("train")) >= 100_000


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"split": "tset"}, "unknown split"),
        ({"size": 16}, "32 to 512"),
        ({"size": 1024}, "32 to 512"),
        ({"objects": (0, 3)}, "fewest"),
        ({"objects": (1, 9)}, "fewest"),
    ],
)
def test_impossible_worlds_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        Scenes(**settings)


def test_an_index_outside_is_refused():
    with pytest.raises(IndexError, match="2000"):
        Scenes("val")[2000]


def test_hashes_are_uniform_and_independent_of_their_neighbours():
    words = hashing.words(torch.arange(2000), 4)
    assert words.min() >= 0 and words.max() < 2**32
    numbers = hashing.uniform(words)
    assert abs(numbers.mean() - 0.5) < 0.01
    assert abs(torch.corrcoef(numbers.T)[0, 1]) < 0.06
    picks = hashing.pick(words, 6)
    assert picks.min() == 0 and picks.max() == 5
    assert torch.bincount(picks.flatten(), minlength=6).min() > 1100


def test_shapes_differ_and_stay_in_their_square():
    axis = torch.linspace(-1.2, 1.2, 61)
    v, u = torch.meshgrid(axis, axis, indexing="ij")
    count = len(drawing.SHAPES)
    masks = drawing.inside_shape(
        u.expand(count, -1, -1), v.expand(count, -1, -1), torch.arange(count)
    )
    outside = (u.abs() > 1) | (v.abs() > 1)
    assert not (masks & outside).any()
    areas = masks.sum((1, 2)).tolist()
    assert len(set(areas)) == count
