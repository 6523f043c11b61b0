"""The matching figure pairs as the model does."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from small import small_detr

from detr_steps import boxes as box_ops
from detr_steps import viz
from detr_steps.data.scenes import Scenes
from detr_steps.objective.matching import CostWeights, pad_targets


@pytest.fixture(scope="module")
def scenes():
    return Scenes("val", size=64).draw([3, 5])


@pytest.fixture(scope="module")
def model():
    cost = CostWeights(2.0, 3.0, 1.5)
    return small_detr(classes=6, queries=9, cost=cost).eval()


@pytest.mark.parametrize("layer", [0, -1])
def test_the_weighted_parts_pair_as_the_model_does(model, scenes, layer):
    figure = viz.matching_of(model, scenes, 1, layer)
    assert figure.notes["weights"] == [2.0, 3.0, 1.5]
    weights = np.array(figure.notes["weights"])[:, None, None]
    queries, objects = linear_sum_assignment((weights * figure.arrays["parts"]).sum(0))
    with torch.no_grad():
        output = model(scenes.images)
    own = model.match(output, pad_targets(scenes.targets, 6, "cpu"))[layer, 1]
    assert own[objects].tolist() == queries.tolist()
    largest = int(figure.arrays["truth"][:, 2:].prod(-1).argmax())
    cost = (weights * figure.arrays["parts"]).sum(0)[:, largest]
    assert figure.notes["start"] == {"item": cost.argmin(), "column": largest}
    for query in queries:
        assert f"to query {query} at" in figure.summary


def test_the_parts_are_in_the_units_of_the_chapter(model, scenes):
    figure = viz.matching_of(model, scenes, 1)
    assert figure.notes["parts"] == ["−probability", "L1", "−GIoU"]
    with torch.no_grad():
        output = model(scenes.images)
    target = scenes.targets[1]
    p = output.logits[-1, 1].softmax(-1)[:, target["labels"]]
    boxes = output.boxes[-1, 1]
    corners = [box_ops.cxcywh_to_xyxy(x) for x in (boxes, target["boxes"])]
    wanted = (-p, torch.cdist(boxes, target["boxes"], p=1), -box_ops.giou(*corners))
    for part, own in zip(figure.arrays["parts"], wanted):
        assert np.allclose(part, own, atol=1e-5)
    assert np.allclose(figure.arrays["boxes"], boxes, atol=1e-3)


def test_rows_and_columns_have_names(model, scenes):
    figure = viz.matching_of(model, scenes, 0)
    labels = scenes.targets[0]["labels"].tolist()
    names = Scenes().class_names
    wanted = [f"{i} {names[label]}" for i, label in enumerate(labels)]
    assert figure.notes["column_names"] == wanted
    assert figure.notes["row_names"][3] == "query 3"


def test_a_table_of_ones_own():
    parts = {"far": torch.rand(4, 2), "late": torch.rand(4, 2)}
    boxes, truth = torch.rand(4, 4), torch.rand(2, 4)
    answers = viz.Answers(boxes=boxes, truth=truth)
    figure = viz.matching(parts, answers, weights={"late": 3}, limits={"far": (0, 9)})
    assert figure.notes["weights"] == [1.0, 3.0]
    assert figure.notes["limits"] == [[0.0, 9.0], [0.0, 6.0]]
    assert figure.picture is None and figure.notes["rule"] == "hungarian"
    bare = viz.matching(parts, answers, rule="none")
    assert "pairs" not in bare.summary and "pairs" in figure.summary
    few = viz.Answers(boxes=boxes[:2], truth=torch.rand(3, 4))
    more = viz.matching({"c": torch.rand(2, 3)}, few)
    assert more.summary.count(" to query ") == 2  # one object stays alone
    named = viz.matching(parts, answers, axes=("abcd", "xy"))
    assert named.notes["row_names"] == list("abcd") and " x to " in named.summary
    for wrong, fault in [
        ({"parts": {}}, r"the shapes \[\]: give {name: cost \[Q, N\]}"),
        ({"parts": {"a": torch.rand(4)}}, r"the shapes \[\[4\]\]"),
        ({"parts": parts | {"b": torch.rand(2, 4)}}, r"\[\[2, 4\], \[4, 2\]\]"),
        ({"parts": {"a": torch.full((4, 2), torch.nan)}}, "NaN or infinite"),
        ({"answers": viz.Answers(boxes[:3], truth=truth)}, "4 x 2 for 3 boxes"),
        ({"answers": viz.Answers(boxes, truth=truth[:1])}, "4 x 2 .* and 1 objects"),
        ({"rule": "greedy"}, "rule 'greedy'"),
        ({"weights": {"heavy": 1}}, "weights for 'heavy'"),
        ({"axes": (["a"], None)}, "4 boxes with 1 names"),
    ]:
        with pytest.raises(ValueError, match=fault):
            viz.matching(**({"parts": parts, "answers": answers} | wrong))


def test_faults_of_a_model_are_named(model, scenes):
    with pytest.raises(ValueError, match="no objects to match"):
        viz.matching_of(model, scenes.images, 0)
    with pytest.raises(ValueError, match="layer 3 of 3"):
        viz.matching_of(model, scenes, 0, 3)


def test_a_table_of_overlaps_opens_on_the_best_pair(scenes):
    truth = scenes.targets[0]["boxes"]
    boxes = torch.cat((truth, torch.rand(2, 4) / 2))
    corners = [box_ops.cxcywh_to_xyxy(each) for each in (boxes, truth)]
    ious = box_ops.iou(*corners)
    names = [f"blob {i}" for i in range(len(boxes))]
    objects = [f"object {i}" for i in range(len(truth))]
    rest = dict(boxes=boxes, truth=truth, rgb=scenes.rgb[0], column_names=objects)
    figure = viz.overlaps(ious, row_names=names, **rest)
    start = figure.notes["start"]
    assert ious[start["item"], start["column"]] == ious.max()
    assert np.allclose(figure.arrays["parts"][0], ious, atol=1e-6)
    assert f"blob {start['item']} with object {start['column']}" in figure.summary
    with pytest.raises(ValueError, match="names"):
        viz.overlaps(ious, row_names=names[1:], **rest)
