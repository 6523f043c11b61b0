"""What a timed step does is what the recipe's training does."""

import pytest
import torch

from benchmarks import step_times
from detr_steps import zoo
from detr_steps.systems.detector import Detector


@pytest.fixture
def losses(monkeypatch):
    """Each loss that is asked for: the model and the assignment it was given."""
    seen, plain = [], Detector.loss

    def loss(self, output, targets, matched=None):
        seen.append((self, matched))
        return plain(self, output, targets, matched)

    monkeypatch.setattr(Detector, "loss", loss)
    return seen


def test_frozen_parts_have_no_gradient(losses):
    step_times.step("slow-decoder", batch=1)()
    ((model, matched),) = losses
    assert matched is None
    still = {n.partition(".")[0] for n, p in model.named_parameters() if p.grad is None}
    assert still == set(zoo.recipe("slow-decoder")["recipe"]["freeze"])


def test_a_teacher_is_asked(losses):
    step_times.step("slow-teacher", batch=1)()
    ((model, matched),) = losses
    assert matched.shape[:2] == (1, 1)
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_noised_objects_are_given(losses):
    step_times.step("slow-denoise", batch=2)()
    ((model, _),) = losses
    (embedding,) = (
        p for n, p in model.named_parameters() if n.endswith("labels.weight")
    )
    assert isinstance(embedding.grad, torch.Tensor) and embedding.grad.abs().sum() > 0
