"""Categories of a data set and classes of a model, brought together by their names."""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence

SHOWN = 10  # names in a message
# what numbers without a class are called: COCO's gaps, and those of other files
_NO_CLASS = re.compile(r"–|\(no \d+\)")


def is_class(name: str) -> bool:
    """Tell whether a label with this name can be found: gaps in the ids cannot."""
    return not _NO_CLASS.fullmatch(name)


def distinct(names: Sequence[str]) -> list[str]:
    """The names, in order, with numbers behind those that several classes share.

    `["bolt", "nut", "bolt"]` becomes `["bolt (1)", "nut", "bolt (2)"]`.
    """
    count, taken = Counter(names), set(names)
    given, numbers = [], Counter()
    for name in names:
        shown = name
        while count[name] > 1 and shown in taken:
            numbers[name] += 1
            shown = f"{name} ({numbers[name]})"
        taken.add(shown)
        given.append(shown)
    return given


def match_names(
    categories: Sequence[str], classes: Sequence[str], used: Sequence[bool]
) -> list[int | None]:
    """The class of each category of a data set, by name; None where there is none.

    `classes` are the model's names in label order, `used` says which categories have
    an object. Several of one name are taken in their order, if there are as many on
    both sides. A category without a class may stand there only if it has no object.

    Raises: ValueError that names the categories which cannot be matched, and the
    classes that are missing among the categories.
    """
    ours, theirs = _by_name(classes), _by_name(categories)
    labels: list[int | None] = [None] * len(categories)
    for name, places in theirs.items():
        if len(places) == len(ours.get(name, ())):
            for place, label in zip(places, ours[name]):
                labels[place] = label
    extra = [
        name
        for name, places in theirs.items()
        if any(labels[place] is None and used[place] for place in places)
    ]
    missing = [name for name in ours if name not in theirs and is_class(name)]
    both = [name for name in theirs if name in ours]
    doubt = [name for name in both if len(theirs[name]) != len(ours[name])]
    if extra or missing or doubt:
        raise ValueError(_why_not(extra, missing, doubt))
    return labels


def _by_name(names: Sequence[str]) -> dict[str, list[int]]:
    """Positions of each name; one letter may be written in two ways in Unicode."""
    places = defaultdict(list)
    for place, name in enumerate(names):
        places[unicodedata.normalize("NFC", name).strip()].append(place)
    return places


def _why_not(extra: list[str], missing: list[str], doubt: list[str]) -> str:
    said = []
    if others := [name for name in extra if name not in doubt]:
        said.append(f"the model does not know {_quoted(others)}")
    if missing:
        said.append(f"the data have no category {_quoted(missing)}")
    if doubt:
        said.append(f"not as many categories as classes are called {_quoted(doubt)}")
    return (
        f"categories are matched by name, and these cannot be: {'; '.join(said)}. "
        "Rename, add or take out categories in the annotation file (ids do not matter; "
        "one that is added needs no object)"
    )


def _quoted(names: list[str]) -> str:
    shown = ", ".join(map(repr, names[:SHOWN]))
    return shown + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
