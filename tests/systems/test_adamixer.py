"""AdaMixer: sizes, start, what a layer does, and every trap on the way.

Its parts against plain loops are in tests/nn/test_adaptive_mixing.py, its training
schemes in the tests of these.
"""

from dataclasses import replace

import pytest
import torch
from hosts import TARGETS, model_of, two_images
from small import small_adamixer_config
from torch.nn import functional

from detr_steps import AdaMixerConfig, ImageBatch
from detr_steps.data.scenes import Scenes
from detr_steps.describable import from_json, to_json
from detr_steps.nn.adaptive_mixing import Mixing
from detr_steps.nn.resnet import ResNetConfig
from detr_steps.nn.xyzr import boxes_to_xyzr, image_pixels, xyzr_code

SMALL = small_adamixer_config()


@pytest.fixture
def batch():
    return two_images()


@pytest.fixture
def model():
    return model_of(SMALL)


def images(*sizes: tuple[int, int]) -> ImageBatch:
    return ImageBatch.from_list([torch.randn(3, *size) for size in sizes])


# --- sizes and start ---------------------------------------------------------------


def test_parameters_are_those_of_the_paper():
    """Scale and shift of the batch norms are trained, but for stem and first stage."""
    with torch.device("meta"):
        model = AdaMixerConfig.coco_r50().build()
    counts = [0, 0]
    for parameter in model.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    assert counts == [225_344, 134_565_560]


def test_presets_are_the_papers():
    paper = AdaMixerConfig.coco_r50()
    assert (paper.classes, paper.queries, paper.decoder_layers) == (80, 100, 6)
    assert paper.mixing == Mixing(groups=4, points=32, out_points=128)
    assert (paper.heads, paper.ffn_channels, paper.dropout) == (8, 2048, 0.0)
    assert (paper.loss.classification, paper.loss.box, paper.loss.giou) == (2, 5, 2)
    assert (paper.cost.classification, paper.cost.box, paper.cost.giou) == (2, 5, 2)
    assert paper.backbone == ResNetConfig(train_norms=True)
    assert from_json(to_json(paper)) == paper


def test_tiny_looks_at_three_levels_of_a_scene():
    model = AdaMixerConfig.tiny().build()
    with torch.no_grad():
        memory = model.encode(images((128, 128)))
    assert memory.sizes == ((32, 32), (16, 16), (8, 8))
    assert memory.tokens.shape[1] == model.tokens(128, 128) == 1344


def test_queries_start_normalised_and_as_the_whole_image(model, batch):
    queries, extra = model.start(model.encode(batch))
    content = model.queries.weight
    wanted = (content - content.mean(-1, keepdim=True)) / content.var(
        -1, correction=0, keepdim=True
    ).add(1e-5).sqrt()
    for image in queries.content:
        assert torch.allclose(image, wanted, atol=1e-5)
    assert queries.references.tolist() == [[[0.5, 0.5, 1.0, 1.0]] * 5] * 2
    assert queries.positions is None and extra == ()


def test_a_fresh_model_says_the_whole_image_and_one_percent(batch):
    torch.manual_seed(0)
    output = SMALL.build()(batch)
    assert torch.allclose(output.boxes, torch.tensor([0.5, 0.5, 1, 1]), atol=1e-5)
    torch.manual_seed(0)
    scores = AdaMixerConfig.tiny(decoder_layers=1).build()(batch).logits.sigmoid()
    assert 0.002 < scores.median() < 0.05


def test_the_boxes_at_the_start_are_not_learned(model, batch):
    model.train().loss(model(batch), TARGETS)["total"].backward()
    assert model.boxes.weight.requires_grad and not model.boxes.weight.grad.any()


# --- a layer -----------------------------------------------------------------------


def test_a_layer_is_its_parts_one_after_another(model, batch):
    """The code of the box enters queries, keys, values and the residual."""
    memory = model.encode(batch)
    start, _ = model.start(memory)
    boxes = torch.rand_like(start.references) * 0.4 + 0.3
    queries = start._replace(references=boxes)
    after, prediction, _ = model.step(1, queries, memory)
    layer, pixels = model.decoder[1], image_pixels(memory, 4)
    xyzr = boxes_to_xyzr(boxes, pixels)
    x = queries._replace(content=queries.content + xyzr_code(xyzr, 64))
    attended, _ = layer.self_attention.read(x, x.as_memory())
    x = x._replace(content=layer.self_norm(x.content + attended))
    mixed, _ = layer.cross_attention.read(x, memory)
    content = layer.cross_norm(x.content + mixed)
    hidden = layer.feed_forward.widen(content).relu()
    content = layer.feed_forward_norm(content + layer.feed_forward.narrow(hidden))
    assert torch.allclose(after.content, content, atol=1e-5)

    def head(features, last):
        linear, norm, _ = features
        return last(functional.relu(norm(linear(content))))

    logits = head(model.class_features[1], model.class_heads[1])
    dx, dy, dz, dr = head(model.box_features[1], model.box_heads[1]).unbind(-1)
    sides = pixels * boxes[..., 2:]
    scale = sides.prod(-1).sqrt()
    ratio = sides[..., 1] / sides[..., 0]
    scale2, ratio2 = scale * 2**dz, ratio * 2**dr
    wanted = torch.stack(
        (
            boxes[..., 0] + dx * scale / pixels[..., 0],
            boxes[..., 1] + dy * scale / pixels[..., 1],
            scale2 / ratio2.sqrt() / pixels[..., 0],
            scale2 * ratio2.sqrt() / pixels[..., 1],
        ),
        -1,
    )
    assert torch.allclose(prediction.logits, logits, atol=1e-5)
    assert torch.allclose(prediction.boxes, wanted, atol=1e-5)
    assert torch.equal(after.references, prediction.boxes)


def test_boxes_are_detached_between_layers(model, batch):
    output = model.train()(batch)
    output.boxes[2].square().sum().backward()
    assert model.box_heads[2].weight.grad.any()
    for head in model.box_heads[:2]:
        assert head.weight.grad is None or not head.weight.grad.any()
    assert model.decoder[0].cross_attention.kernels.weight.grad.any()


def test_the_next_layer_samples_around_the_refined_box(model, batch):
    output = model.eval()(batch, trace=True)
    trace = output.trace
    assert trace.encoder == ()
    for index in (1, 2):
        assert torch.equal(trace.references[index], output.boxes[index - 1])
    assert not torch.equal(output.boxes[0], output.boxes[1])


def test_levels_share_an_image_to_the_pixel(model):
    """A level reaches beyond the pixels where its stride does not divide them."""
    memory = model.encode(images((50, 40), (64, 61)))
    assert memory.sizes == ((16, 16), (8, 8))
    wanted = torch.tensor([[40 / 64, 50 / 64], [61 / 64, 1.0]])
    assert torch.allclose(memory.valid[:, 0], wanted)
    assert torch.allclose(memory.valid[:, 1], wanted)
    pixels = image_pixels(memory, 4)
    assert torch.allclose(pixels, torch.tensor([[[40.0, 50]], [[61.0, 64]]]))


def test_queries_without_a_difference_stay_alike(batch):
    """What tells them apart is their content alone, for all boxes are the image."""
    torch.manual_seed(0)
    model = model_of(SMALL).double()  # mixing multiplies: rounding grows by layers
    with torch.no_grad():
        model.queries.weight[:] = model.queries.weight[:1]
    batch = ImageBatch(batch.pixels.double(), batch.padding, batch.padded)
    logits = model.eval()(batch).logits
    assert torch.allclose(logits, logits[:, :, :1].expand_as(logits), atol=1e-8)


def test_it_learns(batch):
    torch.manual_seed(0)
    model = small_adamixer_config(decoder_layers=2).build().train()
    optimiser = torch.optim.AdamW(model.parameters(), 2e-3)
    scenes = Scenes("train", size=64).draw(range(2))
    totals = []
    for _ in range(12):
        losses = model.loss(model(scenes.images), scenes.targets)
        totals.append(float(losses["total"].detach()))
        optimiser.zero_grad()
        losses["total"].backward()
        optimiser.step()
    assert totals[-1] < 0.6 * totals[0], totals


# --- what may be given by mistake --------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(queries=0), "0 queries find nothing: give at least one"),
        (dict(channels=48, heads=4), "48 channels: take a multiple of 32"),
        (dict(maps=3), r"3 maps, but the backbone has \(16, 16\)"),
        (dict(maps=0), "0 maps, but the backbone"),
        (dict(maps=1), "1 level: a query samples between levels, give two maps"),
        (dict(mixing=Mixing(groups=3)), "3 groups do not divide 64 channels evenly"),
        (dict(heads=5), "5 heads do not divide 64"),
    ],
)
def test_configs_that_cannot_be(changes, says):
    with pytest.raises(ValueError, match=says):
        small_adamixer_config(**changes).build()


@pytest.mark.parametrize("trace", [False, True])
def test_an_image_of_padding_alone_is_finite(model, batch, trace):
    padding = batch.padding.clone()
    padding[1] = True
    output = model.train()(ImageBatch(batch.pixels, padding), trace=trace)
    model.loss(output, TARGETS)["total"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name


def test_one_pixel_and_a_very_long_image(model):
    for size in ((1, 1), (3000, 8)):
        (found,) = model.detect(images(size), [size])
        assert found.boxes.isfinite().all() and found.scores.isfinite().all()


@pytest.mark.parametrize("bias", [-300.0, 300.0])
def test_boxes_of_no_size_and_of_any_size_are_finite(model, batch, bias):
    """Their logarithm, the next layer's points and the gradients."""
    with torch.no_grad():
        for head in model.box_heads:
            head.bias[2:] = bias
    output = model.train()(batch)
    assert output.boxes.isfinite().all() and output.logits.isfinite().all()
    model.loss(output, TARGETS)["total"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_on_the_cpu(model, batch, dtype):
    exact = model.eval()(batch)
    half = ImageBatch(batch.pixels.to(dtype), batch.padding, batch.padded)
    output = model.to(dtype)(half, trace=True)
    assert output.boxes.dtype == torch.float32
    assert torch.allclose(output.boxes[0], exact.boxes[0], atol=0.1)
    assert model.loss(output, TARGETS)["total"].isfinite()


def test_autocast_on_the_cpu(model, batch):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model.train()(batch)
    model.loss(output, TARGETS)["total"].backward()


def test_other_sizes_of_a_resnet():
    backbone = ResNetConfig(depths=(1, 1, 1, 1), train_norms=True)
    model = model_of(replace(SMALL, backbone=backbone, maps=4)).train()
    model.loss(model(images((64, 64), (32, 48))), TARGETS)["total"].backward()
    assert model.backbone.layer2[0].bn1.weight.grad.any()
    assert not model.backbone.layer1[0].bn1.weight.requires_grad
    assert not model.backbone.bn1.weight.requires_grad
