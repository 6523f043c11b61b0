"""Names of Deformable DETR's weights in the official code and in transformers."""

from collections.abc import Mapping

from torch import Tensor

from ..systems.deformable_detr import DeformableDETRConfig
from ..systems.query_sources import Anchors, LearnedPoints, Proposals
from .names import (
    HF_BACKBONE,
    hf_attention,
    hf_layer,
    official_attention,
    official_layer,
)

SOURCES = {".enc_output.": Proposals(), ".ref_point_head.": Anchors()}  # by their parts
ANCHORS = {  # what only dab_deformable_detr has
    "tgt_embed.": "queries.content.",
    "refpoint_embed.": "queries.anchors.",
    "transformer.decoder.ref_point_head.": "queries.position_head.",
    "transformer.decoder.query_scale.": "queries.position_scale.",
}


def _sampling(theirs: str, ours: str) -> dict[str, str]:
    names = {
        "sampling_offsets.": "offsets.",
        "attention_weights.": "weights.linear.",
        "value_proj.": "value.",
        "output_proj.": "output.",
    }
    return {f"{theirs}.{a}": f"{ours}.{b}" for a, b in names.items()}


def _outside_layers(config: DeformableDETRConfig, prefix: str) -> dict[str, str]:
    """What both call alike; `prefix` "transformer." or "model.".

    Both keep a copy of the heads for every layer, and a second one inside the decoder:
    with refinement the copies of the layers differ, without it they are one.
    """
    layer = "#" if config.refine else "0"
    names = {
        f"{prefix}level_embed": "level_embedding",
        f"{prefix}reference_points.": "queries.reference.",
        f"{prefix}enc_output.": "queries.project.",
        f"{prefix}enc_output_norm.": "queries.project_norm.",
        f"{prefix}pos_trans.": "queries.describe.",
        f"{prefix}pos_trans_norm.": "queries.describe_norm.",
    }
    for place in ("", f"{prefix}decoder."):
        names[f"{place}class_embed.#."] = f"class_heads.{layer}."
        names[f"{place}bbox_embed.#."] = f"box_heads.{layer}."
    return names


def official(config: DeformableDETRConfig) -> dict[str, str]:
    """Names of github.com/fundamentalvision/Deformable-DETR; norms 1 and 2 swapped.

    Also of IDEA-Research/DAB-DETR, its `dab_deformable_detr`, and of H-DETR
    (HDETR/H-Deformable-DETR), with rows for the queries of its one-to-many branch.
    """
    encoder, decoder = "transformer.encoder.layers.#.", "transformer.decoder.layers.#."
    mixed = config.query_source == Proposals(mixed=True)  # H-DETR: contents alone
    return {
        "backbone.0.body.": "backbone.",
        "input_proj.#.": "pyramid.levels.#.",
        "query_embed.": "queries.content." if mixed else "queries.embedding.",
        **(ANCHORS if isinstance(config.query_source, Anchors) else {}),
        **_sampling(f"{encoder}self_attn", "encoder.#.attention"),
        **official_layer(encoder, "encoder.#.", "attention_norm", "feed_forward_norm"),
        **official_attention(f"{decoder}self_attn", "decoder.#.self_attention"),
        **_sampling(f"{decoder}cross_attn", "decoder.#.cross_attention"),
        **official_layer(
            decoder, "decoder.#.", "cross_norm", "self_norm", "feed_forward_norm"
        ),
        **_outside_layers(config, "transformer."),
    }


def hf(config: DeformableDETRConfig) -> dict[str, str]:
    """Names of transformers' `DeformableDetrForObjectDetection`."""
    encoder, decoder = "model.encoder.layers.#.", "model.decoder.layers.#."
    return {
        **HF_BACKBONE,
        "model.input_proj.#.": "pyramid.levels.#.",
        "model.query_position_embeddings.": "queries.embedding.",
        **_sampling(f"{encoder}self_attn", "encoder.#.attention"),
        **hf_layer(encoder, "encoder.#."),
        **hf_attention(f"{decoder}self_attn", "decoder.#.self_attention"),
        **_sampling(f"{decoder}encoder_attn", "decoder.#.cross_attention"),
        **hf_layer(decoder, "decoder.#."),
        **_outside_layers(config, "model."),
    }


def settings_shown(state: Mapping[str, Tensor]) -> dict[str, object]:
    """What a checkpoint's names tell about the config of its model."""

    def any_has(part: str) -> bool:
        return any(part in name for name in state)

    source = LearnedPoints()
    for part, other in SOURCES.items():
        source = other if any_has(part) else source
    if source == Proposals() and any_has("query_embed."):
        source = Proposals(mixed=True)
    shown: dict[str, object] = {"query_source": source}
    if any_has("decoder.bbox_embed."):
        shown["refine"] = True
    elif any_has("transformer.decoder."):  # the official code always keeps the copy
        shown["refine"] = False
    return shown


def hf_settings(config: DeformableDETRConfig) -> dict[str, object]:
    """What a config.json must say, as far as no shape of a weight shows it."""
    return {
        "model_type": "deformable_detr",
        "position_embedding_type": "sine",
        "activation_function": "relu",
        "encoder_attention_heads": getattr(config.encoder_sampling, "heads", None),
        "decoder_attention_heads": config.heads,
        "num_feature_levels": config.levels,
        "with_box_refine": config.refine,
        "two_stage": config.two_stage,
        "dilation": getattr(config.backbone, "dilate_last", False),
    }
