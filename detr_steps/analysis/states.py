"""A model as it was at several steps of its training.

For chapters/04_why_slow.ipynb.
"""

import copy
from collections.abc import Iterable, Iterator

from torch import Tensor, nn


def models_at(
    model: nn.Module, weights: Iterable[tuple[int, dict[str, Tensor]]]
) -> Iterator[tuple[int, nn.Module]]:
    """The model at each step, with the weights it had then, ready to look at.

    `weights` pairs of a step and a state; one copy of the model takes them in turn, so
    look at each before the next. Raises: ValueError for no weights at all, and for a
    state of another model, e.g. with another number of queries.
    """
    actor, step = copy.deepcopy(model), None
    for step, state in weights:
        _check_fits(actor, step, state)
        actor.load_state_dict(state)
        yield int(step), actor.eval()
    if step is None:
        raise ValueError("no weights were kept: train with steps in the recipe's keep")


def _check_fits(model: nn.Module, step: int, state: dict[str, Tensor]) -> None:
    own = model.state_dict()
    for name in sorted(own | state):
        mine, theirs = (
            list(x[name].shape) if name in x else None for x in (own, state)
        )
        if mine != theirs:
            raise ValueError(
                f"the weights of step {step} are of another model: {name} is "
                f"{theirs or 'not there'}, here {mine or 'not there'}: give those that "
                "one run has kept, and the model of its recipe"
            )
