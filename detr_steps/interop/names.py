"""What others call the same weights: tables that turn their names into ours."""

import re
from collections.abc import Mapping

import torch
from torch import Tensor

PROJECTIONS = ("query", "key", "value")  # order of the rows of a fused projection

# their name -> ours; # stands for a number; the first line that fits the start wins
OFFICIAL = {
    "backbone.0.body.": "backbone.",
    "input_proj.": "project.",
    "query_embed.": "queries.",
    "transformer.encoder.layers.#.self_attn.out_proj.": "encoder.#.attention.output.",
    "transformer.encoder.layers.#.self_attn.": "encoder.#.attention.",
    "transformer.encoder.layers.#.linear1.": "encoder.#.feed_forward.widen.",
    "transformer.encoder.layers.#.linear2.": "encoder.#.feed_forward.narrow.",
    "transformer.encoder.layers.#.norm1.": "encoder.#.attention_norm.",
    "transformer.encoder.layers.#.norm2.": "encoder.#.feed_forward_norm.",
    "transformer.decoder.layers.#.self_attn.out_proj.": (
        "decoder.#.self_attention.output."
    ),
    "transformer.decoder.layers.#.self_attn.": "decoder.#.self_attention.",
    "transformer.decoder.layers.#.multihead_attn.out_proj.": (
        "decoder.#.cross_attention.output."
    ),
    "transformer.decoder.layers.#.multihead_attn.": "decoder.#.cross_attention.",
    "transformer.decoder.layers.#.linear1.": "decoder.#.feed_forward.widen.",
    "transformer.decoder.layers.#.linear2.": "decoder.#.feed_forward.narrow.",
    "transformer.decoder.layers.#.norm1.": "decoder.#.self_norm.",
    "transformer.decoder.layers.#.norm2.": "decoder.#.cross_norm.",
    "transformer.decoder.layers.#.norm3.": "decoder.#.feed_forward_norm.",
    "transformer.decoder.norm.": "decoder_norm.",
    "class_embed.": "class_head.",
    "bbox_embed.": "box_head.",
}

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


def _hf_attention(theirs: str, ours: str) -> dict[str, str]:
    parts = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "output"}
    return {f"{theirs}.{a}.": f"{ours}.{b}." for a, b in parts.items()}


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


HF = {
    "model.backbone.model.embedder.embedder.convolution.": "backbone.conv1.",
    "model.backbone.model.embedder.embedder.normalization.": "backbone.bn1.",
    **_hf_stage(0),
    **_hf_stage(1),
    **_hf_stage(2),
    **_hf_stage(3),
    "model.backbone.model.": "backbone.",  # timm's ResNet: torchvision's names, as ours
    "model.input_projection.": "project.",
    "model.query_position_embeddings.": "queries.",
    **_hf_attention("model.encoder.layers.#.self_attn", "encoder.#.attention"),
    "model.encoder.layers.#.self_attn_layer_norm.": "encoder.#.attention_norm.",
    "model.encoder.layers.#.mlp.fc1.": "encoder.#.feed_forward.widen.",
    "model.encoder.layers.#.mlp.fc2.": "encoder.#.feed_forward.narrow.",
    "model.encoder.layers.#.final_layer_norm.": "encoder.#.feed_forward_norm.",
    **_hf_attention("model.decoder.layers.#.self_attn", "decoder.#.self_attention"),
    "model.decoder.layers.#.self_attn_layer_norm.": "decoder.#.self_norm.",
    **_hf_attention("model.decoder.layers.#.encoder_attn", "decoder.#.cross_attention"),
    "model.decoder.layers.#.encoder_attn_layer_norm.": "decoder.#.cross_norm.",
    "model.decoder.layers.#.mlp.fc1.": "decoder.#.feed_forward.widen.",
    "model.decoder.layers.#.mlp.fc2.": "decoder.#.feed_forward.narrow.",
    "model.decoder.layers.#.final_layer_norm.": "decoder.#.feed_forward_norm.",
    "model.decoder.layernorm.": "decoder_norm.",
    "class_labels_classifier.": "class_head.",
    "bbox_predictor.": "box_head.",
}

# a part of a name that only one kind of checkpoint has; looked up in this order
SIGNS = {
    "mask_head.": "DETR with its panoptic mask head",
    "sampling_offsets": "Deformable DETR or one of its successors",
    "refpoint_embed": "DAB-DETR",
    "ca_qcontent_proj": "Conditional DETR",
    "q_content_proj": "Conditional DETR",
    "linear_bbox": "the 50-line demo of DETR, another architecture",
    "row_embed": "a DETR with learned positions, ours are sine waves",
    "roi_heads.": "a Faster or Mask R-CNN",
    "decoder_norm.": "detr_steps itself, for detr_steps.zoo.load",
    "transformer.decoder.": "the official DETR, for interop.load_official",
    "query_position_embeddings": "Hugging Face's DETR, for interop.load_hf",
    "layer1.0.conv1.": "a ResNet, not a detector",
}


def rename(state: Mapping[str, Tensor], table: dict[str, str]) -> dict[str, Tensor]:
    """Translate the names of a state dict; a name that no line fits stays as it is."""
    rules = [
        (re.compile(re.escape(a).replace(r"\#", r"(\d+)")), b.replace("#", r"\1"))
        for a, b in table.items()
    ]
    return {_translate(name, rules): value for name, value in state.items()}


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
    """Give the weights of a `DETR` the names and the fused layout of the official code.

    `torch.save({"model": to_official(model.state_dict())}, path)` makes a file that
    facebookresearch/detr loads.
    """
    fused = {}
    for name, value in state_dict.items():
        match = re.fullmatch(r"(.*attention\.)(query|key|value)\.(weight|bias)", name)
        if match is None:
            fused[name] = value
        elif match[2] == "query":
            rows = [state_dict[f"{match[1]}{p}.{match[3]}"] for p in PROJECTIONS]
            fused[f"{match[1]}in_proj_{match[3]}"] = torch.cat(rows)
    return rename(fused, {ours: theirs for theirs, ours in OFFICIAL.items()})
