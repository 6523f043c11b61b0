"""Mixed query selection and looking forward twice, both of them DINO's."""

from dataclasses import replace

import pytest
import torch
from hosts import DEFORMABLE, TARGETS, model_of, two_images

from detr_steps.nn.references import inverse_sigmoid
from detr_steps.systems.query_sources import Anchors, Proposals
from detr_steps.systems.sqr import Recollect

REFINE = replace(DEFORMABLE, refine=True)
TWO_STAGE = replace(REFINE, query_source=Proposals())
MIXED = replace(TWO_STAGE, query_source=Proposals(mixed=True))
HOSTS = {
    "refine": REFINE,
    "two stages": TWO_STAGE,
    "mixed": MIXED,
    "anchors": replace(REFINE, query_source=Anchors()),
}


def test_contents_are_learned_and_positions_are_of_the_boxes():
    mixed, plain = model_of(MIXED), model_of(TWO_STAGE)
    shared = {
        k: v for k, v in mixed.state_dict().items() if k != "queries.content.weight"
    }
    plain.load_state_dict(shared)
    memory = plain.encode(two_images())
    (one, (proposals,)), (other, (again,)) = mixed.start(memory), plain.start(memory)
    assert torch.equal(one.references, other.references)
    assert torch.equal(one.positions, other.positions)
    assert torch.equal(proposals.logits, again.logits)
    for image in one.content:  # the same for every image, in the order of the ranks
        assert torch.equal(image, mixed.queries.content.weight)
    assert not torch.equal(one.content, other.content)


def test_the_half_that_made_contents_still_enters_the_norm():
    """Nothing reads it; yet it changes the positions, by way of the norm."""
    model = model_of(MIXED)
    memory = model.encode(two_images())
    before, _ = model.start(memory)
    with torch.no_grad():
        half = MIXED.channels
        model.queries.describe.bias[half:] += 3 * torch.randn(half)
    after, _ = model.start(memory)
    assert torch.equal(before.references, after.references)
    assert not torch.allclose(before.positions, after.positions, atol=1e-3)


def test_contents_are_cut_where_an_image_has_too_few_tokens():
    model = model_of(replace(MIXED, queries=400)).train()
    queries, _ = model.start(model.encode(two_images()))
    assert queries.content.shape[1] == queries.references.shape[1] == 336
    model.loss(model(two_images()), TARGETS)["total"].backward()
    assert model.queries.content.weight.grad[336:].abs().sum() == 0


@pytest.mark.parametrize("name", HOSTS)
def test_predictions_do_not_change_with_looking_forward_twice(name):
    plain = model_of(HOSTS[name]).eval()
    twice = model_of(replace(HOSTS[name], look_forward_twice=True)).eval()
    batch = two_images()
    assert torch.equal(plain(batch).boxes, twice(batch).boxes)
    assert torch.equal(plain(batch).logits, twice(batch).logits)


@pytest.mark.parametrize("twice", [False, True])
@pytest.mark.parametrize("name", HOSTS)
def test_a_layers_boxes_train_the_delta_of_one_layer_before(name, twice):
    """Not of two before; without the option of none. Contents are cut off here."""
    model = model_of(replace(HOSTS[name], look_forward_twice=twice)).train()
    memory = model.encode(two_images())
    queries, _ = model.start(memory)
    for index in range(3):
        queries, prediction, _ = model.step(index, queries, memory)
        queries = queries._replace(content=queries.content.detach())
    prediction.boxes.square().sum().backward()
    reached = [
        head.layers[-1].bias.grad is not None and bool(head.layers[-1].bias.grad.any())
        for head in model.box_heads[:3]
    ]
    assert reached == [False, twice, True]


@pytest.mark.parametrize("name", HOSTS)
def test_attention_sees_boxes_detached_from_the_second_layer_on(name):
    model = model_of(replace(HOSTS[name], look_forward_twice=True)).train()
    seen = []
    for layer in model.decoder:
        layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].references))
    model(two_images())
    learned = name in ("refine", "anchors")
    assert [each.requires_grad for each in seen] == [learned, False, False]


def test_the_gradient_is_that_of_the_formula_written_out():
    """box₂ = σ(σ⁻¹(box₁) + δ₂), box₁ = σ(σ⁻¹(detached) + δ₁) with δ₁ not detached."""
    model = model_of(replace(REFINE, look_forward_twice=True)).train()
    memory = model.encode(two_images())
    queries, _ = model.start(memory)
    first, _, _ = model.step(0, queries, memory)
    second, _, _ = model.step(1, first, memory)
    third, prediction, _ = model.step(2, second, memory)
    before = first.references.detach()
    delta = model.box_heads[1](second.content)
    box = (inverse_sigmoid(before) + delta).sigmoid()
    wanted = (inverse_sigmoid(box) + model.box_heads[2](third.content)).sigmoid()
    weight = model.box_heads[1].layers[-1].weight
    grads = [
        torch.autograd.grad(each.square().sum(), weight, retain_graph=True)[0]
        for each in (prediction.boxes, wanted)
    ]
    assert torch.allclose(*grads, atol=1e-6) and grads[0].abs().sum() > 0


def test_with_recollected_queries():
    config = replace(MIXED, look_forward_twice=True, scheme=Recollect())
    model = model_of(config).train()
    model.loss(model(two_images()), TARGETS)["total"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_it_needs_boxes_that_are_refined():
    with pytest.raises(ValueError, match="boxes that are refined: set refine=True too"):
        replace(DEFORMABLE, look_forward_twice=True)
