"""Foreign checkpoints with a mask head: official, old and new names of transformers."""

import re

import pytest
import torch
from safetensors.torch import save_file
from small import RESNET, SIZES, scattered, small_detr
from test_interop import hf_names as detr_hf_names

from detr_steps import PanopticDETR, PanopticDETRConfig, interop, zoo
from detr_steps.interop import CheckpointError

SMALL = PanopticDETRConfig.tiny(**(SIZES | dict(backbone=RESNET, heads=8, dropout=0.1)))


def build(**changes) -> PanopticDETR:
    return PanopticDETRConfig.tiny(**(vars(SMALL) | changes)).build()


@pytest.fixture(scope="module")
def source() -> PanopticDETR:
    """A model whose weights, statistics too, are all different from fresh ones."""
    torch.manual_seed(1)
    return scattered(build())


@pytest.fixture(scope="module")
def official(source) -> dict[str, torch.Tensor]:
    return interop.to_official(source.state_dict())


def hf_names(state: dict, old: bool) -> dict:
    """Ours turned into Hugging Face's by hand, apart from the library's tables."""
    head = {k: v for k, v in state.items() if k.startswith("mask_")}
    boxes = {k: v for k, v in state.items() if k not in head}
    renamed = {f"detr.{k}": v for k, v in detr_hf_names(boxes, old).items()}
    for name, value in head.items():
        short = "linear" if old else "proj"
        name = name.replace("mask_attention.query", f"bbox_attention.q_{short}")
        name = name.replace("mask_attention.key", f"bbox_attention.k_{short}")
        block = re.match(r"mask_head\.blocks\.(\d)\.(conv|norm)", name)
        if block and old:
            number, part = int(block[1]) + 1, {"conv": "lay", "norm": "gn"}[block[2]]
            name = name.replace(block[0], f"mask_head.{part}{number}")
        elif block and int(block[1]) < 2:
            name = name.replace(
                block[0], f"mask_head.conv{int(block[1]) + 1}.{block[2]}"
            )
        elif block:
            place = f"mask_head.fpn_stages.{int(block[1]) - 2}.refine.{block[2]}"
            name = name.replace(block[0], place)
        adapter = re.match(r"mask_head\.adapters\.(\d)", name)
        if adapter:
            new = f"mask_head.fpn_stages.{adapter[1]}.fpn_adapter"
            old_name = f"mask_head.adapter{int(adapter[1]) + 1}"
            name = name.replace(adapter[0], old_name if old else new)
        out = "out_lay" if old else "output_conv"
        renamed[name.replace("mask_head.output", f"mask_head.{out}")] = value
    return renamed


def assert_loaded(model, source) -> None:
    wanted = source.state_dict()
    assert model.state_dict().keys() == wanted.keys()
    for name, value in model.state_dict().items():
        assert torch.equal(value, wanted[name]), name


def test_official_keys_are_the_documented_ones(official):
    ends = "weight", "bias"
    layers = [f"{p}{i}" for p in ("lay", "gn") for i in range(1, 6)]
    layers += ["out_lay", "adapter1", "adapter2", "adapter3"]
    expected = {f"mask_head.{layer}.{end}" for layer in layers for end in ends}
    expected |= {f"bbox_attention.{p}_linear.{end}" for p in "qk" for end in ends}
    rest = {name for name in official if not name.startswith("detr.")}
    assert rest == expected
    inside = {n.removeprefix("detr.") for n in official if n.startswith("detr.")}
    assert inside == set(interop.to_official(small_detr(backbone=RESNET).state_dict()))


def test_official_file(source, official, tmp_path):
    path = tmp_path / "detr-r50-panoptic.pth"
    torch.save({"model": official}, path)
    model = build()
    assert interop.load_official(model, path).complete
    assert_loaded(model, source)
    opened = interop.open_checkpoint(path)
    assert_loaded(opened.model, source)
    assert isinstance(opened.model, PanopticDETR) and opened.model.config.things == 91


@pytest.mark.parametrize("old", [False, True])
def test_hugging_face_files(source, tmp_path, old):
    state = hf_names(source.state_dict(), old)
    model = build()
    assert interop.load_hf(model, state).complete
    assert_loaded(model, source)
    save_file({k: v.clone() for k, v in state.items()}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    assert_loaded(interop.open_checkpoint(tmp_path).model, source)


def test_each_loader_says_what_it_was_given(source, official):
    ours = source.state_dict()
    for state, words in (
        (official, "official panoptic DETR, for interop.load_official"),
        (ours, "detr_steps itself"),
    ):
        with pytest.raises(CheckpointError, match=words):
            interop.load_hf(build(), state)
    theirs = hf_names(ours, False)
    with pytest.raises(CheckpointError, match="Face's panoptic DETR.*PanopticDETR"):
        interop.load_hf(small_detr(backbone=RESNET), theirs)


def test_a_detector_starts_a_panoptic_model(tmp_path):
    """Its boxes come along, the mask head stays as it was."""
    detector = small_detr(seed=5, backbone=RESNET, heads=8)
    path = tmp_path / "detr.pth"
    torch.save({"model": interop.to_official(detector.state_dict())}, path)
    model = build()
    head = {k: v.clone() for k, v in model.state_dict().items() if "mask_" in k}
    report = interop.load(model, path)
    assert report.complete and set(head) <= set(report.kept)
    assert "starts anew" in report.notes[-1]
    wanted = detector.state_dict() | head
    for name, value in model.state_dict().items():
        assert torch.equal(value, wanted[name]), name


def test_a_detector_of_the_zoo_starts_one_of_other_classes():
    model = PanopticDETRConfig.tiny().build()
    report = interop.load(model, "detr-tiny", ["a"] * 10)
    assert "started anew: the checkpoint has 6 classes" in report.class_head
    theirs = zoo.weights("detr-tiny")
    assert torch.equal(model.queries.weight, theirs["queries.weight"])
    assert model.class_head.weight.shape == (11, 128)


def test_presets_are_recognised():
    config = PanopticDETRConfig.coco_r50()
    with torch.device("meta"):
        state = interop.to_official(config.build().state_dict())
    assert interop.recognising.recognise(state).config() == config
    called = interop.opening._called(config)
    assert called.startswith("panoptic-coco-r50, 250 classes")
