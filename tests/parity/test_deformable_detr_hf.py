"""Deformable DETR against transformers' own, written for transformers 5.23.0.

Same weights, same padded batch of two sizes, four levels: plain, with refinement, with
two stages. Facts about that version:

- With refinement it ties the class heads of all layers to the first; the official code
  gives each layer its own. They are set apart here before weights are drawn.
- It makes the waves that describe a proposal in float32 always, so for float64 that
  one method is replaced here; in float32 its own is compared.
- Its loss leaves out the proposals of the first stage, and weighs classes 1 (official
  2), in the matching too unless told otherwise. Terms are compared one by one; those of
  the proposals come from its own criterion, with all labels 0 as the official code has.
- It freezes all of a ResNet that is not timm's, so that is unfrozen here.
- Offsets at the start are whole pixels and references are pixel centres: samples then
  lie exactly where bilinear reading has a corner and no derivative. So the
  offsets are drawn at random too.
"""

import copy
import math

import pytest
import torch
import transformers
from agreement import assert_same, worst
from transformers import (
    DeformableDetrConfig,
    DeformableDetrForObjectDetection,
    ResNetConfig,
)
from transformers.loss.loss_deformable_detr import (
    DeformableDetrHungarianMatcher,
    DeformableDetrImageLoss,
)

from detr_steps import DeformableDETR, DeformableDETRConfig, ImageBatch, interop
from detr_steps.nn import resnet
from detr_steps.nn.deform_attention import Sampling
from detr_steps.nn.trace import stack_maps
from detr_steps.systems.query_sources import LearnedPoints, Proposals

WRITTEN_FOR = "5.23.0"
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}  # of the largest value
CLASSES = 7
QUERIES = 12
KINDS = {
    "plain": {},
    "refine": {"refine": True},
    "two_stage": {"refine": True, "two_stage": True},
}


def build_theirs(refine: bool = False, two_stage: bool = False):
    stages = ["stage2", "stage3", "stage4"]
    config = DeformableDetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=ResNetConfig(out_features=stages, depths=[1, 1, 1, 1]),
        attn_implementation="eager",
        disable_custom_kernels=True,
        auxiliary_loss=True,
        with_box_refine=refine,
        two_stage=two_stage,
        num_labels=CLASSES,
        num_queries=QUERIES,
        two_stage_num_proposals=QUERIES,
        d_model=64,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_layers=2,
        decoder_layers=3,
        encoder_ffn_dim=96,
        decoder_ffn_dim=96,
        decoder_n_points=3,
        class_cost=2,
    )
    model = DeformableDetrForObjectDetection(config).eval()
    if refine and not two_stage:
        heads = [copy.deepcopy(head) for head in model.class_embed]
        model.class_embed = torch.nn.ModuleList(heads)
    stir(model)
    return model


@torch.no_grad()
def stir(model: torch.nn.Module) -> None:
    """Give every weight a size at which it matters."""
    for name, value in model.state_dict(keep_vars=True).items():
        if not value.is_floating_point():
            continue
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.dim() == 4 and "backbone" in name:
            value.mul_(0.6)  # keeps the residual sums from growing
        elif name.endswith("sampling_offsets.bias"):
            value.uniform_(-3, 3)  # pixels
        elif value.dim() > 1:
            value.normal_(0, value[0].numel() ** -0.5)
        elif "norm" in name and name.endswith("weight"):
            value.normal_(1, 0.3)
        else:
            value.normal_(0, 0.2)


def exact_waves(model: torch.nn.Module) -> None:
    """Describe proposals in the dtype of the model, instead of float32."""

    def describe(logits: torch.Tensor) -> torch.Tensor:
        half = model.config.d_model // 2
        share = logits.sigmoid() * 2 * math.pi
        waves = []
        for channel in range(half):
            angle = share / 10000 ** (2 * (channel // 2) / half)
            waves.append(angle.sin() if channel % 2 == 0 else angle.cos())
        return torch.stack(waves, -1).flatten(2)

    model.model.get_proposal_pos_embed = describe


def build_ours(refine: bool = False, two_stage: bool = False) -> DeformableDETR:
    return DeformableDETR(
        DeformableDETRConfig(
            classes=CLASSES,
            backbone=resnet.ResNetConfig(depths=(1, 1, 1, 1)),
            channels=64,
            heads=4,
            ffn_channels=96,
            encoder_layers=2,
            decoder_layers=3,
            encoder_sampling=Sampling(heads=4),
            decoder_sampling=Sampling(heads=4, points=3),
            queries=QUERIES,
            query_source=Proposals() if two_stage else LearnedPoints(),
            refine=refine,
        )
    )


def images(dtype: torch.dtype, *sizes: tuple[int, int]) -> ImageBatch:
    generator = torch.Generator().manual_seed(1)
    return ImageBatch.from_list(
        [torch.randn(3, *size, generator=generator).to(dtype) for size in sizes]
    )


TARGETS = [
    {
        "boxes": torch.tensor([[0.5, 0.4, 0.3, 0.2], [0.2, 0.7, 0.3, 0.5]]),
        "labels": torch.tensor([2, 6]),
    },
    {"boxes": torch.tensor([[0.6, 0.6, 0.7, 0.1]]), "labels": torch.tensor([0])},
]
WEIGHTS = {"class": 2.0, "box": 5.0, "giou": 2.0}
THEIR_NAMES = {"class": "loss_ce", "box": "loss_bbox", "giou": "loss_giou"}


class Pair:
    """Both models with the same weights, and what both say about the same batch."""

    def __init__(self, kind: str, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.kind, self.dtype = KINDS[kind], dtype
        self.theirs = build_theirs(**self.kind).to(dtype)
        self.theirs.model.unfreeze_backbone()
        if dtype == torch.float64:
            exact_waves(self.theirs)
        self.ours = build_ours(**self.kind).to(dtype)
        self.report = interop.load_hf(self.ours, self.theirs.state_dict())
        self.batch = images(dtype, (64, 128), (96, 64))
        self.output = self.ours(self.batch, trace=True)
        self.labels = [
            {"class_labels": t["labels"], "boxes": t["boxes"].to(dtype)}
            for t in TARGETS
        ]
        self.expected = self.theirs(
            self.batch.pixels,
            pixel_mask=(~self.batch.padding).long(),
            labels=self.labels,
            output_attentions=True,
        )

    def expected_terms(self) -> dict[str, torch.Tensor]:
        """Their loss terms under our names, the proposals' included."""
        terms = self.expected.loss_dict
        named = {
            f"{ours}{layer}": terms[f"{theirs}{layer}"]
            for ours, theirs in THEIR_NAMES.items()
            for layer in ("", "_0", "_1")
        }
        if "two_stage" in self.kind:
            matcher = DeformableDetrHungarianMatcher(
                class_cost=2, bbox_cost=5, giou_cost=2
            )
            parts = ["labels", "boxes"]
            criterion = DeformableDetrImageLoss(matcher, CLASSES, 0.25, parts)
            first = {
                "logits": self.expected.enc_outputs_class,
                "pred_boxes": self.expected.enc_outputs_coord_logits.sigmoid(),
            }
            objects = [
                t | {"class_labels": torch.zeros_like(t["class_labels"])}
                for t in self.labels
            ]
            terms = criterion(first, objects)
            named |= {
                f"{ours}_proposals": terms[theirs]
                for ours, theirs in THEIR_NAMES.items()
            }
        return named

    def expected_total(self) -> torch.Tensor:
        terms = self.expected_terms()
        return sum(WEIGHTS[name.split("_")[0]] * value for name, value in terms.items())


@pytest.fixture(scope="module", params=[(k, d) for k in KINDS for d in TOLERANCE])
def pair(request) -> Pair:
    return Pair(*request.param)


def test_the_version_of_transformers():
    assert transformers.__version__ == WRITTEN_FOR, (
        f"parity was written for {WRITTEN_FOR}: check its Deformable DETR again"
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


def test_references_of_all_layers(pair):
    mine = pair.output.trace.references
    first = pair.expected.init_reference_points
    assert_same(mine[0], first.expand_as(mine[0]), TOLERANCE[pair.dtype])
    rest = pair.expected.intermediate_reference_points.unbind(1)
    for reference, their in zip(mine[1:], rest):
        assert_same(reference, their, TOLERANCE[pair.dtype])


def test_proposals_of_all_tokens(pair):
    if "two_stage" not in pair.kind:
        assert pair.output.extra == ()
        return
    (proposals,) = pair.output.extra
    logits, boxes = proposals.logits, proposals.boxes
    tolerance = TOLERANCE[pair.dtype]
    assert_same(logits[0], pair.expected.enc_outputs_class, tolerance)
    assert_same(boxes[0], pair.expected.enc_outputs_coord_logits.sigmoid(), tolerance)
    assert (boxes == 1).all(-1).any()  # the padding of the second image proposes none


def test_weights_of_all_points(pair):
    tolerance = TOLERANCE[pair.dtype]
    trace = pair.output.trace
    for mine, theirs in (
        (trace.encoder, pair.expected.encoder_attentions),
        (trace.decoder_cross, pair.expected.cross_attentions),
    ):
        for points, weights in zip(mine, theirs, strict=True):
            assert_same(points.weights, weights, tolerance)
    theirs = torch.stack(pair.expected.decoder_attentions)
    assert_same(stack_maps(trace.decoder_self), theirs, tolerance)


def test_loss_with_all_auxiliary_terms(pair):
    terms = pair.ours.loss(pair.output, TARGETS)
    expected = pair.expected_terms()
    tolerance = TOLERANCE[pair.dtype]
    assert set(terms) == set(expected) | {"total"}
    for name, value in expected.items():
        assert_same(terms[name], value, tolerance)
    assert_same(terms["total"], pair.expected_total(), tolerance)


def test_gradient_of_every_trained_weight(pair):
    pair.theirs.zero_grad()
    pair.expected_total().backward(retain_graph=True)
    expected = theirs_as_ours(pair)
    pair.ours.zero_grad()
    pair.ours.loss(pair.ours(pair.batch), TARGETS)["total"].backward()

    trained = [n for n, p in pair.ours.named_parameters() if p.requires_grad]
    largest = max(expected[name].abs().max() for name in trained)
    for name, parameter in pair.ours.named_parameters():
        if name not in trained:
            assert parameter.grad is None and name.startswith("backbone.")
            continue
        # a key's bias has no gradient (softmax ignores it): hence the second scale
        scale = torch.maximum(expected[name].abs().max(), 1e-2 * largest)
        difference = (parameter.grad - expected[name]).abs().max()
        assert difference <= TOLERANCE[pair.dtype] * scale, name


def theirs_as_ours(pair) -> dict[str, torch.Tensor]:
    """Their gradients under our names, by way of the loader itself.

    A parameter of several names has one gradient, given under each of them.
    """
    parameters = pair.theirs.state_dict(keep_vars=True)
    grads = {
        name: torch.zeros_like(value) if value.grad is None else value.grad
        for name, value in parameters.items()
    }
    carrier = build_ours(**pair.kind).to(pair.dtype)
    interop.load_hf(carrier, grads)
    return carrier.state_dict()


def test_swapped_norms_are_noticed(pair):
    """Their decoder's norms 1 and 2 have the names of DETR's 2 and 1."""
    wrong = copy.deepcopy(pair.ours)
    layer = wrong.decoder[1]
    layer.self_norm, layer.cross_norm = layer.cross_norm, layer.self_norm
    assert worst(wrong(pair.batch).logits, pair.output.logits) > 0.01


def test_offsets_of_swapped_axes_are_noticed(pair):
    wrong = copy.deepcopy(pair.ours)
    offsets = wrong.encoder[0].attention.offsets
    with torch.no_grad():
        for part in (offsets.weight, offsets.bias):
            part.copy_(part.unflatten(0, (-1, 2)).flip(1).flatten(0, 1))
    assert worst(wrong(pair.batch).logits, pair.output.logits) > 0.001


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_folder_loads_like_the_model(kind, tmp_path):
    theirs = build_theirs(**KINDS[kind])
    theirs.save_pretrained(tmp_path)  # writes the names of transformers 4
    one, other = build_ours(**KINDS[kind]), build_ours(**KINDS[kind])
    interop.load_hf(one, tmp_path)
    interop.load_hf(other, theirs.state_dict())
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
