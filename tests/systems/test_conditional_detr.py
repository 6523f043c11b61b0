"""Conditional DETR: sizes, start, and every trap on the way from the paper to the code.

What it shares with DETR is tested there; its numbers against another implementation in
tests/parity.
"""

import math
from dataclasses import replace

import pytest
import torch
from small import TARGETS, fresh, small_conditional_config, stirred, unequal_batch

from detr_steps import ConditionalDETR, ConditionalDETRConfig, ImageBatch
from detr_steps.nn.conditional import (
    Add,
    Concat,
    ConditionalCrossAttention,
    ContentAndPosition,
    Scaled,
    Shifted,
    Unchanged,
    point_code,
    split_heads,
)
from detr_steps.nn.position import sine_features
from detr_steps.nn.references import inverse_sigmoid

SMALL = small_conditional_config()


def build(config: ConditionalDETRConfig = SMALL, stir: bool = True) -> ConditionalDETR:
    """A model whose heads and norms say something: fresh ones hardly differ."""
    return stirred(config) if stir else fresh(config)


@pytest.fixture
def model() -> ConditionalDETR:
    return build()


@pytest.fixture
def batch() -> ImageBatch:
    return unequal_batch()


def calls_of(*modules: torch.nn.Module) -> list[tuple]:
    """What is given to modules and what they make of it, as it passes."""
    seen = []
    for module in modules:
        module.register_forward_hook(lambda _, given, made: seen.append((given, made)))
    return seen


# --- sizes and start ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "trained"),
    [
        ("coco_r50", 43_196_001),
        ("coco_r50_dc5", 43_196_001),
        ("coco_r101", 43_196_001 + 17 * 1_114_112),  # 17 blocks more
    ],
)
def test_trained_parameters_are_those_of_the_paper(preset, trained):
    with torch.device("meta"):
        model = getattr(ConditionalDETRConfig, preset)().build()
    assert type(model) is ConditionalDETR
    found = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found == trained


def test_presets_differ_where_they_say():
    r50, dc5 = ConditionalDETRConfig.coco_r50(), ConditionalDETRConfig.coco_r50_dc5()
    assert dc5 == replace(r50, backbone=replace(r50.backbone, dilate_last=True))
    assert ConditionalDETRConfig.coco_r101().backbone.depths == (3, 4, 23, 3)
    assert (r50.classes, r50.queries, r50.ffn_channels, r50.dropout) == (
        *(91, 300, 2048),
        0.1,
    )
    assert (r50.loss.classification, r50.loss.box, r50.loss.giou) == (2, 5, 2)
    assert (r50.cost.classification, r50.cost.box, r50.cost.giou) == (2, 5, 2)
    assert (r50.classification.alpha, r50.classification.gamma) == (0.25, 2)
    assert r50.combine == Concat() and r50.transform == Scaled()
    tiny = ConditionalDETRConfig.tiny()
    assert (tiny.queries, tiny.channels, tiny.dropout) == (50, 128, 0.0)
    assert ConditionalDETRConfig.tiny(queries=7).queries == 7


def test_start_of_the_transformer():
    """Xavier for all its matrices, each by itself; only output biases start at 0."""
    model = build(small_conditional_config(channels=64, ffn_channels=512), stir=False)
    square, narrow = math.sqrt(6 / 128), math.sqrt(6 / (64 + 2))
    attentions = [
        module
        for module in model.decoder.modules()
        if isinstance(module, ContentAndPosition | ConditionalCrossAttention)
    ]
    assert len(attentions) == 2 * 3
    for attention in attentions:
        for part in attention.children():
            assert 0.97 * square < part.weight.abs().max() <= square
            assert (part.bias == 0).all() == (part is attention.output)
    for layer in (*model.position_scale.layers, model.reference_head.layers[0]):
        assert 0.97 * square < layer.weight.abs().max() <= square
        assert (layer.bias != 0).any()
    assert model.reference_head.layers[1].weight.abs().max() > 0.9 * narrow


def test_start_of_queries_and_heads():
    model = build(small_conditional_config(channels=64, queries=200), stir=False)
    assert abs(model.queries.weight.std() - 1) < 0.03
    assert torch.allclose(model.class_head.bias, torch.tensor(-math.log(99)))
    last = model.box_head.layers[-1]
    assert (last.weight == 0).all() and (last.bias == 0).all()  # Deformable's has -2


# --- the way of the data -----------------------------------------------------------


def test_shapes_of_output_and_trace(model, batch):
    output = model(batch, trace=True)
    assert output.logits.shape == (3, 2, 5, 6)  # no class for "no object"
    assert output.boxes.shape == (3, 2, 5, 4)
    trace = output.trace
    assert [x.shape for x in trace.references] == [(2, 5, 2)] * 3
    assert [x.weights.shape for x in trace.decoder_cross] == [(2, 4, 5, 30)] * 3
    assert [x.weights.shape for x in trace.decoder_self] == [(2, 4, 5, 5)] * 3
    without = model(batch)
    assert torch.allclose(output.logits, without.logits, atol=1e-5)
    assert torch.allclose(output.boxes, without.boxes, atol=1e-5)


def test_a_reference_comes_from_the_query_and_stays(model, batch):
    output = model(batch, trace=True)
    points = model.reference_head(model.queries.weight).sigmoid()
    for references in output.trace.references:
        assert torch.allclose(references[1], points)


def test_boxes_are_relative_to_the_reference(model, batch):
    """And to nothing else: width and height come from the delta alone."""
    seen = calls_of(model.box_head)
    output = model(batch, trace=True)
    for layer, (_, delta) in enumerate(seen):
        logits = delta.clone()
        logits[..., :2] += inverse_sigmoid(output.trace.references[layer])
        assert torch.allclose(output.boxes[layer], logits.sigmoid(), atol=1e-6)
    fresh = build(stir=False)(batch, trace=True)
    assert torch.allclose(fresh.boxes[..., :2], fresh.trace.references[0], atol=1e-5)
    assert torch.allclose(fresh.boxes[..., 2:], torch.tensor(0.5), atol=1e-6)


def test_codes_are_those_of_the_map():
    """y before x, 2π for the whole image, temperature 10,000: as tokens have them."""
    model = build()
    memory = model.encode(ImageBatch.from_pixels(torch.zeros(1, 3, 48, 64)))
    (rows, columns), c = memory.sizes[0], model.config.channels
    at = [((x + 1) / columns, (y + 1) / rows) for y in range(rows) for x in range(8)]
    code = point_code(torch.tensor(at), c)
    assert torch.allclose(code, memory.positions[0], atol=1e-4)
    y = sine_features(torch.tensor([0.3 * 2 * math.pi]), c // 2, 10_000)
    assert torch.allclose(point_code(torch.tensor([[0.9, 0.3]]), c)[:, : c // 2], y)


def test_codes_of_boxes_go_on_with_width_and_height():
    box = torch.tensor([[0.9, 0.3, 0.2, 0.6]])
    wanted = torch.cat((point_code(box[:, :2], 32), point_code(box[:, [3, 2]], 32)), -1)
    assert torch.equal(point_code(box, 32), wanted)


def test_content_says_nothing_in_the_first_layer(model, batch):
    """λ comes from the content as the layer before left it, without the norm."""
    layers = calls_of(*model.decoder)
    scales = calls_of(model.position_scale)
    output = model(batch, trace=True)
    code = point_code(output.trace.references[0], 32)
    assert len(scales) == 2
    assert torch.allclose(layers[0][0][0].spatial, code)
    for layer, ((given_code, content), scaled) in enumerate(scales):
        before = layers[layer][1][0]
        assert content is before
        assert not torch.allclose(content, model.decoder_norm(content), atol=0.1)
        assert torch.allclose(given_code, code)
        said = content
        for part in model.position_scale.layers:
            said = part(said if said is content else said.relu())
        assert torch.allclose(scaled, code * said, atol=1e-5)
        assert layers[layer + 1][0][0].spatial is scaled


def test_one_norm_for_the_outputs_of_all_layers(model, batch):
    """The heads read normalised content; the next layer goes on with the raw one."""
    seen = calls_of(*model.decoder)
    output = model(batch)
    for layer, (given, (content, _)) in enumerate(seen):
        expected = model.class_head(model.decoder_norm(content))
        assert torch.allclose(output.logits[layer], expected, atol=1e-5)
        assert layer == 0 or given[0].content is seen[layer - 1][1][0]


def test_queries_keep_their_position_in_the_first_cross_attention_only(model, batch):
    first, *rest = (layer.cross_attention for layer in model.decoder)
    assert first.query_position is not None
    assert all(attention.query_position is None for attention in rest)
    assert sum("cross_attention.query_position" in n for n in model.state_dict()) == 2
    queries, _ = model.start(memory := model.encode(batch))
    moved = queries._replace(positions=queries.positions + 1)
    code = point_code(queries.references, 32)
    for index, attention in enumerate((first, *rest)):
        one, _ = attention(queries._replace(spatial=code), memory)
        other, _ = attention(moved._replace(spatial=code), memory)
        assert torch.allclose(one, other) == (index > 0)


@pytest.mark.parametrize("index", [0, 1])
def test_scores_are_content_plus_position_head_by_head(batch, index):
    """Divided by the root of both widths together: 16 here, 64 in the paper's model.

    In the first layer the projected positions are in the content of both, as well.
    """
    model = build()
    attention, heads = model.decoder[index].cross_attention, 4
    memory = model.encode(batch)
    queries, _ = model.start(memory)
    queries = queries._replace(
        content=torch.randn_like(queries.content),
        spatial=torch.randn_like(queries.content),
    )
    _, seen = attention(queries, memory, trace=True)
    q, k = attention.query(queries.content), attention.key(memory.tokens)
    k_position = attention.key_position(memory.positions)
    if index == 0:
        q = q + attention.query_position(queries.positions)
        k = k + k_position
    q_position = attention.query_spatial(queries.spatial)
    q, k, q_position, k_position = (
        split_heads(x, heads) for x in (q, k, q_position, k_position)
    )
    scores = q @ k.mT + q_position @ k_position.mT  # [B, M, Q, S]
    scores = scores / math.sqrt(2 * 32 / heads)
    scores = scores.masked_fill(memory.padding[:, None, None], float("-inf"))
    assert torch.allclose(seen.weights, scores.softmax(-1), atol=1e-5)


def test_self_attention_projects_content_and_position_apart(batch):
    model = build()
    queries, _ = model.start(model.encode(batch))
    queries = queries._replace(content=torch.randn_like(queries.content))
    attention = model.decoder[1].self_attention
    _, seen = attention.read(queries, queries.as_memory(), trace=True)
    content, positions = queries.content, queries.positions
    q = attention.query(content) + attention.query_position(positions)
    k = attention.key(content) + attention.key_position(positions)
    q, k = split_heads(q, 4), split_heads(k, 4)
    scores = q @ k.mT / math.sqrt(8)
    assert torch.allclose(seen.weights, scores.softmax(-1), atol=1e-5)


# --- training ----------------------------------------------------------------------


def test_every_layer_teaches_the_references(model, batch):
    """They are not detached anywhere: boxes and attention move them."""
    output = model(batch)
    weight = model.reference_head.layers[-1].weight
    for part in (output.boxes[0], output.boxes[2], output.logits[0], output.logits[2]):
        (grad,) = torch.autograd.grad(part.sum(), weight, retain_graph=True)
        assert (grad != 0).any()


def test_a_box_moves_its_reference(batch):
    """A fresh head says nothing: what is left is the point that boxes start from."""
    model = build(stir=False)
    boxes = model(batch).boxes
    (grad,) = torch.autograd.grad(
        boxes[2, ..., 0].sum(), model.reference_head.layers[-1].weight
    )
    assert (grad[0] != 0).any() and (grad[1] == 0).all()  # of x, not of y


def test_terms_are_weighed_2_5_2(model, batch):
    terms = model.loss(model(batch), TARGETS)
    total = sum(
        weight * terms[f"{name}{layer}"]
        for name, weight in {"class": 2, "box": 5, "giou": 2}.items()
        for layer in ("", "_0", "_1")
    )
    assert torch.allclose(terms["total"], total)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"combine": Add()},
        {"transform": Shifted()},
        {"transform": Unchanged()},
        {"combine": Add(), "transform": Unchanged()},
        {"dropout": 0.1},
    ],
    ids=str,
)
def test_one_training_step_with_every_piece(batch, changes):
    """All that is built is used: each weight has a gradient, and a step changes it."""
    config = replace(SMALL, **changes)
    model = build(config).train()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    model.loss(model(batch), TARGETS)["total"].backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.isfinite().all() and not torch.equal(parameter, before[name])


def test_pieces_make_other_networks(batch):
    outputs = [
        build(replace(SMALL, **changes))(batch).logits[-1]
        for changes in ({}, {"combine": Add()}, {"transform": Shifted()})
    ]
    assert not torch.allclose(outputs[0], outputs[1], atol=1e-3)
    assert not torch.allclose(outputs[0], outputs[2], atol=1e-3)


def test_unchanged_codes_are_the_same_in_every_layer(batch):
    model = build(replace(SMALL, transform=Unchanged()))
    layers = calls_of(*model.decoder)
    model(batch)
    codes = [given[0].spatial for given, _ in layers]
    assert torch.equal(codes[0], codes[1]) and torch.equal(codes[0], codes[2])


def test_loss_falls_on_a_batch_seen_again(batch):
    model = build().train()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    record = []
    for _ in range(15):
        total = model.loss(model(batch), TARGETS)["total"]
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        record.append(total.item())
    assert record[-1] < 0.6 * record[0]
