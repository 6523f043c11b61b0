"""Ids of a COCO-format file: 7, 7.0, "7", "007" and " 7 " all mean the number 7.

Files from spreadsheets and label tools write one id in several ways. An id finds the
entry that is written the same; failing that, the only entry that means the same. Where
several mean the same ("7" beside "007"), a third spelling finds none of them: boxes
are reported as left out, and never given to another picture.
"""

import math
import re
from typing import Any, Generic, TypeVar

Entry = TypeVar("Entry")

EXACT_FLOATS = 2**53  # from here on floats skip whole numbers: 2^53 + 1 is read as 2^53
_WHOLE = re.compile(r"[+-]?\d{1,4000}(\.0*)?", re.ASCII)


def is_id(value: Any) -> bool:
    """Tell whether a JSON value can be an id: a number or a text, not true or empty."""
    if type(value) is int:  # nearly all are, and files have millions
        return True
    if isinstance(value, float):
        return math.isfinite(value) and abs(value) < EXACT_FLOATS
    if isinstance(value, str):
        return bool(value.strip())
    return False


def meaning(value: int | float | str) -> int | str:
    """The whole number an id stands for, or its text without the spaces around it."""
    text = repr(value) if isinstance(value, float) else str(value).strip()
    return int(text.partition(".")[0]) if _WHOLE.fullmatch(text) else text


def whole_number(value: Any) -> int | None:
    """The whole number that an id means, None for any other text or value."""
    if type(value) is int:
        return value
    found = meaning(value) if is_id(value) else None
    return found if isinstance(found, int) else None


class ById(Generic[Entry]):
    """Entries by their id, found under any spelling that leaves no doubt."""

    def __init__(self) -> None:
        self._exact: dict[Any, Entry] = {}  # JSON's 7 and 7.0 are one key in Python too
        self._alike: dict[int | str, list[Any]] = {}  # meaning -> ids as written

    def __contains__(self, value: Any) -> bool:
        return is_id(value) and value in self._exact

    def add(self, value: int | float | str, entry: Entry) -> None:
        """Add an entry under an id that `is_id` and not yet contained."""
        self._exact[value] = entry
        self._alike.setdefault(meaning(value), []).append(value)

    def find(self, value: Any) -> Entry | None:
        """The entry with this id, None when there is none or more than one it fits."""
        if not is_id(value):
            return None
        if value in self._exact:
            return self._exact[value]
        alike = self.alike(value)
        return self._exact[alike[0]] if len(alike) == 1 else None

    def alike(self, value: Any) -> list[Any]:
        """All ids, as they are written, that mean the same."""
        return self._alike.get(meaning(value), []) if is_id(value) else []
