"""DETR without a decoder: every token predicts, padding does not, the loss by hand."""

import pytest
import torch
from small import TARGETS, small_config, small_encoder_only_config, unequal_batch

from detr_steps import EncoderOnlyConfig
from detr_steps.boxes import cxcywh_to_xyxy, giou
from detr_steps.images import ImageBatch
from detr_steps.nn.references import inverse_sigmoid
from detr_steps.objective.classification import Focal, Softmax
from detr_steps.objective.matching import pad_targets

KINDS = [Softmax(), Focal()]


def model_of(**changes):
    torch.manual_seed(0)
    model = small_encoder_only_config(**changes).build()
    with torch.no_grad():
        model.box_head.layers[-1].weight.normal_(std=0.1)
    return model.eval()


@pytest.mark.parametrize("kind", KINDS)
def test_each_token_predicts_after_each_layer(kind):
    model, batch = model_of(classification=kind), unequal_batch()
    memory = model.embed(batch)
    output = model(batch, trace=True)
    assert output.logits.shape[:3] == (2, 2, memory.tokens.shape[1])
    for y, layer in enumerate(model.encoder):
        memory = layer(memory, True)
        start = inverse_sigmoid(memory.centres)
        delta = model.box_head(memory.tokens)
        wanted = torch.cat((start + delta[..., :2], delta[..., 2:]), -1).sigmoid()
        assert torch.allclose(output.boxes[y], wanted)
        logits = model.class_head(memory.tokens)
        assert torch.equal(output.logits[y][output.real], logits[output.real])
        seen = output.trace.encoder[y].weights
        assert torch.equal(seen, memory.attention[y].weights)
    assert output.trace.decoder_cross == output.trace.decoder_self == ()


@pytest.mark.parametrize("kind", KINDS)
def test_tokens_of_padding_find_nothing_and_match_nothing(kind):
    model, batch = model_of(classification=kind), unequal_batch()
    output = model(batch)
    assert not output.real.all()
    p = kind.probabilities(output.logits)
    assert not p[:, ~output.real].any() and p[:, output.real].min() > 0
    crowd = {"boxes": torch.rand(90, 4) / 4 + 0.3, "labels": torch.arange(90) % 6}
    matched = model.match(output, pad_targets([crowd, crowd], 6, "cpu"))
    for layer in range(2):
        for image in range(2):
            real = set(output.real[image].nonzero()[:, 0].tolist())
            mine = matched[layer, image]
            assert set(mine[mine >= 0].tolist()) == real  # each has one, none is left


@pytest.mark.parametrize("kind", KINDS)
def test_the_loss_is_the_criterions_on_the_allowed_matching(kind):
    model, batch = model_of(classification=kind), unequal_batch()
    output, padded = model(batch), pad_targets(TARGETS, 6, "cpu")
    cost = model.config.cost.classification * kind.cost(output.logits, padded.labels)
    boxes = output.boxes[..., None, :]
    cost = cost + 5 * (boxes - padded.boxes[None, :, None]).abs().sum(-1)
    terms, found = model.loss(output, TARGETS), model.match(output, padded)
    for layer in range(2):  # two objects in the first image: all pairs, one by one
        table = cost[layer, 0] - 2 * _giou(output.boxes[layer, 0], padded.boxes[0])
        real = output.real[0].nonzero()[:, 0].tolist()
        pairs = {(a, b): float(table[a, 0] + table[b, 1]) for a in real for b in real
                 if a != b}  # fmt: skip
        assert tuple(found[layer, 0].tolist()) == min(pairs, key=pairs.get)
    name = {0: "box_0", 1: "box"}
    for layer in range(2):
        chosen = output.boxes[layer, 0, found[layer, 0]]
        slow = float((chosen - padded.boxes[0]).abs().sum()) / 2
        assert float(terms[name[layer]]) == pytest.approx(slow, rel=1e-5)


def _giou(boxes, true):
    return giou(cxcywh_to_xyxy(boxes), cxcywh_to_xyxy(true))


def test_padding_changes_nothing_for_the_rest():
    model, embed = model_of(), model_of().embed
    with torch.no_grad():
        whole = model(unequal_batch())

        def spoiled(batch):
            memory = embed(batch)
            return memory._replace(tokens=memory.tokens + 9 * memory.padding[..., None])

        model.embed = spoiled
        other = model(unequal_batch())
    real = whole.real
    assert torch.equal(whole.boxes[:, real], other.boxes[:, real])
    assert not torch.allclose(whole.boxes[:, ~real], other.boxes[:, ~real])
    alone = ImageBatch.from_list([torch.randn(3, 32, 48)])
    assert model_of()(alone).real is None


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_learns_also_without_objects(kind):
    for targets in (TARGETS, TARGETS[1:] * 2):
        model = model_of(classification=kind).train()
        model.loss(model(unequal_batch()), targets)["total"].backward()
        for name, value in model.named_parameters():
            assert value.grad is not None and value.grad.isfinite().all(), name


def test_its_sizes_are_detrs_without_the_decoder():
    detr = dict(small_config().build().named_parameters())
    mine = dict(small_encoder_only_config().build().named_parameters())
    assert set(mine) < set(detr)
    assert all(mine[name].shape == detr[name].shape for name in mine)
    gone = {name.partition(".")[0] for name in set(detr) - set(mine)}
    assert gone == {"decoder", "decoder_norm", "queries"}
    tiny = EncoderOnlyConfig.tiny()
    assert (tiny.channels, tiny.encoder_layers) == (128, 3)
    assert EncoderOnlyConfig.coco_r50().classes == 91


def test_no_layers_and_no_objects_are_named():
    with pytest.raises(ValueError, match="no encoder layers"):
        small_encoder_only_config(encoder_layers=0)
    model = model_of()
    with pytest.raises(ValueError, match="1 targets for 2 images"):
        model.loss(model(unequal_batch()), TARGETS[:1])
