"""Configs as JSON and back, by an allow-list that the classes themselves make."""

import importlib
import json
from dataclasses import dataclass, fields

import pytest
import torch

from detr_steps import (
    ConditionalDETRConfig,
    DABDETRConfig,
    DeformableDETRConfig,
    DETRConfig,
    describable,
)
from detr_steps.data.scenes import Scenes
from detr_steps.describable import KINDS, from_json, to_json
from detr_steps.nn.conditional import Add, Shifted, Unchanged
from detr_steps.nn.point_weights import Uniform
from detr_steps.nn.within_levels import WithinLevels
from detr_steps.systems.classifier import ClassifierConfig
from detr_steps.systems.query_sources import Proposals


@pytest.mark.parametrize(
    "config",
    [
        DETRConfig.tiny(queries=7),
        DETRConfig.coco_r50_dc5(),
        DeformableDETRConfig.tiny(encoder_sampling=WithinLevels(weights=Uniform())),
        DeformableDETRConfig.coco_r50_two_stage(),
        ConditionalDETRConfig.tiny(combine=Add(), transform=Shifted()),
        DABDETRConfig.coco_r50_dc5(patterns=3, transform=Unchanged(), update=False),
        ClassifierConfig(),
        Scenes("val", objects=(2, 3)),
    ],
    ids=lambda config: type(config).__name__,
)
def test_configs_survive_json(config):
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_every_kind_is_found_where_it_is_defined(kind):
    assert getattr(importlib.import_module(kind.__module__), kind.__name__) is kind


def test_what_a_config_holds_by_default_can_be_described():
    """A field that holds a config of a kind that nobody decorated would be a trap."""
    for kind in KINDS.values():
        needed = {f.name: 1 for f in fields(kind) if _needed(f)}
        config = kind(**needed)
        assert from_json(json.loads(json.dumps(to_json(config)))) == config


def _needed(field) -> bool:
    return field.default is field.default_factory  # both MISSING


DETR = to_json(DETRConfig.tiny())


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"kind": "os.system", "command": "echo"}, "unknown kind 'os.system'.*Scenes"),
        ({"command": "echo"}, "unknown kind None: there are AdaMixerConfig, Add, "),
        ({"kind": ["Scenes"]}, r"unknown kind \['Scenes'\]"),
        ({"kind": "Scenes", "side": 3}, "Scenes has no field 'side'.*are split, size"),
        (DETR | {"nms": 1, "anchors": 2}, "no field 'nms', 'anchors'.*queries"),
        ({"kind": "DETRConfig"}, "needs the field 'classes', 'backbone'.*are classes"),
        ({"kind": "Uniform", "k": 1}, "no field 'k'.*none at all"),
        (DETR | {"cost": {"kind": "CostWeights", "l1": 1}}, "CostWeights has no.*'l1'"),
        ({"kind": "Scenes", "size": "big"}, "Scenes cannot be made of.*big"),
        ({"kind": "Scenes", "objects": [3]}, "Scenes cannot be made of.*out of range"),
        ({"kind": "Scenes", "split": "moon"}, "unknown split 'moon'"),
    ],
)
def test_a_wrong_description_ends_in_words(value, said):
    with pytest.raises(ValueError, match=said) as error:
        from_json(value)
    assert "\n" not in str(error.value)


def test_only_what_can_be_made_again_is_described():
    @dataclass(frozen=True)
    class Own:
        backbone: object = 1

    for value in (Own(), torch.zeros(1), DETRConfig.tiny(backbone=Own()), {"lr": 1}):
        with pytest.raises(TypeError, match="@describable"):
            to_json(value)


def test_a_class_that_could_change_under_way_is_refused():
    with pytest.raises(TypeError, match="Loose is no frozen dataclass"):
        describable.describable(dataclass(type("Loose", (), {})))


def test_two_kinds_of_one_name_are_refused_and_a_reloaded_module_is_not(monkeypatch):
    def scenes(module):
        return dataclass(frozen=True)(type("Scenes", (), {"__module__": module}))

    monkeypatch.setitem(KINDS, "Scenes", Scenes)  # put back at the end
    with pytest.raises(ValueError, match="named 'Scenes', in detr_steps.*elsewhere"):
        describable.describable(scenes("elsewhere"))
    assert KINDS["Scenes"] is Scenes
    again = describable.describable(scenes(Scenes.__module__))
    assert KINDS["Scenes"] is again


def test_a_field_that_came_later_is_written_only_where_it_is_not_the_default():
    """So that older recipes stay as they are, to the byte."""
    for mixed, written in (
        (False, {"kind": "Proposals"}),
        (True, {"kind": "Proposals", "mixed": True}),
    ):
        source = Proposals(mixed)
        assert to_json(source) == written and from_json(written) == source
    assert from_json({"kind": "Proposals", "mixed": False}) == Proposals()
