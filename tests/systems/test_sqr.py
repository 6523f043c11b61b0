"""Query recollection: which sets exist, on which layer's heads, and what they cost."""

import json
from dataclasses import replace

import pytest
import torch
from hosts import SYSTEMS, TARGETS, model_of, two_images

from detr_steps import DETRConfig, LoopLast, Recollect
from detr_steps.describable import from_json, to_json
from detr_steps.systems import sqr
from detr_steps.systems.scheme import Plain

SCHEMES = [Recollect(), Recollect(dense=True), Recollect(start=2), LoopLast(2)]
TERMS = ("class", "box", "giou")
REFINING = ["deformable-refine", "deformable-two-stage", "deformable-anchors", "dab"]


@pytest.fixture(params=SYSTEMS)
def config(request):
    return SYSTEMS[request.param]


@pytest.fixture
def batch():
    return two_images()


def slowly(scheme, model, memory, queries):
    """The paper's recursion written out: every set by itself, (layer, prediction).

    The first set of each layer is that of the plain loop.
    """
    made, found = [[queries]], []  # made[s]: what left stage s
    dense = scheme.dense if isinstance(scheme, Recollect) else True
    first = scheme.start if isinstance(scheme, Recollect) else 1
    for layer in range(len(model.decoder)):
        sources = list(made[layer])
        for stage in range(layer - 1, -1, -1):
            if stage >= first - 1 and (dense or stage == layer - 1):
                sources += made[stage]
        made.append([])
        for each in sources:
            after, prediction, _ = model.step(layer, each, memory)
            made[-1].append(after)
            found.append((layer, prediction))
    if isinstance(scheme, LoopLast) and scheme.own_output:
        last = len(model.decoder) - 1
        found += [(last, model.step(last, each, memory)[1]) for each in made[-1]]
    return found


@pytest.mark.parametrize(
    ("scheme", "counts"),
    [
        (Recollect(), (1, 2, 3, 5, 8, 13)),
        (Recollect(start=2), (1, 1, 2, 3, 5, 8)),
        (Recollect(start=3), (1, 1, 1, 2, 3, 5)),
        (Recollect(dense=True), (1, 2, 4, 8, 16, 32)),
        (Recollect(dense=True, start=2), (1, 1, 2, 4, 8, 16)),
        (LoopLast(6), (1, 2, 4, 8, 16, 64)),
        (LoopLast(6, own_output=False), (1, 2, 4, 8, 16, 32)),
    ],
)
def test_the_sets_are_counted_as_the_paper_counts_them(scheme, counts):
    """And that many are run and supervised, on six layers."""
    assert scheme.sets(6) == counts
    config = replace(SYSTEMS["detr"], decoder_layers=6, encoder_layers=0, scheme=scheme)
    model, batch = model_of(config).train(), two_images()
    output = model(batch)
    extra = sum(len(each.logits) for each in output.extra)
    assert len(output.logits) + extra == sum(counts)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_sets_and_losses_are_those_of_the_recursion_written_out(config, scheme, batch):
    """Each set alone: so no set sees another, and its heads are those of its layer."""
    model = model_of(replace(config, scheme=scheme)).train()
    memory = model.encode(batch)
    queries, proposals = model.start(memory)
    found = scheme.run(model, memory, queries)
    wanted = slowly(scheme, model, memory, queries)
    plain = {}
    for layer, prediction in wanted:
        plain.setdefault(layer, prediction)
    for layer, prediction in plain.items():
        assert torch.allclose(found.logits[layer], prediction.logits, atol=1e-5)
        assert torch.allclose(found.boxes[layer], prediction.boxes, atol=1e-5)
    rest = [p for layer, p in wanted if p is not plain[layer]]
    logits = torch.cat([each.logits for each in found.extra])
    boxes = torch.cat([each.boxes for each in found.extra])
    assert torch.allclose(logits, torch.stack([p.logits for p in rest]), atol=1e-5)
    assert torch.allclose(boxes, torch.stack([p.boxes for p in rest]), atol=1e-5)

    losses = model.loss(found, TARGETS)
    alone = [
        model.loss(found._replace(logits=p.logits[None], boxes=p.boxes[None], extra=()),
                   TARGETS)
        for _, p in wanted
    ]  # fmt: skip
    total = sum(each["total"] for each in alone)
    assert torch.allclose(losses["total"], total, rtol=1e-4)
    for term in TERMS:
        layers = sum(losses[f"{term}{y}"] for y in ("", "_0", "_1"))
        more = sum(losses[f"{term}_{each.name}"] for each in found.extra)
        assert torch.allclose(layers + more, sum(e[term] for e in alone), rtol=1e-4)


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_a_training_step_reaches_every_weight(config, scheme, batch):
    model = model_of(replace(config, scheme=scheme)).train()
    losses = model.loss(model(batch), TARGETS)
    assert len(losses) < 9 + 3 * 3 + 2  # few keys in the record, whatever the sets
    losses["total"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name


@pytest.mark.parametrize("name", ["deformable-refine", "deformable-two-stage"])
def test_the_head_is_that_of_the_stage_not_of_the_place_in_the_list(name, batch):
    """Changing the last layer's pair of heads changes the last layer's sets alone."""
    model = model_of(replace(SYSTEMS[name], scheme=Recollect())).train()
    before = model(batch)
    with torch.no_grad():
        model.class_heads[2].bias += 1.0
        model.box_heads[2].layers[-1].bias += 1.0
    after = model(batch)
    sets = [[], [1], [2, 2]]  # of "recollected": none of layer 1, then 1 and 2
    layers = [y for y, some in enumerate(sets) for _ in some]
    for one, other, where in (
        (before.logits, after.logits, range(3)),
        (before.boxes, after.boxes, range(3)),
        (before.extra[-1].logits, after.extra[-1].logits, layers),
        (before.extra[-1].boxes, after.extra[-1].boxes, layers),
    ):
        for x, y, layer in zip(one, other, where, strict=True):
            assert torch.equal(x, y) == (layer < 2)


@pytest.mark.parametrize("name", REFINING)
def test_references_are_detached_and_content_is_not(name, batch):
    """Of a recollected set: no gradient to the layer that left it but by content."""
    model = model_of(replace(SYSTEMS[name], scheme=Recollect())).train()
    seen = []
    step = model.step

    def watched(index, queries, memory, trace=False):
        seen.append((index, queries))
        return step(index, queries, memory, trace)

    model.step = watched
    output = model(batch)
    later = [q for index, q in seen if index == 2]
    assert all(q.content.requires_grad for q in later)
    if name != "dab":  # whose step detaches them where attention reads them
        assert not any(q.references.requires_grad for q in later)
    recollected = output.extra[-1].logits[1:]  # of the last layer
    recollected.square().sum().backward()
    box_heads = [model.box_head] if name == "dab" else model.box_heads[:2]
    for parameter in (p for head in box_heads for p in head.parameters()):
        assert parameter.grad is None or not parameter.grad.any()
    assert model.decoder[0].feed_forward.widen.weight.grad.abs().sum() > 0


def count_calls(model) -> list[tuple[int, int]]:
    """(layer, queries) of each call of a decoder layer from now on."""
    calls = []
    for index, layer in enumerate(model.decoder):
        layer.register_forward_pre_hook(
            lambda _, args, i=index: calls.append((i, args[0].content.shape[1]))
        )
    return calls


@pytest.mark.parametrize("scheme", SCHEMES[:3], ids=str)
def test_inference_costs_nothing_extra(config, scheme, batch):
    """The same weights, the same calls of the same sizes, the same answers."""
    host, model = (model_of(replace(config, scheme=s)) for s in (Plain(), scheme))
    model.load_state_dict(host.state_dict())
    model.eval(), host.eval()
    ours, theirs = count_calls(model), count_calls(host)
    with torch.no_grad():
        one, other = model(batch, trace=True), host(batch, trace=True)
    assert ours == theirs == [(y, config.queries) for y in range(3)]
    assert torch.equal(one.logits, other.logits) and torch.equal(one.boxes, other.boxes)
    assert [each.name for each in one.extra] == [each.name for each in other.extra]


def test_training_joins_the_sets_of_a_layer_in_one_call(config, batch):
    """Or in two, where the queries at the start are points and later ones boxes."""
    model = model_of(replace(config, scheme=Recollect(dense=True))).train()
    calls = count_calls(model)
    model(batch)
    start, _ = model.start(model.encode(batch))
    points = getattr(config, "refine", False) and start.references.shape[-1] == 2
    q = config.queries
    wanted = [(0, q), (1, q), (1, q), (2, 3 * q), (2, q)]
    assert calls == (wanted if points else [(0, q), (1, 2 * q), (2, 4 * q)])


@pytest.mark.parametrize("own_output", [True, False])
def test_the_last_layer_is_looped_at_inference(config, own_output, batch):
    scheme = LoopLast(4, own_output)
    model = model_of(replace(config, scheme=scheme)).eval()
    calls = count_calls(model)
    output = model(batch, trace=True)
    assert calls == [(2, config.queries)] * 4
    assert len(output.logits) == len(output.trace.decoder_cross) == 4
    memory = model.encode(batch)
    queries, _ = model.start(memory)
    for layer in range(4):
        queries, prediction, _ = model.step(2, queries, memory)
        assert torch.allclose(prediction.logits, output.logits[layer], atol=1e-5)
    found = model.detect(batch, [(64, 48), (40, 64)])
    best = model.config.classification.detections(
        output.logits[-1], output.boxes[-1], [(64, 48), (40, 64)]
    )
    assert torch.allclose(found[0].scores, best[0].scores, atol=1e-5)
    assert model.decode(memory, model.start(memory)[0]).logits.shape[0] == 3


def test_weights_that_the_loop_does_not_use_do_not_matter(batch):
    """A looped model could be shipped with one decoder layer."""
    model = model_of(replace(SYSTEMS["deformable-refine"], scheme=LoopLast(3))).eval()
    before = model(batch).logits
    with torch.no_grad():
        for part in (model.decoder[:2], model.class_heads[:2], model.box_heads[:2]):
            for parameter in part.parameters():
                parameter.fill_(float("nan"))
    assert torch.equal(model(batch).logits, before)


def test_the_trace_is_that_of_the_plain_loop(config, batch):
    model = model_of(replace(config, scheme=Recollect(), dropout=0.0)).train()
    trace = model(batch, trace=True).trace
    wanted = model.eval()(batch, trace=True).trace
    for one, other in zip(trace.decoder_cross, wanted.decoder_cross, strict=True):
        assert torch.allclose(one.weights, other.weights, atol=1e-5)


@pytest.mark.parametrize("scheme", [*SCHEMES, LoopLast(3, own_output=False)], ids=str)
def test_schemes_stand_in_a_recipe(scheme):
    config = DETRConfig.tiny(scheme=scheme)
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Recollect(start=0), "start 0: layers are counted from 1"),
        (lambda: Recollect(start=True), "start True: layers"),
        (lambda: Recollect(start=1.5), "start 1.5: layers"),
        (lambda: LoopLast(0), "times 0: loop the last layer at least once"),
        (lambda: LoopLast("6"), "times '6': loop"),
        (lambda: model_of(small(1, Recollect())), "nothing to recollect: use Plain"),
        (
            lambda: model_of(small(3, Recollect(start=3))),
            "start=3 of 3.*take 1 to 2",
        ),
    ],
)
def test_schemes_that_cannot_be_are_refused_with_the_cure(make, said):
    with pytest.raises(ValueError, match=said) as error:
        make()
    assert "\n" not in str(error.value)


def small(layers, scheme, **changes):
    host = SYSTEMS["detr"]
    return replace(host, decoder_layers=layers, scheme=scheme, **changes)


def test_sets_that_do_not_fit_are_counted_before_anything_is_run(monkeypatch):
    wide = small(12, Recollect(dense=True), queries=300)
    with pytest.raises(ValueError, match="4,095 sets of 300 queries, 1,228,500 .* or "
                       r"Recollect\(\) with 608 sets"):  # fmt: skip
        wide.build()
    with pytest.raises(ValueError, match="makes 6,143 sets"):
        replace(wide, scheme=LoopLast(6)).build()
    monkeypatch.setattr(sqr, "MOST_QUERIES", 30)
    with pytest.raises(ValueError, match="than the 30 that fit.*fewer layers or queri"):
        small(3, Recollect(), queries=6).build()
    small(3, Recollect(), queries=5).build()
