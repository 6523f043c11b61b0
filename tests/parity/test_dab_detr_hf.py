"""DAB-DETR against transformers' own, written for transformers 5.23.0.

Same weights, same padded batch of two sizes; anchors inside and at the border; without
patterns and with two. Facts about that version:

- Its inverse sigmoid cuts at 1e-5, the authors' at 1e-3, and so does ours: an anchor at
  the border moves otherwise. That one function is replaced here.
- It computes waves and the softmax of attention in float32 always, so for float64
  these are replaced; in float32 its own are compared.
- Its loss weighs classes 1, as the authors do, although `cls_loss_coefficient` says 2.
- Dropout is 0.1 unless told otherwise (authors: 0). It is off here.
"""

import contextlib
import copy
import math
from dataclasses import replace
from functools import partial

import pytest
import torch
import transformers
from agreement import assert_same, worst
from peers import (
    LOSS_NAMES,
    TARGETS,
    TOLERANCE,
    WRITTEN_FOR,
    default_dtype,
    exact_waves,
    gradients,
    images,
    labels,
    stir,
    wave,
    worst_gradient,
)
from small import RESNET, small_dab_config
from transformers import DabDetrConfig, DabDetrForObjectDetection, ResNetConfig
from transformers.models.dab_detr import modeling_dab_detr as peer

from detr_steps import DABDETR, DABDETRConfig, interop
from detr_steps.nn.trace import stack_maps

SMALL = small_dab_config(classes=7, backbone=RESNET)
KINDS = {"plain": SMALL, "patterns": replace(SMALL, patterns=2)}
# before the sigmoid: beyond ±11.5 both epsilons cut, beyond ±6.9 only 1e-3
AT_THE_BORDER = [[14.0, -8.0, 3.0, 8.0], [-7.5, 14.0, 8.0, -3.0]]
their_inverse_sigmoid = peer.inverse_sigmoid


def build_theirs(config: DABDETRConfig, depths: list[int]) -> DabDetrForObjectDetection:
    """The same sizes in their words, with weights that matter."""
    model = DabDetrForObjectDetection(
        DabDetrConfig(
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone=None,
            backbone_config=ResNetConfig(out_features=["stage4"], depths=depths),
            attn_implementation="eager",
            auxiliary_loss=True,
            num_labels=config.classes,
            hidden_size=config.channels,
            encoder_layers=config.encoder_layers,
            decoder_layers=config.decoder_layers,
            encoder_attention_heads=config.heads,
            decoder_attention_heads=config.heads,
            encoder_ffn_dim=config.ffn_channels,
            decoder_ffn_dim=config.ffn_channels,
            num_queries=config.queries,
            num_patterns=config.patterns,
            dropout=config.dropout,
        )
    ).eval()
    stir(model)
    with torch.no_grad():
        borders = torch.tensor(AT_THE_BORDER)
        model.model.query_refpoint_embeddings.weight[: len(borders)] = borders
    return model


def exact_positions(
    self: torch.nn.Module, pixel_values: torch.Tensor, pixel_mask: torch.Tensor
) -> torch.Tensor:
    """Their waves of the map, in float64."""
    half, waves = self.config.hidden_size // 2, []
    for axis, temperature in (
        (1, self.temperature_height),
        (2, self.temperature_width),
    ):
        count = pixel_mask.double().cumsum(axis)
        angle = count / (count.amax(axis, keepdim=True) + 1e-6) * 2 * math.pi
        waves += [wave(angle, channel, half, temperature) for channel in range(half)]
    return torch.stack(waves, 1)


@contextlib.contextmanager
def authors_code(dtype: torch.dtype):
    """What the docstring above says is replaced."""
    softmax = torch.nn.functional.softmax
    with pytest.MonkeyPatch.context() as patch, default_dtype(dtype):
        patch.setattr(peer, "inverse_sigmoid", partial(their_inverse_sigmoid, eps=1e-3))
        if dtype == torch.float64:
            patch.setattr(
                torch.nn.functional,
                "softmax",
                lambda x, dim, dtype=None: softmax(x, dim=dim),
            )
            patch.setattr(peer, "encode_sinusoidal_position_embedding", exact_waves)
            patch.setattr(peer.DabDetrSinePositionEmbedding, "forward", exact_positions)
        yield


class Pair:
    """Both models with the same weights, and what both say about the same batch."""

    def __init__(self, kind: str, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.config, self.dtype = KINDS[kind], dtype
        self.theirs = build_theirs(self.config, [1, 1, 1, 1]).to(dtype)
        self.ours = DABDETR(self.config).to(dtype)
        self.report = interop.load_hf(self.ours, self.theirs.state_dict())
        self.batch = images(dtype, (64, 128), (96, 64))
        self.output = self.ours(self.batch, trace=True)
        with authors_code(dtype):
            self.expected = self.their_output()

    def their_output(self):
        return self.theirs(
            self.batch.pixels,
            pixel_mask=(~self.batch.padding).long(),
            labels=labels(self.dtype),
            output_attentions=True,
            output_hidden_states=True,
        )

    def their_references(self) -> torch.Tensor:
        """Anchors of all layers `[Y, B, Q, 4]`; their detector keeps them back."""
        mask = (~self.batch.padding).long()
        with authors_code(self.dtype), torch.no_grad():
            return self.theirs.model(self.batch.pixels, mask).reference_points


@pytest.fixture(scope="module", params=[(k, d) for k in KINDS for d in TOLERANCE])
def pair(request) -> Pair:
    return Pair(*request.param)


def test_the_version_of_transformers():
    assert transformers.__version__ == WRITTEN_FOR, (
        f"parity was written for {WRITTEN_FOR}: check its DAB-DETR again"
    )


def test_every_weight_has_a_place(pair):
    assert pair.report.complete
    assert len(pair.report.loaded) == len(pair.ours.state_dict())


def test_logits_and_boxes_of_all_layers(pair):
    tolerance = TOLERANCE[pair.dtype]
    for layer, their in enumerate(pair.expected.auxiliary_outputs):
        assert_same(pair.output.logits[layer], their["logits"], tolerance)
        assert_same(pair.output.boxes[layer], their["pred_boxes"], tolerance)
    assert_same(pair.output.logits[-1], pair.expected.logits, tolerance)
    assert_same(pair.output.boxes[-1], pair.expected.pred_boxes, tolerance)


def test_anchors_of_all_layers(pair):
    mine = torch.stack(pair.output.trace.references)
    assert_same(mine, pair.their_references().expand_as(mine), TOLERANCE[pair.dtype])
    assert worst(mine[1], mine[0]) > 0.01  # they move


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
    terms = pair.ours.loss(pair.output, TARGETS)
    for ours, theirs in LOSS_NAMES.items():
        for layer in ("", "_0", "_1"):
            expected = pair.expected.loss_dict[f"{theirs}{layer}"]
            assert_same(terms[f"{ours}{layer}"], expected, TOLERANCE[pair.dtype])
    assert_same(terms["total"], pair.expected.loss, TOLERANCE[pair.dtype])


def test_gradient_of_every_trained_weight(pair):
    pair.theirs.zero_grad()
    pair.expected.loss.backward(retain_graph=True)
    expected = gradients(pair.theirs, DABDETR(pair.config).to(pair.dtype))
    pair.ours.zero_grad()
    output = pair.ours(pair.batch)  # without trace: through the fused attention
    pair.ours.loss(output, TARGETS)["total"].backward()
    assert worst_gradient(pair.ours, expected) <= TOLERANCE[pair.dtype]


def test_their_epsilon_moves_anchors_at_the_border_otherwise(pair):
    """If this fails, transformers has changed: the docstring above is out of date."""
    mask = (~pair.batch.padding).long()
    theirs = pair.theirs.to(torch.float32)
    try:
        with torch.no_grad():
            boxes = theirs(pair.batch.pixels.float(), mask).pred_boxes
    finally:
        theirs.to(pair.dtype)
    difference = (boxes - pair.output.boxes[-1]).abs().amax((0, 2))  # [Q]
    assert difference[:2].min() > 5e-4


def test_queries_that_go_on_from_the_predicted_box_are_noticed(pair):
    """The anchor moves by the head of content *without* the norm."""
    wrong = copy.deepcopy(pair.ours)
    wrong.decoder_norm = torch.nn.Identity()  # then both boxes are one
    tight = wrong(pair.batch, trace=True)
    assert_same(tight.trace.references[1], tight.boxes[0], 1e-6)
    assert worst(pair.output.trace.references[1], pair.output.boxes[0]) > 0.001


def test_full_size_coco_r50():
    torch.manual_seed(0)
    config = DABDETRConfig.coco_r50()
    theirs = build_theirs(config, [3, 4, 6, 3])
    ours = DABDETR(config)
    interop.load_hf(ours, theirs.state_dict())
    batch = images(torch.float32, (96, 128), (128, 64))
    with torch.no_grad(), authors_code(torch.float32):
        output = ours(batch)
        expected = theirs(batch.pixels, pixel_mask=(~batch.padding).long())
    assert_same(output.logits[-1], expected.logits, 1e-4)
    assert_same(output.boxes[-1], expected.pred_boxes, 1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_folder_loads_like_the_model(kind, tmp_path):
    theirs = build_theirs(KINDS[kind], [1, 1, 1, 1])
    theirs.save_pretrained(tmp_path)
    one, other = DABDETR(KINDS[kind]), DABDETR(KINDS[kind])
    interop.load_hf(one, tmp_path)
    interop.load_hf(other, theirs.state_dict())
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
