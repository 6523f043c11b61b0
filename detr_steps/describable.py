"""Configs as plain JSON and back: what a `recipe.json` may name, and nothing else.

A config is a frozen dataclass of numbers, names and further configs. `@describable`
puts it on the list of kinds that a description may name: an allow-list, so that a
recipe from elsewhere can choose numbers but never code.
"""

from dataclasses import MISSING, Field, field, fields, is_dataclass
from typing import Any

KINDS: dict[str, type] = {}  # by name: what was decorated so far
PLAIN = (str, int, float, bool, type(None))


def describable(kind: type) -> type:
    """Let a description name this frozen dataclass; stands above `@dataclass`.

    Raises: TypeError for a class that could change under way; ValueError where another
    module has a kind of this name already.
    """
    if not is_dataclass(kind) or not kind.__dataclass_params__.frozen:
        raise TypeError(
            f"{kind.__name__} is no frozen dataclass: put @describable above "
            "@dataclass(frozen=True)"
        )
    other = KINDS.get(kind.__name__, kind)
    if other.__module__ != kind.__module__:  # the same one again is a reloaded module
        raise ValueError(
            f"two kinds of config are named {kind.__name__!r}, in {other.__module__} "
            f"and in {kind.__module__}: rename one"
        )
    KINDS[kind.__name__] = kind
    return kind


def added(default: object) -> Any:
    """A field that a kind got after recipes were written: `flag: bool = added(False)`.

    They stay as they are, for it is written only where it is not the default.
    """
    return field(default=default, metadata={"added": True})


def _written(of: Field, value: object) -> bool:
    return not of.metadata.get("added") or getattr(value, of.name) != of.default


def to_json(value: object) -> object:
    """Turn a config into plain JSON values: a dict with its `kind` and its fields.

    Raises: TypeError for anything that `from_json` could not make again.
    """
    if KINDS.get(type(value).__name__) is type(value):
        written = (f.name for f in fields(value) if _written(f, value))
        inner = {name: to_json(getattr(value, name)) for name in written}
        return {"kind": type(value).__name__, **inner}
    if isinstance(value, tuple | list):
        return [to_json(item) for item in value]
    if not isinstance(value, PLAIN):
        raise TypeError(
            f"a {type(value).__name__} cannot stand in a recipe: use numbers, text, "
            "tuples and dataclasses that are @describable"
        )
    return value


def from_json(value: object) -> object:
    """Undo `to_json`; lists become tuples, as frozen dataclasses have them.

    Raises: ValueError for a kind or a field that is not ours, and for a missing field.
    """
    if isinstance(value, list):
        return tuple(from_json(item) for item in value)
    if not isinstance(value, dict):
        return value
    name = value.get("kind")
    kind = KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise ValueError(f"unknown kind {name!r}: there are {', '.join(sorted(KINDS))}")
    given = {key: from_json(item) for key, item in value.items() if key != "kind"}
    _check_fields(kind, given)
    try:
        return kind(**given)
    except (TypeError, LookupError, ArithmeticError) as error:
        # a value of the wrong type or length met the class's own checks
        raise ValueError(f"{name} cannot be made of {given}: {error}") from error


def _check_fields(kind: type, given: dict) -> None:
    names = [f.name for f in fields(kind)]
    needed = [f.name for f in fields(kind) if f.default is f.default_factory is MISSING]
    for fault, wrong in (
        ("has no field", [name for name in given if name not in names]),
        ("needs the field", [name for name in needed if name not in given]),
    ):
        if wrong:
            raise ValueError(
                f"{kind.__name__} {fault} {', '.join(map(repr, wrong))}: its fields "
                f"are {', '.join(names) or 'none at all'}"
            )
