"""Weights that a run has kept along its way (a recipe's `keep`), read again."""

from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from ..files import read_tensors


def kept_weights(run: str | Path) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Steps and float32 weights that a run has kept, in order; none where it kept none.

    They were rounded to half precision. Raises: FileNotFoundError where there is no
    run; ValueError for a damaged file.
    """
    run = Path(run)
    if not (run / "recipe.json").is_file():
        raise FileNotFoundError(f"no run in {run}: it has no recipe.json")
    for path in sorted((run / "kept").glob("*.safetensors")):
        tensors = read_tensors(path)[0].items()
        floats = {k: v.float() if v.is_floating_point() else v for k, v in tensors}
        yield int(path.stem), floats
