"""Panoptic quality against a plain loop over pixels, and COCO's rules one by one."""

from itertools import product

import numpy as np
import pytest
import torch

from detr_steps.evaluation import panoptic_quality


def score(predicted, classes, true, truth, things=(1, 2)) -> dict:
    image = (np.array(predicted), classes, np.array(true), truth)
    return panoptic_quality([image], things)


# --- a slow loop, written from the rules and not from the library -------------------


def pixels(ids, number) -> set:
    return {(y, x) for y, x in product(*map(range, ids.shape)) if ids[y, x] == number}


def slow(images, things) -> dict:
    tally = {}
    for predicted, classes, true, truth in images:
        void, used = pixels(true, 0), set()
        for label, _ in truth.values():
            tally.setdefault(label, [0, 0, 0, 0])
        for label in classes.values():
            tally.setdefault(label, [0, 0, 0, 0])
        for number, (label, crowd) in truth.items():
            if crowd:
                continue
            mine, found = pixels(true, number), False
            for other, guess in classes.items():
                theirs = pixels(predicted, other) - void
                iou = len(mine & theirs) / len(mine | theirs)
                if guess == label and iou > 0.5:
                    tally[label][0] += iou
                    tally[label][1] += 1
                    used.add(other)
                    found = True
            tally[label][3] += not found
        for other, guess in classes.items():
            if other in used:
                continue
            mine = pixels(predicted, other)
            excused = mine & void
            for number, (label, crowd) in truth.items():
                if crowd and label == guess:
                    excused |= mine & pixels(true, number)
            tally[guess][2] += not len(excused) > len(mine) / 2
    values = {
        label: (iou / (tp + fp / 2 + fn / 2), iou / max(tp, 1), tp, fp, fn)
        for label, (iou, tp, fp, fn) in tally.items()
        if tp + fp + fn
    }
    groups = {
        "all": list(values),
        "things": [k for k in values if k in things],
        "stuff": [k for k in values if k not in things],
    }
    mean = {
        name: sum(values[k][0] for k in group) / len(group) if group else None
        for name, group in groups.items()
    }
    return {"values": values, "mean": mean}


def random_case(random) -> tuple:
    """True segments in blocks, and a prediction that copies, shifts and spoils them."""
    blocks = random.integers(0, 7, (4, 5))
    true = np.kron(blocks, np.ones((2, 2), dtype=int))
    predicted = np.roll(true, random.integers(-1, 2), axis=random.integers(0, 2))
    noise = random.random(true.shape) < random.choice([0.0, 0.1, 0.4])
    predicted = np.where(noise, random.integers(0, 9, true.shape), predicted) * 1000
    labels = random.integers(0, 4, 7)
    truth = {
        int(n): (int(labels[n]), bool(random.random() < 0.2))
        for n in np.unique(true)
        if n
    }
    classes = {
        int(n): int(labels[n // 1000 % 7] if random.random() < 0.8 else 2)
        for n in np.unique(predicted)
        if n
    }
    return predicted, classes, true, truth


@pytest.mark.parametrize("seed", range(40))
def test_like_a_plain_loop(seed):
    random = np.random.default_rng(seed)
    images = [random_case(random) for _ in range(random.integers(1, 6))]
    things = {0, 1}
    found, wanted = panoptic_quality(images, things), slow(images, things)
    for name, mean in wanted["mean"].items():
        assert found[name]["pq"] == (None if mean is None else pytest.approx(mean))
    assert found["all"]["n"] == len(wanted["values"])
    for label, (pq, sq, tp, fp, fn) in wanted["values"].items():
        one = found["per_class"][label]
        assert (one["tp"], one["fp"], one["fn"]) == (tp, fp, fn)
        assert one["pq"] == pytest.approx(pq) and one["sq"] == pytest.approx(sq)
        assert one["pq"] == pytest.approx(one["sq"] * one["rq"])


def test_the_random_cases_cover_every_rule():
    """Or the comparison above would prove little."""
    seen = {"tp": 0, "fp": 0, "fn": 0, "crowd": 0, "void": 0, "excused": 0}
    for seed in range(40):
        random = np.random.default_rng(seed)
        images = [random_case(random) for _ in range(random.integers(1, 6))]
        for image in images:
            per_class = panoptic_quality([image], {0})["per_class"].values()
            for key in ("tp", "fp", "fn"):
                seen[key] += sum(row[key] for row in per_class)
            seen["crowd"] += sum(crowd for _, crowd in image[3].values())
            seen["void"] += int((image[2] == 0).sum())
            counted = sum(row["tp"] + row["fp"] for row in per_class)
            seen["excused"] += len(image[1]) - counted
    assert min(seen.values()) > 50, seen


# --- each rule ----------------------------------------------------------------------


def test_by_hand():
    predicted = [[1, 1, 1, 2], [1, 1, 2, 2]]
    true = [[7, 7, 7, 7], [8, 8, 8, 8]]
    found = score(predicted, {1: 1, 2: 5}, true, {7: (1, False), 8: (5, False)})
    # 1 with 7: 3 of 6 is no hit; 2 with 8: 2 of 5 is none either
    assert found["all"]["pq"] == 0 and found["all"]["n"] == 2
    true = [[7, 7, 7, 8], [8, 7, 8, 8]]
    found = score(predicted, {1: 1, 2: 5}, true, {7: (1, False), 8: (5, False)})
    assert found["things"] == {"pq": 0.8, "sq": 0.8, "rq": 1.0, "n": 1}
    assert found["stuff"] == {"pq": 0.75, "sq": 0.75, "rq": 1.0, "n": 1}
    assert found["all"]["pq"] == pytest.approx(0.775)


def test_exactly_one_half_is_no_hit():
    found = score([[1, 1, 0]], {1: 1}, [[7, 7, 7]], {7: (1, False)})
    assert found["per_class"][1]["tp"] == 1  # 2 of 3
    found = score([[1, 0]], {1: 1}, [[7, 7]], {7: (1, False)})
    assert (found["per_class"][1]["fp"], found["per_class"][1]["fn"]) == (1, 1)


def test_the_right_mask_with_the_wrong_class_is_a_miss_and_a_false_alarm():
    found = score([[1]], {1: 2}, [[7]], {7: (1, False)})["per_class"]
    assert found[1]["fn"] == 1 and found[2]["fp"] == 1
    assert found[1]["pq"] == found[2]["pq"] == 0


def test_predicted_pixels_on_void_leave_the_union():
    found = score([[1, 1, 1, 1]], {1: 1}, [[7, 7, 0, 0]], {7: (1, False)})
    assert found["things"]["sq"] == 1
    # what was predicted as void is missed all the same
    found = score([[1, 1, 0]], {1: 1}, [[7, 7, 7]], {7: (1, False)})
    assert found["things"]["sq"] == pytest.approx(2 / 3)


def test_mostly_void_is_no_false_alarm():
    found = score([[1, 1, 1]], {1: 1}, [[0, 0, 7]], {7: (2, False)})["per_class"]
    assert found[1]["fp"] == 0 and found[1]["pq"] is None
    found = score([[1, 1]], {1: 1}, [[0, 7]], {7: (2, False)})["per_class"]
    assert found[1]["fp"] == 1  # one half is not more than half


def test_a_crowd_is_neither_hit_nor_missed():
    found = score([[1, 1]], {1: 1}, [[7, 7]], {7: (1, True)})
    assert found["per_class"][1] == {
        **dict.fromkeys(("pq", "sq", "rq")),
        **dict.fromkeys(("tp", "fp", "fn"), 0),
    }
    assert found["all"] == {"pq": None, "sq": None, "rq": None, "n": 0}


def test_only_a_crowd_of_its_own_class_excuses():
    assert score([[1]], {1: 2}, [[7]], {7: (1, True)})["per_class"][2]["fp"] == 1
    # void and crowd together, two crowds together
    predicted, true = [[1, 1, 1]], [[0, 7, 8]]
    truth = {7: (1, True), 8: (2, False)}
    assert score(predicted, {1: 1}, true, truth)["per_class"][1]["fp"] == 0
    truth = {7: (1, True), 8: (1, True)}
    assert score([[1, 1]], {1: 1}, [[7, 8]], truth)["per_class"][1]["fp"] == 0


def test_void_only_and_nothing_predicted():
    nothing = score([[0, 0]], {}, [[0, 0]], {})
    assert nothing["all"]["n"] == 0 and nothing["per_class"] == {}
    missed = score([[0, 0]], {}, [[7, 7]], {7: (1, False)})
    assert missed["things"]["pq"] == 0 and missed["stuff"]["n"] == 0


def test_classes_are_counted_over_all_images_before_the_mean():
    hit = (np.array([[1]]), {1: 1}, np.array([[7]]), {7: (1, False)})
    miss = (np.array([[0]]), {}, np.array([[7]]), {7: (1, False)})
    found = panoptic_quality(iter([hit, miss, miss]), {1})
    assert found["all"]["pq"] == pytest.approx(1 / (1 + 2 / 2))


def test_tensors_and_large_ids():
    ids = torch.full((2, 2), 2**24 - 1)
    image = (ids, {2**24 - 1: 1}, ids.to(torch.int32), {2**24 - 1: (1, 0)})
    assert panoptic_quality([image], {1})["all"]["pq"] == 1


@pytest.mark.parametrize(
    ("predicted", "classes", "true", "truth", "fault"),
    [
        ([[1]], {1: 1}, [[7, 7]], {7: (1, 0)}, r"image 0: predicted.*of one size"),
        ([1], {1: 1}, [7], {7: (1, 0)}, r"both \[H, W\]"),
        ([[1, 3]], {1: 1}, [[7, 7]], {7: (1, 0)}, "prediction: 1 pixels have the id 3"),
        ([[1]], {1: 1}, [[7]], {}, "ground truth: 1 pixels have the id 7"),
        ([[1]], {1: 1, 2: 1}, [[7]], {7: (1, 0)}, "prediction: segment 2 .* no pixel"),
        ([[1]], {1: 1}, [[7]], {7: (1, 0), 9: (1, 0)}, "truth: segment 9 .* no pixel"),
        ([[0]], {0: 1}, [[7]], {7: (1, 0)}, "0 means void"),
        ([[-1]], {-1: 1}, [[7]], {7: (1, 0)}, "from 0 to 16777215"),
        ([[2**24]], {2**24: 1}, [[7]], {7: (1, 0)}, "from 0 to 16777215"),
        ([[1.0]], {1: 1}, [[7]], {7: (1, 0)}, "float64, not whole numbers"),
    ],
)
def test_bad_input_is_named(predicted, classes, true, truth, fault):
    with pytest.raises(ValueError, match=fault):
        score(predicted, classes, true, truth)
