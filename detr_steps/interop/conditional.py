"""Names of Conditional DETR's weights in the official code and in transformers."""

from ..systems.conditional_detr import ConditionalDETRConfig
from .names import HF, OFFICIAL

PARTS = "query", "query_position", "key", "key_position", "value", "query_spatial"
# the same parts in the official code, and in transformers 5
OFFICIAL_PARTS = "qcontent", "qpos", "kcontent", "kpos", "v", "qpos_sine"
HF_PARTS = "q_content", "q_pos", "k_content", "k_pos", "v", "q_pos_sine"


def projections(theirs: str, names: tuple[str, ...], ours: str) -> dict[str, str]:
    """Names of an attention's projections; `{}` in `theirs` stands for the part."""
    return {theirs.format(name): f"{ours}.{part}." for name, part in zip(names, PARTS)}


def outer_projections(layers: str) -> dict[str, str]:
    """What the official code and transformers 4 keep beside their attentions.

    `layers` how the names of a decoder layer begin.
    """
    names = {}
    for short, kind in (("sa", "self"), ("ca", "cross")):
        theirs, ours = f"{layers}{short}_{{}}_proj.", f"decoder.#.{kind}_attention"
        names |= projections(theirs, OFFICIAL_PARTS, ours)
    return names


def official_decoder() -> dict[str, str]:
    """Decoder layers in the official code; DAB-DETR has the same."""
    layers = "transformer.decoder.layers.#."
    return {
        **outer_projections(layers),
        f"{layers}cross_attn.out_proj.": "decoder.#.cross_attention.output.",
        "transformer.decoder.query_scale.": "position_scale.",
    }


def official(config: ConditionalDETRConfig) -> dict[str, str]:
    """Names of github.com/Atten4Vis/ConditionalDETR; what DETR has is called alike."""
    return {
        **official_decoder(),
        "transformer.decoder.ref_point_head.": "reference_head.",
        **OFFICIAL,
    }


def hf(config: ConditionalDETRConfig) -> dict[str, str]:
    """Names of transformers' `ConditionalDetrForObjectDetection`."""
    layers = "model.decoder.layers.#."
    names = outer_projections(layers)
    for their_kind, kind in (("self", "self"), ("encoder", "cross")):
        theirs = f"{layers}{their_kind}_attn.{{}}_proj."
        names |= projections(theirs, HF_PARTS, f"decoder.#.{kind}_attention")
    names["model.decoder.query_scale."] = "position_scale."
    names["model.decoder.ref_point_head."] = "reference_head."
    return names | HF


def hf_settings(config: ConditionalDETRConfig) -> dict[str, object]:
    """What a config.json must say, as far as no shape of a weight shows it."""
    return {
        "model_type": "conditional_detr",
        "position_embedding_type": "sine",
        "activation_function": "relu",
        "encoder_attention_heads": config.heads,
        "decoder_attention_heads": config.heads,
        "dilation": getattr(config.backbone, "dilate_last", False),
    }
