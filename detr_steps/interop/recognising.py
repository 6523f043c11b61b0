"""Which system, and which config of it, the weights of a checkpoint belong to."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace

from torch import Tensor, nn

from ..describable import KINDS
from ..systems.group_detr import Groups
from ..systems.h_detr import Hybrid
from .differing import SAMPLING, sizes
from .layouts import LAYOUTS, Layout
from .loading import sign_of
from .names import HF_RENAMED, SIGNS, rename, split_fused
from .unwrapping import CheckpointError

OFFICIAL, HF = "official", "hf"
# what may be stated of a training scheme; no preset has one
OF_SCHEMES = ("groups", "more_queries", "repeats", "many_weight")


@dataclass(frozen=True)
class Foreign:
    """A checkpoint of somebody else: `state` under their names, made by `system`.

    `style` "official" or "hf", whose names they are; `stated` what was said beside the
    weights about the model: `dilate_last`, `heads`, `refine`, `queries`, and of a
    training scheme `groups` or `more_queries`, `repeats`, `many_weight`.
    """

    state: Mapping[str, Tensor]
    system: type[nn.Module]
    style: str
    stated: Mapping[str, object] = field(default_factory=dict)

    @property
    def layout(self) -> Layout:
        """What this system's weights are called."""
        return LAYOUTS[self.system]

    def renamed(self, config: object) -> dict[str, Tensor]:
        """The weights under our names. Raises: as `names.rename`."""
        if self.style == HF:
            return rename(rename(self.state, HF_RENAMED), self.layout.hf(config))
        return split_fused(rename(self.state, self.layout.official(config)))

    @property
    def classes(self) -> int | None:
        """How many classes it tells apart; None where it has no class head."""
        layout = self.layout
        rows = class_rows(self.renamed(self._kind()), layout.class_heads)
        return None if rows is None else rows - layout.no_object

    def _kind(self, preset: object | None = None) -> object:
        """The preset, or the paper's, with what names show: refinement, two stages."""
        config = preset or config_class(self.system).coco_r50()
        shown = dict(self.layout.settings_shown(self.state))
        if "refine" in self.stated:
            shown.setdefault("refine", self.stated["refine"])
        try:
            config = replace(config, **shown)
        except ValueError:  # two stages need refinement, which a lost copy would show
            config = replace(config, **shown, refine=True)
        try:
            self.renamed(config)
        except CheckpointError:  # heads that differ from layer to layer
            if getattr(config, "refine", True):
                raise
            config = replace(config, refine=True)
        return config

    def config(self, preset: object | None = None) -> object:
        """The config of its model; what no weight shows is `preset`'s, or the paper's.

        Raises: CheckpointError for a backbone that is no ResNet of ours, or a
        checkpoint without a class head.
        """
        config = self._kind(preset)
        ours = self.renamed(config)
        found = sizes(ours) | {"classes": self.classes}
        if found["classes"] is None:
            raise CheckpointError("it has no class head: train one, with --weights")
        if "backbone" not in found:
            raise CheckpointError(
                "its backbone is no ResNet with bottlenecks, the only ones that "
                f"{type(config).__name__} has presets for"
            )
        dilated = self.stated.get("dilate_last", config.backbone.dilate_last)
        found["backbone"] = replace(
            config.backbone, depths=found["backbone"], dilate_last=bool(dilated)
        )
        rows = [len(ours[n]) for n in _several(self.layout.queries) if n in ours]
        # two stages keep no weight for a query
        found["queries"] = (rows or [self.stated.get("queries", config.queries)])[0]
        found |= self._scheme(found["queries"], bool(rows))
        found |= self._heads(config, found)
        known = {each.name for each in fields(config)}
        return replace(config, **{k: v for k, v in found.items() if k in known})

    def _scheme(self, queries: int, counted: bool) -> dict[str, object]:
        """The scheme of Group DETR or H-DETR, where the options say so.

        `counted`: are the queries those of the weights, of training that is?
        """
        groups, more = (self.stated.get(x, 0) for x in ("groups", "more_queries"))
        if groups > 1:
            own = queries // groups if counted else queries
            return {"queries": own, "scheme": Groups(groups)}
        if more > 0:
            repeats, weight = self.stated["repeats"], self.stated["many_weight"]
            own = queries - more if counted else queries
            return {"queries": own, "scheme": Hybrid(more, repeats, weight)}
        return {}

    def _heads(self, config: object, found: dict[str, object]) -> dict[str, object]:
        """Heads, and points of each: the weights show only their product."""
        heads = self.stated.get("heads", config.heads)
        result: dict[str, object] = {"heads": heads}
        for setting in SAMPLING.keys() & found.keys():
            points = found[setting] // heads
            sampling = getattr(config, setting)
            result[setting] = replace(sampling, heads=heads, points=points)
        return result


def _several(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def recognise(state: Mapping[str, Tensor], **stated: object) -> Foreign:
    """Tell whose names a state dict has.

    Raises: CheckpointError that says what it is instead.
    """
    sign = sign_of(state)
    for system, layout in LAYOUTS.items():
        for style, own in ((OFFICIAL, layout.official_sign), (HF, layout.hf_sign)):
            if sign == own:
                return Foreign(state, system, style, stated)
    raise CheckpointError(f"this is a checkpoint of {SIGNS[sign]}")


def class_rows(state: Mapping[str, Tensor], heads: str | tuple[str, ...]) -> int | None:
    """Rows of the first class head, under our names; None where there is none."""
    rows = [v.shape[0] for n, v in state.items() if n.startswith(heads) and v.dim()]
    return rows[0] if rows else None


def config_class(system: type[nn.Module]) -> type:
    """The class of a system's configs."""
    return KINDS[f"{system.__name__}Config"]


def presets() -> dict[str, Callable[..., object]]:
    """All presets of all systems by name: "detr-coco-r50", "deformable-tiny", …"""
    found = {}
    for system in LAYOUTS:
        short = system.__name__.lower().removesuffix("detr") or "detr"
        kind = config_class(system)
        inherited = [vars(base) for base in reversed(kind.__mro__[:-1])]
        for name, value in [pair for names in inherited for pair in names.items()]:
            if isinstance(value, classmethod) and not name.startswith("_"):
                found[f"{short}-{name.replace('_', '-')}"] = getattr(kind, name)
    return found
