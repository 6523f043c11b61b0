"""A fixed teacher of the matching; parts of a model that do not learn."""

import pytest
import torch
from runs import Dying, Killed, fit, recipe, small_model, weights
from small import (
    small_deformable_config,
    small_detr,
    small_encoder_only_config,
    small_tsp_config,
)

from detr_steps.data.scenes import Scenes
from detr_steps.objective.matching import pad_targets
from detr_steps.systems.classifier import ClassifierConfig
from detr_steps.systems.query_sources import Proposals
from detr_steps.training import Recipe, Teacher, train
from detr_steps.training.freezing import frozen

DATA = Scenes("train", size=32)


def learn(out, model=None, teacher=None, data=DATA, resume=False, **changes):
    model = model or small_model()
    train(
        model,
        data,
        recipe(**changes),
        out,
        device="cpu",
        progress=False,
        teacher=teacher,
        resume=resume,
    )
    return model


def same(one: dict, other: dict) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


# --- teacher --------------------------------------------------------------------


def test_it_teaches_what_its_last_layer_matches_on_the_very_batch():
    teacher = Teacher(small_detr(5, dropout=0.5)).on(torch.device("cpu"))
    batch, targets = next(DATA.batches(3, 0, device=torch.device("cpu")))
    padded = pad_targets(targets, 6, "cpu")
    with torch.no_grad():
        wanted = teacher.model.match(teacher.model(batch), padded)[-1:]
    found = teacher.match(batch, targets)
    assert torch.equal(found, wanted) and found.shape == (1, 3, max(padded.counts))


def watched(model, calls):
    """The same model, which notes whose matching its losses were made with."""
    inner = model.loss

    def loss(output, targets, matched=None):
        calls.append(matched)
        return inner(output, targets, matched)

    model.loss = loss
    return model


def test_it_teaches_the_first_steps_or_throughout(tmp_path):
    for steps, wanted in ((2, [True] * 2 + [False] * 4), (None, [True] * 6)):
        calls, teacher = [], Teacher(small_detr(5), steps)
        learn(tmp_path / str(steps), watched(small_model(), calls), teacher)
        assert [matched is not None for matched in calls] == wanted
        first, targets = next(DATA.batches(2, 0, device=torch.device("cpu")))
        assert torch.equal(calls[0], teacher.match(first, targets))


def test_the_model_learns_something_else_by_it_and_the_teacher_nothing(tmp_path):
    teacher = Teacher(small_detr(5))
    before = {k: v.clone() for k, v in teacher.model.state_dict().items()}
    learn(tmp_path / "taught", teacher=teacher, steps=2)
    learn(tmp_path / "alone", steps=2)
    assert not same(weights(tmp_path / "taught"), weights(tmp_path / "alone"))
    assert same(before, teacher.model.state_dict())


def test_a_killed_run_resumes_to_the_same_bits(tmp_path):
    teacher = Teacher(small_detr(5), 5)
    learn(tmp_path / "whole", teacher=teacher)
    with pytest.raises(Killed):
        learn(tmp_path / "two", teacher=teacher, data=Dying("train", size=32))
    learn(tmp_path / "two", teacher=teacher, resume=True)
    assert same(weights(tmp_path / "whole"), weights(tmp_path / "two"))


class Empty(Scenes):
    """Pictures without objects."""

    def batches(self, *args, **kwargs):
        for batch, targets in super().batches(*args, **kwargs):
            yield batch, [{k: t[k][:0] for k in ("boxes", "labels")} for t in targets]


def test_pictures_without_objects_are_taught_too(tmp_path):
    model = learn(
        tmp_path, teacher=Teacher(small_detr(5)), data=Empty("train", size=32), steps=2
    )
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("teacher", "says"),
    [
        (small_detr(classes=4), "teacher has 4 classes and the model 6"),
        (small_detr(queries=9), "teacher has 9 queries and the model 5"),
    ],
)
def test_a_teacher_of_other_classes_or_queries_is_named(tmp_path, teacher, says):
    with pytest.raises(ValueError, match=says):
        learn(tmp_path / "run", teacher=Teacher(teacher))
    assert not (tmp_path / "run").exists()


def test_another_system_may_teach(tmp_path):
    learn(tmp_path, teacher=Teacher(small_deformable_config().build()), steps=1)


@pytest.mark.parametrize("steps", [0, -1, 2.0, True])
def test_impossible_steps_are_named(steps):
    with pytest.raises(ValueError, match="one at least"):
        Teacher(small_detr(), steps)


def test_a_classifier_teaches_no_matching():
    with pytest.raises(ValueError, match="Classifier matches no queries"):
        Teacher(ClassifierConfig().build())


# --- frozen parts ---------------------------------------------------------------


@pytest.mark.parametrize(
    "parts", [("queries",), ("encoder", "backbone"), ("decoder.0",)]
)
def test_frozen_parts_stay_as_they_are_and_all_others_learn(tmp_path, parts):
    before = small_model().state_dict()
    model = learn(tmp_path, freeze=parts, weight_decay=0.1)
    assert all(p.requires_grad for p in model.parameters())  # as before
    for name, value in weights(tmp_path).items():
        still = any(name.startswith(f"{part}.") for part in parts)
        # key biases have no gradient: softmax does not see them
        if still or not name.endswith("key.bias"):
            assert torch.equal(value, before[name]) == still, name


def test_what_was_frozen_before_stays_so():
    model = small_model()
    model.backbone.stem.requires_grad_(False)
    with frozen(model, ("backbone",)):
        assert not any(p.requires_grad for p in model.backbone.parameters())
    assert not model.backbone.stem.weight.requires_grad
    assert model.backbone.stem_norm.weight.requires_grad


def test_nothing_frozen_is_bit_for_bit_what_it_was(tmp_path):
    learn(tmp_path / "default")
    learn(tmp_path / "empty", freeze=())
    fit(tmp_path / "fit")
    whole = weights(tmp_path / "default")
    assert same(whole, weights(tmp_path / "empty"))
    assert same(whole, weights(tmp_path / "fit"))


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        (("encodr",), "freeze 'encodr': no such part learns .* backbone, project"),
        (("enc",), "freeze 'enc': no such part"),
        (
            ("backbone", "project", "encoder", "decoder", "decoder_norm", "queries",
             "class_head", "box_head"),
            "nothing is left that could learn",
        ),
    ],
)  # fmt: skip
def test_parts_that_are_not_there_are_named_before_anything_is_written(
    tmp_path, parts, says
):
    with pytest.raises(ValueError, match=says):
        learn(tmp_path / "run", freeze=parts)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("freeze", ["encoder", [3], [""]])
def test_names_that_are_none_are_refused(freeze):
    with pytest.raises(ValueError, match="freeze"):
        Recipe(steps=1, freeze=freeze)


@pytest.mark.parametrize("who", ["teacher", "model"])
def test_queries_that_are_others_in_each_image_cannot_be_taught(tmp_path, who):
    proposed = small_deformable_config(refine=True, query_source=Proposals()).build()
    pair = {"teacher": small_detr(), "model": small_detr(), who: proposed}
    with pytest.raises(ValueError, match=f"the {who}'s queries are others"):
        learn(tmp_path / "run", pair["model"], Teacher(pair["teacher"]))


def test_a_system_without_queries_has_none_to_be_taught(tmp_path):
    for config in (small_encoder_only_config(), small_tsp_config()):
        with pytest.raises(ValueError, match="5 queries and the model none"):
            learn(tmp_path / "run", config.build(), Teacher(small_detr()))
