"""Auxiliary losses, weighed layer by layer: the total, its gradient, the record."""

from dataclasses import replace

import pytest
import torch
from hosts import SYSTEMS, TARGETS, model_of, two_images
from torch.testing import assert_close

from detr_steps import DETRConfig, LoopLast, Recollect
from detr_steps.describable import from_json, to_json
from detr_steps.objective.layer_weights import SCHEDULES, LayerWeights
from detr_steps.objective.matching import pad_targets

WEIGHTS = {
    "uniform": [1, 1, 1, 1, 1, 1],
    "none": [0, 0, 0, 0, 0, 1],
    "first off": [0, 1, 1, 1, 1, 1],
    "linear": [1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1],
    "fibonacci": [1 / 13, 2 / 13, 3 / 13, 5 / 13, 8 / 13, 1],
}
TERMS = ("class", "box", "giou")


def model_with(schedule: str, name: str = "deformable-refine", **changes):
    weights = LayerWeights(schedule)
    return model_of(replace(SYSTEMS[name], layer_weights=weights, **changes)).train()


def layer_totals(model, losses) -> list[torch.Tensor]:
    """The weighted loss of each layer, first to last, from the record's terms."""
    scale = model.config.loss
    parts = dict(class_=scale.classification, box=scale.box, giou=scale.giou)
    return [
        sum(by * losses[name.strip("_") + y] for name, by in parts.items())
        for y in ("_0", "_1", "")
    ]


@pytest.mark.parametrize("schedule", WEIGHTS)
def test_the_weights_of_six_layers(schedule):
    assert_close(LayerWeights(schedule).of(6), tuple(map(float, WEIGHTS[schedule])))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("layers", range(1, 10))
def test_the_last_layer_counts_in_full_however_many_there_are(schedule, layers):
    weights = LayerWeights(schedule).of(layers)
    assert len(weights) == layers and weights[-1] == 1
    assert all(0 <= one <= other for one, other in zip(weights, weights[1:]))


@pytest.mark.parametrize("schedule", WEIGHTS)
def test_the_total_weighs_layers_and_the_record_does_not(schedule):
    batch = two_images()
    plain, weighed = model_with("uniform"), model_with(schedule)
    ours, theirs = (m.loss(m(batch), TARGETS) for m in (weighed, plain))
    wanted = zip(LayerWeights(schedule).of(3), layer_totals(plain, theirs))
    assert_close(ours["total"], sum(by * value for by, value in wanted))
    assert ours.keys() == theirs.keys()
    for name in set(ours) - {"total"}:
        assert torch.equal(ours[name], theirs[name]), name


@pytest.mark.parametrize("name", ["detr", "dab", "deformable-two-stage"])
def test_without_any_change_the_loss_keeps_every_bit(name):
    """Sums and products in the order they always had; so do their gradients."""
    model, batch = model_of(SYSTEMS[name]).train(), two_images()
    assert model.config.layer_weights == LayerWeights("uniform")
    output = model(batch)
    scale, criterion = model.config.loss, model.criterion
    padded = pad_targets(TARGETS, 6, "cpu")

    def sums(sets) -> torch.Tensor:
        terms = criterion._terms(sets.logits, sets.boxes, padded)
        if sets is not output:
            terms = criterion._extra_terms(sets, padded, (1.0, 1.0, 1.0))
        return (
            scale.classification * terms["class"].sum()
            + scale.box * terms["box"].sum()
            + scale.giou * terms["giou"].sum()
        )

    wanted = sum((sums(each) for each in output.extra), 1.0 * sums(output))
    found = model.loss(output, TARGETS)["total"]
    assert torch.equal(found, wanted)
    weights = [p for p in model.decoder.parameters() if p.requires_grad]
    for one, other in zip(
        torch.autograd.grad(found, weights, retain_graph=True),
        torch.autograd.grad(wanted, weights),
    ):
        assert torch.equal(one, other)


def test_without_auxiliary_losses_only_the_last_layer_teaches():
    """With refinement, heads of the other layers then learn nothing at all."""
    model = model_with("none")
    model.loss(model(two_images()), TARGETS)["total"].backward()
    norms = [
        sum(p.grad.abs().sum() for p in (*c.parameters(), *b.parameters()))
        for c, b in zip(model.class_heads, model.box_heads)
    ]
    assert norms[0] == norms[1] == 0 < norms[2]
    assert model.decoder[0].feed_forward.widen.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("scheme", [Recollect(), LoopLast(2)], ids=str)
def test_recollected_sets_have_the_weight_of_their_layer(scheme):
    batch = two_images()
    whole = model_with("uniform", scheme=scheme)
    part = model_with("linear", scheme=scheme)
    output = whole(batch)
    shares = LayerWeights("linear").of(3)
    sets = [(output.logits[y], output.boxes[y], y) for y in range(3)]
    for extra in output.extra:
        assert len(extra.layers) == len(extra.logits)
        sets += zip(extra.logits, extra.boxes, extra.layers)
    alone = [
        whole.loss(output._replace(logits=x[None], boxes=b[None], extra=()), TARGETS)
        for x, b, _ in sets
    ]
    wanted = sum(shares[y] * one["total"] for (*_, y), one in zip(sets, alone))
    assert_close(part.loss(part(batch), TARGETS)["total"], wanted, rtol=1e-4, atol=0)


def test_proposals_are_of_no_layer():
    batch = two_images()
    one, other = (model_with(s, "deformable-two-stage") for s in ("uniform", "none"))
    ours, theirs = (m.loss(m(batch), TARGETS) for m in (other, one))
    rest = ours["total"] - layer_totals(other, ours)[-1]
    assert_close(rest, theirs["total"] - sum(layer_totals(one, theirs)))
    assert rest > 0


def test_a_schedule_stands_in_a_recipe_and_is_uniform_where_none_does():
    config = DETRConfig.tiny(layer_weights=LayerWeights("fibonacci"))
    described = to_json(config)
    assert described["layer_weights"]["schedule"] == "fibonacci"
    assert from_json(described) == config
    del described["layer_weights"]
    assert from_json(described) == DETRConfig.tiny()


def test_an_unknown_schedule_ends_in_words():
    with pytest.raises(ValueError, match="no schedule 'quadratic'.*'first off', 'lin"):
        LayerWeights("quadratic")
