"""What the shapes and names of weights tell about the size of their model."""

import re
from collections.abc import Iterable, Mapping

from torch import Tensor

# setting -> a weight and the axis of it that has as many
AXES = {
    "channels": (r"decoder\.0\.self_norm\.weight", 0),
    "ffn_channels": (r"decoder\.0\.feed_forward\.widen\.weight", 0),
}
# setting -> what its numbers follow in the names of weights
COUNTS = {
    "encoder_layers": r"encoder\.(\d+)\.",
    "decoder_layers": r"decoder\.(\d+)\.",
    "levels": r"pyramid\.levels\.(\d+)\.",
}
STAGES = tuple(rf"backbone\.layer{stage}\.(\d+)\." for stage in (1, 2, 3, 4))
LEVEL = r"pyramid\.levels\.\d+\.0\.weight"
OFFSETS = r"{}\.0\.{}\.offsets\.weight"
SAMPLING = {  # setting -> where its points are asked for
    "encoder_sampling": OFFSETS.format("encoder", "attention"),
    "decoder_sampling": OFFSETS.format("decoder", "cross_attention"),
}


def sizes(state: Mapping[str, Tensor]) -> dict[str, object]:
    """Settings of a config that weights under our names show.

    `backbone` is the number of blocks of each stage, `…_sampling` the number of points
    of all heads on one level. Settings that leave no trace are not there.
    """
    found: dict[str, object] = {}
    for setting, (pattern, axis) in AXES.items():
        for value in _matching(state, pattern):
            found[setting] = value.shape[axis]
    for setting, pattern in COUNTS.items():
        found[setting] = _count(state, pattern)
    blocks = tuple(_count(state, stage) for stage in STAGES)
    if any(blocks):
        found["backbone"] = blocks
    if not found["levels"]:
        del found["levels"]
        return found
    # C3, C4, … by 1 x 1 convolutions, further levels by 3 x 3
    found["maps"] = sum(v.shape[-1] == 1 for v in _matching(state, LEVEL))
    for setting, pattern in SAMPLING.items():
        for value in _matching(state, pattern):
            found[setting] = value.shape[0] // (2 * found["levels"])
    return found


def differences(theirs: Mapping[str, Tensor], ours: Mapping[str, Tensor]) -> list[str]:
    """In which sizes two models differ, both numbers in words; names are ours."""
    said = {
        "backbone": "blocks in the backbone's stages",
        "encoder_sampling": "points of all heads on a level of the encoder",
        "decoder_sampling": "points of all heads on a level of the decoder",
        "maps": "maps of the backbone",
    }
    one, other = sizes(theirs), sizes(ours)
    return [
        f"{one[key]} {said.get(key, key.replace('_', ' '))}, the model {other[key]}"
        for key in one
        if key in other and one[key] != other[key]
    ]


def _matching(state: Mapping[str, Tensor], pattern: str) -> list[Tensor]:
    return [value for name, value in state.items() if re.fullmatch(pattern, name)]


def _count(names: Iterable[str], pattern: str) -> int:
    found = (re.match(pattern, name) for name in names)
    return len({match[1] for match in found if match})
