"""DETR against transformers' DetrForObjectDetection, written for transformers 5.23.0.

Same weights, same padded batch of two sizes. Three facts about that version:

- With `auxiliary_loss=True` its decoder hands the *normalised* output of each layer to
  the next one. The paper's code normalises only the copy that the heads read, and so do
  we. So the forward pass runs with it off, and the auxiliary predictions are made here,
  from the hidden states of the layers; matching and loss are transformers' own.
- Its criterion makes a float32 weight table, which cross-entropy refuses for float64
  logits: the default dtype is float64 while that loss is computed.
- It freezes all of a ResNet that is not timm's (it looks for "stage.1", the names say
  "stages.1"), so what DETR trains is unfrozen here before gradients are compared.
"""

import copy

import pytest
import torch
import transformers
from agreement import assert_same, worst
from small import RESNET, small_config
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

import detr_steps
from detr_steps import DETR, ImageBatch, interop
from detr_steps.nn.trace import stack_maps

WRITTEN_FOR = "5.23.0"
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8}  # of the largest value
SMALL = small_config(classes=7, backbone=RESNET)


def theirs_small() -> DetrForObjectDetection:
    """The same sizes as SMALL, in their words."""
    backbone = ResNetConfig(out_features=["stage4"], depths=list(RESNET.depths))
    return build_theirs(
        backbone,
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


def build_theirs(backbone: ResNetConfig, **settings) -> DetrForObjectDetection:
    config = DetrConfig(
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        backbone_config=backbone,
        attn_implementation="eager",
        **settings,
    )
    model = DetrForObjectDetection(config).eval()
    stir(model)
    return model


@torch.no_grad()
def stir(model: torch.nn.Module) -> None:
    """Give every weight a size at which it matters: fresh ones barely attend."""
    for name, value in model.state_dict().items():
        if not value.is_floating_point():
            continue
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.dim() == 4 and "backbone" in name:
            value.mul_(0.6)  # keeps the residual sums from growing
        elif value.dim() > 1:
            value.normal_(0, value[0].numel() ** -0.5)
            if ".q_proj." in name or ".k_proj." in name:
                value.mul_(2)
        elif "norm" in name and name.endswith("weight"):
            value.normal_(1, 0.3)
        else:
            value.normal_(0, 0.2)
    model.model.query_position_embeddings.weight.normal_()


def ours_small() -> DETR:
    return DETR(SMALL)


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


class Pair:
    """Both models with the same weights, and what both say about the same batch."""

    def __init__(self, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.theirs = theirs_small().to(dtype)
        self.theirs.model.unfreeze_backbone()
        self.ours = ours_small().to(dtype)
        self.report = interop.load_hf(self.ours, self.theirs.state_dict())
        self.batch = images(dtype, (64, 128), (96, 64))
        self.output = self.ours(self.batch, trace=True)
        self.expected = self.theirs(
            self.batch.pixels,
            pixel_mask=(~self.batch.padding).long(),
            output_attentions=True,
            output_hidden_states=True,
        )
        # their tuple: the input, the raw output of all layers but one, the final one
        _, *raw, final = self.expected.decoder_hidden_states
        norm = self.theirs.model.decoder.layernorm
        content = torch.stack([*map(norm, raw), final])  # [Y, B, Q, C]
        self.logits = self.theirs.class_labels_classifier(content)
        self.boxes = self.theirs.bbox_predictor(content).sigmoid()


@pytest.fixture(scope="module", params=TOLERANCE, ids=str)
def pair(request) -> Pair:
    return Pair(request.param)


def test_the_version_of_transformers():
    assert transformers.__version__ == WRITTEN_FOR, (
        f"parity was written for {WRITTEN_FOR}: check its DETR's names and loss again"
    )


def test_every_weight_has_a_place(pair):
    assert pair.report.complete
    assert len(pair.report.loaded) == len(pair.ours.state_dict())


def test_logits_and_boxes_of_all_layers(pair):
    tolerance = TOLERANCE[pair.batch.pixels.dtype]
    assert_same(pair.output.logits, pair.logits, tolerance)
    assert_same(pair.output.boxes, pair.boxes, tolerance)
    assert_same(pair.output.logits[-1], pair.expected.logits, tolerance)
    assert_same(pair.output.boxes[-1], pair.expected.pred_boxes, tolerance)


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
    expected = torch.stack(getattr(pair.expected, other))
    assert_same(maps, expected, TOLERANCE[maps.dtype])
    # the comparison means something: no row is flat, and padding is seen
    assert (maps.amax(-1) > 1.5 / maps.shape[-1]).float().mean() > 0.9
    assert mine == "decoder_self" or (maps == 0).any()


def official_loss(pair) -> tuple[torch.Tensor, dict]:
    """Transformers' criterion, on predictions of all layers."""
    config = copy.copy(pair.theirs.config)
    config.auxiliary_loss = True
    dtype = pair.logits.dtype
    labels = [
        {"class_labels": t["labels"], "boxes": t["boxes"].to(dtype)} for t in TARGETS
    ]
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        loss, terms, _ = pair.theirs.loss_function(
            pair.logits[-1],
            labels,
            torch.device("cpu"),
            pair.boxes[-1],
            config,
            pair.logits,
            pair.boxes,
        )
    finally:
        torch.set_default_dtype(before)
    return loss, terms


def test_loss_with_all_auxiliary_terms(pair):
    loss, terms = official_loss(pair)
    mine = pair.ours.loss(pair.output, TARGETS)
    tolerance = TOLERANCE[loss.dtype]
    assert_same(mine["total"], loss, tolerance)
    for ours, theirs in {"class": "ce", "box": "bbox", "giou": "giou"}.items():
        for layer in ("", "_0", "_1"):
            value = mine[f"{ours}{layer}"]
            assert_same(value, terms[f"loss_{theirs}{layer}"], tolerance)


def test_gradient_of_every_trained_weight(pair):
    pair.theirs.zero_grad()
    official_loss(pair)[0].backward(retain_graph=True)
    expected = theirs_as_ours(pair)
    pair.ours.zero_grad()
    output = pair.ours(pair.batch)  # without trace: through the fused attention
    pair.ours.loss(output, TARGETS)["total"].backward()

    trained = [n for n, p in pair.ours.named_parameters() if p.requires_grad]
    largest = max(expected[name].abs().max() for name in trained)
    tolerance = TOLERANCE[pair.batch.pixels.dtype]
    for name, parameter in pair.ours.named_parameters():
        if name not in trained:
            assert parameter.grad is None and name.startswith("backbone.")
            continue
        # a key's bias has no gradient (softmax ignores it): hence the second scale
        scale = torch.maximum(expected[name].abs().max(), 1e-2 * largest)
        difference = (parameter.grad - expected[name]).abs().max()
        assert difference <= tolerance * scale, name


def theirs_as_ours(pair) -> dict[str, torch.Tensor]:
    """Their gradients under our names, by way of the loader itself."""
    grads = {n: torch.zeros_like(v) for n, v in pair.theirs.state_dict().items()}
    grads |= {
        n: p.grad for n, p in pair.theirs.named_parameters() if p.grad is not None
    }
    carrier = ours_small().to(pair.batch.pixels.dtype)
    interop.load_hf(carrier, grads)
    return carrier.state_dict()


def test_swapped_queries_and_keys_are_noticed(pair):
    wrong = copy.deepcopy(pair.ours)
    attention = wrong.encoder[1].attention
    attention.query, attention.key = attention.key, attention.query
    output = wrong(pair.batch, trace=True)
    theirs, mine = (x.trace.encoder[1].weights for x in (output, pair.output))
    assert worst(theirs, mine) > 0.1
    assert worst(output.logits, pair.logits) > 100 * TOLERANCE[torch.float32]


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
    theirs = build_theirs(ResNetConfig(out_features=["stage4"]), num_labels=91)
    ours = DETR(detr_steps.DETRConfig.coco_r50())
    interop.load_hf(ours, theirs.state_dict())
    batch = images(torch.float32, (96, 128), (128, 64))
    with torch.no_grad():
        output = ours(batch)
        expected = theirs(batch.pixels, pixel_mask=(~batch.padding).long())
    assert_same(output.logits[-1], expected.logits, 1e-4)
    assert_same(output.boxes[-1], expected.pred_boxes, 1e-4)


def test_a_saved_folder_loads_like_the_model(pair, tmp_path):
    pair.theirs.save_pretrained(tmp_path)  # writes the names of transformers 4
    ours = ours_small().to(pair.batch.pixels.dtype)
    interop.load_hf(ours, tmp_path)
    for name, value in ours.state_dict().items():
        assert torch.equal(value, pair.ours.state_dict()[name]), name
