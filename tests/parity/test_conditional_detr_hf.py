"""Conditional DETR against transformers' own, written for transformers 5.23.0.

Same weights, same padded batch of two sizes. Facts about that version:

- With `auxiliary_loss=True` its decoder hands the *normalised* output of each layer to
  the next one, so also to λ. The authors' code normalises only the copy that the heads
  read, and so do we. So the forward pass runs with it off, and the auxiliary
  predictions are made here, from the hidden states of the layers.
- Its loss weighs classes 1 (authors: 2), whatever `cls_loss_coefficient` says. Terms
  are compared one by one, their sum with the authors' weights.
- It makes the waves of the reference points with float32 wavelengths always, so for
  float64 that one function is replaced here; in float32 its own is compared.
- It freezes all of a ResNet that is not timm's, so that is unfrozen here.
"""

import copy

import pytest
import torch
import transformers
from agreement import assert_same, worst
from peers import (
    LOSS_NAMES,
    TARGETS,
    TOLERANCE,
    WRITTEN_FOR,
    exact_waves,
    gradients,
    images,
    labels,
    stir,
    worst_gradient,
)
from small import RESNET, small_conditional_config
from transformers import (
    ConditionalDetrConfig,
    ConditionalDetrForObjectDetection,
    ResNetConfig,
)
from transformers.models.conditional_detr import modeling_conditional_detr as peer

from detr_steps import ConditionalDETR, ConditionalDETRConfig, interop
from detr_steps.nn.conditional import split_heads
from detr_steps.nn.trace import stack_maps

SMALL = small_conditional_config(classes=7, backbone=RESNET)
WEIGHTS = {"class": 2.0, "box": 5.0, "giou": 2.0}  # the authors'


def build_theirs(
    config: ConditionalDETRConfig, depths: list[int]
) -> ConditionalDetrForObjectDetection:
    """The same sizes in their words, with weights that matter."""
    model = ConditionalDetrForObjectDetection(
        ConditionalDetrConfig(
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone=None,
            backbone_config=ResNetConfig(out_features=["stage4"], depths=depths),
            attn_implementation="eager",
            num_labels=config.classes,
            d_model=config.channels,
            encoder_layers=config.encoder_layers,
            decoder_layers=config.decoder_layers,
            encoder_attention_heads=config.heads,
            decoder_attention_heads=config.heads,
            encoder_ffn_dim=config.ffn_channels,
            decoder_ffn_dim=config.ffn_channels,
            num_queries=config.queries,
        )
    ).eval()
    stir(model)
    return model


class Pair:
    """Both models with the same weights, and what both say about the same batch."""

    def __init__(self, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.dtype = dtype
        self.theirs = build_theirs(SMALL, [1, 1, 1, 1]).to(dtype)
        self.theirs.model.unfreeze_backbone()
        self.ours = ConditionalDETR(SMALL).to(dtype)
        self.report = interop.load_hf(self.ours, self.theirs.state_dict())
        self.batch = images(dtype, (64, 128), (96, 64))
        self.output = self.ours(self.batch, trace=True)
        self.expected = self.theirs(
            self.batch.pixels,
            pixel_mask=(~self.batch.padding).long(),
            output_attentions=True,
            output_hidden_states=True,
        )
        self.points = self.their_points()
        # their tuple: the input, the raw output of all layers but one, the final one
        _, *raw, final = self.expected.decoder_hidden_states
        norm = self.theirs.model.decoder.layernorm
        content = torch.stack([*map(norm, raw), final])  # [Y, B, Q, C]
        self.logits = self.theirs.class_labels_classifier(content)
        deltas = self.theirs.bbox_predictor(content)
        start = peer.inverse_sigmoid(self.points)
        self.boxes = (deltas + torch.cat((start, 0 * start), -1)).sigmoid()

    def their_points(self) -> torch.Tensor:
        """Their reference points `[Q, 2]`, which they do not return."""
        rows = self.theirs.model.query_position_embeddings.weight
        return self.theirs.model.decoder.ref_point_head(rows).sigmoid()

    def loss(self) -> dict[str, torch.Tensor]:
        """Terms of their criterion on predictions of all layers, under our names."""
        config = copy.copy(self.theirs.config)
        config.auxiliary_loss = True
        last = self.logits[-1], labels(self.dtype), torch.device("cpu"), self.boxes[-1]
        _, terms, _ = self.theirs.loss_function(*last, config, self.logits, self.boxes)
        return {
            f"{ours}{layer}": terms[f"{theirs}{layer}"]
            for ours, theirs in LOSS_NAMES.items()
            for layer in ("", "_0", "_1")
        }

    def total(self) -> torch.Tensor:
        terms = self.loss().items()
        return sum(WEIGHTS[name.split("_")[0]] * value for name, value in terms)


@pytest.fixture(scope="module", params=TOLERANCE, ids=str)
def pair(request):
    with pytest.MonkeyPatch.context() as patch:
        if request.param == torch.float64:
            patch.setattr(peer, "encode_sinusoidal_position_embedding", exact_waves)
        yield Pair(request.param)


def test_the_version_of_transformers():
    assert transformers.__version__ == WRITTEN_FOR, (
        f"parity was written for {WRITTEN_FOR}: check its Conditional DETR again"
    )


def test_every_weight_has_a_place(pair):
    assert pair.report.complete
    assert len(pair.report.loaded) == len(pair.ours.state_dict())


def test_logits_and_boxes_of_all_layers(pair):
    tolerance = TOLERANCE[pair.dtype]
    assert_same(pair.output.logits, pair.logits, tolerance)
    assert_same(pair.output.boxes, pair.boxes, tolerance)
    assert_same(pair.output.logits[-1], pair.expected.logits, tolerance)
    assert_same(pair.output.boxes[-1], pair.expected.pred_boxes, tolerance)


def test_one_reference_point_for_all_layers(pair):
    for points in pair.output.trace.references:
        assert_same(points, pair.points.expand_as(points), TOLERANCE[pair.dtype])


@pytest.mark.parametrize(
    ("mine", "other"),
    [
        ("encoder", "encoder_attentions"),
        ("decoder_self", "decoder_attentions"),
        ("decoder_cross", "cross_attentions"),
    ],
)
def test_attention_maps(pair, mine, other):
    maps = stack_maps(getattr(pair.output.trace, mine))  # [layers, B, M, Q, S]
    assert_same(maps, torch.stack(getattr(pair.expected, other)), TOLERANCE[pair.dtype])
    # the comparison means something: most rows are not flat, and padding is seen
    assert (maps.amax(-1) > 1.5 / maps.shape[-1]).float().mean() > 0.7
    assert mine == "decoder_self" or (maps == 0).any()


def test_loss_with_all_auxiliary_terms(pair):
    terms, expected = pair.ours.loss(pair.output, TARGETS), pair.loss()
    assert set(terms) == set(expected) | {"total"}
    for name, value in expected.items():
        assert_same(terms[name], value, TOLERANCE[pair.dtype])
    assert_same(terms["total"], pair.total(), TOLERANCE[pair.dtype])


def test_gradient_of_every_trained_weight(pair):
    pair.theirs.zero_grad()
    pair.total().backward(retain_graph=True)
    expected = gradients(pair.theirs, ConditionalDETR(SMALL).to(pair.dtype))
    pair.ours.zero_grad()
    output = pair.ours(pair.batch)  # without trace: through the fused attention
    pair.ours.loss(output, TARGETS)["total"].backward()
    assert worst_gradient(pair.ours, expected) <= TOLERANCE[pair.dtype]


def test_blocks_of_content_and_position_are_noticed(pair, monkeypatch):
    """All content first and then all position is another split into heads."""

    def blocks(content: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        whole = [x.transpose(1, 2).flatten(2) for x in (content, position)]
        return split_heads(torch.cat(whole, -1), content.shape[1])

    wrong = copy.deepcopy(pair.ours)
    for layer in wrong.decoder:
        monkeypatch.setattr(layer.cross_attention, "combine", blocks)
    assert worst(wrong(pair.batch).logits, pair.logits) > 0.01


def test_their_auxiliary_mode_is_another_network(pair):
    """If this fails, transformers has changed: the docstring above is out of date."""
    theirs, mask = pair.theirs, (~pair.batch.padding).long()
    theirs.model.decoder.config.auxiliary_loss = True
    try:
        logits = theirs(pair.batch.pixels, pixel_mask=mask).logits
    finally:
        theirs.model.decoder.config.auxiliary_loss = False
    assert worst(logits, pair.logits[-1]) > 0.01


def test_full_size_coco_r50():
    torch.manual_seed(0)
    config = ConditionalDETRConfig.coco_r50()
    theirs = build_theirs(config, [3, 4, 6, 3])
    ours = ConditionalDETR(config)
    interop.load_hf(ours, theirs.state_dict())
    batch = images(torch.float32, (96, 128), (128, 64))
    with torch.no_grad():
        output = ours(batch)
        expected = theirs(batch.pixels, pixel_mask=(~batch.padding).long())
    assert_same(output.logits[-1], expected.logits, 1e-4)
    assert_same(output.boxes[-1], expected.pred_boxes, 1e-4)


def test_a_saved_folder_loads_like_the_model(pair, tmp_path):
    pair.theirs.save_pretrained(tmp_path)  # writes the names of transformers 4
    ours = ConditionalDETR(SMALL).to(pair.dtype)
    interop.load_hf(ours, tmp_path)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, pair.ours.state_dict()[name]), name
