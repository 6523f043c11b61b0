"""PanopticDETR: sizes, the head's parts, the loss, and segments from masks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from small import small_panoptic, unequal_batch

from detr_steps import DETRConfig, PanopticDETR, PanopticDETRConfig, Recollect
from detr_steps.describable import from_json, to_json
from detr_steps.detections import Detections
from detr_steps.nn import mask_head
from detr_steps.nn.mask_head import MaskHeadConfig
from detr_steps.objective.classification import Focal
from detr_steps.systems import segmentation
from detr_steps.systems.segmentation import Frame, cut_out, frames, paint, surest

IMAGES = [(32, 48), (40, 24)]  # of unequal_batch()


def target(size, labels=(2, 5)) -> dict:
    """Two objects: the left half of an image and the upper right quarter."""
    masks = torch.zeros(2, *size, dtype=torch.bool)
    masks[0, :, : size[1] // 2] = True
    masks[1, : size[0] // 2, size[1] // 2 :] = True
    boxes = torch.tensor([[0.25, 0.5, 0.5, 1.0], [0.75, 0.25, 0.5, 0.5]])
    return {"boxes": boxes, "labels": torch.tensor(labels), "masks": masks}


NOTHING = {
    "boxes": torch.zeros(0, 4),
    "labels": torch.zeros(0, dtype=torch.int64),
    "masks": torch.zeros(0, 40, 24, dtype=torch.bool),
}
TARGETS = [target(IMAGES[0]), target(IMAGES[1], (0, 4))]


def trained(model) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


# --- sizes and start ---------------------------------------------------------------


def test_trained_parameters_are_those_of_the_paper():
    with torch.device("meta"):
        model = PanopticDETR(PanopticDETRConfig.coco_r50())
        frozen = PanopticDETR(PanopticDETRConfig.coco_r50(freeze_detector=True))
    assert trained(model) == 42_676_888
    assert trained(model.mask_head) == 1_202_073
    assert trained(model.mask_attention) == 131_584
    assert trained(frozen) == 1_202_073 + 131_584


def test_presets_are_those_of_detr():
    r50, tiny = PanopticDETRConfig.coco_r50(), PanopticDETRConfig.tiny()
    assert r50.detector == DETRConfig.coco_r50(classes=250)
    assert tiny.detector == DETRConfig.tiny(classes=10) and tiny.things == 6
    dc5 = PanopticDETRConfig.coco_r50_dc5()
    assert dc5 == replace(r50, backbone=replace(r50.backbone, dilate_last=True))
    for config in (r50, tiny, PanopticDETRConfig.tiny(freeze_detector=True)):
        assert from_json(to_json(config)) == config


def test_the_head_starts_as_the_official_one():
    model = small_panoptic(channels=64)
    for name, value in (*model.mask_head.named_parameters(),):
        if name.endswith("bias"):
            assert (value == 0).all()
        elif "norm" not in name:
            bound = (3 / value[0].numel()) ** 0.5  # kaiming uniform, a = 1
            assert 0.9 * bound < value.abs().max() <= bound
    for part in (model.mask_attention.query, model.mask_attention.key):
        assert (part.bias == 0).all()
        assert 0.98 * (6 / 128) ** 0.5 < part.weight.abs().max() <= (6 / 128) ** 0.5


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        (dict(inputs="nothing"), "inputs 'nothing': one of 'both', 'maps'"),
        (dict(softmax="none"), "softmax 'none': one of 'joint', 'per head'"),
        (dict(finer=-1), "finer -1"),
        (dict(map_scale=0.0), "map_scale 0.0: a number above 0"),
    ],
)
def test_heads_that_cannot_be(settings, fault):
    with pytest.raises(ValueError, match=fault):
        MaskHeadConfig(**settings)


def test_a_scheme_of_several_sets_has_no_last_queries():
    with pytest.raises(ValueError, match="needs scheme Plain"):
        small_panoptic(scheme=Recollect())


# --- the head ----------------------------------------------------------------------


def everything(model, batch) -> tuple:
    """Output, and masks of all queries [B, Q, h, w]."""
    output = model(batch)
    b, q = output.logits.shape[1:3]
    image, query = torch.arange(b).repeat_interleave(q), torch.arange(q).repeat(b)
    return output, model.masks(output, image, query).unflatten(0, (b, q))


def test_masks_have_the_stride_of_the_finest_map():
    for finer, size in ((3, (10, 12)), (1, (5, 6)), (0, (3, 3))):
        config = MaskHeadConfig(finer=finer)
        model = small_panoptic(mask_head=config).eval()
        output, masks = everything(model, unequal_batch())
        assert masks.shape == (2, 5, *size)
        assert model.mask_head.size(output.masks) == size


def plain_head(model, output, image, query) -> torch.Tensor:
    """The head as the paper draws it: everything in one tensor, once for each query."""
    head, source = model.mask_head, output.masks
    maps = source.maps
    if maps is not None:
        maps = maps * head.config.map_scale
    parts = {"maps": maps, "features": source.coarse[:, None]}
    inputs = head.config.inputs
    wanted = ("features", "maps") if inputs == "both" else (inputs,)
    x = torch.cat(
        [parts[name][image, query if name == "maps" else 0 * query] for name in wanted],
        dim=1,
    )
    x = head.blocks[1](head.blocks[0](x))
    for adapter, block, finer in zip(head.adapters, head.blocks[2:], source.features):
        large = torch.nn.functional.interpolate(
            x, size=finer.shape[-2:], mode="nearest"
        )
        x = block(adapter(finer[image]) + large)
    return head.output(x)[:, 0]


@pytest.mark.parametrize("inputs", mask_head.INPUTS)
@pytest.mark.parametrize("finer", [0, 2])
def test_features_convolved_once_change_nothing(inputs, finer):
    head = MaskHeadConfig(inputs, finer=finer, map_scale=30.0)
    model = small_panoptic(mask_head=head).eval().double()
    batch = unequal_batch()
    batch = type(batch)(batch.pixels.double(), batch.padding)
    torch.nn.init.normal_(model.mask_head.blocks[0].conv.bias)
    output = model(batch)
    image, query = torch.tensor([1, 0, 1]), torch.tensor([4, 4, 0])
    found = model.masks(output, image, query)
    assert torch.allclose(found, plain_head(model, output, image, query), atol=1e-10)


def test_features_alone_cannot_tell_queries_apart():
    for inputs, same in (("features", True), ("maps", False), ("both", False)):
        model = small_panoptic(mask_head=MaskHeadConfig(inputs)).eval()
        masks = everything(model, unequal_batch())[1]
        assert torch.equal(masks[:, :1].expand_as(masks), masks) == same
        assert hasattr(model, "mask_attention") != (inputs == "features")


def test_scaled_maps_tell_queries_apart_from_the_start():
    """Softmax weights are tiny beside features; larger, they have a say at once."""
    differ = []
    for scale in (1.0, 512.0):
        model = small_panoptic(mask_head=MaskHeadConfig(map_scale=scale)).eval()
        with torch.no_grad():  # queries that attend to different cells
            model.mask_attention.query.weight.mul_(30)
            masks = everything(model, unequal_batch())[1]
        differ.append(masks.std(1).mean() / masks.std())
    assert differ[1] > 5 * differ[0]
    assert PanopticDETRConfig.tiny().mask_head.map_scale == 8 * 64
    assert (
        PanopticDETRConfig.coco_r50().mask_head == MaskHeadConfig()
    )  # as in the paper


def test_no_map_looks_at_padding_and_every_softmax_adds_up():
    for softmax, axes in (("joint", (2, 3, 4)), ("per head", (3, 4))):
        model = small_panoptic(mask_head=MaskHeadConfig(softmax=softmax)).eval()
        maps = model(unequal_batch()).masks.maps  # [B, Q, M, 3, 3]
        sums = maps.sum(axes)
        assert torch.allclose(sums, torch.ones_like(sums), atol=1e-5)
        assert (maps[1, ..., 2] == 0).all() and (maps[0] > 0).all()


def test_boxes_are_those_of_the_detr_inside():
    model = small_panoptic().eval()
    detector = model.config.detector.build().eval()
    detector.load_state_dict(model.state_dict(), strict=False)
    batch = unequal_batch()
    assert torch.equal(model(batch).boxes, detector(batch).boxes)
    for one, other in zip(model.detect(batch, IMAGES), detector.detect(batch, IMAGES)):
        assert torch.equal(one.scores, other.scores)


# --- loss --------------------------------------------------------------------------


def test_terms_of_the_boxes_are_detrs():
    model = small_panoptic()
    output = model(unequal_batch())
    found = model.loss(output, TARGETS)
    boxes = model.criterion(output, model.padded(output, TARGETS))
    assert found.keys() - boxes.keys() == {"mask", "dice"}
    total = boxes["total"] + found["mask"] + found["dice"]
    assert torch.allclose(found["total"], total)
    heavy = small_panoptic(mask_loss=type(model.config.mask_loss)(3.0, 0.5))
    heavier = heavy.loss(heavy(unequal_batch()), TARGETS)["total"]
    assert torch.allclose(
        heavier, boxes["total"] + 3 * found["mask"] + 0.5 * found["dice"]
    )


def test_only_matched_queries_get_a_mask(monkeypatch):
    model, asked = small_panoptic(), []
    masks = model.masks

    def watched(output, image, query):
        asked.append((image.tolist(), query.tolist()))
        return masks(output, image, query)

    monkeypatch.setattr(model, "masks", watched)
    output = model(unequal_batch())
    model.loss(output, [TARGETS[0], NOTHING])
    matched = model.match(output, model.padded(output, [TARGETS[0], NOTHING]))
    assert asked == [([0, 0], matched[-1, 0].tolist())]


def test_a_mask_has_no_say_in_the_matching():
    """Boxes alone decide: other masks, the same pairs, another loss of masks."""
    model = small_panoptic()
    output = model(unequal_batch())
    other = [t | {"masks": ~t["masks"]} for t in TARGETS]
    one, two = model.loss(output, TARGETS), model.loss(output, other)
    assert all(
        torch.equal(one[k], two[k]) for k in one if k[:4] in ("clas", "box", "giou")
    )
    assert not torch.allclose(one["dice"], two["dice"])


@pytest.mark.parametrize("targets", [TARGETS, [NOTHING, NOTHING]], ids=["two", "none"])
@pytest.mark.parametrize("inputs", mask_head.INPUTS)
def test_every_trained_weight_has_a_gradient(targets, inputs):
    model = small_panoptic(mask_head=MaskHeadConfig(inputs))
    terms = model.loss(model(unequal_batch()), targets)
    assert terms["total"].isfinite()
    terms["total"].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


def test_a_frozen_detector_learns_nothing():
    model = small_panoptic(freeze_detector=True)
    terms = model.loss(model(unequal_batch()), TARGETS)
    assert set(terms) == {"mask", "dice", "total"}
    terms["total"].backward()
    learns = {n for n, p in model.named_parameters() if p.grad is not None}
    assert learns and all(name.startswith("mask_") for name in learns)
    assert learns == {n for n, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("freeze", [False, True])
def test_loss_falls_on_a_batch_seen_again(freeze):
    model, batch = small_panoptic(freeze_detector=freeze), unequal_batch()
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, 3e-3)
    record = []
    for _ in range(25):
        terms = model.loss(model(batch), TARGETS)
        optimizer.zero_grad()
        terms["total"].backward()
        optimizer.step()
        record.append((terms["mask"] + terms["dice"]).item())
    assert record[-1] < 0.8 * record[0]


def test_half_precision_features_are_taken():
    """Autocast ends with the forward pass; the head is asked for masks after it."""
    model = small_panoptic()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(unequal_batch())
    assert output.masks.coarse.dtype == torch.bfloat16
    found = model.loss(output, TARGETS)
    exact = model.loss(model(unequal_batch()), TARGETS)
    assert found["dice"].dtype == torch.float32
    assert torch.allclose(found["dice"], exact["dice"], rtol=0.05)


def test_targets_without_masks_are_named():
    model = small_panoptic(freeze_detector=True)
    output = model(unequal_batch())
    bare = [{k: t[k] for k in ("boxes", "labels")} for t in TARGETS]
    with pytest.raises(ValueError, match="image 0 has no masks"):
        model.loss(output, bare)
    with pytest.raises(ValueError, match="1 targets for 2 images"):
        model.loss(output, TARGETS[:1])


# --- from masks to segments --------------------------------------------------------

WHOLE = Frame((8, 8), (8, 8), (8, 8))


def drawn(*regions) -> torch.Tensor:
    """Mask logits [k, 8, 8]: 5 inside (rows, columns) of each, -5 outside."""
    logits = torch.full((len(regions), 8, 8), -5.0)
    for place, region in enumerate(regions):
        logits[place][region] = 5.0
    return logits


def answers(*labels, scores=None) -> Detections:
    scores = torch.tensor(scores or [0.9] * len(labels))
    return Detections(torch.zeros(len(labels), 4), scores, torch.tensor(labels))


LEFT, RIGHT = np.s_[:, :4], np.s_[:, 4:]


def test_every_pixel_goes_to_the_surest():
    found = paint(drawn(LEFT, RIGHT), answers(0, 1), WHOLE, 4, 4)
    assert (found.ids[:, :4] == 1).all() and (found.ids[:, 4:] == 2).all()
    assert [s.label for s in found.segments] == [0, 1]
    assert [s.area for s in found.segments] == [32, 32]
    # also where no mask says yes: there is no void between kept queries
    found = paint(drawn(LEFT) - 20, answers(0), WHOLE, 4, 4)
    assert (found.ids == 1).all()


def test_queries_of_one_stuff_are_one_segment_and_those_of_a_thing_are_not():
    stuff = paint(drawn(LEFT, RIGHT), answers(5, 5, scores=[0.87, 0.95]), WHOLE, 4, 4)
    assert len(stuff.segments) == 1 and stuff.segments[0].area == 64
    assert stuff.segments[0].score == pytest.approx(0.95)
    assert len(paint(drawn(LEFT, RIGHT), answers(1, 1), WHOLE, 4, 4).segments) == 2


def test_tiny_segments_give_their_pixels_to_the_next_best():
    logits = drawn(LEFT, RIGHT, np.s_[0, :4])
    logits[2, 0, :4] = 9
    found = paint(logits, answers(0, 1, 2), WHOLE, 4, 4)
    assert [s.area for s in found.segments] == [32, 32]
    assert [s.id for s in found.segments] == [1, 2] and (found.ids[0, :4] == 1).all()
    logits[2, 0, 4] = 9  # a fifth pixel
    assert len(paint(logits, answers(0, 1, 2), WHOLE, 4, 4).segments) == 3


def test_no_kept_query_leaves_void():
    found = paint(torch.zeros(0, 2, 2), answers(), WHOLE, 4, 4)
    assert (found.ids == 0).all() and found.segments == ()
    small = Frame((2, 2), (2, 2), (2, 2))
    assert paint(drawn(LEFT), answers(0), small, 4, 4).segments == ()  # 4 pixels


def test_padding_is_cut_off_and_the_rest_stretched():
    logits = drawn(LEFT, RIGHT)
    frame = Frame((16, 16), (16, 12), (32, 6))  # 4 of 16 columns are padding
    found = paint(logits, answers(0, 1), frame, 4, 4)
    assert found.ids.shape == (32, 6)
    assert (found.ids[:, :4] == 1).all() and (found.ids[:, 4:] == 2).all()
    masks = cut_out(logits, frame)
    assert (
        masks.shape == (2, 32, 6)
        and masks[0, :, :4].all()
        and not masks[0, :, 4:].any()
    )


def official(logits, labels, things, padded, smallest=4):
    """The official code's way, all masks at once; no two queries of one stuff."""
    assert len({x for x in labels if x >= things}) == sum(x >= things for x in labels)
    labels = np.array(labels)
    while True:
        large = torch.nn.functional.interpolate(
            logits[:, None], padded.padded, mode="bilinear"
        )[:, 0, : padded.real[0], : padded.real[1]]
        winner = large.softmax(0).argmax(0).byte().numpy()
        height, width = padded.original
        image = Image.fromarray(winner).resize((width, height), Image.NEAREST)
        winner = np.array(image)
        area = np.array([(winner == i).sum() for i in range(len(labels))])
        if (area > smallest).all():
            return winner, labels, area
        logits, labels = logits[torch.tensor(area > smallest)], labels[area > smallest]


@pytest.mark.parametrize("seed", range(6))
def test_like_the_official_code(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(9, 5, 6, generator=generator)
    labels = [0, 1, 2, 3, 0, 6, 7, 8, 9]
    frame = Frame((20, 24), (20, 20), (28, 44))  # no pixel between two
    winner, kept, areas = official(logits, labels, 6, frame, smallest=60)
    found = paint(logits, answers(*labels), frame, 6, 60)
    assert np.array_equal(found.ids.numpy() - 1, winner)
    assert [s.label for s in found.segments] == kept.tolist()
    assert [s.area for s in found.segments] == areas.tolist()
    assert len(kept) < 9  # some were too small


def test_portions_change_no_answer(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits, frame = (
        torch.randn(9, 5, 6, generator=generator),
        Frame((20, 24), (20, 20), (9, 9)),
    )
    whole = surest(logits, frame), cut_out(logits, frame)
    monkeypatch.setattr(segmentation, "PIXELS_AT_ONCE", 1)
    assert torch.equal(surest(logits, frame), whole[0])
    assert torch.equal(cut_out(logits, frame), whole[1])


@pytest.fixture
def model() -> PanopticDETR:
    model = small_panoptic().eval()
    with torch.no_grad():
        model.class_head.weight.mul_(20)  # or nobody is sure of anything
        model.mask_head.blocks[0].conv.weight[:, 32:] *= 100
    return model


def test_panoptic_answers_at_the_size_of_each_original(model):
    found = model.panoptic(unequal_batch(), [(64, 50), (20, 12)], threshold=0.3)
    for answer, size in zip(found, [(64, 50), (20, 12)]):
        assert answer.ids.shape == size and answer.ids.dtype == torch.int64
        assert answer.ids.unique().tolist() == [s.id for s in answer.segments]
        for segment in answer.segments:
            assert segment.area == (answer.ids == segment.id).sum()
            assert segment.score > 0.3
    assert sum(len(answer.segments) for answer in found) > 2
    for nothing in model.panoptic(unequal_batch(), IMAGES, threshold=1.0):
        assert nothing.segments == () and (nothing.ids == 0).all()


def test_frames_know_the_padding():
    batch = unequal_batch()
    padded = tuple(batch.pixels.shape[-2:])
    assert frames(batch, [(64, 96), (40, 24)]) == [
        Frame(padded, (32, 48), (64, 96)),
        Frame(padded, (40, 24), (40, 24)),
    ]


def test_no_object_is_never_kept(model):
    output = model.predict(unequal_batch(), IMAGES)
    logits = torch.full_like(output.logits, -9.0)
    logits[..., 0], logits[..., -1] = 1.0, 1.5
    output = output._replace(logits=logits)
    ours = frames(unequal_batch(), IMAGES)
    assert segmentation.panoptic(model, output, ours, 0.2)[0].segments == ()
    logits[..., 0] = 2.0
    assert segmentation.panoptic(model, output, ours, 0.2)[0].segments != ()


def test_focal_loss_has_no_such_class():
    model = small_panoptic(classification=Focal()).eval()
    output = model.predict(unequal_batch(), IMAGES)
    output = output._replace(logits=torch.full_like(output.logits, -1.0))  # 27 %
    ours = frames(unequal_batch(), IMAGES)
    assert segmentation.panoptic(model, output, ours, 0.2)[0].segments != ()
    assert model.loss(model(unequal_batch()), TARGETS)["total"].isfinite()


def test_instances_are_the_things_best_first(model):
    sizes = [(64, 50), (20, 12)]
    everything = model.instances(unequal_batch(), sizes, threshold=0.0)
    detected = model.detect(unequal_batch(), sizes)
    for found, boxes, size in zip(everything, detected, sizes):
        things = boxes.labels < 4
        assert torch.equal(found.scores, boxes.scores[things])
        assert torch.allclose(found.boxes, boxes.boxes[things], atol=1e-4)
        assert found.masks.shape == (len(found.scores), *size)
        assert found.masks.dtype == torch.bool
    some = model.instances(unequal_batch(), sizes, threshold=0.5)[0]
    assert torch.equal(some.scores, everything[0].scores[everything[0].scores >= 0.5])
    assert torch.equal(some.masks, everything[0].masks[: len(some.masks)])


def test_masks_are_made_of_kept_queries_only(model, monkeypatch):
    asked = []
    masks = model.masks

    def watched(output, image, query):
        asked.extend(zip(image.tolist(), query.tolist()))
        return masks(output, image, query)

    monkeypatch.setattr(model, "masks", watched)
    monkeypatch.setattr(segmentation, "CELLS_AT_ONCE", 1)  # one by one
    output = model.predict(unequal_batch(), IMAGES)
    scores = model.config.classification.probabilities(output.logits[-1]).amax(-1)
    model.panoptic(unequal_batch(), IMAGES, threshold=0.87)
    wanted = (scores > 0.87).nonzero().tolist()
    assert 0 < len(wanted) < scores.numel()
    assert asked == [pair for pair in map(tuple, wanted)]


def test_answers_leave_the_training_mode_alone(model):
    model.train()
    model.panoptic(unequal_batch(), IMAGES)
    model.instances(unequal_batch(), IMAGES)
    assert model.training


def test_bad_batches_are_named(model):
    for ask in (model.panoptic, model.instances):
        with pytest.raises(ValueError, match="1 sizes for 2 images"):
            ask(unequal_batch(), [(32, 48)])
        with pytest.raises(TypeError, match="expected an ImageBatch"):
            ask(torch.zeros(1, 3, 32, 32), [(32, 32)])
