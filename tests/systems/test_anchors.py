"""Anchors as queries of Deformable DETR: DAB + Deformable, no class of its own."""

from dataclasses import replace

import pytest
import torch
from small import small_deformable_config

from detr_steps import DeformableDETR, DeformableDETRConfig, ImageBatch
from detr_steps.describable import from_json, to_json
from detr_steps.nn.conditional import point_code
from detr_steps.nn.dense import Dense
from detr_steps.nn.patches import PatchConfig
from detr_steps.nn.references import inverse_sigmoid
from detr_steps.systems.query_sources import Anchors

SMALL = small_deformable_config(query_source=Anchors(), refine=True)
TARGETS = [
    {"boxes": torch.tensor([[0.5, 0.5, 0.2, 0.4]]), "labels": torch.tensor([2])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
]


def build(config: DeformableDETRConfig = SMALL) -> DeformableDETR:
    torch.manual_seed(0)
    model = DeformableDETR(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if (parameter == 0).all():
                parameter.normal_(std=0.1)
            elif name.endswith("offsets.bias"):
                parameter.add_(torch.rand_like(parameter) / 2)  # off the pixel centres
    return model


@pytest.fixture
def batch() -> ImageBatch:
    generator = torch.Generator().manual_seed(1)
    return ImageBatch.from_list(
        [torch.randn(3, *s, generator=generator) for s in ((32, 48), (40, 24))]
    )


@pytest.mark.parametrize(
    ("changes", "trained"), [({}, 40_879_850), ({"ffn_channels": 2048}, 47_183_594)]
)
def test_trained_parameters(changes, trained):
    """2048 channels between the feed-forward layers are those of the official recipe.

    Against refined Deformable DETR: a point less, four numbers and two MLPs more.
    """
    config = DeformableDETRConfig.coco_r50_refine(query_source=Anchors(), **changes)
    with torch.device("meta"):
        model = config.build()
    found = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert found == trained
    c, queries = 256, 300
    more = (2 * c * c + c) + 3 * (c * c + c)  # the MLPs
    less = queries * c + 2 * c + 2  # learned positions, and the point they give
    assert 40_879_850 == 40_627_260 - less + 4 * queries + more


def test_the_decoder_written_out(batch):
    """Every layer makes positions of its boxes (y, x, w, h), scaled by the content.

    Epsilon 1e-3; boxes are predicted from and handed on without a norm.
    """
    model = build()
    with torch.no_grad():
        model.queries.anchors.weight[0] = torch.tensor([9.0, -9.0, 9.0, 0.0])
    output = model(batch, trace=True)
    memory = model.encode(batch)
    content = model.queries.content.weight.expand(2, -1, -1)
    boxes = model.queries.anchors.weight.sigmoid().expand(2, -1, -1)
    queries, _ = model.start(memory)
    for layer in range(3):
        assert torch.allclose(output.trace.references[layer], boxes, atol=1e-6)
        code = point_code(boxes, 64)
        head, scale = model.queries.position_head, model.queries.position_scale
        positions = head.layers[1](head.layers[0](code).relu())
        if layer > 0:
            positions = positions * scale.layers[1](scale.layers[0](content).relu())
        content, _ = model.decoder[layer](
            queries._replace(content=content, positions=positions, references=boxes),
            memory,
        )
        start = inverse_sigmoid(boxes, 1e-3)
        boxes = (start + model.box_heads[layer](content)).sigmoid()
        assert torch.allclose(output.boxes[layer], boxes, atol=1e-5)
        logits = model.class_heads[layer](content)
        assert torch.allclose(output.logits[layer], logits, atol=1e-4)


def test_anchors_are_learned_and_their_steps_detached(batch):
    model = build()
    output = model(batch, trace=True)
    assert [x.requires_grad for x in output.trace.references] == [True, False, False]
    output.boxes[0].sum().backward()
    assert (model.queries.anchors.weight.grad != 0).all()


def test_an_image_is_seen_alike_alone_and_padded():
    """The code is of shares of the image, not of the padded batch."""
    model = build(replace(SMALL, backbone=PatchConfig(8, 16), maps=1, levels=1))
    model.pyramid.levels[0][1] = torch.nn.Identity()  # sees the whole map
    small, large = torch.randn(3, 24, 32), torch.randn(3, 48, 56)
    alone = model(ImageBatch.from_list([small]))
    beside = model(ImageBatch.from_list([small, large]))
    assert torch.allclose(alone.logits[:, 0], beside.logits[:, 0], atol=1e-4)
    assert torch.allclose(alone.boxes[:, 0], beside.boxes[:, 0], atol=1e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"refine": False},
        {
            **{"maps": 1, "levels": 1},
            **{"encoder_sampling": Dense(4), "decoder_sampling": Dense(4)},
        },
    ],
    ids=str,
)
def test_one_training_step(batch, changes):
    config = replace(SMALL, **changes)
    assert from_json(to_json(config)) == config
    model = build(config).train()
    found = model.loss(model(batch), TARGETS)["total"]
    found.backward()
    dense = "encoder_sampling" in changes
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
    assert dense or (model.queries.anchors.weight.grad != 0).any()
    assert found.isfinite()


@pytest.mark.parametrize("logit", [-200.0, 200.0])
def test_anchors_of_no_size_are_finite(batch, logit):
    model = build()
    with torch.no_grad():
        model.queries.anchors.weight[0] = logit
    output = model(batch)
    model.loss(output, TARGETS)["total"].backward()
    assert output.logits.isfinite().all()
    for parameter in model.parameters():
        assert parameter.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_on_the_cpu(batch, dtype):
    model = build()
    exact = model(batch)
    half = ImageBatch(batch.pixels.to(dtype), batch.padding, batch.padded)
    output = model.to(dtype)(half)
    assert output.boxes.dtype == torch.float32
    assert torch.allclose(output.boxes[0], exact.boxes[0], atol=0.05)
