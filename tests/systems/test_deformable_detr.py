"""Deformable DETR: sizes, start, and every trap on the way from the paper to the code.

What it shares with DETR is tested there; its numbers against another implementation in
tests/parity.
"""

import math
from dataclasses import replace

import pytest
import torch
from small import small_deformable_config

from detr_steps import DeformableDETR, DeformableDETRConfig, ImageBatch
from detr_steps.describable import from_json, to_json
from detr_steps.nn.deform_attention import MultiScaleDeformableAttention, Sampling
from detr_steps.nn.memory import Memory
from detr_steps.nn.patches import PatchConfig
from detr_steps.nn.point_weights import FromKeys, Learned, Uniform
from detr_steps.nn.references import inverse_sigmoid, token_centres
from detr_steps.nn.resnet import ResNetConfig
from detr_steps.nn.within_levels import WithinLevels
from detr_steps.objective.matching import NonFiniteCost, pad_targets
from detr_steps.systems.query_sources import Proposals, token_boxes

SMALL = small_deformable_config()
KINDS = {
    "plain": SMALL,
    "refine": replace(SMALL, refine=True),
    "two_stage": replace(SMALL, refine=True, query_source=Proposals()),
}
TARGETS = [
    {
        "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.3, 0.6, 0.4, 0.2]]),
        "labels": torch.tensor([2, 0]),
    },
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
]
SIZES = [(32, 48), (40, 24)]  # of the images
LEVELS = ((10, 12), (5, 6), (3, 3))


def images(*sizes: tuple[int, int]) -> ImageBatch:
    generator = torch.Generator().manual_seed(1)
    return ImageBatch.from_list(
        [torch.randn(3, *s, generator=generator) for s in sizes]
    )


def build(config: DeformableDETRConfig = SMALL, stir: bool = True) -> DeformableDETR:
    """A model whose heads and offsets say something: fresh ones hardly differ."""
    torch.manual_seed(0)
    model = DeformableDETR(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if stir and (parameter == 0).all():
                parameter.normal_(std=0.1)
            elif stir and name.endswith("offsets.bias"):
                parameter.add_(torch.rand_like(parameter) / 2)  # off the pixel centres
    return model


@pytest.fixture(params=KINDS)
def model(request) -> DeformableDETR:
    return build(KINDS[request.param])


@pytest.fixture
def batch() -> ImageBatch:
    return images(*SIZES)


# --- sizes and start ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "trained"),
    [
        ("coco_r50", 39_847_265),
        ("coco_r50_refine", 40_627_260),
        ("coco_r50_two_stage", 40_959_129),
        ("single_scale", 33_844_193),
        ("single_scale_dc5", 33_844_193),
    ],
)
def test_trained_parameters_are_those_of_the_paper(preset, trained):
    with torch.device("meta"):
        model = getattr(DeformableDETRConfig, preset)().build()
    found = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found == trained


def test_presets_differ_where_they_say():
    plain = DeformableDETRConfig.coco_r50()
    assert DeformableDETRConfig.coco_r50_refine() == replace(plain, refine=True)
    both = DeformableDETRConfig.coco_r50_two_stage()
    assert both == replace(plain, refine=True, query_source=Proposals())
    single = DeformableDETRConfig.single_scale()
    assert single == replace(plain, maps=1, levels=1)
    dilated = ResNetConfig(dilate_last=True)
    assert DeformableDETRConfig.single_scale_dc5() == replace(single, backbone=dilated)
    assert (plain.queries, plain.ffn_channels, plain.dropout) == (300, 1024, 0.1)
    assert (plain.loss.classification, plain.loss.box, plain.loss.giou) == (2, 5, 2)
    assert (plain.cost.classification, plain.cost.box, plain.cost.giou) == (2, 5, 2)
    assert (plain.classification.alpha, plain.classification.gamma) == (0.25, 2)
    assert plain.encoder_sampling == plain.decoder_sampling == Sampling(8, 4)


def test_tiny_looks_at_three_levels_of_a_scene():
    model = DeformableDETRConfig.tiny().build()
    with torch.no_grad():
        memory = model.encode(images((128, 128)))
    assert memory.sizes == ((16, 16), (8, 8), (4, 4))
    assert memory.tokens.shape[1] == model.tokens(128, 128) == 336


@pytest.mark.parametrize("kind", KINDS)
def test_start_of_the_heads(kind):
    model = build(KINDS[kind], stir=False)
    pairs = {"plain": 1, "refine": 3, "two_stage": 4}[kind]
    assert len(model.class_heads) == len(model.box_heads) == pairs
    for index, (classes, boxes) in enumerate(zip(model.class_heads, model.box_heads)):
        assert torch.allclose(classes.bias, torch.tensor(-math.log(99)))
        assert (boxes.layers[-1].weight == 0).all()
        small = -2.0 if index == 0 and kind != "two_stage" else 0.0
        assert boxes.layers[-1].bias.tolist() == [0, 0, small, small]


def test_start_of_attention_survives_everything_else():
    """Built last or reset at last: no later initialisation overwrites the star."""
    for module in build(stir=False).modules():
        if isinstance(module, MultiScaleDeformableAttention):
            assert (module.offsets.weight == 0).all()
            assert (module.weights.linear.weight == 0).all()
            assert (module.offsets.bias.abs().view(-1, 2).amax(1) > 0.9).all()


def test_first_boxes_are_at_the_references(batch):
    """A fresh head adds nothing: centres are references, all layers say the same."""
    model = build(stir=False)
    output = model(batch, trace=True)
    assert torch.allclose(output.boxes[..., :2], output.trace.references[0], atol=1e-4)
    small = torch.tensor(-2.0).sigmoid()
    assert torch.allclose(output.boxes[..., 2:], small, atol=1e-4)


# --- the way of the data -----------------------------------------------------------


def test_shapes_of_output_and_trace(model, batch):
    output = model(batch, trace=True)
    assert output.logits.shape == (3, 2, 5, 6)  # no class for "no object"
    assert output.boxes.shape == (3, 2, 5, 4)
    assert (output.boxes > 0).all() and (output.boxes < 1).all()
    trace = output.trace
    assert trace.sizes == LEVELS and trace.valid.shape == (2, 3, 2)
    assert [r.locations.shape for r in trace.encoder] == [(2, 159, 4, 3, 2, 2)] * 2
    assert [r.weights.shape for r in trace.decoder_cross] == [(2, 5, 4, 3, 3)] * 3
    assert [m.weights.shape for m in trace.decoder_self] == [(2, 4, 5, 5)] * 3
    assert trace.centres.shape == (2, 159, 2)
    corners = [reference.shape[-1] for reference in trace.references]
    first = 4 if model.config.two_stage else 2
    assert corners == [first] + [4 if model.config.refine else 2] * 2


def test_trace_changes_nothing_but_what_comes_back(model, batch):
    with_trace, without = model(batch, trace=True), model(batch)
    assert without.trace is None
    assert torch.allclose(with_trace.logits, without.logits, atol=1e-5)
    assert torch.allclose(with_trace.boxes, without.boxes, atol=1e-5)


def test_locations_start_from_the_references(batch):
    """In shares of the padded levels: references of the image times valid."""
    model = build(stir=False)
    trace = model(batch, trace=True).trace
    for start, reading in (
        (trace.centres, trace.encoder[0]),
        (trace.references[0], trace.decoder_cross[0]),
    ):
        at = start[:, :, None] * trace.valid[:, None]  # [B, Q, L, 2]
        middle = reading.locations.mean((2, 4))  # a star has its centre in the middle
        assert torch.allclose(middle, at, atol=1e-5)


def test_an_image_is_seen_alike_alone_and_padded():
    """Masks, positions, references hide the rest of the batch; the backbone does not.

    Convolutions do see where an image ends, so here the maps come from one pixel each.
    """
    config = replace(SMALL, backbone=PatchConfig(8, 16), maps=1, levels=1)
    for kind in (config, replace(config, refine=True, query_source=Proposals())):
        model = build(kind)
        model.pyramid.levels[0][1] = torch.nn.Identity()  # sees the whole map as well
        small, large = torch.randn(3, 24, 32), torch.randn(3, 48, 56)
        alone = model(ImageBatch.from_list([small]))
        beside = model(ImageBatch.from_list([small, large]))
        assert torch.allclose(alone.logits[:, 0], beside.logits[:, 0], atol=1e-4)
        assert torch.allclose(alone.boxes[:, 0], beside.boxes[:, 0], atol=1e-4)


def test_levels_tell_themselves_apart(batch):
    model = build()
    unpadded = [torch.zeros(1, 2, 3, dtype=torch.bool)] * 3
    positions = model.positions(unpadded, torch.float32).view(3, 6, -1)
    apart = positions[1:] - positions[:1]
    wanted = (model.level_embedding[1:] - model.level_embedding[0])[:, None]
    assert torch.allclose(apart, wanted.expand_as(apart), atol=1e-5)


def test_no_norm_after_the_decoder(batch):
    """DETR normalises before its heads; here they read the layers as they are."""
    model = build()
    assert not hasattr(model, "decoder_norm")
    seen = []
    for layer in model.decoder:
        layer.register_forward_hook(lambda _, given, made: seen.append(made[0]))
    output = model(batch)
    for layer, content in enumerate(seen):
        assert torch.equal(output.logits[layer], model.class_heads[0](content))


def test_query_rows_are_position_then_content(batch):
    model = build()
    queries, _ = model.start(model.encode(batch))
    rows = model.queries.embedding.weight
    assert torch.equal(queries.positions[1], rows[:, :64])
    assert torch.equal(queries.content[0], rows[:, 64:])
    wanted = model.queries.reference(rows[:, :64]).sigmoid()
    assert torch.allclose(queries.references[1], wanted)


@pytest.mark.parametrize("layers", [0, 1, 4])
def test_any_depth_of_encoder(batch, layers):
    output = build(replace(SMALL, encoder_layers=layers))(batch, trace=True)
    assert output.logits.isfinite().all() and len(output.trace.encoder) == layers


@pytest.mark.parametrize(
    "changes",
    [
        dict(maps=1, levels=1),
        dict(maps=2, levels=2),
        dict(maps=1, levels=4),
        dict(encoder_sampling=Sampling(4, 1), decoder_sampling=Sampling(4, 1)),
        dict(encoder_sampling=WithinLevels(4, 2)),
        dict(encoder_sampling=Sampling(4, 2, FromKeys())),
        dict(decoder_sampling=Sampling(4, 2, Learned())),
        dict(encoder_sampling=Sampling(4, 2, Uniform())),
        dict(maps=1, levels=1, encoder_sampling=Sampling(1, 1, Uniform())),  # a warp
    ],
    ids=str,
)
def test_pieces_for_experiments(batch, changes):
    """Each trains, and its description in a recipe makes the same model again."""
    config = replace(SMALL, **changes)
    assert from_json(to_json(config)) == config
    model = build(config).train()
    found = model.loss(model(batch), TARGETS)["total"]
    found.backward()
    assert found.isfinite()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name


# --- refinement --------------------------------------------------------------------


def test_boxes_are_moved_references(model, batch):
    trace_of = model(batch, trace=True)
    boxes, references = trace_of.boxes, trace_of.trace.references
    for layer in range(1, 3):
        if model.config.refine:  # each layer starts from the box before
            assert torch.equal(references[layer], boxes[layer - 1])
        else:
            assert references[layer] is references[0]


def test_refined_boxes_are_detached(batch):
    """Layer 2 answers for its own step: the box head of layer 0 gets no gradient."""
    model = build(KINDS["refine"])
    output = model(batch)
    inverse_sigmoid(output.boxes[2]).sum().backward()
    assert (model.box_heads[0].layers[-1].weight.grad == 0).all()
    assert (model.box_heads[1].layers[-1].weight.grad == 0).all()
    assert (model.box_heads[2].layers[-1].weight.grad != 0).any()
    assert (model.decoder[0].feed_forward.widen.weight.grad != 0).any()


# --- two stages --------------------------------------------------------------------


def test_boxes_that_tokens_start_from(batch):
    model = build(KINDS["two_stage"])
    boxes, usable = token_boxes(model.encode(batch))
    assert boxes.shape == (2, 159, 4) and usable.shape == (2, 159)
    sides = [0.05] * 120 + [0.1] * 30 + [0.2] * 9
    assert torch.allclose(boxes[0, :, 2], torch.tensor(sides))
    # 32 of 40 rows are image 0, 24 of 48 columns are image 1
    real = boxes[0, :120, 1].view(10, 12)[:, 0]
    assert torch.allclose(real[:8], (torch.arange(8) + 0.5) / 8)
    assert usable[0, :120].view(10, 12)[:8].all()
    assert not usable[0, :120].view(10, 12)[8:].any()
    assert usable[1, :120].view(10, 12)[:, :6].all()
    assert not usable[1, :120].view(10, 12)[:, 6:].any()


def test_the_very_border_proposes_nothing():
    """On each of the four sides: there centres are nearer to it than 0.01."""
    sizes = (60, 64), (4, 3)  # half a cell of the first: 0.0083, 0.0078; of the second
    valid = torch.ones(1, 2, 2)
    centres = token_centres(sizes, valid)
    memory = Memory(torch.rand(1, 3852, 8), None, None, sizes, valid, centres)
    boxes, usable = token_boxes(memory)
    fine = usable[0, : 60 * 64].view(60, 64)
    assert fine[1:-1, 1:-1].all() and usable[0, 60 * 64 :].all()
    border = fine.clone()
    border[1:-1, 1:-1] = False
    assert not border.any()
    assert boxes[0, [0, -1], 2:].tolist() == [
        [pytest.approx(s)] * 2 for s in (0.05, 0.1)
    ]


def test_the_best_proposals_become_queries(batch):
    model = build(KINDS["two_stage"])
    output = model(batch, trace=True)
    logits, boxes = output.extra[0].logits[0], output.extra[0].boxes[0]
    for image in range(2):
        best = logits[image, :, 0].argsort(descending=True)[:5]
        chosen = output.trace.references[0][image]
        assert torch.equal(chosen, boxes[image, best])
    assert not output.trace.references[0].requires_grad


def test_proposals_have_their_own_loss(batch):
    model = build(KINDS["two_stage"])
    output = model(batch)
    found = model.loss(output, TARGETS)
    first = {name: found[f"{name}_proposals"] for name in ("class", "box", "giou")}
    rest = sum(
        scale * found[f"{name}{layer}"]
        for name, scale in (("class", 2), ("box", 5), ("giou", 2))
        for layer in ("", "_0", "_1")
    )
    mine = 2 * first["class"] + 5 * first["box"] + 2 * first["giou"]
    assert torch.allclose(found["total"], rest + mine)
    # any object is of class 0 there: labels do not matter to it
    other = [t | {"labels": (t["labels"] + 1) % 6} for t in TARGETS]
    changed = model.loss(output, other)
    assert torch.equal(first["class"], changed["class_proposals"])
    assert not torch.equal(found["class"], changed["class"])


def test_the_decoder_gives_proposals_no_gradient(batch):
    model = build(KINDS["two_stage"])
    output = model(batch)
    (output.logits.sum() + output.boxes.sum()).backward()
    assert model.class_heads[-1].weight.grad is None
    assert model.queries.project.weight.grad is None
    assert (model.queries.describe.weight.grad != 0).any()


def test_fewer_tokens_than_queries(batch):
    model = build(replace(KINDS["two_stage"], queries=500))
    assert model(batch).logits.shape[2] == 159


# --- loss --------------------------------------------------------------------------


def test_every_layer_has_its_terms_and_its_own_matching(model, batch):
    output = model(batch)
    found = model.loss(output, TARGETS)
    for layer, suffix in enumerate(("_0", "_1", "")):
        one = type(output)(output.logits[layer, None], output.boxes[layer, None])
        alone = model.loss(one, TARGETS)
        for term in ("class", "box", "giou"):
            assert torch.allclose(found[f"{term}{suffix}"], alone[term], atol=1e-5)


def test_matching_weighs_focal_cost(batch):
    """A query that is sure of the class is worth a little distance."""
    model = build()
    output = model(batch)
    logits = torch.full((1, 2, 5, 6), -4.0)
    logits[0, 0, 3, 2] = 4.0
    box = TARGETS[0]["boxes"][0]
    boxes = box.expand(1, 2, 5, 4).clone()
    boxes[0, 0, 3] += 0.03
    output = output._replace(logits=logits, boxes=boxes)
    padded = pad_targets(TARGETS, 6, "cpu")
    assert model.match(output, padded)[0, 0, 0] == 3


def test_images_without_objects_train_the_class_heads_only(model, batch):
    found = model.loss(model(batch), [TARGETS[1]] * 2)
    assert found["box"] == found["giou"] == 0 and found["total"].isfinite()
    found["total"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert (model.box_heads[0].layers[-1].weight.grad == 0).all()
    assert (model.class_heads[0].weight.grad != 0).any()


def test_loss_falls_on_a_batch_seen_again(model, batch):
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    record = []
    for _ in range(12):
        total = model.loss(model(batch), TARGETS)["total"]
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        record.append(total.item())
    assert record[-1] < 0.7 * record[0]


def test_learning_rates_can_name_what_learns_slowly():
    """The recipe's factors go by parts of names: those of the paper must be there."""
    names = [name for name, _ in build().named_parameters()]
    assert sum("offsets" in name for name in names) == 2 * 5
    assert [n for n in names if "reference" in n] == [
        "queries.reference.weight",
        "queries.reference.bias",
    ]


# --- detections --------------------------------------------------------------------


def test_detect_answers_in_pixels_of_each_original(model, batch):
    small = model.detect(batch, SIZES)
    large = model.detect(batch, [(64, 48), (40, 240)])
    assert [len(found.boxes) for found in small] == [30, 30]  # 5 queries, 6 classes
    for one, other, factor in zip(small, large, ([1, 2, 1, 2], [10, 1, 10, 1])):
        assert torch.allclose(one.boxes * torch.tensor(factor), other.boxes, rtol=1e-4)
        assert torch.equal(one.scores, other.scores)
        assert (one.scores.diff() <= 0).all()
        assert not one.boxes.requires_grad


def test_one_pixel_is_an_image(model):
    (found,) = model.detect(images((1, 1)), [(1, 1)])
    assert found.boxes.isfinite().all() and found.scores.isfinite().all()


def test_an_image_of_padding_alone_is_finite(model, batch):
    padding = batch.padding.clone()
    padding[1] = True
    output = model(ImageBatch(batch.pixels, padding, padded=True))
    found = model.loss(output, TARGETS)["total"]
    found.backward()
    assert output.boxes.isfinite().all() and found.isfinite()
    for parameter in model.parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all()


def test_twelve_thousand_pixels_squared_are_refused_at_once(model):
    huge = torch.zeros(1).expand(1, 3, 12_000, 12_000)  # takes no memory
    batch = ImageBatch(huge, torch.zeros(1, dtype=bool).expand(1, 12_000, 12_000))
    with pytest.raises(ValueError, match="12000 x 12000 pixels.*shrink the image"):
        model.detect(batch, [(12_000, 12_000)])


@pytest.mark.parametrize("part", ["offsets", "value"])
def test_weights_that_are_no_numbers_are_named(model, batch, part):
    """Diverged attention reaches the predictions, and the matching names them."""
    broken = getattr(model.decoder[0].cross_attention, part)
    torch.nn.init.constant_(broken.bias, float("nan"))
    with pytest.raises(NonFiniteCost, match="layer 0, image 0.*its logits"):
        model.loss(model(batch), TARGETS)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_on_the_cpu(model, batch, dtype):
    exact = model(batch)
    half = ImageBatch(batch.pixels.to(dtype), batch.padding, batch.padded)
    output = model.to(dtype)(half)
    assert output.boxes.dtype == torch.float32  # of references and boxes, always
    if not model.config.two_stage:  # rounding chooses other proposals
        assert torch.allclose(output.boxes[0], exact.boxes[0], atol=0.05)
    assert model.loss(output, TARGETS)["total"].isfinite()


def test_autocast_on_the_cpu(model, batch):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(batch)
    found = model.loss(output, TARGETS)["total"]
    found.backward()
    assert found.dtype == torch.float32 and found.isfinite()


# --- configs that cannot be --------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(query_source=Proposals()), "set refine=True too"),
        (dict(queries=0), "0 queries find nothing"),
        (dict(maps=3, levels=3), r"3 maps, but the backbone has \(16, 16\)"),
        (dict(maps=2, levels=1), "2 maps for 1 levels"),
        (dict(encoder_sampling=Sampling(points=0)), "0 points on 3 levels"),
        (dict(decoder_sampling=Sampling(heads=5)), "5 heads do not divide 64"),
        (dict(heads=3), "3 heads do not divide 64"),
    ],
)
def test_configs_that_cannot_be(changes, words):
    with pytest.raises(ValueError, match=words):
        replace(SMALL, **changes).build()
