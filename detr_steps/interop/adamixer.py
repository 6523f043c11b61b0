"""Names of AdaMixer's weights in the official code (mmdet)."""

from ..systems.adamixer import AdaMixerConfig
from .names import official_attention

STAGE = "roi_head.bbox_head.#."


def official(config: AdaMixerConfig) -> dict[str, str]:
    """Names of github.com/MCG-NJU/AdaMixer; each stage has heads of its own."""
    sampling, ours = f"{STAGE}sampling_n_mixing.", "decoder.#.cross_attention."
    return {
        "neck.lateral_convs.#.conv.": "project.maps.#.",
        "neck.gn_out.": "project.norm.",
        "rpn_head.init_proposal_bboxes.": "boxes.",
        "rpn_head.init_content_features.": "queries.",
        **official_attention(f"{STAGE}attention.attn", "decoder.#.self_attention"),
        f"{STAGE}iof_tau": "decoder.#.self_attention.sharpness",
        f"{STAGE}attention_norm.": "decoder.#.self_norm.",
        f"{sampling}sampling_offset_generator.0.": f"{ours}offsets.",
        f"{sampling}adaptive_mixing.parameter_generator.0.": f"{ours}kernels.",
        f"{sampling}adaptive_mixing.out_proj.": f"{ours}output.",
        f"{sampling}norm.": "decoder.#.cross_norm.",
        f"{STAGE}ffn.layers.0.0.": "decoder.#.feed_forward.widen.",
        f"{STAGE}ffn.layers.1.": "decoder.#.feed_forward.narrow.",
        f"{STAGE}ffn_norm.": "decoder.#.feed_forward_norm.",
        f"{STAGE}cls_fcs.": "class_features.#.",
        f"{STAGE}reg_fcs.": "box_features.#.",
        f"{STAGE}fc_cls.": "class_heads.#.",
        f"{STAGE}fc_reg.": "box_heads.#.",
    }
