"""One-to-many matching: who is matched how often, what counts, what stays."""

import json
from dataclasses import replace

import pytest
import torch
from hosts import SYSTEMS, TARGETS, model_of, two_images
from small import small_dab_config, small_deformable_config

from detr_steps import DeformableDETRConfig, Hybrid, Repeated
from detr_steps.describable import from_json, to_json
from detr_steps.systems import scheme as schemes
from detr_steps.systems.detector import for_inference
from detr_steps.systems.query_sources import Proposals
from detr_steps.systems.scheme import Plain

DEFORMABLES = [name for name in SYSTEMS if name.startswith("deformable")]
SCHEMES = [Hybrid(12, 3, 0.5), Repeated(3), Repeated(3, layers=2)]
TERMS = ("class", "box", "giou")


@pytest.fixture
def batch():
    return two_images()


def repeated(targets, times):
    """Copies, each object's side by side, made without the library."""
    return [
        {key: value.repeat_interleave(times, 0) for key, value in each.items()}
        for each in targets
    ]


def of_layers(losses, name):
    return sum(losses[f"{name}{y}"] for y in ("", "_0", "_1"))


@pytest.mark.parametrize("name", [*DEFORMABLES, "detr", "dab"])
def test_both_kinds_of_queries_are_the_plain_loop_by_themselves(name):
    """The second kind on every object three times; the losses add up with λ."""
    scheme = Hybrid(12, 3, 0.5)
    model = model_of(replace(SYSTEMS[name], scheme=scheme)).train()
    memory = model.encode(two_images())
    queries, _ = model.start(memory)
    assert queries.content.shape[1] == 17
    found = scheme.run(model, memory, queries)
    (many,) = found.extra
    alone = []
    for part in (slice(5), slice(5, 17)):
        parts = (None if x is None else x[:, part] for x in queries[:3])
        each = type(queries)(*parts, (len(range(17)[part]),))
        alone.append(model.decode(memory, each))
    assert torch.allclose(found.logits, alone[0].logits, atol=1e-5)
    assert torch.allclose(many.logits, alone[1].logits, atol=1e-5)
    assert torch.allclose(many.boxes, alone[1].boxes, atol=1e-5)
    losses = model.loss(found, TARGETS)
    own = model.loss(alone[0], TARGETS)
    more = model.loss(alone[1], repeated(TARGETS, 3))
    total = own["total"] + 0.5 * more["total"]
    assert torch.allclose(losses["total"], total, rtol=1e-4)
    for term in TERMS:
        assert torch.allclose(losses[term], own[term], rtol=1e-4)
        wanted = 0.5 * of_layers(more, term)
        assert torch.allclose(losses[f"{term}_one_to_many"], wanted, rtol=1e-4)


def test_every_object_has_as_many_positives_as_copies():
    model = model_of(replace(SYSTEMS["deformable-refine"], scheme=Hybrid(12, 3)))
    output = model.train()(two_images())
    (many,) = output.extra
    for each in (output.boxes, many.boxes):
        each.retain_grad()
    model.loss(output, TARGETS)["total"].backward()
    for each, wanted in ((output.boxes, [1, 1, 1]), (many.boxes, [3, 3, 3])):
        assert each.grad.any(-1).sum((1, 2)).tolist() == wanted


@pytest.mark.parametrize("targets", [TARGETS, TARGETS[:1] * 2], ids=["one", "two"])
def test_naive_one_to_many_is_the_plain_loop_on_repeated_objects(targets, batch):
    model = model_of(replace(SYSTEMS["deformable"], scheme=Repeated(3))).train()
    output = model(batch)
    plain = output._replace(extra=(), weight=1.0)
    losses, wanted = (
        model.loss(output, targets),
        model.loss(plain, repeated(targets, 3)),
    )
    assert torch.allclose(losses["total"], wanted["total"], rtol=1e-4)
    measured = model.loss(plain, targets)
    for term in TERMS:  # what the record compares with others
        assert torch.equal(losses[term], measured[term])
        many = losses[f"{term}_one_to_many"]
        assert torch.allclose(many, of_layers(wanted, term), rtol=1e-4)


def test_layers_before_are_matched_with_copies_and_the_rest_one_to_one(batch):
    model = model_of(replace(SYSTEMS["detr"], scheme=Repeated(3, layers=2))).train()
    output = model(batch)
    assert output.weight == (0.0, 0.0, 1.0)
    losses = model.loss(output, TARGETS)
    first, last = (
        output._replace(logits=output.logits[part], boxes=output.boxes[part],
                        extra=(), weight=1.0)
        for part in (slice(2), slice(2, 3))
    )  # fmt: skip
    wanted = model.loss(first, repeated(TARGETS, 3))["total"]
    wanted = wanted + model.loss(last, TARGETS)["total"]
    assert torch.allclose(losses["total"], wanted, rtol=1e-4)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("name", SYSTEMS)
def test_a_training_step_reaches_every_weight(name, scheme, batch):
    model = model_of(replace(SYSTEMS[name], scheme=scheme)).train()
    losses = model.loss(model(batch), TARGETS)
    assert "giou_one_to_many" in losses and losses["total"].isfinite()
    losses["total"].backward()
    for part, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), part


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@pytest.mark.parametrize("name", [*DEFORMABLES, "conditional"])
def test_inference_is_the_hosts_bit_for_bit(name, scheme, batch):
    model = model_of(replace(SYSTEMS[name], scheme=scheme)).eval()
    small = for_inference(model)
    host = SYSTEMS[name].build().state_dict()
    found = {name: value.shape for name, value in small.state_dict().items()}
    assert found == {name: value.shape for name, value in host.items()}
    with torch.no_grad():
        one, other = model(batch), small(batch)
    assert torch.equal(one.logits, other.logits) and torch.equal(one.boxes, other.boxes)
    assert one.logits.shape[2] == SYSTEMS[name].queries
    assert [e.name for e in one.extra] == [e.name for e in other.extra]


def test_one_choice_of_proposals_serves_both_kinds_by_rank(batch):
    """And the proposals have one loss, that of one-to-one matching."""
    host = SYSTEMS["deformable-two-stage"]
    model = model_of(replace(host, scheme=Hybrid(12, 3)))
    memory = model.train().encode(batch)
    trained, _ = model.start(memory)
    inferred, _ = model.eval().start(memory)
    assert trained.references.shape[1] == 17 and inferred.references.shape[1] == 5
    assert torch.equal(trained.references[:, :5], inferred.references)
    output = model.train()(batch)
    assert [each.name for each in output.extra] == ["proposals", "one_to_many"]
    assert output.extra[0].repeats == 1


@pytest.mark.parametrize(("queries", "left"), [(330, 6), (336, 0), (400, 0)])
def test_proposals_that_are_too_few_are_the_models_own(queries, left, batch):
    host = replace(SYSTEMS["deformable-two-stage"], queries=queries)
    model = model_of(replace(host, scheme=Hybrid(12, 3))).train()
    output = model(batch)
    assert output.logits.shape[2] == min(queries, 336)
    many = [each.logits.shape[2] for each in output.extra if each.name != "proposals"]
    assert many == ([left] if left else [])
    model.loss(output, TARGETS)["total"].backward()


def test_the_trace_is_that_of_the_plain_loop(batch):
    model = model_of(replace(SYSTEMS["deformable-refine"], scheme=Hybrid(12, 3)))
    trace = model.train()(batch, trace=True).trace
    wanted = model.eval()(batch, trace=True).trace
    for one, other in zip(trace.decoder_cross, wanted.decoder_cross, strict=True):
        assert torch.allclose(one.weights, other.weights, atol=1e-5)


# With 1,500 queries more and all that H-DETR has: 1,800 x 256 contents come on top of
# the two stages. (The 47,378,073 of some notes are those of 450 queries.)
MIXED = dict(query_source=Proposals(mixed=True), look_forward_twice=True)


@pytest.mark.parametrize(
    ("preset", "changes", "more", "trained"),
    [
        ("coco_r50", {}, 1500, 46_919_009),
        ("coco_r50_refine", {}, 1500, 47_699_004),
        ("coco_r50_two_stage", {}, 1500, 47_262_873),
        ("coco_r50_two_stage", MIXED, 1500, 47_723_673),
        ("coco_r50_two_stage", MIXED, 150, 47_378_073),
    ],
)
def test_trained_parameters_are_those_of_the_paper(preset, changes, more, trained):
    make = getattr(DeformableDETRConfig, preset)
    with torch.device("meta"):
        model = make(ffn_channels=2048, scheme=Hybrid(more), **changes).build()
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained


def test_the_papers_numbers_are_the_defaults():
    assert Hybrid() == Hybrid(queries=1500, repeats=6, weight=1.0)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_schemes_stand_in_a_recipe(scheme):
    config = DeformableDETRConfig.coco_r50_two_stage(scheme=scheme, **MIXED)
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


def small(scheme, **changes):
    return small_deformable_config(scheme=scheme, **changes).build()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Hybrid(5, 6), "repeats=6 copies of an object for 5 queries.*fewer"),
        (lambda: Hybrid(0), "queries 0: one at least"),
        (lambda: Hybrid(10.0), "queries 10.0: one at least"),
        (lambda: Hybrid(10, 0), "repeats 0: one at least"),
        (lambda: Hybrid(10, True), "repeats True: one at least"),
        (lambda: Hybrid(10, 2, 0.0), "weight 0.0: a positive number"),
        (lambda: Hybrid(10, 2, float("nan")), "weight nan: a positive number"),
        (lambda: Hybrid(10, 2, float("inf")), "weight inf: a positive number"),
        (lambda: Repeated(0), "repeats 0: one at least"),
        (lambda: Repeated(2, layers=0), "layers 0: one at least"),
        (lambda: small(Repeated(6)), "repeats=6 copies of an object for 5 queries"),
        (lambda: small(Repeated(2, layers=3)), "layers=3 of 3 .*or layers=None"),
        (
            lambda: small_dab_config(patterns=2, scheme=Hybrid(5, 2)),
            "mixes patterns: patterns=0",
        ),
    ],
)
def test_schemes_that_cannot_be_are_refused_with_the_cure(make, said):
    with pytest.raises(ValueError, match=said) as error:
        make()
    assert "\n" not in str(error.value)


def test_queries_that_do_not_fit_are_counted_before_anything_is_run(monkeypatch):
    monkeypatch.setattr(schemes, "MOST_QUERIES", 50)
    with pytest.raises(ValueError, match=r"Hybrid\(queries=12.* 51 queries.*fewer que"):
        small(Hybrid(12, 3))
    small(Hybrid(11, 3))


def test_one_to_many_before_one_to_one_is_two_runs():
    """The hybrid epoch scheme: the same weights go on with another scheme."""
    one, other = (model_of(replace(SYSTEMS["deformable-refine"], scheme=s)) for s in
                  (Repeated(3), Plain()))  # fmt: skip
    other.load_state_dict(one.state_dict())
