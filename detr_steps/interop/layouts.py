"""Which systems can be loaded from elsewhere, and what they are called there."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from ..systems.adamixer import AdaMixer
from ..systems.conditional_detr import ConditionalDETR
from ..systems.dab_detr import DABDETR
from ..systems.deformable_detr import DeformableDETR
from ..systems.detr import DETR, DETRConfig
from ..systems.encoder_only import EncoderOnly
from ..systems.panoptic import PanopticDETR
from ..systems.tsp import TSPFCOS
from . import adamixer, conditional, dab, deformable
from .names import HF, OFFICIAL, PANOPTIC_HF, PANOPTIC_OFFICIAL

Table = Mapping[str, str]


@dataclass(frozen=True)
class OwnNames:
    """What the weights of one system are called here.

    `class_heads` how the names of what tells classes begin; `no_object` rows there that
    are no class; `queries` the weights with a row for each query.
    """

    class_heads: str | tuple[str, ...]
    no_object: int
    queries: tuple[str, ...]


@dataclass(frozen=True)
class Layout(OwnNames):
    """And what they are called elsewhere.

    `official(config)`, `hf(config)` tables of names.py; `official_sign`, `hf_sign` a
    part of a name that shows such a checkpoint (`hf`, `hf_sign` None for a system that
    transformers does not have); `settings_shown(state)` what a checkpoint tells about
    its config; `hf_settings(config)` what its config.json must say.
    """

    official: Callable[[object], Table]
    hf: Callable[[object], Table] | None
    official_sign: str
    hf_sign: str | None
    settings_shown: Callable[[Mapping[str, Tensor]], dict[str, object]]
    hf_settings: Callable[[object], dict[str, object]]


def _detr_hf_settings(config: DETRConfig) -> dict[str, object]:
    return {
        "model_type": "detr",
        "position_embedding_type": "sine",
        "activation_function": "relu",
        "encoder_attention_heads": config.heads,
        "decoder_attention_heads": config.heads,
        "dilation": getattr(config.backbone, "dilate_last", False),
    }


LAYOUTS = {
    DETR: Layout(
        official=lambda config: OFFICIAL,
        hf=lambda config: HF,
        official_sign="transformer.decoder.",
        hf_sign="query_position_embeddings",
        class_heads="class_head.",
        no_object=1,
        queries=("queries.weight",),
        settings_shown=lambda state: {},
        hf_settings=_detr_hf_settings,
    ),
    PanopticDETR: Layout(
        official=lambda config: PANOPTIC_OFFICIAL,
        hf=lambda config: PANOPTIC_HF,
        official_sign="detr.transformer.decoder.",
        hf_sign="detr.model.query_position_embeddings.",
        class_heads="class_head.",
        no_object=1,
        queries=("queries.weight",),
        settings_shown=lambda state: {},
        hf_settings=_detr_hf_settings,
    ),
    ConditionalDETR: Layout(
        official=conditional.official,
        hf=conditional.hf,
        official_sign="transformer.decoder.ref_point_head.",
        hf_sign="model.decoder.ref_point_head.",
        class_heads="class_head.",
        no_object=0,
        queries=("queries.weight",),
        settings_shown=lambda state: {},
        hf_settings=conditional.hf_settings,
    ),
    DABDETR: Layout(
        official=dab.official,
        hf=dab.hf,
        official_sign="refpoint_embed.",
        hf_sign="query_refpoint_embeddings.",
        class_heads="class_head.",
        no_object=0,
        queries=("anchors.weight",),
        settings_shown=dab.settings_shown,
        hf_settings=dab.hf_settings,
    ),
    DeformableDETR: Layout(
        official=deformable.official,
        hf=deformable.hf,
        official_sign=".cross_attn.sampling_offsets",
        hf_sign=".encoder_attn.sampling_offsets",
        class_heads="class_heads.",
        no_object=0,
        queries=(
            "queries.embedding.weight",
            "queries.content.weight",
            "queries.anchors.weight",
        ),
        settings_shown=deformable.settings_shown,
        hf_settings=deformable.hf_settings,
    ),
    AdaMixer: Layout(
        official=adamixer.official,
        hf=None,
        official_sign="sampling_n_mixing.",
        hf_sign=None,
        class_heads="class_heads.",
        no_object=0,
        queries=("queries.weight", "boxes.weight"),
        settings_shown=lambda state: {},
        hf_settings=lambda config: {},
    ),
}


# systems whose weights nobody else publishes in a form that is read here
ONLY_HERE = {
    EncoderOnly: OwnNames("class_head.", no_object=1, queries=()),
    TSPFCOS: OwnNames(("class_head.", "point_head."), no_object=0, queries=()),
}


def own_names(model: nn.Module) -> OwnNames:
    """What a model's weights are called here. Raises: TypeError for no detector."""
    found = ONLY_HERE.get(type(model))
    return layout_of(model) if found is None else found


def layout_of(model: nn.Module) -> Layout:
    """Find the layout of a model. Raises: TypeError for one that has none."""
    for kind in type(model).__mro__:
        if kind in LAYOUTS:
            return LAYOUTS[kind]
    known = " or ".join(f"detr_steps.{kind.__name__}" for kind in LAYOUTS)
    raise TypeError(f"expected a {known}, got {type(model).__name__}")
