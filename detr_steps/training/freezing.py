"""Parts of a model that do not learn. For chapters/04_why_slow.ipynb."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn


@contextmanager
def frozen(model: nn.Module, parts: Sequence[str]) -> Iterator[None]:
    """Let the parameters of some parts not learn; afterwards all is as it was.

    `parts` names of submodules or parameters, e.g. "encoder", "decoder.0". Raises:
    ValueError for a name that the model does not have, and where nothing is left that
    could learn.
    """
    mine = [
        (name, parameter)
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    ]
    for part in parts:
        if not any(belongs(name, part) for name, _ in mine):
            tops = dict.fromkeys(name.partition(".")[0] for name, _ in mine)
            raise ValueError(
                f"freeze {part!r}: no such part learns in the model, it has "
                f"{', '.join(tops)}"
            )
    still = [p for name, p in mine if any(belongs(name, part) for part in parts)]
    if len(still) == len(mine) and parts:
        raise ValueError(f"freeze {', '.join(parts)}: nothing is left that could learn")
    for parameter in still:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in still:
            parameter.requires_grad_(True)


def belongs(name: str, part: str) -> bool:
    """Whether a parameter is, or lies in, the part of that name."""
    return name == part or name.startswith(f"{part}.")
