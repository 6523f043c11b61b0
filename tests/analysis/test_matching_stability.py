"""Instability of the matching: against counting by dictionaries, and by hand."""

import random
from itertools import permutations

import pytest
import torch
from small import small_config, small_detr

from detr_steps.analysis.matching_stability import (
    highest_instability,
    instability,
    matches_along,
)
from detr_steps.data.scenes import Scenes
from detr_steps.objective.matching import pad_targets

DATA = Scenes("val", size=64)
IMAGES = (3, 5, 8)


def plain(matches, queries):
    """One query of one image after another: DN-DETR's definition, word by word."""
    changes = []
    for before, after in zip(matches[:-1], matches[1:]):
        per_image = []
        for old, new in zip(before, after):
            count = 0
            for query in range(queries):
                partners = [
                    next((n for n, q in enumerate(each) if q == query), -1)
                    for each in (old, new)
                ]
                count += partners[0] != partners[1]
            per_image.append(count)
        changes.append(sum(per_image) / len(per_image))
    return changes


def random_matches(seed, epochs=5, images=4, objects=6, queries=7):
    rng = random.Random(seed)
    table = []
    for _ in range(epochs):
        rows = []
        for image in range(images):
            mine = min(image * 2, objects)  # the first has no object
            row = rng.sample(range(queries), mine) + [-1] * (objects - mine)
            if mine and rng.random() < 0.3:
                row[rng.randrange(mine)] = -1  # an object without a query
            rows.append(row)
        table.append(rows)
    return table


@pytest.mark.parametrize("seed", range(5))
def test_it_is_what_counting_says(seed):
    table = random_matches(seed)
    found = instability(torch.tensor(table), 7)
    assert found.tolist() == pytest.approx(plain(table, 7))
    most = highest_instability([0, 2, 4, 6], 7)
    assert 0 < max(found) <= most == (0 + 4 + 7 + 7) / 4


def test_two_tables_by_hand():
    # image 0: objects 0 and 1 swap their queries; image 1: its object goes from
    # query 2 to query 0, so query 2 loses a partner and query 0 gains one
    before = [[3, 1, -1], [2, -1, -1]]
    after = [[1, 3, -1], [0, -1, -1]]
    assert instability(torch.tensor([before, after, after]), 4).tolist() == [2, 0]


def test_the_papers_largest_value():
    # 7.36 objects an image: 36 of 100 images have 8, the others 7
    assert highest_instability([8] * 36 + [7] * 64, 300) == pytest.approx(14.72)
    assert highest_instability(torch.tensor([1]), 1) == 0
    assert highest_instability([2], 1) == 1


SIZES = [(1, 1), (1, 2), (2, 1), (3, 2), (2, 2), (4, 3)]


@pytest.mark.parametrize(("queries", "objects"), SIZES)
def test_nothing_exceeds_the_largest_value_and_something_reaches_it(queries, objects):
    size = min(queries, objects)
    ways = {
        tuple(dict(zip(chosen, who)).get(n, -1) for n in range(objects))
        for chosen in permutations(range(objects), size)
        for who in permutations(range(queries), size)
    }
    pairs = [torch.tensor([[a], [b]]) for a in ways for b in ways]
    found = [float(instability(pair, queries)) for pair in pairs]
    assert max(found) == highest_instability([objects], queries)


def test_pictures_without_objects_never_change():
    nothing = torch.full((3, 2, 0), -1)
    assert instability(nothing, 5).tolist() == [0, 0]
    assert instability(torch.full((2, 1, 4), -1), 5).tolist() == [0]
    assert highest_instability([0, 0], 5) == 0


@pytest.mark.parametrize(
    ("matches", "says"),
    [
        (torch.zeros(2, 3), r"matches \[2, 3\].*\[epochs, B, N\]"),
        (torch.zeros(2, 3, 1), "whole numbers"),
        (torch.zeros(1, 3, 1, dtype=torch.int64), "two epochs"),
        (torch.zeros(2, 0, 1, dtype=torch.int64), "0 images"),
        (torch.tensor([[[0]], [[5]]]), "0 to 5, and there are 5"),
        (torch.tensor([[[0]], [[-2]]]), "-1 for none"),
        (torch.tensor([[[0, 1]], [[3, 3]]]), "epoch 1, image 0: query 3 has two"),
    ],
)
def test_what_is_no_matching_is_named(matches, says):
    with pytest.raises(ValueError, match=says):
        instability(matches, 5)


def test_no_images_are_named():
    with pytest.raises(ValueError, match="no images"):
        highest_instability([], 5)
    with pytest.raises(ValueError, match="no images"):
        matches_along(small_detr(), [(0, small_detr().state_dict())], DATA, ())


# --- along a training -----------------------------------------------------------

MODELS = {step: small_detr(step, queries=9) for step in (0, 40, 100)}
STATES = [(step, model.state_dict()) for step, model in MODELS.items()]


def test_along_a_training_it_is_each_models_own_matching():
    curve = matches_along(small_detr(7, queries=9), STATES, DATA, IMAGES)
    scenes = DATA.draw(IMAGES)
    padded = pad_targets(scenes.targets, 6, "cpu")
    assert curve.steps == [0, 40, 100] and curve.queries == 9
    assert curve.counts.tolist() == padded.counts
    for at, model in enumerate(MODELS.values()):
        with torch.no_grad():
            wanted = model.eval().match(model(scenes.images), padded)  # [Y, B, N]
        assert torch.equal(curve.matches[at], wanted)
    found = curve.instability()
    assert found.shape == (2, 3)
    for layer in range(3):
        by_hand = plain(curve.matches[:, layer].tolist(), 9)
        assert found[:, layer].tolist() == pytest.approx(by_hand)
    assert 0 < found.max() <= curve.highest


def test_the_same_weights_twice_change_nothing():
    same = [(0, STATES[1][1]), (1, STATES[1][1])]
    curve = matches_along(small_detr(queries=9), same, DATA, IMAGES)
    assert not curve.instability().any()


def test_checkpoints_of_different_query_numbers_are_named():
    states = [*STATES, (200, small_config(queries=8).build().state_dict())]
    with pytest.raises(ValueError, match=r"step 200 .* queries.weight is \[8, 32\]"):
        matches_along(small_detr(queries=9), states, DATA, IMAGES)


class NoObjects:
    """Scenes with nothing in them."""

    def __getitem__(self, index):
        pixels, target = DATA[index]
        return pixels, {k: target[k][:0] for k in ("boxes", "labels")}


def test_pictures_without_objects_along_a_training():
    curve = matches_along(small_detr(queries=9), STATES, NoObjects(), IMAGES)
    assert curve.matches.shape == (3, 3, 3, 0) and curve.highest == 0
    assert not curve.instability().any()
