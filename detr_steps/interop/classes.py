"""Does the class head of a checkpoint fit somebody's classes? By number and by name."""

import re
from collections.abc import Mapping, Sequence

from ..data.coco_names import COCO_NAMES

UNUSED = "–"
NOT_USED = {"", "-", UNUSED, "n/a", "none"}
NO_NAME = re.compile(
    r"(label_|class_?)?\d+"
)  # transformers' names where nobody gave any
SHOWN = 3


def names_of(config: Mapping[str, object], classes: int | None) -> list[str] | None:
    """Names of a checkpoint's classes: those of its config.json, or COCO's.

    Checkpoints with 91 classes that say nothing are taken for COCO's, whose highest
    category id is 90. None where nobody knows.
    """
    names = config.get("id2label")
    numbered = isinstance(names, dict) and all(str(k).isdecimal() for k in names)
    if numbered and len(names) == classes:
        ordered = [str(names[k]) for k in sorted(names, key=int)]
        if not all(NO_NAME.fullmatch(name.lower()) for name in ordered):
            return [UNUSED if _same(n) == UNUSED else n for n in ordered]
    return list(COCO_NAMES) if classes == len(COCO_NAMES) and not names else None


def fits(
    theirs: tuple[int | None, Sequence[str] | None],
    ours: tuple[int, Sequence[str] | None],
) -> tuple[bool, str]:
    """Whether a class head tells the wanted classes apart, and one sentence why.

    Both sides `(how many, their names or None)`.
    """
    (there, names), (here, wanted) = theirs, ours
    if there is None:
        return False, "class head started anew: the checkpoint has none"
    if there != here:
        return False, (
            f"class head started anew: the checkpoint has {there} classes, the model "
            f"{here}"
        )
    if names is None or wanted is None:
        whose = "the checkpoint's" if names is None else "the model's"
        return True, (
            f"class head kept: both have {here} classes ({whose} names are not known)"
        )
    other = [(a, b) for a, b in zip(names, wanted, strict=True) if _same(a) != _same(b)]
    if not other:
        return True, f"class head kept: the same {here} classes, by number and name"
    if sorted(map(_same, names)) == sorted(map(_same, wanted)):
        return False, (
            "class head started anew: the checkpoint has the same classes in another "
            f"order ({_pairs(other)})"
        )
    return False, (
        f"class head started anew: {len(other)} of {here} classes are others in the "
        f"checkpoint ({_pairs(other)})"
    )


def _pairs(pairs: list[tuple[str, str]]) -> str:
    more = ", …" if len(pairs) > SHOWN else ""
    return ", ".join(f"{a!r} for {b!r}" for a, b in pairs[:SHOWN]) + more


def _same(name: str) -> str:
    short = " ".join(name.replace("_", " ").split()).casefold()
    unused = short in NOT_USED or short.startswith("(no ")
    return UNUSED if unused else short
