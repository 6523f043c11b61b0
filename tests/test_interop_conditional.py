"""Conditional DETR and DAB-DETR from elsewhere: every layout, and what does not fit.

The names are those of Atten4Vis/ConditionalDETR (8ea7c3f), IDEA-Research/DAB-DETR
(723ddb8) and of transformers: 5.23.0, and 4 as the hub's files have them.
"""

import copy
import json
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from small import (
    RESNET,
    scattered,
    small_conditional_config,
    small_dab_config,
    small_detr,
)

from detr_steps import interop
from detr_steps.interop import CheckpointError

CONFIGS = {
    "conditional": small_conditional_config(backbone=RESNET),
    "dab": small_dab_config(backbone=RESNET),
    "patterns": small_dab_config(backbone=RESNET, patterns=3),
}
LAYER = r"^(encoder|decoder)\.(\d+)\."


@pytest.fixture(scope="module")
def fresh() -> dict[str, torch.nn.Module]:
    return {kind: config.build() for kind, config in CONFIGS.items()}


@pytest.fixture(scope="module")
def sources() -> dict[str, torch.nn.Module]:
    """One model of each kind, whose weights are all different from fresh ones."""
    torch.manual_seed(1)
    models = {kind: config.build() for kind, config in CONFIGS.items()}
    return {kind: scattered(model) for kind, model in models.items()}


def renamed(state: dict, rules: list[tuple[str, str]]) -> dict[str, torch.Tensor]:
    result = {}
    for name, value in state.items():
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        result[name] = value
    return result


def with_copies(state: dict, ours: str, theirs: str) -> dict[str, torch.Tensor]:
    """A second copy of a part under another name, as both codes keep it for DAB."""
    copies = {
        name.replace(ours, theirs, 1): value
        for name, value in state.items()
        if name.startswith(ours)
    }
    return state | copies


def official_names(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Our names turned into the authors' by hand, apart from the library's tables."""
    attention = [
        (rf"{kind}_attention\.{part}\.", f"{short}_{name}_proj.")
        for kind, short in (("self", "sa"), ("cross", "ca"))
        for part, name in (
            ("query", "qcontent"),
            ("query_position", "qpos"),
            ("query_spatial", "qpos_sine"),
            ("key", "kcontent"),
            ("key_position", "kpos"),
            ("value", "v"),
        )
    ]
    rules = [
        (r"^backbone\.", "backbone.0.body."),
        (r"^project\.", "input_proj."),
        (r"^queries\.", "query_embed."),
        (r"^anchors\.", "refpoint_embed."),
        (r"^patterns\.", "transformer.patterns."),
        (r"^class_head\.", "class_embed."),
        (r"^box_head\.", "bbox_embed."),
        (r"^encoder_position_scale\.", "transformer.encoder.query_scale."),
        (r"^position_scale\.", "transformer.decoder.query_scale."),
        (r"^(reference|position)_head\.", "transformer.decoder.ref_point_head."),
        (r"^size_head\.", "transformer.decoder.ref_anchor_head."),
        (r"^decoder_norm\.", "transformer.decoder.norm."),
        *attention,
        (r"self_attention\.output", "self_attn.out_proj"),
        (r"cross_attention\.output", "cross_attn.out_proj"),
        (r"\.attention\.output", ".self_attn.out_proj"),
        (r"\.attention\.", ".self_attn."),
        (r"feed_forward\.widen", "linear1"),
        (r"feed_forward\.narrow", "linear2"),
        (r"feed_forward\.activation", "activation"),
        (r"(attention|self)_norm", "norm1"),
        (r"cross_norm", "norm2"),
        (r"^(encoder.*)feed_forward_norm", r"\1norm2"),
        (r"^(decoder.*)feed_forward_norm", r"\1norm3"),
        (LAYER, r"transformer.\1.layers.\2."),
    ]
    state = fuse(renamed(model.state_dict(), rules))
    if hasattr(model, "anchors"):
        state = with_copies(state, "bbox_embed.", "transformer.decoder.bbox_embed.")
    return state


def fuse(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The encoder's attention is PyTorch's own there, the decoder's is not."""
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


def hf_conditional_names(model, old: bool) -> dict[str, torch.Tensor]:
    """Our names turned into Hugging Face's by hand; `old`: those of the hub's files."""
    new_parts = ["q_content", "q_pos", "q_pos_sine", "k_content", "k_pos", "v"]
    old_parts = ["qcontent", "qpos", "qpos_sine", "kcontent", "kpos", "v"]
    ours = ["query", "query_position", "query_spatial", "key", "key_position", "value"]
    rules = []
    for kind, short, long in (
        ("self", "sa", "self_attn"),
        ("cross", "ca", "encoder_attn"),
    ):
        for part, new, before in zip(ours, new_parts, old_parts):
            their = f"{short}_{before}_proj." if old else f"{long}.{new}_proj."
            rules.append((rf"{kind}_attention\.{part}\.", their))
        output = "out_proj" if old else "o_proj"
        rules.append((rf"{kind}_attention\.output\.", f"{long}.{output}."))
    inner = "" if old else "mlp."
    rules += [
        (r"^backbone\.", f"model.backbone.{'conv_encoder.' if old else ''}model."),
        (r"^project\.", "model.input_projection."),
        (r"^queries\.", "model.query_position_embeddings."),
        (r"^class_head\.", "class_labels_classifier."),
        (r"^box_head\.", "bbox_predictor."),
        (r"^position_scale\.", "model.decoder.query_scale."),
        (r"^reference_head\.", "model.decoder.ref_point_head."),
        (r"^decoder_norm\.", "model.decoder.layernorm."),
        (r"\.attention\.output\.", f".self_attn.{'out_proj' if old else 'o_proj'}."),
        (r"\.attention\.(q|k|v)(uery|ey|alue)\.", r".self_attn.\1_proj."),
        (r"feed_forward\.widen", f"{inner}fc1"),
        (r"feed_forward\.narrow", f"{inner}fc2"),
        (r"(\.attention_norm|\.self_norm)", ".self_attn_layer_norm"),
        (r"\.cross_norm", ".encoder_attn_layer_norm"),
        (r"feed_forward_norm", "final_layer_norm"),
        (LAYER, r"model.\1.layers.\2."),
    ]
    return renamed(model.state_dict(), rules)


def hf_dab_names(model, old: bool) -> dict[str, torch.Tensor]:
    """The same for DAB-DETR, whose decoder layers have three parts there.

    `old`: with timm's backbone, as the hub's files have it.
    """
    parts = {
        "query": "query_content",
        "query_position": "query_pos",
        "query_spatial": "query_pos_sine",
        "key": "key_content",
        "key_position": "key_pos",
        "value": "value",
    }
    rules = [
        (rf"{kind}_attention\.{ours}\.", f"{kind}_attn.{kind}_attn_{theirs}_proj.")
        for kind in ("self", "cross")
        for ours, theirs in parts.items()
    ]
    rules += [
        (r"(self|cross)_attention\.output\.", r"\1_attn.\1_attn.output_proj."),
        (r"\.(self|cross)_norm\.", r".\1_attn.\1_attn_layer_norm."),
        (r"^(decoder.*)feed_forward_norm", r"\1mlp.final_layer_norm"),
        (r"^(decoder.*)feed_forward\.widen", r"\1mlp.fc1"),
        (r"^(decoder.*)feed_forward\.narrow", r"\1mlp.fc2"),
        (r"^(decoder.*)feed_forward\.activation", r"\1mlp.activation_fn"),
        (r"^(encoder.*)feed_forward_norm", r"\1final_layer_norm"),
        (r"^(encoder.*)feed_forward\.widen", r"\1fc1"),
        (r"^(encoder.*)feed_forward\.narrow", r"\1fc2"),
        (r"^(encoder.*)feed_forward\.activation", r"\1activation_fn"),
        (r"\.attention\.output\.", ".self_attn.out_proj."),
        (r"\.attention\.(q|k|v)(uery|ey|alue)\.", r".self_attn.\1_proj."),
        (r"\.attention_norm", ".self_attn_layer_norm"),
        (
            r"^backbone\.",
            f"model.backbone.conv_encoder.model.{'_backbone.' if old else ''}",
        ),
        (r"^project\.", "model.input_projection."),
        (r"^anchors\.", "model.query_refpoint_embeddings."),
        (r"^patterns\.", "model.patterns."),
        (r"^class_head\.", "class_embed."),
        (r"^box_head\.", "bbox_predictor."),
        (r"^encoder_position_scale\.", "model.encoder.query_scale."),
        (r"^position_scale\.", "model.decoder.query_scale."),
        (r"^position_head\.", "model.decoder.ref_point_head."),
        (r"^size_head\.", "model.decoder.ref_anchor_head."),
        (r"^decoder_norm\.", "model.decoder.layernorm."),
        (LAYER, r"model.\1.layers.\2."),
    ]
    state = renamed(model.state_dict(), rules)
    return with_copies(state, "bbox_predictor.", "model.decoder.bbox_embed.")


def hf_names(model, old: bool = True) -> dict[str, torch.Tensor]:
    made = hf_dab_names if hasattr(model, "anchors") else hf_conditional_names
    return made(model, old)


def assert_loaded(model, source, but: str = "-") -> None:
    wanted = source.state_dict()
    for name, value in model.state_dict().items():
        assert name.startswith(but) or torch.equal(value, wanted[name]), name


# --- layouts -----------------------------------------------------------------------


def test_official_keys_are_the_documented_ones(sources):
    """What the helper above writes, against names read in the authors' code."""
    both = [
        "backbone.0.body.layer4.0.conv2.weight",
        "input_proj.weight",
        "class_embed.bias",
        "bbox_embed.layers.2.bias",
        "transformer.encoder.layers.1.self_attn.in_proj_weight",
        "transformer.encoder.layers.1.self_attn.out_proj.bias",
        "transformer.encoder.layers.1.norm2.weight",
        "transformer.decoder.norm.weight",
        "transformer.decoder.query_scale.layers.1.weight",
        "transformer.decoder.ref_point_head.layers.1.bias",
        *(
            f"transformer.decoder.layers.2.{part}"
            for part in (
                *("sa_qcontent_proj.weight", "sa_qpos_proj.bias", "sa_v_proj.weight"),
                *("sa_kcontent_proj.bias", "sa_kpos_proj.weight"),
                *("ca_qcontent_proj.weight", "ca_qpos_sine_proj.bias"),
                *("ca_kcontent_proj.bias", "ca_kpos_proj.weight", "ca_v_proj.bias"),
                *("self_attn.out_proj.weight", "cross_attn.out_proj.bias"),
                *("norm1.weight", "norm3.bias", "linear1.weight", "linear2.bias"),
            )
        ),
        "transformer.decoder.layers.0.ca_qpos_proj.weight",
    ]
    dab = [
        "refpoint_embed.weight",
        "transformer.encoder.query_scale.layers.0.weight",
        "transformer.decoder.ref_anchor_head.layers.1.bias",
        "transformer.decoder.bbox_embed.layers.2.weight",
        "transformer.encoder.layers.0.activation.weight",
        "transformer.decoder.layers.2.activation.weight",
    ]
    conditional, anchors, patterns = (set(official_names(m)) for m in sources.values())
    assert conditional > {*both, "query_embed.weight"}
    assert anchors > {*both, *dab}
    assert patterns - anchors == {"transformer.patterns.weight"}
    for names in (conditional, anchors):
        assert "transformer.decoder.layers.1.ca_qpos_proj.weight" not in names
        ours = r"attention|_head\.(?!layers)|position_scale|feed_forward|^queries"
        assert not [name for name in names if re.search(ours, name)]


@pytest.mark.parametrize("kind", CONFIGS)
def test_official_file(fresh, sources, tmp_path, kind):
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": official_names(sources[kind]), "epoch": 49}, path)
    model = copy.deepcopy(fresh[kind])
    report = interop.load_official(model, path)
    assert_loaded(model, sources[kind])
    assert report.complete and not model.training


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("kind", CONFIGS)
def test_hf_state_dict(fresh, sources, kind, old):
    model = copy.deepcopy(fresh[kind])
    interop.load_hf(model, hf_names(sources[kind], old))
    assert_loaded(model, sources[kind])


@pytest.mark.parametrize("gone", ["bbox_predictor.", "model.decoder.bbox_embed."])
def test_hf_files_that_keep_one_of_two_copies(fresh, sources, gone):
    """safetensors drops what is stored twice, and not always the same one."""
    state = hf_names(sources["dab"])
    kept = {name: x for name, x in state.items() if not name.startswith(gone)}
    model = copy.deepcopy(fresh["dab"])
    interop.load_hf(model, kept)
    assert len(kept) == len(state) - 6
    assert_loaded(model, sources["dab"])


@pytest.mark.parametrize("kind", ["conditional", "dab"])
def test_keeping_the_class_head(sources, tmp_path, kind):
    path = tmp_path / "x.pth"
    torch.save(official_names(sources[kind]), path)
    model = replace(CONFIGS[kind], classes=2).build()
    before = model.class_head.weight.clone()
    with pytest.raises(CheckpointError, match="knows 6 classes, the model 2") as error:
        interop.load_official(model, path)
    assert f"{type(model.config).__name__}.coco_r50(classes=6)" in str(error.value)
    report = interop.load_official(model, path, class_head="keep")
    assert_loaded(model, sources[kind], but="class_head.")
    assert torch.equal(model.class_head.weight, before) and len(report.kept) == 2


# --- what does not fit -------------------------------------------------------------


def refused(load, model, *arguments) -> str:
    """Message of the refusal, after making sure that the model is untouched."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(CheckpointError) as error:
        load(model, *arguments)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    return str(error.value)


def saved(state: dict, folder) -> str:
    torch.save(state, folder / "other.pth")
    return folder / "other.pth"


NAMES = {
    "conditional": ("the official Conditional DETR", "Hugging Face's Conditional DETR"),
    "dab": ("the official DAB-DETR", "Hugging Face's DAB-DETR"),
}
CLASSES = {"conditional": "ConditionalDETR", "dab": "DABDETR"}


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("theirs", NAMES)
def test_systems_are_told_apart(fresh, sources, tmp_path, theirs, old):
    """Each is called by its name, with the loader and the class that take it."""
    by_authors = saved(official_names(sources[theirs]), tmp_path)
    by_hf = hf_names(sources[theirs], old)
    other_kind = "conditional" if theirs == "dab" else "dab"
    for other in (fresh[other_kind], small_detr(backbone=RESNET)):
        text = refused(interop.load_official, other, by_authors)
        assert NAMES[theirs][0] in text and "interop.load_official" in text
        assert f"a detr_steps.{CLASSES[theirs]}" in text
        text = refused(interop.load_hf, other, by_hf)
        assert NAMES[theirs][1] in text and "interop.load_hf" in text
        assert f"a detr_steps.{CLASSES[theirs]}" in text
    same = fresh[theirs]
    path = saved(by_hf, tmp_path)
    assert NAMES[theirs][1] in refused(interop.load_official, same, path)
    state = official_names(sources[theirs])
    assert NAMES[theirs][0] in refused(interop.load_hf, same, state)
    own = saved(sources[theirs].state_dict(), tmp_path)
    assert "zoo.load" in refused(interop.load_official, same, own)


@pytest.mark.parametrize(
    ("theirs", "ours", "words"),
    [
        ("patterns", "dab", "patterns=3, this one has patterns=0: build the model"),
        ("dab", "patterns", "patterns=0, this one has patterns=3: build the model"),
    ],
)
def test_patterns_are_named(fresh, sources, tmp_path, theirs, ours, words):
    path = saved(official_names(sources[theirs]), tmp_path)
    assert words in refused(interop.load_official, fresh[ours], path)
    assert words in refused(interop.load_hf, fresh[ours], hf_names(sources[theirs]))


def test_a_checkpoint_without_modulation_is_named(fresh, sources):
    state = hf_names(sources["dab"])
    without = {n: x for n, x in state.items() if "ref_anchor_head" not in n}
    text = refused(interop.load_hf, fresh["dab"], without)
    assert "modulate=False, this one has modulate=True" in text


def test_anchors_that_are_points_are_named(fresh, tmp_path):
    points = small_dab_config(backbone=RESNET, anchor_dim=2, modulate=False).build()
    path = saved(official_names(points), tmp_path)
    text = refused(interop.load_official, fresh["dab"], path)
    assert "anchor_dim=2, this one has anchor_dim=4" in text
    again = copy.deepcopy(points)
    interop.load_official(again, path)
    assert_loaded(again, points)


@pytest.mark.parametrize("kind", ["conditional", "dab"])
def test_other_numbers_of_queries(sources, tmp_path, kind):
    path = saved(official_names(sources[kind]), tmp_path)
    model = replace(CONFIGS[kind], queries=9).build()
    assert "5 queries, the model 9" in refused(interop.load_official, model, path)


@pytest.mark.parametrize(
    ("kind", "key", "value"),
    [
        ("conditional", "model_type", "detr"),
        ("conditional", "position_embedding_type", "learned"),
        ("conditional", "decoder_attention_heads", 8),
        ("conditional", "dilation", True),
        ("dab", "model_type", "conditional_detr"),
        ("dab", "activation_function", "relu"),
        ("dab", "encoder_attention_heads", 8),
        ("dab", "temperature_height", 10),
        ("dab", "temperature_width", 10),
        ("dab", "keep_query_pos", True),
        ("dab", "normalize_before", True),
        ("dab", "dilation", True),
    ],
)
def test_what_no_shape_shows_is_read_in_the_config(
    fresh, sources, tmp_path, kind, key, value
):
    state = {name: x.clone() for name, x in hf_names(sources[kind]).items()}
    save_file(state, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({key: value}))
    text = refused(interop.load_hf, copy.deepcopy(fresh[kind]), tmp_path)
    assert f"{key} = {value!r}" in text


def test_the_hubs_temperature_of_20_is_ours(fresh, sources, tmp_path):
    """And what only training needs may differ."""
    state = {name: x.clone() for name, x in hf_names(sources["dab"]).items()}
    save_file(state, tmp_path / "model.safetensors")
    config = {"temperature_height": 20, "temperature_width": 20, "dropout": 0.1}
    (tmp_path / "config.json").write_text(json.dumps(config))
    interop.load_hf(copy.deepcopy(fresh["dab"]), tmp_path)
