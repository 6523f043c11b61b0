"""Groups of queries: who sees whom, who is matched with whom, and what stays."""

import json
from dataclasses import replace

import pytest
import torch
from hosts import SYSTEMS, TARGETS, model_of, two_images
from small import small_conditional_config, small_dab_config

from detr_steps import ConditionalDETRConfig, Denoise, Groups, LoopLast, Recollect
from detr_steps.describable import from_json, to_json
from detr_steps.systems import scheme as schemes
from detr_steps.systems.detector import for_inference
from detr_steps.systems.scheme import Plain

SCHEMES = [Groups(3), Groups(3, separate=False)]
MANY = [  # more objects than one group of small queries has room for
    {"boxes": torch.rand(7, 4) * 0.3 + 0.3, "labels": torch.arange(7) % 6},
    TARGETS[0],
]


@pytest.fixture(params=SYSTEMS)
def config(request):
    return SYSTEMS[request.param]


@pytest.fixture
def batch():
    return two_images()


def started(config, scheme):
    model = model_of(replace(config, scheme=scheme)).train()
    return model, model.encode(two_images())


def run(model, memory):
    return model.config.scheme.run(model, memory, model.start(memory)[0])


@pytest.mark.parametrize("targets", [TARGETS, MANY], ids=["few", "many"])
def test_each_group_is_the_plain_loop_on_its_own_queries(config, targets):
    """And the loss is the mean of the groups' own losses."""
    model, memory = started(config, Groups(3))
    queries, _ = model.start(memory)
    q = config.queries
    alone = [
        model.decode(memory, type(queries)(
            *(None if x is None else x[:, g * q : (g + 1) * q] for x in queries[:3]),
            (q,),
        ))
        for g in range(3)
    ]  # fmt: skip
    found = run(model, memory)
    (others,) = found.extra
    layers = len(model.decoder)
    assert torch.allclose(found.logits, alone[0].logits, atol=1e-5)
    for part in ("logits", "boxes"):
        wanted = torch.cat([getattr(each, part) for each in alone[1:]])
        assert torch.allclose(getattr(others, part), wanted, atol=1e-5)
    assert others.layers == tuple(range(layers)) * 2
    losses = [model.loss(each, targets) for each in alone]
    both = model.loss(found, targets)
    mean = sum(each["total"] for each in losses) / 3
    assert torch.allclose(both["total"], mean, rtol=1e-4)
    own = sum(losses[1][f"giou{y}"] + losses[2][f"giou{y}"] for y in ("", "_0", "_1"))
    assert torch.allclose(both["giou_groups"], own / 3, rtol=1e-4)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_only_without_separate_attention_do_groups_see_each_other(config, scheme):
    model, memory = started(config, scheme)
    queries, _ = model.start(memory)
    changed = queries.content.clone()
    changed[:, config.queries] += 1.0  # the first of the second group
    if queries.positions is not None:
        positions = queries.positions.clone()
        positions[:, config.queries] += 1.0
        other = queries._replace(content=changed, positions=positions)
    else:
        other = queries._replace(content=changed)
    one, two = (scheme.run(model, memory, each) for each in (queries, other))
    for later in (one.logits[-1], two.logits[-1]):
        assert later.shape[1] == config.queries
    same = torch.equal(one.logits[-1], two.logits[-1])
    assert same == scheme.separate
    q = 2 * len(model.decoder)
    assert len(one.extra[0].logits) == q and not torch.equal(
        one.extra[0].logits, two.extra[0].logits
    )


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_a_training_step_reaches_every_weight(config, scheme, batch):
    model = model_of(replace(config, scheme=scheme)).train()
    output = model(batch)
    losses = model.loss(output, TARGETS)
    extras = {each.name for each in output.extra}
    assert extras == {"groups"} | ({"proposals"} if len(extras) == 2 else set())
    losses["total"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_every_group_learns_and_one_object_has_as_many_positives():
    """The reason for groups: gradients of box heads at K queries instead of at one."""
    for scheme, wanted in ((Plain(), 1), (Groups(3), 3)):
        model = model_of(replace(SYSTEMS["detr"], scheme=scheme)).train()
        output = model(two_images())
        sets = [output.boxes, *(each.boxes for each in output.extra)]
        for each in sets:
            each.retain_grad()
        model.loss(output, TARGETS)["total"].backward()
        layers = len(model.decoder)
        touched = sum(int(each.grad.any(-1).sum()) for each in sets)
        assert touched == wanted * layers


def test_one_group_is_the_plain_loop(config, batch):
    model, plain = (
        model_of(replace(config, scheme=each)).train() for each in (Groups(1), Plain())
    )
    one, other = model(batch), plain(batch)
    assert torch.equal(one.logits, other.logits) and one.weight == 1
    assert [e.name for e in one.extra] == [e.name for e in other.extra]
    assert torch.equal(
        model.loss(one, TARGETS)["total"], plain.loss(other, TARGETS)["total"]
    )


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_inference_is_the_hosts_bit_for_bit_without_the_extra_queries(
    config, scheme, batch
):
    model = model_of(replace(config, scheme=scheme)).eval()
    small = for_inference(model)
    assert small.config == replace(config, scheme=Plain()) and not small.training
    host = replace(config, scheme=Plain()).build()
    shapes = {name: value.shape for name, value in host.state_dict().items()}
    found = {name: value.shape for name, value in small.state_dict().items()}
    assert found == shapes
    with torch.no_grad():
        one, other = model(batch, trace=True), small(batch, trace=True)
    assert torch.equal(one.logits, other.logits) and torch.equal(one.boxes, other.boxes)
    assert one.logits.shape[2] == config.queries
    assert [e.name for e in one.extra] == [e.name for e in other.extra]
    assert "groups" not in [each.name for each in one.extra]


def test_what_training_needs_is_left_out_of_every_scheme():
    for scheme, gone in (
        (Plain(), False),
        (Recollect(), False),
        (LoopLast(2), False),
        (Denoise(), True),
        (Groups(2), True),
    ):
        model = model_of(replace(SYSTEMS["dab"], scheme=scheme)).train()
        small = for_inference(model)
        count, before = (
            sum(p.numel() for p in each.parameters()) for each in (small, model)
        )
        assert (count < before) == gone and small.training
        assert (small is model) == (scheme in (Plain(), LoopLast(2)))
        with torch.no_grad():
            one, other = (each.eval()(two_images()) for each in (model, small))
        assert torch.equal(one.logits, other.logits)


@pytest.mark.parametrize(("queries", "groups"), [(150, 2), (300, 1), (400, 1)])
def test_groups_that_proposals_do_not_fill_are_left_out(queries, groups, batch):
    """336 tokens: two whole groups of 150, one of 300, and 336 of 400 queries."""
    config = replace(SYSTEMS["deformable-two-stage"], queries=queries)
    model = model_of(replace(config, scheme=Groups(3))).train()
    tokens = sum(h * w for h, w in model.encode(batch).sizes)
    assert 300 <= tokens < 400
    output = model(batch)
    assert output.logits.shape[2] == min(queries, tokens)
    assert output.weight == 1 / groups
    sets = [len(each.logits) for each in output.extra if each.name == "groups"]
    assert sum(sets) == (groups - 1) * len(model.decoder)
    model.loss(output, TARGETS)["total"].backward()


def test_proposals_go_to_the_groups_by_rank(batch):
    model = model_of(replace(SYSTEMS["deformable-two-stage"], scheme=Groups(3)))
    memory = model.train().encode(batch)
    trained, _ = model.start(memory)
    inferred, _ = model.eval().start(memory)
    assert trained.references.shape[1] == 3 * inferred.references.shape[1] == 15
    assert torch.equal(trained.references[:, :5], inferred.references)


def test_the_trace_is_that_of_the_plain_loop(config, batch):
    model = model_of(replace(config, scheme=Groups(2), dropout=0.0)).train()
    trace = model(batch, trace=True).trace
    wanted = model.eval()(batch, trace=True).trace
    for one, other in zip(trace.decoder_cross, wanted.decoder_cross, strict=True):
        assert torch.allclose(one.weights, other.weights, atol=1e-5)


@pytest.mark.parametrize(
    ("groups", "trained"), [(1, 43_196_001), (3, 43_349_601), (11, 43_964_001)]
)
def test_trained_parameters_are_those_of_the_paper(groups, trained):
    with torch.device("meta"):
        model = ConditionalDETRConfig.coco_r50(scheme=Groups(groups)).build()
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained
    assert model.queries.weight.shape[0] == groups * 300


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_schemes_stand_in_a_recipe(scheme):
    config = ConditionalDETRConfig.tiny(scheme=scheme)
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Groups(0), r"groups 0: one at least \(that is Plain"),
        (lambda: Groups(-3), "groups -3: one at least"),
        (lambda: Groups(2.0), "groups 2.0: one at least"),
        (lambda: Groups(True), "groups True: one at least"),
        (
            lambda: small_dab_config(patterns=2, scheme=Groups(2)),
            "mixes patterns: patterns=0",
        ),
        (
            lambda: small_conditional_config(scheme=(Groups(3), Recollect())).build(),
            "Groups and Recollect: a model is trained with one scheme.*multiply",
        ),
        (
            lambda: small_conditional_config(scheme=None).build(),
            r"NoneType: a model is trained with one scheme.*or Plain\(\)",
        ),
    ],
)
def test_schemes_that_cannot_be_are_refused_with_the_cure(make, said):
    with pytest.raises(ValueError, match=said) as error:
        make()
    assert "\n" not in str(error.value)


def test_groups_that_do_not_fit_are_counted_before_anything_is_run(monkeypatch):
    wide = ConditionalDETRConfig.coco_r50(scheme=Groups(200))
    with pytest.raises(ValueError, match="360,000 queries.*take fewer groups"):
        wide.build()
    monkeypatch.setattr(schemes, "MOST_QUERIES", 30)
    with pytest.raises(ValueError, match=r"Groups\(count=3.* 45 queries.*the 30 that"):
        small_conditional_config(scheme=Groups(3)).build()
    small_conditional_config(scheme=Groups(2)).build()
