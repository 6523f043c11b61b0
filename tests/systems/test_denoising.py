"""Noised objects as queries: what they are, who sees them, what is learned of them."""

from dataclasses import replace

import pytest
import torch
from hosts import SYSTEMS, TARGETS, model_of, two_images
from small import small_config

from detr_steps import Denoise
from detr_steps.boxes import cxcywh_to_xyxy
from detr_steps.data.scenes import Scenes
from detr_steps.objective.matching import pad_targets
from detr_steps.systems.scheme import Plain
from detr_steps.training import Recipe, train

CLASSES = 6
MANY = [
    {"boxes": torch.rand(5, 4) * 0.3 + 0.3, "labels": torch.tensor([0, 1, 2, 3, 5])},
    {"boxes": torch.tensor([[0.1, 0.2, 0.2, 0.4]]), "labels": torch.tensor([4])},
]


def with_scheme(name, **numbers):
    config = SYSTEMS[name]
    return model_of(replace(config, scheme=Denoise(**numbers))), model_of(config)


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_models_own_predictions_are_those_of_the_plain_loop(name):
    """Nothing of the true boxes leaks into them, whatever the host."""
    model, plain = with_scheme(name)
    state = plain.state_dict()
    shared = {k: v for k, v in model.state_dict().items() if k in state}
    assert shared.keys() == state.keys()
    plain.load_state_dict(shared)
    batch = two_images()
    model.train(), plain.train()
    torch.manual_seed(0)
    wanted = plain(batch)
    found = model(batch, targets=TARGETS)
    for a, b in zip(found[:2], wanted[:2]):
        assert torch.allclose(a, b, atol=1e-5)
    (extra,) = [each for each in found.extra if each.name == "denoised"]
    layers = len(model.decoder)
    assert extra.logits.shape[:3] == (3 * layers, 2, 1)
    assert extra.layers == tuple(range(layers)) * 3 and extra.weight == 1 / 3
    assert extra.matched.tolist() == [[[0], [-1]]] * (3 * layers)


@pytest.mark.parametrize("name", ["detr", "conditional", "dab", "deformable-refine"])
@pytest.mark.parametrize("targets", [TARGETS, TARGETS[1:] * 2], ids=["some", "none"])
def test_every_weight_has_a_gradient_with_and_without_objects(name, targets):
    model, _ = with_scheme(name)
    model.train()
    terms = model.loss(model(two_images(), targets=targets), targets)
    assert terms["total"].isfinite() and "class_denoised" in terms
    terms["total"].backward()
    for part, value in model.scheme_parts.named_parameters():
        assert value.grad is not None and value.grad.isfinite().all(), part


def test_the_loss_of_the_sets_is_the_mean_of_single_sets():
    model, _ = with_scheme("detr", groups=2)
    output = model.train()(two_images(), targets=TARGETS)
    terms, (extra,) = model.loss(output, TARGETS), output.extra
    slow = 0.0
    for layer_and_group in extra.boxes:  # the only object is query 0 of image 0
        slow += float((layer_and_group[0, 0] - TARGETS[0]["boxes"][0]).abs().sum())
    assert float(terms["box_denoised"]) == pytest.approx(slow / 2, rel=1e-5)


def test_without_noise_queries_are_the_objects_and_padding_is_told_apart():
    padded = pad_targets(MANY, CLASSES, "cpu")
    boxes, labels = Denoise(box_noise=0, label_noise=0).noised(padded, CLASSES)
    inside = cxcywh_to_xyxy(MANY[0]["boxes"]).clamp(0, 1)
    assert torch.allclose(cxcywh_to_xyxy(boxes[0]), inside, atol=1e-6)
    assert labels[0].tolist() == [0, 1, 2, 3, 5]
    assert labels[1].tolist() == [4, *[CLASSES] * 4]


def test_noise_keeps_to_its_bounds():
    torch.manual_seed(0)
    middle = torch.rand(2, 5, 2) * 0.2 + torch.tensor([[[0.4]], [[0.1]]])
    boxes = {"boxes": torch.cat((*middle,), 1), "labels": torch.arange(5)}
    padded, scheme = pad_targets([boxes] * 400, CLASSES, "cpu"), Denoise()
    boxes, labels = scheme.noised(padded, CLASSES)
    true = padded.boxes
    moved = ((boxes - true)[..., :2] / true[..., 2:]).abs()  # no side is ever cut
    grown = (boxes / true - 1)[..., 2:].abs()
    assert 0.15 < moved.max() <= 0.2 + 1e-5 and 0.3 < grown.max() <= 0.4 + 1e-5
    changed = (labels != padded.labels).float().mean()
    assert 0.2 * 5 / 6 == pytest.approx(float(changed), abs=0.04)


def test_all_else_starts_as_it_does_without_the_scheme():
    torch.manual_seed(0)
    plain = small_config().build().state_dict()
    torch.manual_seed(0)
    model = small_config(scheme=Denoise()).build().state_dict()
    assert all(torch.equal(value, model[name]) for name, value in plain.items())
    more = {name.partition(".")[0] for name in set(model) - set(plain)}
    assert more == {"scheme_parts"}


def test_inference_and_training_without_objects_at_hand_are_the_plain_loop():
    model, _ = with_scheme("detr")
    plain = Plain().run(model, *_start(model, two_images()))
    for mode in (False, True):
        output = model.train(mode)(two_images())
        assert torch.allclose(output.logits, plain.logits, atol=1e-6)
        assert output.extra == ()


def _start(model, batch):
    memory = model.encode(batch)
    return memory, model.start(memory)[0]


def test_the_trainer_gives_the_objects(tmp_path):
    torch.manual_seed(0)
    model = small_config(scheme=Denoise()).build()
    recipe = Recipe(steps=2, batch=2, log_every=1)
    lines = train(
        model, Scenes("train", size=32), recipe, tmp_path, device="cpu", progress=False
    )
    assert all(line["box_denoised"] > 0 for line in lines)


@pytest.mark.parametrize(
    ("numbers", "says"),
    [
        ({"groups": 0}, "one at least"),
        ({"groups": 2.0}, "one at least"),
        ({"box_noise": 1.0}, "below 1"),
        ({"box_noise": -0.1}, "at least 0"),
        ({"label_noise": 1.5}, "a probability"),
    ],
)
def test_impossible_numbers_are_named(numbers, says):
    with pytest.raises(ValueError, match=says):
        Denoise(**numbers)
