"""TP fading and FP exacerbation: against a slow plain loop, by hand, and bad input."""

import pytest
import torch
from pycocotools.cocoeval import COCOeval

from benchmarks.slow_fading import READINGS, Image, slow_rates
from detr_steps import boxes as box_ops
from detr_steps.analysis.fading import examples, rates, triangle
from detr_steps.analysis.judging import as_corners, judge, overlaps
from detr_steps.boxes import cxcywh_to_xyxy
from detr_steps.evaluation.coco import _data_set
from detr_steps.objective.classification import Focal, Softmax


def random_images(seed: int, count: int = 6):
    """Boxes near objects, few scores and few places, so that ties and edges are met."""
    draw = torch.Generator().manual_seed(seed)

    def number(low, high):
        return int(torch.randint(low, high, (), generator=draw))

    layers, classes = number(2, 5), number(1, 3)
    scores, boxes, targets = [], [], []
    for _ in range(count):
        q, n = number(1, 9), number(0, 5)
        corner = torch.randint(0, 4, (n, 2), generator=draw).double() / 4
        side = torch.randint(1, 4, (n, 2), generator=draw).double() / 4
        true = torch.cat((corner, corner + side), -1)
        labels = torch.randint(0, classes, (n,), generator=draw)
        steps = torch.randint(0, 6, (layers, q, classes), generator=draw)
        if n:  # a query is about one object, mostly
            thing = torch.randint(0, n, (q,), generator=draw).expand(layers, q)
            other = torch.randint(0, n, (layers, q), generator=draw)
            thing = thing.where(torch.rand(layers, q, generator=draw) < 0.8, other)
            about = true[thing]
            steps.scatter_add_(2, labels[thing][..., None], steps[..., :1].clone())
        else:
            place = torch.tensor([0.25, 0.25, 0.5, 0.75], dtype=torch.float64)
            about = place.expand(layers, q, 4)
        shift = torch.randint(-2, 3, (layers, q, 4), generator=draw).double() / 32
        moved = about + shift * (torch.rand(layers, q, 1, generator=draw) < 0.8)
        low, high = moved[..., :2], torch.maximum(moved[..., 2:], moved[..., :2])
        boxes.append(torch.cat((low, high), -1))
        scores.append(steps / 10.0)
        target = {"boxes": true, "labels": labels}
        if number(0, 2):
            target["iscrowd"] = torch.rand(n, generator=draw) < 0.3
        targets.append(target)
    return scores, boxes, targets


@pytest.mark.parametrize(("reading", "fp_reading"), READINGS)
def test_rates_are_those_of_a_slow_plain_loop(reading, fp_reading):
    seen = torch.zeros(4, dtype=torch.int64)
    for seed in range(70):
        given = random_images(seed)
        rules = dict(
            iou=(0.5, 0.75, 0.25)[seed % 3],
            reading=reading,
            fp_reading=fp_reading,
            min_score=(0.0, 0.5)[seed % 2],
        )
        found = rates(*given, **rules)
        *wanted, pairs = slow_rates([Image(*each) for each in zip(*given)], **rules)
        assert list(found[:4]) == wanted, (seed, rules)
        assert found.pairs.tolist() == pairs
        tp, fading, fp, worse = wanted
        assert found.tp_f == (fading / tp if tp else None)
        assert found.fp_e == (worse / fp if fp else None)
        seen += torch.tensor(wanted)
    assert (seen > 10).all()  # each count was put to the test


def test_overlaps_are_those_of_the_library():
    draw = torch.Generator().manual_seed(0)
    low, side = torch.rand(2, 3, 9, 2, generator=draw).double()
    boxes = torch.cat((low, low + side), -1)
    boxes[0, 0, 2:] = boxes[0, 0, :2]  # of no size
    iou, inside = overlaps(boxes, boxes[0])
    for layer in range(3):
        torch.testing.assert_close(iou[layer], box_ops.iou(boxes[layer], boxes[0]))
    assert iou[0, 0, 0] == inside[0, 0, 0] == 0  # not NaN
    assert torch.allclose(inside[0].diagonal()[1:], torch.ones(8).double())


def test_greedy_matching_is_that_of_pycocotools():
    for seed in range(70):
        scores, boxes, targets = random_images(seed, count=1)
        labels = targets[0]["labels"]
        if "iscrowd" in targets[0] or not len(labels):
            continue
        judged = judge(0, scores[0], boxes[0], targets[0], iou=0.5, rule="greedy")
        truth = [row(*pair) for pair in zip(targets[0]["boxes"].tolist(), labels)]
        for layer in range(len(boxes[0])):
            found = [
                row(box, label) | {"score": float(score)}
                for box, label, score in zip(
                    boxes[0][layer].tolist(), judged.said[layer], judged.best[layer]
                )
            ]
            pairs = coco_pairs([truth], [found], scores[0].shape[-1])
            assert pairs == set(map(tuple, judged.hits[layer].nonzero().tolist()))


def row(box, label) -> dict:
    x0, y0, x1, y1 = box
    size = [x1 - x0, y1 - y0]
    return {
        "image_id": 0,
        "category_id": int(label),
        "bbox": [x0, y0, *size],
        "area": size[0] * size[1],
        "iscrowd": 0,
    }


def coco_pairs(truth, found, classes) -> set[tuple[int, int]]:
    run = COCOeval(_data_set(truth, 1, classes), _data_set(found, 1, classes), "bbox")
    run.params.iouThrs, run.params.areaRng = [0.5], [[0, 1e10]]
    run.evaluate()
    pairs = set()
    for each in filter(None, run.evalImgs):
        for one, matched in zip(each["dtIds"], each["dtMatches"][0]):
            if matched:
                pairs.add((one - 1, int(matched) - 1))
    return pairs


BOX = torch.tensor([0.0, 0.0, 10.0, 10.0])


def by_hand(*layers, iscrowd=None):
    """Each layer is a list of its queries: (class, score, width of the box)."""
    scores = torch.zeros(len(layers), len(layers[0]), 2)
    boxes = torch.zeros(len(layers), len(layers[0]), 4)
    for y, queries in enumerate(layers):
        for q, (label, score, width) in enumerate(queries):
            scores[y, q, label] = score
            boxes[y, q] = torch.tensor([0.0, 0.0, width, 10.0])
    target = {"boxes": BOX[None], "labels": torch.tensor([1])}
    if iscrowd is not None:
        target["iscrowd"] = torch.tensor([iscrowd])
    return [scores], [boxes], [target]


def test_a_fading_query_by_hand():
    given = by_hand([(1, 0.9, 9.0)], [(1, 0.6, 8.0)], [(1, 0.3, 7.0)])
    found = rates(*given)
    assert found[:6] == (1, 1, 0, 0, 1.0, None) and found.pairs.tolist() == [1, 1]
    [fall] = examples(*given)
    assert fall[:4] == (0, 0, 0, 0) and fall.fall == pytest.approx(0.6)
    assert fall.scores.tolist() == pytest.approx([0.9, 0.6, 0.3])
    assert fall.ious.tolist() == pytest.approx([0.9, 0.8, 0.7])


@pytest.mark.parametrize(
    ("before", "now"),
    [
        ((1, 0.9, 7.0), (1, 0.3, 8.0)),  # surer, but a worse box
        ((1, 0.2, 9.0), (1, 0.3, 8.0)),  # a better box, but less sure
        ((1, 0.3, 9.0), (1, 0.3, 8.0)),  # as sure is not surer
        ((1, 0.9, 8.0), (1, 0.3, 8.0)),  # as good a box is not better
        ((0, 0.9, 9.0), (1, 0.3, 8.0)),  # of another class
    ],
)
def test_better_means_both_score_and_box(before, now):
    assert rates(*by_hand([before], [now])).tp_f == 0.0


def test_readings_part_where_the_earlier_layer_was_no_winner():
    """Another query had the object then; or the label was another one."""
    given = by_hand([(1, 0.8, 9.0), (1, 0.9, 9.0)], [(1, 0.5, 8.0), (1, 0.4, 8.0)])
    found = {r: rates(*given, reading=r) for r in ("winner", "candidate", "class")}
    assert [each.tp_f for each in found.values()] == [0.0, 1.0, 1.0]
    scores, boxes, targets = by_hand([(1, 0.6, 9.0)], [(1, 0.5, 8.0)])
    scores[0][0, 0, 0] = 0.7  # the label says 0, the object's class still has 0.6
    found = {r: rates(scores, boxes, targets, reading=r).tp_f for r in
             ("winner", "candidate", "class", "greedy")}  # fmt: skip
    assert found == {"winner": 0, "candidate": 0, "class": 1, "greedy": 0}


def test_iou_is_strict_but_for_coco():
    given = by_hand([(1, 0.8, 6.0)], [(1, 0.5, 5.0)])  # IoU 0.5 exactly in the end
    assert rates(*given).tp == 0 and rates(*given, reading="greedy").tp == 1
    assert rates(*given, reading="greedy").tp_f == 1.0


def test_a_false_positive_that_was_true_before():
    """Worse still, says the author, and so not counted as FP against FP."""
    given = by_hand([(1, 0.2, 9.0)], [(1, 0.5, 3.0)])
    found = [rates(*given, fp_reading=r).fp_e for r in ("fp", "any", "class")]
    assert found == [0.0, 1.0, 1.0]
    given = by_hand([(0, 0.2, 9.0)], [(1, 0.5, 3.0)])  # a false positive, less sure
    assert [rates(*given, fp_reading=r).fp_e for r in ("fp", "any", "class")] == [1] * 3
    given = by_hand([(0, 0.9, 9.0)], [(1, 0.5, 3.0)])  # surer, but of another class
    found = [rates(*given, fp_reading=r).fp_e for r in ("fp", "any", "class")]
    assert found == [0.0, 0.0, 1.0]


def test_a_score_cut_is_for_the_last_layer():
    given = by_hand([(0, 0.1, 9.0)], [(0, 0.5, 9.0)])
    assert rates(*given, min_score=0.5)[2:4] == (1, 1)
    assert rates(*given, min_score=0.51)[2:6] == (0, 0, None, None)
    given = by_hand([(1, 0.6, 9.0)], [(1, 0.3, 8.0)])
    assert rates(*given, min_score=0.3).tp == 1
    assert rates(*given, min_score=0.4)[:4] == (0, 0, 0, 0)


def test_crowds_are_neither_found_nor_missed():
    inside, beside = (1, 0.5, 8.0), (1, 0.5, 25.0)  # 40 % of the latter in the crowd
    given = by_hand([(1, 0.4, 8.0), (1, 0.4, 25.0)], [inside, beside], iscrowd=True)
    assert rates(*given)[:4] == (0, 0, 1, 1)
    assert rates(*given, iou=0.3)[:4] == (0, 0, 0, 0)
    given = by_hand([(0, 0.4, 8.0)], [(0, 0.5, 8.0)], iscrowd=True)
    assert rates(*given).fp == 1  # of another class than the crowd


def test_nothing_to_count_is_none_and_no_zero():
    scores, boxes, _ = by_hand([(1, 0.8, 9.0)], [(1, 0.5, 8.0)])
    empty = [{"boxes": torch.zeros(0, 4), "labels": torch.zeros(0)}]
    for reading, fp_reading in READINGS:
        found = rates(scores, boxes, empty, reading=reading, fp_reading=fp_reading)
        assert found.tp == 0 and found.tp_f is None and found.fp == 1
        assert found.pairs.tolist() == [0]
    assert examples(scores, boxes, empty) == []
    assert triangle(scores, boxes, empty).isnan().all()


def test_examples_fall_most_first_and_are_all_that_fade():
    given = random_images(3, count=60)
    every = examples(*given, count=None)
    assert len(every) == rates(*given).tp_fading > 5
    falls = [each.fall for each in every]
    assert falls == sorted(falls, reverse=True) and falls[-1] > 0
    assert [e[:4] for e in examples(*given, count=3)] == [e[:4] for e in every[:3]]
    for each in every:
        assert each.scores[each.layer] > each.scores[-1]
        assert each.ious[each.layer] > each.ious[-1] > 0.5
    chosen = examples(*given, count=None, reading="class", min_score=0.5)
    wanted = rates(*given, reading="class", min_score=0.5).tp_fading
    assert len(chosen) == wanted and wanted != len(every)


def test_the_triangle_has_every_pair_of_layers():
    given = next(g for g in map(random_images, range(9)) if len(g[0][0]) == 4)
    table = triangle(*given)
    assert table.shape == (4, 4) and table.triu().isnan().sum() == 10
    last = rates(*given)
    assert torch.allclose(table[3, :3], last.pairs / last.tp)
    shorter = [x[:3] for x in given[0]], [x[:3] for x in given[1]]
    third = rates(*shorter, given[2])
    assert torch.allclose(table[2, :2], third.pairs / third.tp)


@pytest.mark.parametrize("classification", [Softmax(), Focal()], ids=["soft", "focal"])
def test_predictions_of_a_model_become_corners(classification):
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 2, 5, classification.outputs(4), generator=draw)
    boxes = torch.rand(3, 2, 5, 4, generator=draw)
    target = {"boxes": torch.rand(1, 4, generator=draw), "labels": torch.tensor([3])}
    scores, corners, true = as_corners(logits, boxes, [target] * 2, classification)
    assert torch.allclose(scores[1], classification.probabilities(logits[:, 1]))
    assert torch.equal(corners[1], cxcywh_to_xyxy(boxes[:, 1]))
    assert torch.equal(true[0]["boxes"], cxcywh_to_xyxy(target["boxes"]))
    assert rates(scores, corners, true).pairs.shape == (2,)


def changed(part, value):
    given = list(by_hand([(1, 0.8, 9.0)], [(1, 0.5, 8.0)]))
    if part == "target":
        given[2] = [given[2][0] | value]
    else:
        given[part] = value
    return given


NAN = torch.full((2, 1, 2), torch.nan)
THIN = torch.tensor([[[5.0, 5.0, 2.0, 2.0]]]).expand(2, 1, 4)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (by_hand([(1, 0.8, 9.0)]), "1 layer has no earlier one.*rates are undefined"),
        (([], [], []), "no images"),
        (changed(0, []), "scores of 0 images, boxes of 1, 1 targets"),
        (changed(0, [torch.zeros(2, 1)]), r"\[2, 1\]: give \[Y, Q, classes\]"),
        (changed(0, [NAN]), "image 0: NaN: give probabilities"),
        (changed(0, [NAN.nan_to_num(3.0)]), "scores from 3 to 3: give probabilities"),
        (changed(0, [torch.zeros(2, 3, 2)]), "do not belong together, expected"),
        (changed(0, [torch.zeros(2, 1, 0)]), "are empty"),
        (changed(1, [THIN]), "boxes with x1 < x0 or y1 < y0: give xyxy"),
        (changed(1, [THIN * torch.inf]), "boxes hold NaN or infinity"),
        (changed("target", {"boxes": THIN[0]}), "target boxes with x1 < x0"),
        (changed("target", {"labels": torch.tensor([2])}), r"labels \[2\] for 2 class"),
        (changed("target", {"labels": torch.tensor([1.0])}), "are torch.float32, not"),
        (changed("target", {"labels": torch.tensor([1, 1])}), "do not belong together"),
    ],
)
def test_bad_input_is_named_in_one_line(given, said):
    for measure in (rates, examples, triangle):
        with pytest.raises(ValueError, match=said) as error:
            measure(*given)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (
            {"reading": "best"},
            "reading 'best': one of winner, candidate, class, greedy",
        ),
        ({"fp_reading": "tp"}, "fp_reading 'tp': one of fp, any, class"),
        ({"iou": 50}, "iou 50: at least 0, below 1"),
        ({"min_score": -0.1}, "min_score -0.1"),
    ],
)
def test_unknown_rules_are_refused(rule, said):
    with pytest.raises(ValueError, match=said):
        rates(*by_hand([(1, 0.8, 9.0)], [(1, 0.5, 8.0)]), **rule)


def test_images_of_unequal_layers_are_refused():
    one, other = (
        by_hand([(1, 0.8, 9.0)], [(1, 0.5, 8.0)]),
        by_hand(*[[(1, 0.5, 8)]] * 3),
    )
    with pytest.raises(ValueError, match="with the same Y layers"):
        rates(*(a + b for a, b in zip(one, other)))
