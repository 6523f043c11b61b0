"""Names of DAB-DETR's weights in the official code and in transformers."""

from collections.abc import Mapping

from torch import Tensor

from ..systems.dab_detr import DABDETRConfig
from .conditional import official_decoder, projections
from .names import HF_BACKBONE, OFFICIAL, hf_attention, hf_layer

HF_PARTS = (
    *("query_content", "query_pos", "key_content", "key_pos", "value"),
    "query_pos_sine",
)


def _outside_layers(prefix: str) -> dict[str, str]:
    """What both call alike; `prefix` "transformer." or "model.".

    Both have a copy of the box head inside the decoder, which moves the anchors.
    """
    return {
        f"{prefix}encoder.query_scale.": "encoder_position_scale.",
        f"{prefix}decoder.query_scale.": "position_scale.",
        f"{prefix}decoder.ref_point_head.": "position_head.",
        f"{prefix}decoder.ref_anchor_head.": "size_head.",
        f"{prefix}decoder.bbox_embed.": "box_head.",
        f"{prefix}patterns.": "patterns.",
    }


def official(config: DABDETRConfig) -> dict[str, str]:
    """Names of github.com/IDEA-Research/DAB-DETR, its `dab_detr`."""
    activation = {
        f"transformer.{part}.layers.#.activation.": f"{part}.#.feed_forward.activation."
        for part in ("encoder", "decoder")
    }
    return {
        "refpoint_embed.": "anchors.",
        **_outside_layers("transformer."),
        **official_decoder(),
        **activation,
        **OFFICIAL,
    }


def hf(config: DABDETRConfig) -> dict[str, str]:
    """Names of transformers' `DabDetrForObjectDetection`."""
    encoder, decoder = "model.encoder.layers.#.", "model.decoder.layers.#."
    names = {
        "model.backbone.model._backbone.": "backbone.",  # timm's, as on the hub
        **HF_BACKBONE,
        "model.input_projection.": "project.",
        "model.query_refpoint_embeddings.": "anchors.",
        **_outside_layers("model."),
        **hf_attention(f"{encoder}self_attn", "encoder.#.attention"),
        f"{encoder}activation_fn.": "encoder.#.feed_forward.activation.",
        **hf_layer(encoder, "encoder.#."),
        "model.decoder.layernorm.": "decoder_norm.",
        "class_embed.": "class_head.",
        "bbox_predictor.": "box_head.",
    }
    for kind in ("self", "cross"):
        theirs, ours = f"{decoder}{kind}_attn.{kind}_attn", f"decoder.#.{kind}"
        names |= projections(f"{theirs}_{{}}_proj.", HF_PARTS, f"{ours}_attention")
        names[f"{theirs}.output_proj."] = f"{ours}_attention.output."
        names[f"{theirs}_layer_norm."] = f"{ours}_norm."
    names[f"{decoder}mlp.activation_fn."] = "decoder.#.feed_forward.activation."
    names[f"{decoder}mlp.final_layer_norm."] = "decoder.#.feed_forward_norm."
    return names | hf_layer(decoder, "decoder.#.")


def settings_shown(state: Mapping[str, Tensor]) -> dict[str, object]:
    """What a checkpoint's weights tell about the config of its model."""
    shapes = {name: x.shape for name, x in state.items() if x.dim() == 2}
    patterns = [rows for name, (rows, _) in shapes.items() if ".patterns." in name]
    anchors = [numbers for name, (_, numbers) in shapes.items() if "refpoint_" in name]
    return {
        "anchor_dim": anchors[0] if anchors else 4,
        "patterns": patterns[0] if patterns else 0,
        "modulate": any("ref_anchor_head." in name for name in state),
    }


def hf_settings(config: DABDETRConfig) -> dict[str, object]:
    """What a config.json must say, as far as no shape of a weight shows it.

    Not `dropout` and the weights of the loss, which transformers sets otherwise than
    the authors: they matter to training only.
    """
    return {
        "model_type": "dab-detr",
        "activation_function": "prelu",
        "encoder_attention_heads": config.heads,
        "decoder_attention_heads": config.heads,
        "temperature_height": config.temperature,
        "temperature_width": config.temperature,
        "keep_query_pos": False,
        "normalize_before": False,
        "dilation": getattr(config.backbone, "dilate_last", False),
    }
