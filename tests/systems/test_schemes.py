"""The contract: one `step` runs under any scheme, on every system.

No paper's scheme is needed to prove it: a toy one of two groups will do.
"""

from dataclasses import dataclass, replace

import pytest
import torch
from hosts import SYSTEMS, TARGETS, model_of, two_images
from small import (
    small_dab_config,
)

from detr_steps import ImageBatch
from detr_steps.objective.criterion import PredictionSets
from detr_steps.systems.output import Output
from detr_steps.systems.scheme import Plain, Scheme


@dataclass(frozen=True)
class TwoGroups(Scheme):
    """Every layer on two groups of queries; the second is supervised as an extra."""

    def training_queries(self, count: int) -> int:
        return 2 * count

    def run(self, model, memory, queries, trace=False) -> Output:
        half = queries.content.shape[1] // 2
        both = queries._replace(groups=(half, half))
        output = Plain().run(model, memory, both, trace)
        (logits, more_logits), (boxes, more_boxes) = (
            x.split(half, 2) for x in output[:2]
        )
        second = PredictionSets("second", more_logits, more_boxes, weight=0.5)
        return Output(logits, boxes, output.trace, (second,), weight=0.5)


@pytest.fixture(params=SYSTEMS)
def model(request):
    return model_of(SYSTEMS[request.param])


@pytest.fixture
def batch() -> ImageBatch:
    return two_images()


def test_identical_groups_give_the_plain_answers(model, batch):
    """And loss: half of each is the whole. The memory serves both groups."""
    memory = model.encode(batch)
    queries, proposals = model.start(memory)
    twice = type(queries)(
        *(None if x is None else torch.cat((x, x), 1) for x in queries[:3]),
        queries.groups,
    )
    plain = model.decode(memory, queries)
    found = TwoGroups().run(model, memory, twice)
    assert torch.allclose(found.logits, plain.logits, atol=1e-5)
    assert torch.allclose(found.extra[0].boxes, plain.boxes, atol=1e-5)
    both, one = model.loss(found, TARGETS), model.loss(plain, TARGETS)
    assert torch.allclose(both["total"], one["total"], atol=1e-4)
    summed = sum(one[f"giou{layer}"] for layer in ("", "_0", "_1"))
    assert torch.allclose(both["giou_second"], summed / 2, atol=1e-5)
    assert memory.tokens.shape[0] == len(batch)


def test_the_scheme_runs_in_training_only(model, batch):
    config = replace(model.config, scheme=TwoGroups())
    model = model_of(config)
    trained = model.train()(batch)
    names = [extra.name for extra in trained.extra]
    assert names == (["proposals"] if len(names) == 2 else []) + ["second"]
    model.loss(trained, TARGETS)["total"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
    with torch.no_grad():
        output = model.eval()(batch)
    assert output.logits.shape[2] == config.queries
    assert "second" not in [extra.name for extra in output.extra]


def test_inference_is_that_of_the_first_group_alone(batch):
    """The extra queries can be dropped from the weights: nothing else changes."""
    model = model_of(replace(SYSTEMS["detr"], scheme=TwoGroups())).eval()
    host = SYSTEMS["detr"].build().eval()
    state = model.state_dict()
    assert state["queries.weight"].shape[0] == 10
    host.load_state_dict(state | {"queries.weight": state["queries.weight"][:5]})
    assert torch.equal(model(batch).logits, host(batch).logits)


def test_a_scheme_that_adds_queries_cannot_have_patterns():
    """Groups are cut from the front, but patterns come in blocks of all anchors."""
    with pytest.raises(ValueError, match="mixes patterns: patterns=0"):
        small_dab_config(patterns=2, scheme=TwoGroups())
    small_dab_config(patterns=2, scheme=Plain())


def test_trace_of_every_system(model, batch):
    """Layers of maps or of points; references where there are some."""
    model.eval()
    trace = model(batch, trace=True).trace
    layers = len(model.decoder)
    assert len(trace.decoder_self) == len(trace.decoder_cross) == layers
    assert len(trace.encoder) == len(model.encoder)
    assert len(trace.references) == layers
    assert trace.classification == model.config.classification
    for layer in (*trace.encoder, *trace.decoder_cross):
        weights = layer.weights
        if hasattr(layer, "locations"):
            weights = weights.flatten(-2)
        assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-5)


def test_the_plain_loop_is_the_steps_one_by_one(model, batch):
    """What chapter 02 writes by hand."""
    model.eval()
    memory = model.encode(batch)
    queries, _ = model.start(memory)
    output = model.decode(memory, queries)
    for layer in range(len(model.decoder)):
        queries, prediction, _ = model.step(layer, queries, memory)
        assert torch.equal(prediction.logits, output.logits[layer])
        assert torch.equal(prediction.boxes, output.boxes[layer])
