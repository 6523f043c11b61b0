"""What others call the same weights: tables that turn their names into ours."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

from .unwrapping import CheckpointError

PROJECTIONS = ("query", "key", "value")  # order of the rows of a fused projection

# Tables: their name -> ours; # stands for a number; the first line that fits the start
# of a name wins. What all systems share comes first.


def official_layer(theirs: str, ours: str, *norms: str) -> dict[str, str]:
    """Names inside an encoder or decoder layer; `norms` ours for norm1, norm2, …"""
    names = {
        "linear1.": "feed_forward.widen.",
        "linear2.": "feed_forward.narrow.",
        **{f"norm{i + 1}.": f"{norm}." for i, norm in enumerate(norms)},
    }
    return {theirs + a: ours + b for a, b in names.items()}


def official_attention(theirs: str, ours: str) -> dict[str, str]:
    """Names inside an attention; its fused `in_proj_…` is split afterwards."""
    return {f"{theirs}.out_proj.": f"{ours}.output.", f"{theirs}.": f"{ours}."}


OFFICIAL = {
    "backbone.0.body.": "backbone.",
    "input_proj.": "project.",
    "query_embed.": "queries.",
    **official_attention(
        "transformer.encoder.layers.#.self_attn", "encoder.#.attention"
    ),
    **official_layer(
        "transformer.encoder.layers.#.",
        "encoder.#.",
        *("attention_norm", "feed_forward_norm"),
    ),
    **official_attention(
        "transformer.decoder.layers.#.self_attn", "decoder.#.self_attention"
    ),
    **official_attention(
        "transformer.decoder.layers.#.multihead_attn", "decoder.#.cross_attention"
    ),
    **official_layer(
        "transformer.decoder.layers.#.",
        "decoder.#.",
        *("self_norm", "cross_norm", "feed_forward_norm"),
    ),
    "transformer.decoder.norm.": "decoder_norm.",
    "class_embed.": "class_head.",
    "bbox_embed.": "box_head.",
}

# of a mask head; those of transformers up to version 4, and of the hub's files, too
MASKS = {
    "bbox_attention.q_linear.": "mask_attention.query.",
    "bbox_attention.k_linear.": "mask_attention.key.",
    **{f"mask_head.lay{i + 1}.": f"mask_head.blocks.{i}.conv." for i in range(5)},
    **{f"mask_head.gn{i + 1}.": f"mask_head.blocks.{i}.norm." for i in range(5)},
    **{f"mask_head.adapter{i + 1}.": f"mask_head.adapters.{i}." for i in range(3)},
    "mask_head.out_lay.": "mask_head.output.",
}
PANOPTIC_OFFICIAL = {f"detr.{a}": b for a, b in OFFICIAL.items()} | MASKS

# names on the hub that transformers 5 has changed since: old -> new
HF_RENAMED = {
    "model.backbone.conv_encoder.model.": "model.backbone.model.",
    "model.encoder.layers.#.fc": "model.encoder.layers.#.mlp.fc",
    "model.decoder.layers.#.fc": "model.decoder.layers.#.mlp.fc",
    "model.encoder.layers.#.self_attn.out_proj.": (
        "model.encoder.layers.#.self_attn.o_proj."
    ),
    "model.decoder.layers.#.self_attn.out_proj.": (
        "model.decoder.layers.#.self_attn.o_proj."
    ),
    "model.decoder.layers.#.encoder_attn.out_proj.": (
        "model.decoder.layers.#.encoder_attn.o_proj."
    ),
}
HF_RENAMED |= {f"detr.{a}": f"detr.{b}" for a, b in HF_RENAMED.items()}


def hf_attention(theirs: str, ours: str) -> dict[str, str]:
    """Names inside an attention."""
    parts = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "output"}
    return {f"{theirs}.{a}.": f"{ours}.{b}." for a, b in parts.items()}


def hf_layer(theirs: str, ours: str) -> dict[str, str]:
    """Names inside an encoder or decoder layer, of which there are two or three norms.

    `ours` "encoder.#." or "decoder.#.".
    """
    names = {
        "mlp.fc1.": "feed_forward.widen.",
        "mlp.fc2.": "feed_forward.narrow.",
        "self_attn_layer_norm.": "self_norm.",
        "encoder_attn_layer_norm.": "cross_norm.",
        "final_layer_norm.": "feed_forward_norm.",
    }
    if ours.startswith("encoder"):
        names["self_attn_layer_norm."] = "attention_norm."
        del names["encoder_attn_layer_norm."]
    return {theirs + a: ours + b for a, b in names.items()}


def _hf_stage(stage: int) -> dict[str, str]:
    theirs = f"model.backbone.model.encoder.stages.{stage}.layers.#."
    ours = f"backbone.layer{stage + 1}.#."
    names = {
        f"{theirs}shortcut.convolution.": f"{ours}downsample.0.",
        f"{theirs}shortcut.normalization.": f"{ours}downsample.1.",
    }
    for part in range(3):
        names[f"{theirs}layer.{part}.convolution."] = f"{ours}conv{part + 1}."
        names[f"{theirs}layer.{part}.normalization."] = f"{ours}bn{part + 1}."
    return names


HF_BACKBONE = {
    "model.backbone.model.embedder.embedder.convolution.": "backbone.conv1.",
    "model.backbone.model.embedder.embedder.normalization.": "backbone.bn1.",
    **_hf_stage(0),
    **_hf_stage(1),
    **_hf_stage(2),
    **_hf_stage(3),
    "model.backbone.model.": "backbone.",  # timm's ResNet: torchvision's names, as ours
}

HF = {
    **HF_BACKBONE,
    "model.input_projection.": "project.",
    "model.query_position_embeddings.": "queries.",
    **hf_attention("model.encoder.layers.#.self_attn", "encoder.#.attention"),
    **hf_layer("model.encoder.layers.#.", "encoder.#."),
    **hf_attention("model.decoder.layers.#.self_attn", "decoder.#.self_attention"),
    **hf_attention("model.decoder.layers.#.encoder_attn", "decoder.#.cross_attention"),
    **hf_layer("model.decoder.layers.#.", "decoder.#."),
    "model.decoder.layernorm.": "decoder_norm.",
    "class_labels_classifier.": "class_head.",
    "bbox_predictor.": "box_head.",
}

HF_MASKS = {
    "bbox_attention.q_proj.": "mask_attention.query.",
    "bbox_attention.k_proj.": "mask_attention.key.",
    "mask_head.fpn_stages.#.fpn_adapter.": "mask_head.adapters.#.",
    "mask_head.output_conv.": "mask_head.output.",
}
for _i in range(5):
    _theirs = f"conv{_i + 1}." if _i < 2 else f"fpn_stages.{_i - 2}.refine."
    for _part in ("conv.", "norm."):
        HF_MASKS[f"mask_head.{_theirs}{_part}"] = f"mask_head.blocks.{_i}.{_part}"
PANOPTIC_HF = {f"detr.{a}": b for a, b in HF.items()} | MASKS | HF_MASKS

# a part of a name that only one kind of checkpoint has; looked up in this order
SIGNS = {
    "sampling_n_mixing.": (
        "the official AdaMixer, for interop.load_official with a detr_steps.AdaMixer"
    ),
    "cross_attention.kernels.": "detr_steps itself, for detr_steps.zoo.load",
    "mask_head.blocks.": "detr_steps itself, for detr_steps.zoo.load",
    "detr.transformer.decoder.": (
        "the official panoptic DETR, for interop.load_official with a "
        "detr_steps.PanopticDETR"
    ),
    "detr.model.query_position_embeddings.": (
        "Hugging Face's panoptic DETR, for interop.load_hf with a "
        "detr_steps.PanopticDETR"
    ),
    "mask_head.": "DETR with its panoptic mask head",
    ".cross_attn.sampling_offsets": (
        "the official Deformable DETR (or a successor), for interop.load_official with "
        "a detr_steps.DeformableDETR"
    ),
    ".encoder_attn.sampling_offsets": (
        "Hugging Face's Deformable DETR (or a successor), for interop.load_hf with a "
        "detr_steps.DeformableDETR"
    ),
    "queries.embedding.": "detr_steps itself, for detr_steps.zoo.load",
    "queries.project.": "detr_steps itself, for detr_steps.zoo.load",
    "queries.anchors.": "detr_steps itself, for detr_steps.zoo.load",
    "sampling_offsets": "a successor of Deformable DETR",
    "query_refpoint_embeddings.": (
        "Hugging Face's DAB-DETR, for interop.load_hf with a detr_steps.DABDETR"
    ),
    "refpoint_embed.": (
        "the official DAB-DETR (or a successor), for interop.load_official with a "
        "detr_steps.DABDETR"
    ),
    "transformer.decoder.ref_point_head.": (
        "the official Conditional DETR (or a successor), for interop.load_official "
        "with a detr_steps.ConditionalDETR"
    ),
    "model.decoder.ref_point_head.": (
        "Hugging Face's Conditional DETR (or a successor), for interop.load_hf with a "
        "detr_steps.ConditionalDETR"
    ),
    "linear_bbox": "the 50-line demo of DETR, another architecture",
    "row_embed": "a DETR with learned positions, ours are sine waves",
    "roi_heads.": "a Faster or Mask R-CNN",
    "decoder_norm.": "detr_steps itself, for detr_steps.zoo.load",
    "transformer.decoder.": "the official DETR, for interop.load_official",
    "query_position_embeddings": "Hugging Face's DETR, for interop.load_hf",
    "layer1.0.conv1.": "a ResNet, not a detector",
}


def rename(state: Mapping[str, Tensor], table: dict[str, str]) -> dict[str, Tensor]:
    """Translate the names of a state dict; a name that no line fits stays as it is.

    Raises: CheckpointError where two weights get one name and are not the same.
    """
    rules = [
        (re.compile(re.escape(a).replace(r"\#", r"(\d+)")), b.replace("#", r"\1"))
        for a, b in table.items()
    ]
    renamed, source = {}, {}
    for theirs, value in state.items():
        ours = _translate(theirs, rules)
        if ours in renamed and not torch.equal(renamed[ours], value):
            raise CheckpointError(
                f"{source[ours]} and {theirs} differ, but in this model they are one "
                f"({ours}): a checkpoint with a head for each layer? A DeformableDETR "
                "has them with refine=True"
            )
        renamed[ours], source[ours] = value, theirs
    return renamed


def _translate(name: str, rules: list[tuple[re.Pattern, str]]) -> str:
    for pattern, replacement in rules:
        if match := pattern.match(name):
            return match.expand(replacement) + name[match.end() :]
    return name  # no line fits: will be reported as unexpected


def split_fused(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Cut fused `in_proj [3C, …]` into query, key and value projections `[C, …]`."""
    split = {}
    for name, value in state.items():
        match = re.fullmatch(r"(.*\.)in_proj_(weight|bias)", name)
        if match is None or len(value) % 3:
            split[name] = value
            continue
        for part, rows in zip(PROJECTIONS, value.chunk(3)):
            split[f"{match[1]}{part}.{match[2]}"] = rows
    return split


def to_official(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give a `DETR` or a `PanopticDETR` the names and the layout of the official code.

    `torch.save({"model": to_official(model.state_dict())}, path)` makes a file that
    facebookresearch/detr loads. Raises: ValueError for another system's weights.
    """
    if "decoder_norm.weight" not in state_dict:
        raise ValueError("these are not the weights of a detr_steps.DETR")
    fused = {}
    for name, value in state_dict.items():
        # that of a mask head has no values, and is not fused
        match = re.fullmatch(
            r"(?!mask_)(.*attention\.)(query|key|value)\.(weight|bias)", name
        )
        if match is None:
            fused[name] = value
        elif match[2] == "query":
            rows = [state_dict[f"{match[1]}{p}.{match[3]}"] for p in PROJECTIONS]
            fused[f"{match[1]}in_proj_{match[3]}"] = torch.cat(rows)
    panoptic = "mask_head.output.weight" in state_dict
    table = PANOPTIC_OFFICIAL if panoptic else OFFICIAL
    return rename(fused, {ours: theirs for theirs, ours in table.items()})
