"""The choice of a layer: with the objects known, by rule, and learned."""

from itertools import product

import pytest
import torch

from detr_steps.analysis import ap_by_layer
from detr_steps.analysis.judging import as_corners, judge
from detr_steps.analysis.oracle import (
    agreement,
    best_per_image,
    best_per_query,
    features,
    fit_selector,
    image_ap,
    pick,
    worth,
)
from detr_steps.data.scenes import Scenes
from detr_steps.objective.classification import Focal, Softmax

FOCAL, SCENES = Focal(), Scenes("val", size=64)
LAYERS, QUERIES = 4, 10


def noisy(count: int, seed: int, first: int = 0):
    """Layers that find the objects of scenes, each query well in one layer at random.

    The good layer tells itself: a higher score. Other queries are false positives,
    whose score is low where the box stays put.
    """
    draw = torch.Generator().manual_seed(seed)
    targets = SCENES.draw(range(first, first + count)).targets
    p = torch.rand(LAYERS, count, QUERIES, 6, generator=draw) * 0.05
    boxes = torch.rand(1, count, QUERIES, 4, generator=draw) * 0.3 + 0.2
    boxes = boxes.repeat(LAYERS, 1, 1, 1)
    for i, target in enumerate(targets):
        for q, (box, label) in enumerate(zip(target["boxes"], target["labels"])):
            good = int(torch.randint(0, LAYERS, (), generator=draw))
            for y in range(LAYERS):
                sure, off = (0.9, 0.02) if y == good else (0.4, 0.2)
                size = torch.cat((box[2:], box[2:]))
                boxes[y, i, q] = box + off * size * torch.randn(4, generator=draw)
                p[y, i, q, label] = sure + 0.05 * float(torch.rand((), generator=draw))
    return p.logit(), boxes.clamp(min=0.01), targets


def ap(logits, boxes, targets, layers=None):
    if layers is not None:
        logits, boxes = pick(logits, boxes, layers)
    return ap_by_layer(logits, boxes, targets, SCENES, classification=FOCAL)


def test_picking_takes_each_answer_from_its_layer():
    logits, boxes, _ = noisy(3, 0)
    layers = torch.randint(0, LAYERS, (3, QUERIES))
    found = pick(logits, boxes, layers)
    for i, q in product(range(3), range(QUERIES)):
        for one, other in zip(found, (logits, boxes)):
            assert torch.equal(one[0, i, q], other[layers[i, q], i, q])
    whole = pick(logits, boxes, torch.tensor([3, 0, 2]))
    assert torch.equal(
        whole[1][0], torch.stack([boxes[3, 0], boxes[0, 1], boxes[2, 2]])
    )


def test_an_oracle_gains_much_where_no_layer_is_best():
    given = noisy(20, 1)
    chosen = best_per_query(*given, FOCAL)
    assert chosen.shape == (20, QUERIES)
    assert ap(*given, chosen)[0] > 0.85 > 0.2 + max(ap(*given))


def test_the_oracle_gives_objects_away_by_worth():
    """Written out for every image: no query and no object twice."""
    given = noisy(8, 2)
    chosen = best_per_query(*given, FOCAL)
    for i, parts in enumerate(zip(*as_corners(*given, FOCAL))):
        each = judge(i, *parts, iou=0.5, rule="winner")
        free = {
            (float(each.best[y, q] * each.overlap[y, q, n]), y, q, n)
            for y, q, n in each.candidates.nonzero().tolist()
        }
        wanted = each.best.argmin(0).tolist()
        while free:
            _, y, q, n = max(free)
            wanted[q] = y
            free = {x for x in free if x[2] != q and x[3] != n}
        assert chosen[i].tolist() == wanted


def test_the_best_layer_of_an_image_is_that_of_its_own_ap():
    logits, boxes, targets = noisy(6, 3)
    good = torch.tensor([2, 0, 3, 3, 1, 2])
    for i, layer in enumerate(good):  # other layers see nothing, but believe in it
        for y in range(LAYERS):
            if y != layer:
                logits[y, i], boxes[y, i] = -1.0, torch.tensor([0.5, 0.5, 0.05, 0.9])
    assert torch.equal(best_per_image(logits, boxes, targets, FOCAL), good)
    both = ap(logits, boxes, targets, good)[0], max(ap(logits, boxes, targets))
    assert both[0] > both[1]


def test_where_layers_are_alike_the_last_is_the_best():
    logits, boxes, targets = noisy(6, 3)
    same = [x[:1].expand(LAYERS, *x.shape[1:]) for x in (logits, boxes)]
    assert (best_per_image(*same, targets, FOCAL) == LAYERS - 1).all()


def test_ap_of_an_image_is_cocos():
    """Of one class, where COCO's mean over classes is no mean; it samples recall."""
    logits, boxes, targets = noisy(12, 8)
    one = [each | {"labels": each["labels"] * 0} for each in targets]
    logits = logits[..., :1] + 2 * logits[..., 1:].amax(-1, keepdim=True)
    parts = as_corners(logits, boxes, one, FOCAL)
    for i, each in enumerate(zip(*parts)):
        alone = logits[:, i : i + 1], boxes[:, i : i + 1], one[i : i + 1]
        coco = torch.tensor(ap(*alone), dtype=torch.float64)
        torch.testing.assert_close(image_ap(i, *each), coco, atol=0.01, rtol=0)


def test_in_an_image_without_objects_the_least_sure_layer_is_the_best():
    logits, boxes, targets = noisy(2, 9)
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)}
    logits[1, 0] = -9.0
    chosen = best_per_image(logits, boxes, [targets[0] | none, targets[1]], FOCAL)
    assert chosen[0] == 1


def test_objects_alone_may_gain():
    """Queries without an object stay with the last layer: all else is the same."""
    given = noisy(20, 1)
    both, objects = (best_per_query(*given, FOCAL, rest=each) for each in (True, False))
    assert ((objects == both) | (objects == LAYERS - 1)).all()
    assert ap(*given)[-1] < ap(*given, objects)[0] <= ap(*given, both)[0]


def test_worth_by_hand():
    """0.8 sure of a box of IoU 0.75; a false positive of 0.3; one on a crowd."""
    scores = torch.tensor([[[0.8, 0.1], [0.1, 0.3], [0.6, 0.0]]]).expand(2, 3, 2)
    boxes = torch.tensor([[0, 0, 8, 6], [0, 0, 8, 8], [20, 20, 28, 28]]).float()
    target = {
        "boxes": torch.tensor([[0.0, 0, 8, 8], [20, 20, 40, 40]]),
        "labels": torch.tensor([0, 0]),
        "iscrowd": torch.tensor([0, 1]),
    }
    each = judge(0, scores, boxes.expand(2, 3, 4), target, iou=0.5, rule="winner")
    wanted = torch.tensor([0.6, -0.3, 0.0], dtype=torch.float64).expand(2, 3)
    torch.testing.assert_close(worth(each).double(), wanted)


def test_a_selector_learns_what_can_be_seen():
    """On scenes that it was not trained on; it comes near the oracle."""
    selector = fit_selector(*noisy(60, 4, first=100), FOCAL)
    given = noisy(20, 5)
    chosen = selector.choose(*given[:2], FOCAL)
    last, oracle = ap(*given)[-1], ap(*given, best_per_query(*given, FOCAL))[0]
    assert ap(*given, chosen)[0] > last + 0.7 * (oracle - last)


def test_a_selector_stays_with_the_last_layer_where_nothing_can_be_gained():
    logits, boxes, targets = noisy(10, 6)
    same = [x[-1:].expand(LAYERS, *x.shape[1:]) for x in (logits, boxes)]
    selector = fit_selector(*same, targets, FOCAL)
    assert ap(*same, targets, selector.choose(*same, FOCAL)) == ap(*same, targets)[-1:]
    assert (selector.choose(*same, FOCAL, margin=9.0) == LAYERS - 1).all()


def test_the_same_seed_makes_the_same_selector_and_draws_nothing():
    given = noisy(6, 7)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, other, third = (
        fit_selector(*given, FOCAL, steps=3, seed=s) for s in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    for a, b, c in zip(one.parameters(), other.parameters(), third.parameters()):
        assert torch.equal(a, b) and not torch.equal(a, c)


@pytest.mark.parametrize("classification", [Focal(), Softmax()], ids=["focal", "soft"])
@pytest.mark.parametrize("classes", [1, 5])
def test_features_are_of_the_query_alone_and_bounded(classification, classes):
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 2, 4, classification.outputs(classes), generator=draw)
    boxes = torch.rand(3, 2, 4, 4, generator=draw)
    found = features(logits, boxes, classification)
    assert found.shape == (2, 4, 21) and found.min() >= 0 and found.max() <= 1
    one = features(logits[:, :, 2:3], boxes[:, :, 2:3], classification)
    assert torch.allclose(found[:, 2:3], one, atol=1e-6)
    layer = found.unflatten(-1, (3, 7))
    p = classification.probabilities(logits)
    assert torch.allclose(layer[..., 0], p.max(-1).values.permute(1, 2, 0))
    assert (layer[:, :, -1, 3] == 1).all()  # the last box agrees with itself


def test_an_early_exit_where_two_layers_agree():
    logits = torch.full((4, 3, 2, 5), -5.0)
    boxes = torch.tensor([0.5, 0.5, 0.4, 0.4]).expand(4, 3, 2, 4).clone()
    logits[:, :, 0, 1] = 2.0  # sure of one query from the start
    boxes[0, 1, 0, 0] = 0.6  # image 1: its box moves after layer 0
    logits[0::2, 2, 0, 1], logits[0::2, 2, 0, 3] = 0.0, 2.0  # image 2: never at peace
    boxes[:, :, 1, 0] += torch.rand(4, 3)  # whoever is not sure has no say
    assert agreement(logits, boxes, FOCAL).tolist() == [1, 2, 3]
    assert agreement(logits, boxes, FOCAL, iou=0.5).tolist() == [1, 1, 3]
    assert agreement(logits, boxes, FOCAL, min_score=0.99).tolist() == [1, 1, 1]


@pytest.mark.parametrize("choose", [best_per_query, best_per_image, fit_selector])
def test_bad_input_is_named(choose):
    logits, boxes, targets = noisy(2, 8)
    with pytest.raises(ValueError, match="1 layer has no earlier one"):
        choose(logits[:1], boxes[:1], targets, FOCAL)
    with pytest.raises(ValueError, match="scores of 2 images, boxes of 2, 1 targets"):
        choose(logits, boxes, targets[:1], FOCAL)
    with pytest.raises(ValueError, match="image 0: NaN"):
        choose(logits * torch.nan, boxes, targets, FOCAL)


@pytest.mark.parametrize("choose", [best_per_query, best_per_image, fit_selector])
def test_images_without_objects_have_a_choice_too(choose):
    logits, boxes, targets = noisy(2, 9)
    none = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0)}
    found = choose(logits, boxes, [targets[0], none], FOCAL)
    if choose is best_per_query:
        p = FOCAL.probabilities(logits[:, 1]).amax(-1)
        assert torch.equal(found[1], p.argmin(0))
