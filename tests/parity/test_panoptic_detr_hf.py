"""PanopticDETR against transformers' DetrForSegmentation, written for 5.23.0.

Same weights, same padded batch of two sizes. What is peculiar about that version is
told in test_detr_hf.py; auxiliary losses are off here, for their decoder then computes
another network, and those of masks do not exist.
"""

import copy

import pytest
import torch
import transformers
from agreement import assert_same, worst
from peers import (
    TARGETS,
    TOLERANCE,
    WRITTEN_FOR,
    default_dtype,
    gradients,
    images,
    labels,
    stir,
    worst_gradient,
)
from small import RESNET, small_config
from transformers import DetrConfig, DetrForSegmentation, ResNetConfig

from detr_steps import PanopticDETR, PanopticDETRConfig, interop
from detr_steps.objective.layer_weights import LayerWeights
from detr_steps.objective.masks import upsample

STAGES = ["stage1", "stage2", "stage3", "stage4"]
SIZES = vars(small_config(classes=7, backbone=RESNET, channels=64, heads=8))
SMALL = PanopticDETRConfig(**SIZES, things=4)
LAST_ONLY = LayerWeights("none")


def theirs(depths: list[int], **settings) -> DetrForSegmentation:
    config = DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=ResNetConfig(out_features=STAGES, depths=depths),
        attn_implementation="eager",
        **settings,
    )
    model = DetrForSegmentation(config).eval()
    stir(model)
    with torch.no_grad():  # weights of attention are small: let them say something
        model.mask_head.conv1.conv.weight[:, model.config.d_model :] *= 50
    return model


def theirs_small() -> DetrForSegmentation:
    return theirs(
        list(RESNET.depths),
        num_labels=SMALL.classes,
        d_model=SMALL.channels,
        encoder_layers=SMALL.encoder_layers,
        decoder_layers=SMALL.decoder_layers,
        encoder_attention_heads=SMALL.heads,
        decoder_attention_heads=SMALL.heads,
        encoder_ffn_dim=SMALL.ffn_channels,
        decoder_ffn_dim=SMALL.ffn_channels,
        num_queries=SMALL.queries,
    )


def with_masks(dtype=None) -> list[dict]:
    """The shared targets, each object with a mask of the size of its image."""
    generator = torch.Generator().manual_seed(2)
    masks = [
        torch.rand(len(t["labels"]), *size, generator=generator, dtype=torch.float32)
        > 0.6
        for t, size in zip(TARGETS, ((64, 128), (96, 64)))
    ]
    given = TARGETS if dtype is None else labels(dtype)
    return [t | {"masks": m} for t, m in zip(given, masks)]


def start_with(model: PanopticDETR, content: torch.Tensor) -> None:
    """Let its queries start with this content, not with none."""
    start = model.start

    def started(memory):
        queries, proposals = start(memory)
        return queries._replace(content=content), proposals

    model.start = started


class Pair:
    """Both models with the same weights, and what both say about the same batch."""

    def __init__(self, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.theirs = theirs_small().to(dtype)
        self.theirs.detr.model.unfreeze_backbone()
        self.ours = PanopticDETR(SMALL).to(dtype)
        self.report = interop.load_hf(self.ours, self.theirs.state_dict())
        self.batch = images(dtype, (64, 128), (96, 64))
        # from one content for all, untrained layers make nearly one content for all
        generator = torch.Generator().manual_seed(4)
        content = torch.randn(2, SMALL.queries, SMALL.channels, generator=generator)
        start_with(self.ours, content.to(dtype))
        self.output = self.ours(self.batch, trace=True)
        padding = (~self.batch.padding).long()
        with default_dtype(dtype):  # their table of class weights
            self.expected = self.theirs(
                self.batch.pixels,
                pixel_mask=padding,
                decoder_inputs_embeds=content.to(dtype),
                labels=with_masks(dtype),
            )
        self.tolerance = TOLERANCE[dtype]

    def all_masks(self) -> torch.Tensor:
        """Ours of every query: [B, Q, h, w]."""
        b, q = self.expected.pred_masks.shape[:2]
        image = torch.arange(b).repeat_interleave(q)
        query = torch.arange(q).repeat(b)
        return self.ours.masks(self.output, image, query).unflatten(0, (b, q))


@pytest.fixture(scope="module", params=TOLERANCE, ids=str)
def pair(request) -> Pair:
    return Pair(request.param)


def test_the_version_of_transformers():
    assert transformers.__version__ == WRITTEN_FOR


def test_every_weight_has_a_place(pair):
    assert pair.report.complete
    assert len(pair.report.loaded) == len(pair.ours.state_dict())


def test_logits_boxes_and_masks_of_all_queries(pair):
    assert_same(pair.output.logits[-1], pair.expected.logits, pair.tolerance)
    assert_same(pair.output.boxes[-1], pair.expected.pred_boxes, pair.tolerance)
    masks = pair.all_masks()
    assert_same(masks, pair.expected.pred_masks, pair.tolerance)
    # the comparison means something: queries differ, and cells of each do
    assert masks.std(1).mean() > 0.05 * masks.std()
    assert masks.std((-2, -1)).min() > 0.05


def test_some_masks_are_those_of_all(pair):
    image, query = torch.tensor([1, 0, 1]), torch.tensor([2, 4, 2])
    found = pair.ours.masks(pair.output, image, query)
    assert_same(found, pair.all_masks()[image, query], pair.tolerance)


def last_layer(pair) -> dict[str, torch.Tensor]:
    """Our terms of the last layer, and their sum without auxiliary losses."""
    model = copy.copy(pair.ours)
    model.criterion = copy.copy(pair.ours.criterion)
    object.__setattr__(model.criterion, "layers", LAST_ONLY)
    return model.loss(pair.ours(pair.batch), with_masks())


def test_every_term_of_the_loss(pair):
    mine, official = last_layer(pair), pair.expected.loss_dict
    assert_same(mine["total"], pair.expected.loss, pair.tolerance)
    names = {"class": "ce", "box": "bbox", "giou": "giou"}
    for ours, other in (names | {"mask": "mask", "dice": "dice"}).items():
        assert_same(mine[ours], official[f"loss_{other}"], pair.tolerance)


def test_gradient_of_every_trained_weight(pair):
    pair.theirs.zero_grad()
    pair.expected.loss.backward(retain_graph=True)
    carrier = PanopticDETR(SMALL).to(pair.batch.pixels.dtype)
    expected = gradients(pair.theirs, carrier)
    pair.ours.zero_grad()
    last_layer(pair)["total"].backward()
    assert worst_gradient(pair.ours, expected) <= pair.tolerance


def test_the_softmax_is_over_heads_and_cells_together(pair):
    maps = pair.output.masks.maps  # [B, Q, M, h, w]
    assert torch.allclose(maps.sum((2, 3, 4)), torch.ones_like(maps[..., 0, 0, 0]))
    assert (maps.sum((3, 4)) - 1 / maps.shape[2]).abs().max() > 0.05
    wrong = copy.deepcopy(pair.ours)
    wrong.mask_attention.softmax = "per head"
    masks = wrong.masks(wrong(pair.batch), torch.tensor([0]), torch.tensor([0]))
    assert (
        worst(masks[0], pair.expected.pred_masks[0, 0]) > 10 * TOLERANCE[torch.float32]
    )


def test_masks_are_upsampled_with_corners_not_aligned(pair):
    small = pair.expected.pred_masks[:1, 0]
    options = dict(size=(96, 128), mode="bilinear", align_corners=False)
    wanted = torch.nn.functional.interpolate(small[None], **options)[0]
    assert_same(upsample(small, (96, 128)), wanted, pair.tolerance)


def test_full_size_coco_r50():
    torch.manual_seed(0)
    other = theirs([3, 4, 6, 3], num_labels=250)
    ours = PanopticDETR(PanopticDETRConfig.coco_r50())
    interop.load_hf(ours, other.state_dict())
    batch = images(torch.float32, (64, 96), (96, 64))
    query = torch.tensor([0, 57, 99])
    with torch.no_grad():
        output = ours(batch)
        masks = ours.masks(output, torch.ones_like(query), query)
        expected = other(batch.pixels, pixel_mask=(~batch.padding).long())
    assert_same(output.logits[-1], expected.logits, 1e-4)
    assert_same(masks, expected.pred_masks[1, query], 1e-4)


def test_a_saved_folder_loads_like_the_model(pair, tmp_path):
    pair.theirs.save_pretrained(tmp_path)  # writes the names of transformers 4
    ours = PanopticDETR(SMALL).to(pair.batch.pixels.dtype)
    interop.load_hf(ours, tmp_path)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, pair.ours.state_dict()[name]), name
