"""The classifier that gives the small backbone its start."""

import pytest
import torch

from detr_steps import zoo
from detr_steps.data.scenes import Scenes
from detr_steps.describable import from_json
from detr_steps.systems.classifier import ClassifierConfig


def test_the_loss_is_the_cross_entropy_of_the_only_object():
    torch.manual_seed(0)
    model = ClassifierConfig().build()
    batch, targets = next(Scenes("train", size=64, objects=(1, 1)).batches(4))
    logits = model(batch)
    assert logits.shape == (4, 6)
    labels = torch.cat([target["labels"] for target in targets])
    wanted = -logits.log_softmax(-1)[torch.arange(4), labels].mean()
    assert model.loss(logits, targets)["total"].item() == pytest.approx(wanted.item())


def test_the_shipped_backbone_names_most_shapes():
    model = zoo.load("shapes-backbone")
    data = from_json(zoo.recipe("shapes-backbone")["validation"])
    score = model.accuracy(data, limit=200)["accuracy"]
    assert score == pytest.approx(zoo.result("shapes-backbone")["accuracy"], abs=0.1)
    assert score > 0.7  # guessing gives 0.17


def test_detr_starts_from_exactly_these_weights():
    from detr_steps import experiment

    model = experiment.build(zoo.recipe("detr-tiny"))
    taught = zoo.load("shapes-backbone").backbone.state_dict()
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, taught[name]), name
