"""Our own checkpoints: weights, record and recipe of every system, by name.

They lie in `data/zoo/<name>/` of a clone and inside an installed package; each is made
again by `detr-steps train <name>`. Reading is apart from publishing.
"""

import importlib
import pkgutil

from .. import data, nn, objective, systems
from .ablation import compare, steps_to
from .publishing import FILMED, publish, publish_film, publish_record
from .ranking import ranking
from .reading import (
    VARIABLE,
    checksum,
    class_names,
    film,
    films,
    folder,
    load,
    measured,
    names,
    own_seed,
    recipe,
    recipes,
    record,
    records,
    resize_rule,
    result,
    scores,
    ships_weights,
    sources,
    weights,
)

__all__ = [
    "FILMED",
    "VARIABLE",
    "checksum",
    "class_names",
    "compare",
    "film",
    "films",
    "folder",
    "load",
    "measured",
    "names",
    "own_seed",
    "publish",
    "publish_film",
    "publish_record",
    "ranking",
    "recipe",
    "recipes",
    "record",
    "records",
    "resize_rule",
    "result",
    "scores",
    "ships_weights",
    "sources",
    "steps_to",
    "weights",
]


def _know_all_configs() -> None:
    """A recipe may name every config there is, also of a module nobody imports."""
    for room in (data, nn, objective, systems):
        for module in pkgutil.iter_modules(room.__path__, f"{room.__name__}."):
            importlib.import_module(module.name)


_know_all_configs()
