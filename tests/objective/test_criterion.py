"""The whole set loss: any number of sets, and what training sees beyond the layers."""

from types import SimpleNamespace

import pytest
import torch

from detr_steps.objective.classification import Focal, Softmax
from detr_steps.objective.criterion import PredictionSets, SetCriterion
from detr_steps.objective.losses import LossWeights
from detr_steps.objective.matching import CostWeights, box_cost, pad_targets

CLASSES = 6
TARGETS = [
    {
        "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.3, 0.6, 0.4, 0.2]]),
        "labels": torch.tensor([2, 5]),
    },
    {"boxes": torch.tensor([[0.7, 0.3, 0.3, 0.3]]), "labels": torch.tensor([1])},
]
COST = CostWeights(classification=3.0, box=0.5, giou=1.5)  # none the default
WEIGHTS = LossWeights(classification=7.0, box=11.0, giou=13.0)
TERMS = {"class": 7.0, "box": 11.0, "giou": 13.0}


@pytest.fixture(params=[Softmax(), Focal()], ids=["softmax", "focal"])
def criterion(request) -> SetCriterion:
    return SetCriterion(request.param, COST, WEIGHTS)


def targets(more: list[dict] = TARGETS):
    return pad_targets(more, CLASSES, "cpu")


def predictions(criterion, sets=2, queries=5, seed=0) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    outputs = criterion.classification.outputs(CLASSES)
    logits = torch.randn(sets, 2, queries, outputs, generator=generator)
    return logits, torch.rand(sets, 2, queries, 4, generator=generator) * 0.4 + 0.3


def output(logits, boxes, *extra, weight=1.0):
    return SimpleNamespace(logits=logits, boxes=boxes, extra=extra, weight=weight)


def weighted(terms: dict) -> torch.Tensor:
    return sum(scale * terms[name] for name, scale in TERMS.items())


def test_matching_weighs_class_and_boxes(criterion):
    """The pairs chosen are those that cost least together, tried by hand."""
    logits, boxes = predictions(criterion)
    cost = 3 * criterion.classification.cost(logits, targets().labels)
    cost = cost + box_cost(boxes, targets(), COST)
    found = criterion.match(logits, boxes, targets())
    for layer in range(2):
        table = cost[layer, 0]
        both = table[:, None, 0] + table[None, :, 1]  # [Q, Q]
        both.fill_diagonal_(torch.inf)
        assert found[layer, 0].tolist() == list(divmod(int(both.argmin()), 5))
        assert found[layer, 1].tolist() == [int(cost[layer, 1, :, 0].argmin()), -1]


def test_pairs_that_are_not_allowed(criterion):
    logits, boxes = predictions(criterion)
    free = criterion.match(logits, boxes, targets())
    allowed = torch.ones(2, 2, 5, 2, dtype=torch.bool)
    allowed[0, 1, free[0, 1, 0]] = False
    found = criterion.match(logits, boxes, targets(), allowed)
    assert found[0, 1, 0] not in (-1, free[0, 1, 0])
    assert torch.equal(found[1], free[1]) and torch.equal(found[0, 0], free[0, 0])


def test_matching_gives_no_gradient(criterion):
    logits, boxes = (x.requires_grad_() for x in predictions(criterion))
    assert not criterion.match(logits, boxes, targets()).requires_grad


def test_total_weighs_the_terms_of_every_layer(criterion):
    found = criterion(output(*predictions(criterion, sets=3)), targets())
    each = [
        weighted({name: found[name + layer] for name in TERMS})
        for layer in ("_0", "_1", "")
    ]
    assert torch.allclose(found["total"], sum(each))
    assert set(found) == {n + y for n in TERMS for y in ("_0", "_1", "")} | {"total"}


def test_weight_of_the_layers_scales_their_share_of_the_total_alone(criterion):
    """The record shows terms that can be compared with those of other schemes."""
    given = predictions(criterion)
    extra = PredictionSets("more", *predictions(criterion, seed=1))
    whole = criterion(output(*given, extra), targets())
    part = criterion(output(*given, extra, weight=0.25), targets())
    more = weighted({name: whole[f"{name}_more"] for name in TERMS})
    assert torch.allclose(part["total"] - more, (whole["total"] - more) / 4)
    for name in set(whole) - {"total"}:
        assert torch.equal(whole[name], part[name])


def test_extra_sets_are_summed_under_their_name(criterion):
    """Whether they come in one piece or in several, and with their own weights."""
    given = predictions(criterion)
    logits, boxes = predictions(criterion, sets=3, seed=1)
    one = PredictionSets("more", logits, boxes)
    several = [
        PredictionSets("more", logits[:2], boxes[:2]),
        PredictionSets("more", logits[2:], boxes[2:]),
    ]
    alone = criterion(output(logits, boxes), targets())
    plain = criterion(output(*given), targets())
    for extra in ([one], several):
        found = criterion(output(*given, *extra), targets())
        for name in TERMS:
            wanted = sum(alone[name + layer] for layer in ("_0", "_1", ""))
            assert torch.allclose(found[f"{name}_more"], wanted)
        assert torch.allclose(found["total"], plain["total"] + alone["total"])
    light = criterion(output(*given, one._replace(weight=0.125)), targets())
    assert torch.allclose(light["box_more"], found["box_more"] / 8)
    assert torch.allclose(light["total"] - plain["total"], alone["total"] / 8)


def test_two_names_stay_apart(criterion):
    given = predictions(criterion)
    extra = PredictionSets("one", *predictions(criterion, seed=1))
    other = PredictionSets("two", *predictions(criterion, seed=2))
    found = criterion(output(*given, extra, other), targets())
    for name, sets in (("one", extra), ("two", other)):
        alone = criterion(output(*given, sets), targets())
        for term in TERMS:
            assert torch.equal(found[f"{term}_{name}"], alone[f"{term}_{name}"])
    assert found["box_one"] != found["box_two"]


def test_repeated_objects_are_matched_one_to_many(criterion):
    """As if every object were there so often; the layers keep one each."""
    given = predictions(criterion)
    logits, boxes = predictions(criterion, sets=1, queries=9, seed=1)
    often = [
        {name: part.repeat_interleave(3, 0) for name, part in target.items()}
        for target in TARGETS
    ]
    wanted = criterion(output(logits, boxes), targets(often))
    extra = PredictionSets("many", logits, boxes, repeats=3)
    found = criterion(output(*given, extra), targets())
    for name in TERMS:
        assert torch.allclose(found[f"{name}_many"], wanted[name])
    plain = criterion(output(*given), targets())
    assert all(torch.equal(found[name], plain[name]) for name in set(plain) - {"total"})


def test_class_agnostic_sets_know_objects_of_class_0_only(criterion):
    given = predictions(criterion)
    logits, boxes = predictions(criterion, sets=1, seed=1)
    nameless = [t | {"labels": torch.zeros_like(t["labels"])} for t in TARGETS]
    wanted = criterion(output(logits, boxes), targets(nameless))
    extra = PredictionSets("proposals", logits, boxes, class_agnostic=True)
    found = criterion(output(*given, extra), targets())
    named = criterion(output(*given, extra._replace(class_agnostic=False)), targets())
    for name in TERMS:
        assert torch.allclose(found[f"{name}_proposals"], wanted[name])
    assert found["class_proposals"] != named["class_proposals"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(criterion, dtype):
    """Matching, too: what is rounded is rounded before, nothing afterwards."""
    half = [x.to(dtype) for x in predictions(criterion)]
    single = [x.float() for x in half]
    assert torch.equal(
        criterion.match(*half, targets()), criterion.match(*single, targets())
    )
    mine = criterion(output(*half), targets())
    wanted = criterion(output(*single), targets())
    for name, value in wanted.items():
        assert mine[name].dtype == torch.float32 and torch.equal(mine[name], value)
    exact = criterion(output(*(x.double() for x in half)), targets())
    assert exact["total"].dtype == torch.float64


# --- an assignment from elsewhere -----------------------------------------------


def test_the_models_own_assignment_given_changes_nothing(criterion):
    said = output(*predictions(criterion))
    matched = criterion.match(said.logits, said.boxes, targets())
    own, given = criterion(said, targets()), criterion(said, targets(), matched)
    assert own.keys() == given.keys()
    assert all(torch.equal(own[name], given[name]) for name in own)


def test_a_given_assignment_is_learned_by_in_every_layer(criterion):
    logits, boxes = predictions(criterion)
    matched = torch.tensor([[[4, 0], [3, -1]]])  # one for both layers
    found = criterion(output(logits, boxes), targets(), matched)
    for layer, name in enumerate(("box_0", "box")):
        slow = 0.0
        for image, target in enumerate(TARGETS):
            for n, true in enumerate(target["boxes"]):
                query = int(matched[0, image, n])
                slow += float((boxes[layer, image, query] - true).abs().sum())
        assert float(found[name]) == pytest.approx(slow / 3)
    once = [criterion(output(x[None], b[None]), targets(), matched) for x, b in
            zip(logits, boxes)]  # fmt: skip
    assert found["class_0"] == once[0]["class"] and found["giou"] == once[1]["giou"]


def test_extra_sets_keep_their_own_matching_unless_it_is_known(criterion):
    logits, boxes = predictions(criterion)
    more = PredictionSets("more", *predictions(criterion, sets=1, seed=3))
    wrong = torch.tensor([[[4, 0], [3, -1]]])
    plain = criterion(output(logits, boxes, more), targets())
    taught = criterion(output(logits, boxes, more), targets(), wrong)
    assert taught["box_more"] == plain["box_more"] and taught["box"] != plain["box"]
    known = criterion(output(logits, boxes, more._replace(matched=wrong)), targets())
    alone = criterion(output(more.logits, more.boxes), targets(), wrong)
    assert known["box"] == plain["box"] and known["box_more"] == alone["box"]


@pytest.mark.parametrize(
    ("matched", "says"),
    [
        (
            torch.zeros(3, 2, 2, dtype=torch.int64),
            r"\[3, 2, 2\] for 2 sets: .*\[2 or 1",
        ),
        (torch.zeros(1, 1, 2, dtype=torch.int64), "2 or 1, 2, 2"),
        (torch.tensor([[[5, 0], [3, -1]]]), "queries -1 to 5, there are 5"),
        (torch.tensor([[[-2, 0], [3, -1]]]), "queries -2 to 3"),
    ],
)
def test_an_assignment_of_something_else_is_named(criterion, matched, says):
    with pytest.raises(ValueError, match=says):
        criterion(output(*predictions(criterion)), targets(), matched)
