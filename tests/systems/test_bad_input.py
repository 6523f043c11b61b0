"""What users may give by mistake, on the systems with a dense encoder.

Each fault ends in one clear line, or in finite numbers.
"""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small import small_conditional_config, small_config, small_dab_config

from detr_steps import ImageBatch, viz
from detr_steps.data.scenes import Scenes
from detr_steps.nn.conditional import point_code
from detr_steps.nn.patches import PatchConfig
from detr_steps.nn.position import sine_features

CONFIGS = {
    "detr": small_config(),
    "conditional": small_conditional_config(),
    "dab": small_dab_config(),
    "dab-patterns": small_dab_config(patterns=2),
}
TARGETS = [
    {"boxes": torch.tensor([[0.5, 0.5, 0.2, 0.4]]), "labels": torch.tensor([2])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
]


def build(config) -> torch.nn.Module:
    torch.manual_seed(0)
    model = config.build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if (parameter == 0).all():
                parameter.normal_(std=0.1)
    return model


@pytest.fixture(params=CONFIGS)
def model(request) -> torch.nn.Module:
    return build(CONFIGS[request.param])


@pytest.fixture
def batch() -> ImageBatch:
    generator = torch.Generator().manual_seed(1)
    return ImageBatch.from_list(
        [torch.randn(3, *s, generator=generator) for s in ((32, 48), (40, 24))]
    )


def assert_trains(model, output) -> None:
    found = model.loss(output, TARGETS)["total"]
    found.backward()
    assert output.boxes.isfinite().all() and found.isfinite()
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or parameter.grad.isfinite().all(), name


# --- images ------------------------------------------------------------------------


@pytest.mark.parametrize("trace", [False, True])
def test_an_image_of_padding_alone_is_finite(model, batch, trace):
    """Also where all images are; others in the batch do not notice."""
    padding = batch.padding.clone()
    padding[1] = True
    output = model(ImageBatch(batch.pixels, padding), trace=trace)
    assert_trains(model, output)
    wanted = model(batch)
    assert torch.allclose(output.logits[:, 0], wanted.logits[:, 0], atol=1e-4)
    padding[0] = True
    assert_trains(model, model(ImageBatch(batch.pixels, padding), trace=trace))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_an_image_is_seen_alike_alone_and_padded(config):
    """Masks, positions, references hide the rest of the batch completely."""
    model = build(replace(config, backbone=PatchConfig(8, 16)))
    small, large = torch.randn(3, 24, 32), torch.randn(3, 48, 56)
    alone = model(ImageBatch.from_list([small]))
    beside = model(ImageBatch.from_list([small, large]))
    assert torch.allclose(alone.logits[:, 0], beside.logits[:, 0], atol=1e-4)
    assert torch.allclose(alone.boxes[:, 0], beside.boxes[:, 0], atol=1e-4)


def test_one_pixel_and_a_very_long_image(model):
    for size in ((1, 1), (6000, 8)):
        batch = ImageBatch.from_list([torch.randn(3, *size)])
        (found,) = model.detect(batch, [size])
        assert found.boxes.isfinite().all() and found.scores.isfinite().all()


def test_without_an_encoder(model, batch):
    output = build(replace(model.config, encoder_layers=0))(batch, trace=True)
    assert output.logits.isfinite().all() and output.trace.encoder == ()


# --- numbers -----------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_on_the_cpu(model, batch, dtype):
    """References and boxes stay in single precision, where there are references."""
    exact = model(batch)
    half = ImageBatch(batch.pixels.to(dtype), batch.padding, batch.padded)
    output = model.to(dtype)(half, trace=True)
    if output.trace.references[0] is not None:
        assert output.boxes.dtype == torch.float32
    assert torch.allclose(output.boxes[0].float(), exact.boxes[0], atol=0.05)
    assert output.logits.isfinite().all() and output.boxes.isfinite().all()
    assert model.loss(output, TARGETS)["total"].isfinite()


def test_autocast_on_the_cpu(model, batch):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(batch)
    assert model.loss(output, TARGETS)["total"].dtype == torch.float32
    assert_trains(model, output)


@pytest.mark.parametrize("logit", [-20.0, -200.0, 20.0, 200.0])
def test_anchors_of_no_size_or_at_the_border_are_finite(batch, logit):
    """A width of exactly 0 would divide by it; learned anchors can get there."""
    for modulate in (True, False):
        model = build(small_dab_config(modulate=modulate))
        with torch.no_grad():
            model.anchors.weight[0] = logit
            model.anchors.weight[1, 2:] = logit
        output = model(batch)
        assert output.logits.isfinite().all()
        assert_trains(model, output)


# --- configs -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (dict(patterns=-1), "-1 patterns: 0 for none"),
        (dict(temperature=0.0), "temperature 0.0: must be positive"),
        (dict(temperature=-20.0), "temperature -20.0: must be positive"),
        (dict(temperature=float("nan")), "temperature nan: must be positive"),
        (
            dict(anchor_dim=3, modulate=False),
            "anchor_dim=3: 4, or 2 without modulate",
        ),
        (dict(anchor_dim=2), "anchor_dim=2: 4, or 2 without modulate"),
        (dict(heads=3), "3 heads do not divide 32"),
        (dict(heads=0), "0 heads do not divide 32"),
    ],
)
def test_configs_that_cannot_be(changes, words):
    with pytest.raises(ValueError, match=words):
        small_dab_config(**changes).build()
    if "heads" in changes:
        with pytest.raises(ValueError, match=words):
            small_conditional_config(**changes).build()


@pytest.mark.parametrize("channels", [30, 42])
def test_channels_that_make_no_waves(batch, channels):
    for config in (small_conditional_config, small_dab_config):
        model = config(channels=channels, heads=2).build()
        with pytest.raises(ValueError, match=f"{channels} channels do not make sine"):
            model(batch)


def test_codes_of_odd_channels_and_no_temperature():
    points = torch.rand(3, 2)
    with pytest.raises(ValueError, match="6 channels do not make sine and cosine of y"):
        point_code(points, 6)
    with pytest.raises(ValueError, match="5 channels do not make pairs"):
        sine_features(points, 5)
    for temperature in (0.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="must be positive"):
            point_code(points, 8, temperature)


# --- figures -----------------------------------------------------------------------


def test_figures_work_unchanged(model):
    scenes = Scenes("val", size=64).draw([3, 5])
    model = build(replace(model.config, classes=6))
    for call in (viz.decoder_attention, viz.encoder_attention, viz.layers):
        figure = call(model, scenes, image=1)
        assert figure.arrays["maps"].shape[-2:] == (8, 8)
    figure = viz.decoder_attention(model, scenes, image=1)
    with torch.no_grad():
        output = model(scenes.images, trace=True)
    shown = figure.arrays["maps"] / 255 * figure.arrays["peaks"][..., None, None]
    cross = torch.stack([each.weights[1] for each in output.trace.decoder_cross])
    wanted = cross.transpose(1, 2).unflatten(-1, (8, 8)).numpy()
    assert np.allclose(shown, wanted, atol=wanted.max() / 250)
    scores = model.config.classification.probabilities(output.logits[:, 1]).amax(-1)
    assert np.allclose(figure.arrays["scores"], scores, atol=1e-3)
