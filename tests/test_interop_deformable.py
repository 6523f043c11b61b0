"""Deformable DETR from elsewhere: every layout, and models that do not fit."""

import copy
import json
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from small import RESNET, scattered, small_detr

from detr_steps import DeformableDETR, DeformableDETRConfig, interop
from detr_steps.interop import CheckpointError
from detr_steps.nn.deform_attention import Sampling
from detr_steps.systems.query_sources import Anchors, Proposals

SMALL = DeformableDETRConfig(
    classes=4,
    backbone=RESNET,
    levels=4,
    channels=32,
    heads=4,
    ffn_channels=48,
    encoder_layers=2,
    decoder_layers=3,
    encoder_sampling=Sampling(heads=4),
    decoder_sampling=Sampling(heads=4),
    queries=5,
)
KINDS = {
    "plain": SMALL,
    "refine": replace(SMALL, refine=True),
    "two_stage": replace(SMALL, refine=True, query_source=Proposals()),
}
DAB = replace(SMALL, refine=True, query_source=Anchors())  # not in transformers


@pytest.fixture(scope="module")
def fresh() -> dict[str, DeformableDETR]:
    configs = {**KINDS, "dab": DAB}
    return {kind: DeformableDETR(config) for kind, config in configs.items()}


@pytest.fixture(scope="module")
def sources() -> dict[str, DeformableDETR]:
    """One model of each kind, whose weights are all different from fresh ones."""
    torch.manual_seed(1)
    configs = {**KINDS, "dab": DAB}
    models = {kind: DeformableDETR(config) for kind, config in configs.items()}
    return {kind: scattered(model) for kind, model in models.items()}


def with_copies(state: dict, config: DeformableDETRConfig, decoder: str) -> dict:
    """Give each layer its heads, and the decoder a second copy, as both codes do."""
    heads = config.decoder_layers + config.two_stage
    result = {}
    for name, value in state.items():
        match = re.fullmatch(r"(class|box)_heads\.(\d+)\.(.*)", name)
        if match is None:
            result[name] = value
            continue
        kind = {"class": "class_embed", "box": "bbox_embed"}[match[1]]
        layers = [match[2]] if config.refine else range(heads)
        for layer in layers:
            result[f"{kind}.{layer}.{match[3]}"] = value
            if config.two_stage or (config.refine and kind == "bbox_embed"):
                result[f"{decoder}{kind}.{layer}.{match[3]}"] = value
    return result


def official_names(model: DeformableDETR) -> dict[str, torch.Tensor]:
    """Our names turned into the authors' by hand, apart from the library's tables."""
    rules = [
        (r"^backbone\.", "backbone.0.body."),
        (r"^pyramid\.levels\.", "input_proj."),
        (r"^queries\.embedding", "query_embed"),
        (r"^queries\.content", "tgt_embed"),
        (r"^queries\.anchors", "refpoint_embed"),
        (r"^queries\.position_head", "transformer.decoder.ref_point_head"),
        (r"^queries\.position_scale", "transformer.decoder.query_scale"),
        (r"^queries\.reference", "transformer.reference_points"),
        (r"^queries\.project_norm", "transformer.enc_output_norm"),
        (r"^queries\.project", "transformer.enc_output"),
        (r"^queries\.describe_norm", "transformer.pos_trans_norm"),
        (r"^queries\.describe", "transformer.pos_trans"),
        (r"^level_embedding", "transformer.level_embed"),
        (r"\.weights\.linear", ".attention_weights"),
        (r"\.offsets\.", ".sampling_offsets."),
        (r"(encoder.*attention|cross_attention)\.value\.", r"\1.value_proj."),
        (r"(encoder.*attention|cross_attention)\.output\.", r"\1.output_proj."),
        (r"self_attention\.output\.", "self_attn.out_proj."),
        (r"(self_attention|\.attention)\.", "self_attn."),
        (r"cross_attention\.", "cross_attn."),
        (r"feed_forward\.widen", "linear1"),
        (r"feed_forward\.narrow", "linear2"),
        (r"^(encoder\.\d+)\.attention_norm", r"\1.norm1"),
        (r"^(encoder\.\d+)\.feed_forward_norm", r"\1.norm2"),
        (r"\.self_norm", ".norm2"),
        (r"\.cross_norm", ".norm1"),
        (r"\.feed_forward_norm", ".norm3"),
        (r"^(encoder|decoder)\.(\d+)\.?", r"transformer.\1.layers.\2."),
    ]
    state = with_copies(model.state_dict(), model.config, "transformer.decoder.")
    renamed = {}
    for name, value in state.items():
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        renamed[name] = value
    return fuse(renamed)


def fuse(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    fused = {}
    for name, value in state.items():
        match = re.fullmatch(r"(.*self_attn\.)(query|key|value)\.(weight|bias)", name)
        if match is None:
            fused[name] = value
        elif match[2] == "query":
            parts = [
                state[f"{match[1]}{p}.{match[3]}"] for p in ("query", "key", "value")
            ]
            fused[f"{match[1]}in_proj_{match[3]}"] = torch.cat(parts)
    return fused


def hf_names(model: DeformableDETR, old: bool = True) -> dict[str, torch.Tensor]:
    """Our names turned into Hugging Face's by hand; `old`: those of the hub's files."""
    out, inner = ("out_proj", "") if old else ("o_proj", "mlp.")
    body = "model.backbone.conv_encoder.model." if old else "model.backbone.model."
    rules = [
        (r"^backbone\.", body),
        (r"^pyramid\.levels\.", "model.input_proj."),
        (r"^queries\.embedding", "model.query_position_embeddings"),
        (r"^queries\.reference", "model.reference_points"),
        (r"^queries\.project_norm", "model.enc_output_norm"),
        (r"^queries\.project", "model.enc_output"),
        (r"^queries\.describe_norm", "model.pos_trans_norm"),
        (r"^queries\.describe", "model.pos_trans"),
        (r"^level_embedding", "model.level_embed"),
        (r"\.weights\.linear", ".attention_weights"),
        (r"\.offsets\.", ".sampling_offsets."),
        (r"(encoder.*attention|cross_attention)\.value\.", r"\1.value_proj."),
        (r"(encoder.*attention|cross_attention)\.output\.", r"\1.output_proj."),
        (r"self_attention\.output\.", f"self_attn.{out}."),
        (r"self_attention\.(query|key|value)\.", r"self_attn.\1_proj."),
        (r"_attn\.query_proj", "_attn.q_proj"),
        (r"_attn\.key_proj", "_attn.k_proj"),
        (r"_attn\.value_proj\.", "_attn.v_proj."),
        (r"^(encoder\.\d+)\.attention\.", r"\1.self_attn."),
        (r"cross_attention\.", "encoder_attn."),
        (r"feed_forward\.widen", f"{inner}fc1"),
        (r"feed_forward\.narrow", f"{inner}fc2"),
        (r"feed_forward_norm", "final_layer_norm"),
        (r"(\.attention_norm|\.self_norm)", ".self_attn_layer_norm"),
        (r"\.cross_norm", ".encoder_attn_layer_norm"),
        (r"^(encoder|decoder)\.(\d+)\.", r"model.\1.layers.\2."),
    ]
    state = with_copies(model.state_dict(), model.config, "model.decoder.")
    renamed = {}
    for name, value in state.items():
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        renamed[name] = value
    return renamed


def assert_loaded(model: DeformableDETR, source: DeformableDETR, but: str = "-"):
    wanted = source.state_dict()
    for name, value in model.state_dict().items():
        assert name.startswith(but) or torch.equal(value, wanted[name]), name


# --- layouts -----------------------------------------------------------------------


def test_official_keys_are_the_documented_ones(sources):
    """What the helper above writes, against names written out from the reference."""
    names = set(official_names(sources["two_stage"]))
    layer = "transformer.decoder.layers.2."
    for name in (
        "backbone.0.body.layer4.0.conv2.weight",
        "input_proj.3.1.bias",
        "transformer.level_embed",
        "transformer.encoder.layers.1.self_attn.sampling_offsets.weight",
        "transformer.encoder.layers.1.self_attn.value_proj.bias",
        "transformer.encoder.layers.1.norm2.weight",
        f"{layer}cross_attn.attention_weights.bias",
        f"{layer}cross_attn.output_proj.weight",
        f"{layer}self_attn.in_proj_weight",
        f"{layer}self_attn.out_proj.bias",
        f"{layer}norm1.weight",
        f"{layer}linear2.bias",
        "transformer.enc_output.weight",
        "transformer.enc_output_norm.bias",
        "transformer.pos_trans.weight",
        "transformer.pos_trans_norm.weight",
        "class_embed.3.weight",
        "bbox_embed.3.layers.2.bias",
        "transformer.decoder.class_embed.3.bias",
        "transformer.decoder.bbox_embed.0.layers.0.weight",
    ):
        assert name in names, name
    assert "query_embed.weight" in official_names(sources["plain"])
    assert "transformer.reference_points.bias" in official_names(sources["refine"])


def test_official_keys_of_dab_deformable_detr(sources):
    """As in IDEA-Research/DAB-DETR (723ddb8), models/dab_deformable_detr."""
    names = set(official_names(sources["dab"]))
    assert names > {
        "tgt_embed.weight",
        "refpoint_embed.weight",
        "transformer.level_embed",
        "transformer.decoder.ref_point_head.layers.1.weight",
        "transformer.decoder.query_scale.layers.0.bias",
        "transformer.decoder.bbox_embed.2.layers.2.bias",
        "transformer.decoder.layers.1.cross_attn.sampling_offsets.weight",
        "bbox_embed.2.layers.2.bias",
        "class_embed.2.weight",
    }
    assert not [name for name in names if "queries" in name]


@pytest.mark.parametrize("kind", [*KINDS, "dab"])
def test_official_file(fresh, sources, tmp_path, kind):
    path = tmp_path / "r50_deformable_detr-checkpoint.pth"
    torch.save({"model": official_names(sources[kind]), "epoch": 49}, path)
    model = copy.deepcopy(fresh[kind])
    report = interop.load_official(model, path)
    assert_loaded(model, sources[kind])
    assert report.complete and not model.training


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_hf_state_dict(fresh, sources, kind, old):
    model = copy.deepcopy(fresh[kind])
    interop.load_hf(model, hf_names(sources[kind], old))
    assert_loaded(model, sources[kind])


@pytest.mark.parametrize("kept", ["model.decoder.", ""])
def test_hf_files_that_keep_one_of_two_copies(fresh, sources, kept):
    """safetensors drops what is stored twice, and not always the same one."""
    state = hf_names(sources["two_stage"])
    heads = ("class_embed", "bbox_embed")
    gone = "" if kept else "model.decoder."
    for name in list(state):
        if name.startswith(tuple(gone + head for head in heads)):
            del state[name]
    model = copy.deepcopy(fresh["two_stage"])
    interop.load_hf(model, state)
    assert_loaded(model, sources["two_stage"])


def test_keeping_the_class_heads(sources, tmp_path):
    path = tmp_path / "x.pth"
    torch.save(official_names(sources["refine"]), path)
    model = DeformableDETR(replace(KINDS["refine"], classes=2))
    before = model.class_heads[1].weight.clone()
    with pytest.raises(CheckpointError, match="knows 4 classes, the model 2") as error:
        interop.load_official(model, path)
    assert "DeformableDETRConfig.coco_r50(classes=4)" in str(error.value)
    report = interop.load_official(model, path, class_head="keep")
    assert_loaded(model, sources["refine"], but="class_heads.")
    assert torch.equal(model.class_heads[1].weight, before) and len(report.kept) == 6


# --- what does not fit -------------------------------------------------------------


def refused(load, model, *arguments) -> str:
    """Message of the refusal, after making sure that the model is untouched."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load(model, *arguments)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    return str(error.value)


@pytest.mark.parametrize(
    ("theirs", "ours", "words"),
    [
        ("plain", "refine", "refine=False, this one has refine=True"),
        ("refine", "plain", "refine=True, this one has refine=False"),
        (
            "plain",
            "two_stage",
            "LearnedPoints(), this one has query_source=Proposals(mixed=False)",
        ),
        ("two_stage", "refine", "with query_source=Proposals(mixed=False)"),
        ("dab", "refine", "query_source=Anchors(), this one has"),
        ("refine", "dab", "this one has query_source=Anchors(): build the model with"),
    ],
)
def test_another_kind_is_named(fresh, sources, tmp_path, theirs, ours, words):
    torch.save(official_names(sources[theirs]), tmp_path / "x.pth")
    model = copy.deepcopy(fresh[ours])
    assert words in refused(interop.load_official, model, tmp_path / "x.pth")


def test_heads_that_differ_do_not_fit_into_one(fresh, sources):
    """A file that has lost the decoder's copies still shows that it refines."""
    state = {
        name: value
        for name, value in hf_names(sources["refine"]).items()
        if "decoder.bbox_embed" not in name
    }
    text = refused(interop.load_hf, copy.deepcopy(fresh["plain"]), state)
    assert "differ" in text and "refine=True" in text


def test_other_numbers(fresh, sources, tmp_path):
    torch.save(official_names(sources["plain"]), tmp_path / "x.pth")
    path = tmp_path / "x.pth"
    model = DeformableDETR(replace(SMALL, queries=9))
    assert "5 queries, the model 9" in refused(interop.load_official, model, path)
    torch.save(official_names(sources["dab"]), dab := tmp_path / "dab.pth")
    model = DeformableDETR(replace(DAB, queries=9))
    assert "5 queries, the model 9" in refused(interop.load_official, model, dab)
    model = DeformableDETR(replace(SMALL, maps=1, levels=1))
    text = refused(interop.load_official, model, path)
    assert "another size" in text and "DeformableDETRConfig" in text


def test_systems_are_told_apart(fresh, sources, tmp_path):
    detr = small_detr(backbone=RESNET)
    path = tmp_path / "x.pth"
    torch.save(official_names(sources["plain"]), path)
    text = refused(interop.load_official, detr, path)
    assert "official Deformable DETR" in text and "load_official" in text
    state = hf_names(sources["plain"])
    assert "Hugging Face's Deformable DETR" in refused(interop.load_hf, detr, state)
    model = copy.deepcopy(fresh["plain"])
    assert "load_hf" in refused(interop.load_official, model, save(state, tmp_path))
    for kind in ("plain", "two_stage", "dab"):
        own = save(sources[kind].state_dict(), tmp_path)
        assert "zoo.load" in refused(interop.load_official, model, own)
    other = save(interop.to_official(detr.state_dict()), tmp_path)
    assert "official DETR" in refused(interop.load_official, model, other)
    dino = official_names(sources["plain"]) | {"refpoint_embed.weight": torch.ones(1)}
    text = refused(interop.load_official, model, save(dino, tmp_path))
    assert "unexpected: refpoint_embed.weight" in text


def save(state: dict, folder) -> str:
    torch.save(state, folder / "other.pth")
    return folder / "other.pth"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "detr"),
        ("with_box_refine", True),
        ("num_feature_levels", 1),
        ("dilation", True),
        ("decoder_attention_heads", 8),
        ("encoder_attention_heads", 8),
    ],
)
def test_what_no_shape_shows_is_read_in_the_config(
    fresh, sources, tmp_path, key, value
):
    state = {name: x.clone() for name, x in hf_names(sources["plain"]).items()}
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({key: value}))
    model = copy.deepcopy(fresh["plain"])
    assert f"{key} = {value!r}" in refused(interop.load_hf, model, tmp_path)


def test_only_detr_goes_the_other_way(sources):
    with pytest.raises(ValueError, match="not the weights of a detr_steps.DETR"):
        interop.to_official(sources["plain"].state_dict())
