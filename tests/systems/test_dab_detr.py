"""DAB-DETR: sizes, start, and every trap on the way from the paper to the code.

What it shares with Conditional DETR is tested there; its numbers against another
implementation in tests/parity.
"""

import math
from dataclasses import replace

import pytest
import torch
from small import TARGETS, fresh, small_dab_config, stirred, unequal_batch
from torch import nn

from detr_steps import DABDETR, DABDETRConfig, ImageBatch
from detr_steps.nn.conditional import Add, Shifted, Unchanged, point_code
from detr_steps.nn.position import sine_position
from detr_steps.nn.references import refine_boxes
from detr_steps.objective.losses import LossWeights

SMALL = small_dab_config()


def build(config: DABDETRConfig = SMALL, stir: bool = True) -> DABDETR:
    """A model whose heads and norms say something: fresh ones hardly differ."""
    return stirred(config) if stir else fresh(config)


@pytest.fixture
def model() -> DABDETR:
    return build()


@pytest.fixture
def batch() -> ImageBatch:
    return unequal_batch()


def calls_of(*modules: nn.Module) -> list[tuple]:
    """What is given to modules and what they make of it, as it passes."""
    seen = []
    for module in modules:
        module.register_forward_hook(lambda _, given, made: seen.append((given, made)))
    return seen


# --- sizes and start ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "changes", "trained"),
    [
        ("coco_r50", {}, 43_449_117),
        ("coco_r50", {"patterns": 3}, 43_449_117 + 3 * 256),
        ("coco_r50_dc5", {}, 43_449_117),
        ("coco_r101", {}, 43_449_117 + 17 * 1_114_112),  # 17 blocks more
    ],
)
def test_trained_parameters_are_those_of_the_paper(preset, changes, trained):
    with torch.device("meta"):
        model = getattr(DABDETRConfig, preset)(**changes).build()
    assert type(model) is DABDETR
    found = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found == trained
    assert sum(isinstance(m, nn.PReLU) for m in model.modules()) == 12
    assert not [m for m in model.modules() if isinstance(m, nn.ReLU)]


def test_presets_differ_where_they_say():
    """The authors' numbers, not those of transformers: no dropout, classes weigh 1."""
    r50, dc5 = DABDETRConfig.coco_r50(), DABDETRConfig.coco_r50_dc5()
    assert dc5 == replace(r50, backbone=replace(r50.backbone, dilate_last=True))
    assert (r50.classes, r50.queries, r50.ffn_channels) == (91, 300, 2048)
    assert r50.dropout == 0.0 and r50.loss == LossWeights(1.0, 5.0, 2.0)
    assert (r50.cost.classification, r50.cost.box, r50.cost.giou) == (2, 5, 2)
    assert (r50.temperature, r50.patterns) == (20, 0)
    assert r50.update and r50.modulate
    tiny = DABDETRConfig.tiny()
    assert (tiny.queries, tiny.channels, tiny.loss) == (50, 128, r50.loss)


def test_start_of_anchors_heads_and_mlps():
    model = build(small_dab_config(channels=64, queries=400, patterns=50), stir=False)
    assert abs(model.anchors.weight.std() - 1) < 0.05
    assert abs(model.patterns.weight.std() - 1) < 0.05
    assert torch.allclose(model.class_head.bias, torch.tensor(-math.log(99)))
    last = model.box_head.layers[-1]
    assert (last.weight == 0).all() and (last.bias == 0).all()
    bound = {64: math.sqrt(6 / 128), 128: math.sqrt(6 / 192)}
    for mlp in ("encoder_position_scale", "position_scale", "position_head"):
        for layer in getattr(model, mlp).layers:
            wanted = bound[layer.in_features]
            assert 0.97 * wanted < layer.weight.abs().max() <= wanted
    assert model.size_head.layers[1].weight.abs().max() > 0.9 * math.sqrt(6 / 66)


# --- the way of the data -----------------------------------------------------------


def test_shapes_of_output_and_trace(model, batch):
    output = model(batch, trace=True)
    assert output.logits.shape == (3, 2, 5, 6)
    assert output.boxes.shape == (3, 2, 5, 4)
    trace = output.trace
    assert [x.shape for x in trace.references] == [(2, 5, 4)] * 3
    assert [x.weights.shape for x in trace.decoder_cross] == [(2, 4, 5, 30)] * 3
    assert len(trace.encoder) == 2
    without = model(batch)
    assert torch.allclose(output.logits, without.logits, atol=1e-5)
    assert torch.allclose(output.boxes, without.boxes, atol=1e-5)


def test_queries_are_anchors_alone(model, batch):
    queries, proposals = model.start(model.encode(batch))
    assert proposals == () and (queries.content == 0).all()
    assert queries.positions is None
    assert torch.allclose(queries.references[1], model.anchors.weight.sigmoid())


def test_the_encoder_scales_positions_by_content_in_every_layer(model, batch):
    """Each time anew: the decoder gets the positions as they were."""
    layers = calls_of(*model.encoder)
    memory = model.encode(batch)
    embedded = model.embed(batch)
    assert torch.equal(memory.positions, embedded.positions)
    tokens = embedded.tokens
    for (given, *_), made in layers:
        assert torch.equal(given.tokens, tokens)
        wanted = embedded.positions * model.encoder_position_scale(tokens)
        assert torch.allclose(given.positions, wanted, atol=1e-6)
        tokens = made.tokens


@pytest.mark.parametrize("temperature", [20.0, 10_000.0])
def test_temperature_is_that_of_the_map_alone(batch, temperature):
    """Queries keep 10,000: said to be a mistake of the authors, and kept by them."""
    model = build(replace(SMALL, temperature=temperature))
    memory = model.embed(batch)
    padding = memory.padding.unflatten(1, memory.sizes[0])
    wanted = sine_position(padding, 32, temperature).flatten(1, 2)
    assert torch.equal(memory.positions, wanted)
    heads = calls_of(model.position_head)
    output = model(batch, trace=True)
    for ((code,), _), anchor in zip(heads, output.trace.references, strict=True):
        assert torch.allclose(code, point_code(anchor, 32, 10_000.0), atol=1e-6)


def test_positions_are_made_of_the_whole_anchor(model, batch):
    """Of all four numbers, in every layer; cross-attention projects them in the first.

    The code that made them is as it was when the layer is done: modulation in place, on
    a view of it, would have changed it, and the gradient with it.
    """
    heads, layers = calls_of(model.position_head), calls_of(*model.decoder)
    output = model(batch, trace=True)
    for layer, ((code,), positions) in enumerate(heads):
        assert code.shape == (2, 5, 64)
        anchor = output.trace.references[layer]
        assert torch.allclose(code, point_code(anchor, 32), atol=1e-6)
        assert layers[layer][0][0].positions is positions
    first, *rest = (layer.cross_attention.query_position for layer in model.decoder)
    assert first is not None and rest == [None, None]


def test_cross_attention_compares_a_scaled_and_modulated_code(model, batch):
    """In all layers modulated, from the second on scaled by λ; y before x.

    Both from the content as the layer before left it, without the norm.
    """
    layers, scales = calls_of(*model.decoder), calls_of(model.position_scale)
    sizes = calls_of(model.size_head)
    output = model(batch, trace=True)
    assert (len(scales), len(sizes)) == (2, 3)
    content = torch.zeros(2, 5, 32)
    for layer, ((given, *_), (after, _)) in enumerate(layers):
        assert torch.equal(sizes[layer][0][0], content)
        anchor = output.trace.references[layer]
        code = point_code(anchor[..., :2], 32)
        if layer > 0:
            assert scales[layer - 1][0][1] is given.content
            said = model.position_scale.layers[0](content).relu()
            code = code * model.position_scale.layers[1](said)
        width, height = model.size_head(content).sigmoid().split(1, -1)
        y, x = code.chunk(2, -1)
        y, x = y * height / anchor[..., 3:], x * width / anchor[..., 2:3]
        assert torch.allclose(given.spatial, torch.cat((y, x), -1), atol=1e-4)
        assert not torch.allclose(after, model.decoder_norm(after), atol=0.1)
        content = after


def test_the_anchor_moves_by_the_head_of_content_without_norm(model, batch):
    """So the box that a layer reports is not the anchor that it hands on."""
    layers = calls_of(*model.decoder)
    output = model(batch, trace=True)
    references = output.trace.references
    for layer, (_, (content, _)) in enumerate(layers):
        normed = model.decoder_norm(content)
        box = refine_boxes(references[layer], model.box_head(normed), 1e-3)
        assert torch.allclose(output.boxes[layer], box, atol=1e-6)
        if layer < 2:
            delta = model.box_head(content)
            moved = refine_boxes(references[layer], delta, 1e-3)
            assert torch.allclose(references[layer + 1], moved, atol=1e-6)
            assert not torch.allclose(moved, box, atol=1e-3)


def test_anchors_at_the_border_are_cut_at_a_thousandth(batch):
    """The authors' epsilon; elsewhere in the family it is 1e-5."""
    model = build(stir=False)
    with torch.no_grad():
        model.anchors.weight[0] = torch.tensor([20.0, -20.0, 20.0, 20.0])
    output = model(batch, trace=True)
    wanted = torch.tensor([1000 / 1001, 1 / 1001, 1000 / 1001, 1000 / 1001])
    assert torch.allclose(output.boxes[:, :, 0], wanted, atol=1e-6)
    assert torch.allclose(output.trace.references[1][:, 0], wanted, atol=1e-6)


# --- what is detached --------------------------------------------------------------


def test_a_box_also_trains_the_step_of_the_layer_before(model, batch):
    output = model(batch, trace=True)
    references = output.trace.references
    for layer in (1, 2):
        (grad,) = torch.autograd.grad(
            output.boxes[layer].sum(), references[layer], retain_graph=True
        )
        assert (grad != 0).all()
    # but not those before: one step back, the anchor was detached
    (grad,) = torch.autograd.grad(output.boxes[2].sum(), references[1])
    assert (grad == 0).all()


def test_attention_sees_moved_anchors_detached(model, batch):
    output = model(batch, trace=True)
    references = output.trace.references
    for layer in (1, 2):
        (grad,) = torch.autograd.grad(
            output.logits[layer].sum(),
            references[layer],
            retain_graph=True,
            allow_unused=True,
        )
        assert grad is None
    (grad,) = torch.autograd.grad(output.logits[0].sum(), references[0])
    assert (grad != 0).all()  # the learned anchors themselves are not


@pytest.mark.parametrize("update", [True, False])
def test_anchors_that_stay_are_learned_in_every_layer(batch, update):
    model = build(replace(SMALL, update=update)).requires_grad_(False)
    model.anchors.requires_grad_(True)
    heads = calls_of(model.position_head)
    output = model(batch, trace=True)
    follows = [given[0].requires_grad for given, _ in heads]
    assert follows == [True, not update, not update]
    same = [x is output.trace.references[0] for x in output.trace.references]
    assert same == [True, not update, not update]


def test_gradient_of_the_anchors_is_that_of_the_numbers(batch):
    """By finite differences, through codes, modulation, λ and steps of one layer."""
    model = build(replace(SMALL, decoder_layers=1)).double()
    exact = ImageBatch(batch.pixels.double(), batch.padding)
    memory = model.encode(exact)
    weights = torch.randn(2, 5, 6 + 4, dtype=torch.float64)

    def found() -> torch.Tensor:
        output = model.decode(memory, model.start(memory)[0])
        return (weights * torch.cat((output.logits[0], output.boxes[0]), -1)).sum()

    (grad,) = torch.autograd.grad(found(), model.anchors.weight)
    for query, number in ((0, 0), (1, 1), (2, 2), (3, 3)):
        with torch.no_grad():
            model.anchors.weight[query, number] += 1e-6
            more = found()
            model.anchors.weight[query, number] -= 2e-6
            less = found()
            model.anchors.weight[query, number] += 1e-6
        assert torch.allclose((more - less) / 2e-6, grad[query, number], rtol=1e-5)


# --- patterns ----------------------------------------------------------------------


def test_every_anchor_is_tried_with_every_pattern(batch):
    """All anchors with the first pattern, then all with the second: as the authors."""
    model = build(replace(SMALL, patterns=3))
    queries, _ = model.start(model.encode(batch))
    content, anchors = queries.content[0], queries.references[0]
    assert queries.groups == (15,)
    for pattern in range(3):
        rows = slice(5 * pattern, 5 * pattern + 5)
        assert torch.allclose(anchors[rows], model.anchors.weight.sigmoid())
        expected = model.patterns.weight[pattern].expand(5, -1)
        assert torch.equal(content[rows], expected)
    assert model(batch).logits.shape == (3, 2, 15, 6)


# --- points ------------------------------------------------------------------------


def test_anchors_of_two_numbers_are_points(batch):
    """The ablation: no width and height, neither in the code nor carried on."""
    model = build(replace(SMALL, anchor_dim=2, modulate=False))
    layers, heads = calls_of(*model.decoder), calls_of(model.position_head)
    output = model(batch, trace=True)
    assert [x.shape for x in output.trace.references] == [(2, 5, 2)] * 3
    for layer, (_, (content, _)) in enumerate(layers):
        point = output.trace.references[layer]
        assert torch.allclose(heads[layer][0][0], point_code(point, 32), atol=1e-6)
        box = refine_boxes(point, model.box_head(model.decoder_norm(content)), 1e-3)
        assert torch.allclose(output.boxes[layer], box, atol=1e-6)
        if layer < 2:
            moved = refine_boxes(point, model.box_head(content), 1e-3)[..., :2]
            assert torch.allclose(output.trace.references[layer + 1], moved, atol=1e-6)


# --- training ----------------------------------------------------------------------


def test_classes_weigh_1(model, batch):
    terms = model.loss(model(batch), TARGETS)
    total = sum(
        weight * terms[f"{name}{layer}"]
        for name, weight in {"class": 1, "box": 5, "giou": 2}.items()
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
        {"update": False},
        {"modulate": False},
        {"modulate": False, "update": False, "transform": Unchanged()},
        {"anchor_dim": 2, "modulate": False},
        {"patterns": 2},
        {"temperature": 10_000.0},
        {"dropout": 0.1},
    ],
    ids=str,
)
def test_one_training_step_with_every_piece(batch, changes):
    """All that is built is used: each weight has a gradient, and a step changes it."""
    model = build(replace(SMALL, **changes)).train()
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3)
    model.loss(model(batch), TARGETS)["total"].backward()
    optimizer.step()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.isfinite().all() and not torch.equal(parameter, before[name])


def test_pieces_make_other_networks(batch):
    plain = build()(batch).logits[-1]
    for changes in (
        {"combine": Add()},
        {"transform": Shifted()},
        {"update": False},
        {"modulate": False},
        {"temperature": 10_000.0},
    ):
        other = build(replace(SMALL, **changes)).eval()
        other.load_state_dict(build().state_dict(), strict=False)
        assert not torch.allclose(plain, other(batch).logits[-1], atol=1e-4), changes


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
