"""Whether two descriptions are of the same run, but for the seed."""

import json
from dataclasses import asdict

from ..describable import KINDS, from_json, to_json
from ..training import Recipe
from ..training.folder import flat

BESIDES = ("sha256", "ship")  # in a recipe.json, but no setting of the run


def differences(one: dict, other: dict) -> list[str]:
    """Say what differs between two descriptions of runs, one line for each setting.

    The seed does not count, nor whether a setting is written out or is the default.
    Raises: ValueError where one of them is no description that could be trained.
    """
    left, right = flat(full(one)), flat(full(other))
    keys = sorted(key for key in left | right if left.get(key) != right.get(key))
    return [f"{key}: {left.get(key)}, not {right.get(key)}" for key in keys]


def full(description: dict) -> dict:
    """All settings of a run with all defaults, as they come back from a file."""
    whole = {key: description[key] for key in description if key not in BESIDES}
    try:
        recipe = asdict(Recipe(**description["recipe"]))
    except (KeyError, TypeError) as error:
        raise ValueError(f"no recipe of a run: {error}") from error
    del recipe["seed"]
    for part, value in whole.items():
        if isinstance(value, dict) and value.get("kind") in KINDS:
            whole[part] = to_json(from_json(value))
    return json.loads(json.dumps(whole | {"recipe": recipe}))
