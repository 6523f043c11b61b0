"""DETR: sizes, start, and every trap on the way from the paper to the code."""

import math
from dataclasses import replace

import pytest
import torch
from small import small_detr

from detr_steps import DETR, DETRConfig, ImageBatch
from detr_steps.detections import best_class_per_query
from detr_steps.nn.attention import Attention
from detr_steps.nn.patches import PatchConfig
from detr_steps.nn.references import shrink_padding
from detr_steps.nn.trace import stack_maps
from detr_steps.objective.matching import NonFiniteCost

TARGETS = [
    {
        "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.3, 0.6, 0.4, 0.2]]),
        "labels": torch.tensor([2, 0]),
    },
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
]


def images(*sizes: tuple[int, int]) -> ImageBatch:
    generator = torch.Generator().manual_seed(1)
    return ImageBatch.from_list(
        [torch.randn(3, *s, generator=generator) for s in sizes]
    )


@pytest.fixture
def model() -> DETR:
    return small_detr().eval()


@pytest.fixture
def batch() -> ImageBatch:
    return images((32, 48), (40, 24))


# --- sizes and start ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "trained"),
    [
        (DETRConfig.coco_r50(), 41_302_368),
        (DETRConfig.coco_r50_dc5(), 41_302_368),
        (DETRConfig.coco_r101(), 41_302_368 + 17 * 1_114_112),  # 17 blocks more
    ],
)
def test_trained_parameters_are_those_of_the_paper(config, trained):
    with torch.device("meta"):
        model = DETR(config)
    found = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found == trained


def test_presets_differ_where_they_say():
    r50, dc5 = DETRConfig.coco_r50(), DETRConfig.coco_r50_dc5()
    assert dc5 == replace(r50, backbone=replace(r50.backbone, dilate_last=True))
    assert DETRConfig.coco_r101().backbone.depths == (3, 4, 23, 3)
    assert (r50.classes, r50.queries, r50.ffn_channels, r50.dropout) == (
        91,
        100,
        2048,
        0.1,
    )
    assert (r50.loss.box, r50.loss.giou, r50.classification.no_object) == (5, 2, 0.1)
    assert (r50.cost.classification, r50.cost.box, r50.cost.giou) == (1, 5, 2)
    assert DETRConfig.tiny(queries=7).queries == 7


def test_transformer_starts_with_xavier_bounds():
    model = small_detr(channels=64, ffn_channels=512)
    fused, square = math.sqrt(6 / (4 * 64)), math.sqrt(6 / (2 * 64))
    wide = math.sqrt(6 / (64 + 512))
    for layer in (*model.encoder, *model.decoder):
        for module in layer.modules():
            if isinstance(module, Attention):
                for part in (module.query, module.key, module.value):
                    assert 0.98 * fused < part.weight.abs().max() <= fused
                    assert (part.bias == 0).all()
                assert 0.98 * square < module.output.weight.abs().max() <= square
                assert (module.output.bias == 0).all()
        for part in (layer.feed_forward.widen, layer.feed_forward.narrow):
            assert 0.98 * wide < part.weight.abs().max() <= wide


def test_queries_start_normal_and_heads_as_torch_does():
    model = small_detr(channels=64, queries=200)
    assert abs(model.queries.weight.std() - 1) < 0.03
    bound = 1 / math.sqrt(64)  # nn.Linear's own
    for layer in (model.class_head, *model.box_head.layers):
        assert 0.9 * bound < layer.weight.abs().max() <= bound
        assert (layer.bias != 0).any()


# --- the way of the data -----------------------------------------------------------


def test_shapes_of_output_and_trace(model, batch):
    output = model(batch, trace=True)
    assert output.logits.shape == (3, 2, 5, 6 + 1)
    assert output.boxes.shape == (3, 2, 5, 4)
    assert (output.boxes > 0).all() and (output.boxes < 1).all()
    trace = output.trace
    assert trace.sizes == ((5, 6),) and trace.valid.shape == (2, 1, 2)
    assert trace.centres.shape == (2, 30, 2) and trace.references == (None,) * 3
    assert stack_maps(trace.encoder).shape == (2, 2, 4, 30, 30)
    assert stack_maps(trace.decoder_self).shape == (3, 2, 4, 5, 5)
    assert stack_maps(trace.decoder_cross).shape == (3, 2, 4, 5, 30)


def test_trace_changes_nothing_but_what_comes_back(model, batch):
    with_trace, without = model(batch, trace=True), model(batch)
    assert without.trace is None
    assert torch.allclose(with_trace.logits, without.logits, atol=1e-5)
    assert torch.allclose(with_trace.boxes, without.boxes, atol=1e-5)


@pytest.fixture
def asked(monkeypatch) -> list:
    """Every (module, query, key, value) that attention sees, in order."""
    calls = []
    forward = Attention.forward

    def record(self, query, key, value, *rest):
        calls.append((self, query, key, value))
        return forward(self, query, key, value, *rest)

    monkeypatch.setattr(
        Attention,
        "forward",
        lambda self, query, key, value, padding=None, trace=False: record(
            self, query, key, value, padding, trace
        ),
    )
    return calls


def test_positions_on_queries_and_keys_only_at_every_layer(model, batch, asked):
    memory = model.encode(batch)
    encoder = list(asked)
    asked.clear()
    model.decode(memory, model.start(memory)[0])
    assert len(encoder) == 2 and len(asked) == 2 * 3
    for _, query, key, value in encoder:
        assert torch.allclose(query - value, memory.positions, atol=1e-5)
        assert torch.equal(query, key)
    who = model.queries.weight.expand(2, -1, -1)
    for talk, read in zip(asked[::2], asked[1::2]):
        assert torch.allclose(talk[1] - talk[3], who, atol=1e-5)
        assert torch.equal(talk[1], talk[2])
        assert torch.equal(read[3], memory.tokens)
        assert torch.allclose(read[2] - read[3], memory.positions, atol=1e-5)


def raw_outputs(layers) -> list:
    """Inputs and outputs of decoder layers, as they pass."""
    seen = []
    for layer in layers:
        layer.register_forward_hook(lambda _, given, made: seen.append((given, made)))
    return seen


def test_one_norm_for_the_outputs_of_all_layers(model, batch):
    """The heads read normalised content; the next layer goes on with the raw one."""
    torch.nn.init.normal_(model.decoder_norm.weight)
    seen = raw_outputs(model.decoder)
    output = model(batch)
    for layer, (given, (content, *_)) in enumerate(seen):
        expected = model.class_head(model.decoder_norm(content))
        assert torch.allclose(output.logits[layer], expected, atol=1e-5)
        if layer:
            assert given[0].content is seen[layer - 1][1][0]


def test_memory_is_the_raw_output_of_the_encoder(model, batch):
    seen = raw_outputs(model.encoder)
    assert model.encode(batch).tokens is seen[-1][1].tokens


def test_first_self_attention_is_constant(model, batch):
    """Content starts at 0, so all values are the bias: nothing can be said yet."""
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    seen = []
    first = model.decoder[0].self_attention
    first.register_forward_hook(lambda _, given, made: seen.append(made[0]))
    model(batch)
    expected = first.output(first.value.bias)
    assert torch.allclose(seen[0], expected.expand(2, 5, -1), atol=1e-5)


def test_an_image_is_seen_alike_alone_and_padded():
    """Masks and positions together hide the rest of the batch completely."""
    model = small_detr(backbone=PatchConfig(8, 16)).eval()
    small, large = torch.randn(3, 24, 32), torch.randn(3, 48, 56)
    alone = model(ImageBatch.from_list([small]))
    beside = model(ImageBatch.from_list([small, large]))
    assert torch.allclose(alone.logits[:, 0], beside.logits[:, 0], atol=1e-5)
    assert torch.allclose(alone.boxes[:, 0], beside.boxes[:, 0], atol=1e-5)


def test_no_query_or_key_looks_at_padding(model, batch):
    trace = model(batch, trace=True).trace
    padding = shrink_padding(batch.padding, trace.sizes[0]).flatten(1)  # [B, S]
    for maps in (stack_maps(trace.encoder), stack_maps(trace.decoder_cross)):
        assert (maps[:, 1][..., padding[1]] == 0).all()
        assert (maps[:, 0].sum(-2)[..., ~padding[0]] > 0).all()


def test_positions_depend_on_the_mask(model, batch):
    positions = model.encode(batch).positions
    assert not torch.allclose(positions[0], positions[1])


def test_without_an_encoder(batch):
    model = small_detr(encoder_layers=0).eval()
    output = model(batch, trace=True)
    assert output.logits.isfinite().all() and output.trace.encoder == ()


# --- loss --------------------------------------------------------------------------


def test_every_layer_has_its_terms_and_its_own_matching(model, batch):
    output = model(batch)
    found = model.loss(output, TARGETS)
    names = {f"{t}{y}" for t in ("class", "box", "giou") for y in ("", "_0", "_1")}
    assert set(found) == names | {"total"}
    total = 0
    for layer, suffix in enumerate(("_0", "_1", "")):
        one = type(output)(output.logits[layer, None], output.boxes[layer, None])
        alone = model.loss(one, TARGETS)
        for term in ("class", "box", "giou"):
            assert torch.allclose(found[f"{term}{suffix}"], alone[term], atol=1e-6)
        assert torch.allclose(
            alone["total"], alone["class"] + 5 * alone["box"] + 2 * alone["giou"]
        )
        total = total + alone["total"]
    assert torch.allclose(found["total"], total)


def test_order_of_objects_does_not_matter(model, batch):
    turned = [{key: value.flip(0) for key, value in TARGETS[0].items()}, TARGETS[1]]
    output = model(batch)
    one, other = (model.loss(output, t)["total"] for t in (TARGETS, turned))
    assert torch.allclose(one, other)


def test_images_without_objects_train_the_class_head_only(model, batch):
    found = model.loss(model(batch), [TARGETS[1]] * 2)
    assert found["box"] == found["giou"] == 0 and found["total"].isfinite()
    found["total"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
    assert (model.box_head.layers[-1].weight.grad == 0).all()
    assert (model.class_head.weight.grad != 0).any()


def test_more_objects_than_queries(model, batch):
    crowd = {
        "boxes": TARGETS[0]["boxes"].repeat(6, 1),
        "labels": torch.zeros(12).long(),
    }
    assert model.loss(model(batch), [crowd, TARGETS[1]])["total"].isfinite()


def test_half_precision_predictions_give_a_loss_in_single(model, batch):
    output = model(batch)
    exact = model.loss(output, TARGETS)["total"]
    half = output._replace(logits=output.logits.half(), boxes=output.boxes.half())
    found = model.loss(half, TARGETS)["total"]
    assert found.dtype == torch.float32 and torch.allclose(found, exact, rtol=1e-2)


def test_loss_falls_on_a_batch_seen_again():
    model, batch = small_detr(), images((32, 48), (40, 24))
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    record = []
    for _ in range(20):
        total = model.loss(model(batch), TARGETS)["total"]
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        record.append(total.item())
    assert record[-1] < 0.5 * record[0]


@pytest.mark.parametrize("part", ["logits", "boxes"])
def test_diverged_predictions_are_named(model, batch, part):
    output = model(batch)
    values = getattr(output, part).detach().clone()
    values[1, 0, 3] = float("nan")
    with pytest.raises(NonFiniteCost, match=f"layer 1, image 0, query 3.*its {part}"):
        model.loss(output._replace(**{part: values}), TARGETS)


@pytest.mark.filterwarnings("ignore:.*no-op")
def test_targets_go_to_the_predictions_device(model, batch):
    """Wherever they come from; here to `meta`, which no test machine lacks."""
    model.criterion = lambda output, targets, matched: targets
    meta = type(model(batch))(*(x.to("meta") for x in model(batch)[:2]))
    padded = model.loss(meta, TARGETS)
    parts = padded.boxes, padded.labels, padded.mask
    assert [x.device.type for x in parts] == ["meta"] * 3


def test_one_target_per_image(model, batch):
    with pytest.raises(ValueError, match="1 targets for 2 images"):
        model.loss(model(batch), TARGETS[:1])


def test_label_beyond_the_classes(model, batch):
    wrong = [{"boxes": TARGETS[0]["boxes"], "labels": torch.tensor([2, 6])}, TARGETS[1]]
    with pytest.raises(ValueError, match="image 0, object 1.*not one of 0 … 5"):
        model.loss(model(batch), wrong)


# --- detections --------------------------------------------------------------------


def test_no_object_is_dropped_before_the_best_class_is_chosen():
    logits = torch.tensor([[[1.0, 2.0, 9.0], [3.0, 0.0, -9.0]]])  # last: no object
    boxes = torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.25, 0.5, 0.5, 1.0]]])
    probabilities = logits.softmax(-1)[..., :-1]
    (found,) = best_class_per_query(probabilities, boxes, [(100, 200)])
    # the first query believes in "no object", and still answers with its best class
    assert found.labels.tolist() == [0, 1]
    assert torch.allclose(found.scores[1], logits[0, 0].softmax(-1)[1])
    assert found.scores[0] > found.scores[1]  # best first, boxes along with them
    assert found.boxes.tolist() == [
        pytest.approx([0, 0, 100, 100]),
        pytest.approx([80, 30, 120, 70]),
    ]


def test_detect_answers_in_pixels_of_each_original(model, batch):
    small = model.detect(batch, [(32, 48), (40, 24)])
    large = model.detect(batch, [(64, 48), (40, 240)])
    assert [len(found.boxes) for found in small] == [5, 5]
    for one, other, factor in zip(small, large, ([1, 2, 1, 2], [10, 1, 10, 1])):
        assert torch.allclose(one.boxes * torch.tensor(factor), other.boxes, rtol=1e-4)
        assert torch.equal(one.scores, other.scores)
        assert (one.scores.diff() <= 0).all()
        assert ((one.labels >= 0) & (one.labels < 6)).all()
        assert not one.boxes.requires_grad


def test_one_pixel_is_an_image(model):
    (found,) = model.detect(images((1, 1)), [(1, 1)])
    assert found.boxes.isfinite().all() and found.scores.isfinite().all()


def test_a_very_long_image_is_fine(model):
    (found,) = model.detect(images((12_000, 8)), [(12_000, 8)])
    assert found.boxes.isfinite().all()


@pytest.mark.parametrize("given", ["photo.jpg", torch.zeros(1, 3, 8, 8), None])
def test_what_is_no_batch_is_refused(model, given):
    with pytest.raises(TypeError, match="ImageBatch.from_list"):
        model.detect(given, [(8, 8)])


def test_twelve_thousand_pixels_squared_are_refused_at_once(model):
    huge = torch.zeros(1).expand(1, 3, 12_000, 12_000)  # takes no memory
    batch = ImageBatch(huge, torch.zeros(1, dtype=bool).expand(1, 12_000, 12_000))
    with pytest.raises(ValueError, match="12000 x 12000 pixels.*shrink the image"):
        model.detect(batch, [(12_000, 12_000)])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_pixels_that_are_no_numbers_are_refused(model, batch, value):
    batch.pixels[1, 2, 3, 4] = value
    with pytest.raises(ValueError, match="pixels hold NaN or infinity"):
        model.detect(batch, [(32, 48), (40, 24)])


def test_gray_images_are_refused_with_the_cure(model):
    batch = ImageBatch.from_list([torch.zeros(1, 8, 8)])
    with pytest.raises(ValueError, match=r"1 channels.*expand\(3, -1, -1\)"):
        model.detect(batch, [(8, 8)])


def test_one_size_per_image(model, batch):
    with pytest.raises(ValueError, match="1 sizes for 2 images"):
        model.detect(batch, [(8, 8)])


def test_detect_never_drops_out_and_puts_the_mode_back():
    model = small_detr(dropout=0.5)
    batch = ImageBatch.from_list([torch.randn(3, 40, 40)])
    model.train()
    first, second = (model.detect(batch, [(40, 40)])[0] for _ in range(2))
    assert torch.equal(first.boxes, second.boxes) and model.training
