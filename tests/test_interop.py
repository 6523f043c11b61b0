"""Foreign checkpoints: every layout, every way they can be wrong, nothing half done."""

import argparse
import copy
import json
import os
import pickle
import re

import pytest
import torch
from safetensors.torch import save_file
from small import RESNET, scattered, small_detr

from detr_steps import DETR, interop
from detr_steps.interop import CheckpointError
from detr_steps.nn.resnet import ResNetConfig

# copying it is faster than drawing eight million weights again
FRESH = small_detr(backbone=RESNET)


def build(**changes) -> DETR:
    if not changes:
        return copy.deepcopy(FRESH)
    return small_detr(**({"backbone": RESNET} | changes))


@pytest.fixture(scope="module")
def source() -> DETR:
    """A model whose weights, statistics too, are all different from fresh ones."""
    torch.manual_seed(1)
    return scattered(build())


@pytest.fixture(scope="module")
def official(source) -> dict[str, torch.Tensor]:
    return interop.to_official(source.state_dict())


def hf_names(state: dict[str, torch.Tensor], old: bool) -> dict[str, torch.Tensor]:
    """Our names turned into Hugging Face's by hand, apart from the library's tables.

    `old`: those of the hub's files, with timm's backbone.
    """
    out, inner = ("out_proj", "") if old else ("o_proj", "mlp.")
    attention = [
        (r"\.query\.", ".q_proj."),
        (r"\.key\.", ".k_proj."),
        (r"\.value\.", ".v_proj."),
        (r"\.output\.", f".{out}."),
        (r"^encoder\.(\d+)\.attention\.", r"model.encoder.layers.\1.self_attn."),
        (r"^decoder\.(\d+)\.self_attention\.", r"model.decoder.layers.\1.self_attn."),
        (
            r"^decoder\.(\d+)\.cross_attention\.",
            r"model.decoder.layers.\1.encoder_attn.",
        ),
    ]
    rest = [
        (r"feed_forward\.widen", f"{inner}fc1"),
        (r"feed_forward\.narrow", f"{inner}fc2"),
        (r"feed_forward_norm", "final_layer_norm"),
        (r"\.attention_norm", ".self_attn_layer_norm"),
        (r"\.self_norm", ".self_attn_layer_norm"),
        (r"\.cross_norm", ".encoder_attn_layer_norm"),
        (r"^(encoder|decoder)\.(\d+)\.", r"model.\1.layers.\2."),
        (r"^decoder_norm", "model.decoder.layernorm"),
        (r"^project", "model.input_projection"),
        (r"^queries", "model.query_position_embeddings"),
        (r"^class_head", "class_labels_classifier"),
        (r"^box_head", "bbox_predictor"),
        (
            r"^backbone\.",
            "model.backbone.conv_encoder.model." if old else "model.backbone.model.",
        ),
    ]
    renamed = {}
    for name, value in state.items():
        for pattern, new in attention + rest:
            name = re.sub(pattern, new, name)
        renamed[name] = value
    return renamed


def assert_loaded(model: DETR, source: DETR, but: str = "-") -> None:
    wanted = source.state_dict()
    for name, value in model.state_dict().items():
        assert name.startswith(but) or torch.equal(value, wanted[name]), name


# --- layouts -----------------------------------------------------------------------


def test_official_keys_are_the_documented_ones(official):
    norm = ("weight", "bias")
    attention = [f"{p}{w}" for p in ("in_proj_", "out_proj.") for w in norm]
    layer = [f"self_attn.{a}" for a in attention]
    layer += [
        f"{m}.{w}" for m in ("linear1", "linear2", "norm1", "norm2") for w in norm
    ]
    expected = {
        f"transformer.encoder.layers.{i}.{name}" for i in (0, 1) for name in layer
    }
    layer += [f"multihead_attn.{a}" for a in attention]
    layer += [f"norm3.{w}" for w in norm]
    expected |= {
        f"transformer.decoder.layers.{i}.{name}" for i in (0, 1, 2) for name in layer
    }
    expected |= {f"transformer.decoder.norm.{w}" for w in norm}
    expected |= {f"{m}.{w}" for m in ("input_proj", "class_embed") for w in norm}
    expected |= {f"bbox_embed.layers.{i}.{w}" for i in range(3) for w in norm}
    expected |= {"query_embed.weight"}
    body = {name for name in official if name.startswith("backbone.0.body.")}
    assert set(official) - body == expected
    stems = {name.split(".")[3] for name in body}
    assert stems == {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}
    fused = official["transformer.encoder.layers.0.self_attn.in_proj_weight"]
    assert fused.shape == (3 * 32, 32)


def test_fused_rows_are_query_key_value(source, official):
    fused = official["transformer.decoder.layers.0.multihead_attn.in_proj_weight"]
    attention = source.decoder[0].cross_attention
    for rows, part in zip(
        fused.split(32), (attention.query, attention.key, attention.value)
    ):
        assert torch.equal(rows, part.weight)


@pytest.mark.parametrize("kind", ["zip", "legacy", "plain", "safetensors", "trainer"])
def test_official_file(source, official, tmp_path, kind):
    path = tmp_path / "detr.pth"
    if kind == "safetensors":
        path = path.with_suffix(".safetensors")
        save_file(official, path)
    elif kind == "plain":
        torch.save(official, path)
    elif kind == "trainer":  # what the official training script writes
        extra = {"epoch": 3, "args": argparse.Namespace(lr=1e-4, dilation=False)}
        torch.save({"model": official, "optimizer": {"state": {}}} | extra, path)
    else:
        zipped = kind == "zip"
        torch.save({"model": official}, path, _use_new_zipfile_serialization=zipped)
    model = build()
    report = interop.load_official(model, path)
    assert_loaded(model, source)
    assert report.complete and len(report.loaded) == len(model.state_dict())
    assert not model.training  # ready to detect


@pytest.mark.parametrize("old", [True, False])
def test_hf_state_dict(source, old):
    state = hf_names(source.state_dict(), old)
    state["model.backbone.model.bn1.num_batches_tracked"] = torch.tensor(7)
    model = build()
    interop.load_hf(model, state)
    assert_loaded(model, source)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_hf_folder(source, tmp_path, file):
    state = hf_names(source.state_dict(), old=True)
    save = save_file if file.endswith("safetensors") else torch.save
    save(state, tmp_path / file)
    config = {"model_type": "detr", "encoder_attention_heads": 4, "dilation": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = build()
    interop.load_hf(model, str(tmp_path))
    assert_loaded(model, source)


def test_half_precision_checkpoints_become_single(source, official, tmp_path):
    torch.save({k: v.half() for k, v in official.items()}, tmp_path / "half.pth")
    model = build()
    interop.load_official(model, tmp_path / "half.pth")
    assert model.class_head.weight.dtype == torch.float32


# --- own classes -------------------------------------------------------------------


def test_other_classes_name_both_ways_out(official, tmp_path):
    torch.save(official, tmp_path / "detr.pth")
    with pytest.raises(CheckpointError) as error:
        interop.load_official(build(classes=2), tmp_path / "detr.pth")
    text = str(error.value)
    assert "knows 6 classes, the model 2" in text
    assert "classes=6" in text and 'class_head="keep"' in text


def test_keeping_the_class_head(source, official, tmp_path):
    torch.save(official, tmp_path / "detr.pth")
    model = build(classes=2)
    before = model.class_head.weight.clone()
    report = interop.load_official(model, tmp_path / "detr.pth", class_head="keep")
    assert_loaded(model, source, but="class_head.")
    assert torch.equal(model.class_head.weight, before)
    assert report.kept == ("class_head.weight", "class_head.bias")
    assert "2 kept as they were: class_head.weight" in str(report)


def test_unknown_choice(source):
    with pytest.raises(ValueError, match="class_head='drop'"):
        interop.load_hf(source, hf_names(source.state_dict(), True), class_head="drop")


# --- nothing is half loaded --------------------------------------------------------


def refused(load, model: DETR, *arguments) -> str:
    """Message of the refusal, after making sure that the model is untouched."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load(model, *arguments)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    return str(error.value)


def test_partial_checkpoint(source):
    state = hf_names(source.state_dict(), True)
    for name in ("model.decoder.layernorm.bias", "bbox_predictor.layers.1.weight"):
        del state[name]
    text = refused(interop.load_hf, build(), state)
    assert f"2 of {len(source.state_dict())} weights are missing" in text
    assert "decoder_norm.bias, box_head.layers.1.weight" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoder_layers": 3}, "fewer layers"),
        ({"encoder_layers": 1}, "another size.*\n.*\n.*16 unexpected: encoder.1."),
        ({"channels": 16}, r"another size(.*\n)*.*project.weight \(32, .*for \(16, "),
        ({"queries": 9}, "5 queries, the model 9: build the model with queries=5"),
        ({"backbone": ResNetConfig(depths=(1, 2, 1, 1))}, "fewer layers"),
    ],
)
def test_a_model_of_another_size(source, changes, words):
    state = hf_names(source.state_dict(), False)
    assert re.search(words, refused(interop.load_hf, build(**changes), state))


def test_unknown_extra_weights(source):
    state = hf_names(source.state_dict(), True) | {"model.extra": torch.zeros(1)}
    assert "1 unexpected: model.extra" in refused(interop.load_hf, build(), state)


@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("transformer.decoder.layers.0.cross_attn.sampling_offsets.weight", "Deform"),
        (
            "transformer.decoder.ref_point_head.layers.0.weight",
            "official Conditional DETR",
        ),
        ("model.decoder.ref_point_head.layers.0.weight", "Face's Conditional DETR"),
        ("refpoint_embed.weight", "official DAB-DETR"),
        ("model.query_refpoint_embeddings.weight", "Hugging Face's DAB-DETR"),
        ("mask_head.lay1.weight", "panoptic"),
        ("linear_bbox.weight", "demo"),
        ("backbone.1.row_embed.weight", "learned positions"),
        ("roi_heads.box_predictor.cls_score.weight", "R-CNN"),
    ],
)
def test_another_system_is_called_by_its_name(official, tmp_path, key, words):
    torch.save({"model": official | {key: torch.zeros(1)}}, tmp_path / "other.pth")
    text = refused(interop.load_official, build(), tmp_path / "other.pth")
    assert words in text


def test_each_loader_sends_to_the_other(source, official, tmp_path):
    torch.save(hf_names(source.state_dict(), True), tmp_path / "hf.pth")
    path = tmp_path / "hf.pth"
    assert "load_hf" in refused(interop.load_official, build(), path)
    assert "load_official" in refused(interop.load_hf, build(), official)
    assert "zoo.load" in refused(interop.load_hf, build(), source.state_dict())
    resnet = source.backbone.state_dict()
    assert "a ResNet" in refused(interop.load_hf, build(), resnet)
    text = refused(interop.load_hf, build(), {"weird": torch.zeros(1)})
    assert "no DETR in it" in text and "weird" in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "deformable_detr"),
        ("encoder_attention_heads", 8),
        ("dilation", True),
        ("position_embedding_type", "learned"),
    ],
)
def test_what_no_shape_shows_is_read_in_the_config(source, tmp_path, key, value):
    save_file(hf_names(source.state_dict(), True), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({key: value}))
    text = refused(interop.load_hf, build(), tmp_path)
    assert f"{key} = {value!r}" in text


def test_folder_without_weights(tmp_path):
    (tmp_path / "README.md").write_text("nothing here")
    text = refused(interop.load_hf, build(), tmp_path)
    assert "README.md" in text and "hf download" in text
    assert "nothing" in refused(interop.load_hf, build(), tmp_path / "absent")


def test_only_for_detr(source):
    with pytest.raises(TypeError, match="detr_steps.DETR or .*, got Linear"):
        interop.load_hf(torch.nn.Linear(2, 2), hf_names(source.state_dict(), True))


# --- damaged and dangerous files ---------------------------------------------------


def test_missing_file_says_where_to_get_it(tmp_path):
    text = refused(interop.load_official, build(), tmp_path / "absent.pth")
    assert "https://dl.fbaipublicfiles.com/detr/detr-r50-e632da11.pth" in text


@pytest.mark.parametrize("keep", [0, 4, 300, 0.5, 0.99])
@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_truncated_file(official, tmp_path, kind, keep):
    path = tmp_path / ("x.safetensors" if kind == "safetensors" else "x.pth")
    if kind == "safetensors":
        save_file(official, path)
    else:
        zipped = kind == "zip"
        torch.save(official, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: keep if keep >= 1 else int(keep * len(whole))])
    text = refused(interop.load_official, build(), path)
    assert "truncated" in text and "download it again" in text


def test_a_web_page_in_place_of_the_file(tmp_path):
    (tmp_path / "x.pth").write_text("<html>404</html>")
    text = refused(interop.load_official, build(), tmp_path / "x.pth")
    assert "no checkpoint at all" in text


class Trap:
    """Leaves a file behind if anybody unpickles it."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("write", ["torch", "legacy", "pickle"])
def test_a_pickle_from_outside_is_not_opened(official, tmp_path, write):
    sprung, path = tmp_path / "sprung", tmp_path / "x.pth"
    content = {"model": official, "extra": Trap(sprung)}
    if write == "pickle":
        path.write_bytes(pickle.dumps({"extra": Trap(sprung)}, protocol=2))
    else:
        zipped = write == "torch"
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
    text = refused(interop.load_official, build(), path)
    assert "could run any code" in text and "safetensors" in text
    assert not sprung.exists()


@pytest.mark.parametrize("content", [[1, 2], {}, {"model": {}}, torch.zeros(3)])
def test_a_file_without_a_state_dict(tmp_path, content):
    torch.save(content, tmp_path / "x.pth")
    text = refused(interop.load_official, build(), tmp_path / "x.pth")
    assert "holds no state dict" in text


def test_a_whole_training_state_is_no_state_dict(tmp_path):
    torch.save({"weights": {"a": torch.zeros(1)}, "epoch": 3}, tmp_path / "x.pth")
    text = refused(interop.load_official, build(), tmp_path / "x.pth")
    assert "'weights' is a dict, not a tensor" in text
