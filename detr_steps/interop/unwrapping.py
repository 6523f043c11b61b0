"""What is wrapped around the weights in a file: dicts, and prefixes of all names."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

# keys under which people keep a state dict; an average of the weights comes first
AVERAGES = "ema", "model_ema", "ema_model", "ema_state_dict", "state_dict_ema"
INNER = (
    *("model", "state_dict", "model_state_dict", "model_state", "net", "network"),
    *("net_state_dict", "module", "detector", "shadow"),
)
DEEPEST = 8  # dicts around a state dict; more is no checkpoint
# modules that torch.compile and others put around a model or a part of it
WRAPPERS = "_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module."
# what a training module holds beside its model (an averaged model counts its updates)
BESIDE = "criterion.", "loss_fn.", "n_averaged"
PARTS = "backbone.", "transformer.", "encoder.", "decoder."  # of any detector
# "model." belongs to the names of Hugging Face
HF_BODY = "model.encoder.layers.", "model.decoder.layers."
OWN_PARTS = "average.", "model."  # of the checkpoint of a run; the average if any
OWN_OTHERS = "optimiser.", "sums."


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: why, and what to do. Nothing was loaded."""


def unwrap(raw: object, source: Path) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Find the state dict in what a file holds, and give its weights their own names.

    Returns it and what was taken off. Raises: CheckpointError where there is none.
    """
    state, keys, beside = raw, [], False
    for _ in range(DEEPEST):
        if not isinstance(state, Mapping):
            break
        found = [key for key in (*AVERAGES, *INNER) if _holds(state.get(key))]
        if not found:
            break
        beside |= found[0] in AVERAGES and len(found) > 1
        keys.append(found[0])
        state = state[found[0]]
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(
            f'{source} holds no state dict: expected {{"model": {{name: tensor}}}}'
        )
    notes = []
    if keys and keys != ["model"]:  # where the official codes have theirs
        other = ", not those of the last step beside them" if beside else ""
        where = " > ".join(map(repr, keys))
        notes.append(f"the weights under {where} are used{other}")
    state, more = strip(dict(state))
    return state, (*notes, *more)


def _holds(value: object) -> bool:
    """Could weights be in it? An average may come with its decay only."""
    if not isinstance(value, Mapping):
        return False
    return not value or any(isinstance(x, Tensor | Mapping) for x in value.values())


def strip(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Take off what all names have in common, and names of wrappers; say what.

    Names that are not text, and values that are no tensors, are left for the check.
    """
    if not all(isinstance(name, str) for name in state):
        return state, ()
    state, notes = _own_part(state)
    state, removed = _without_wrappers(state)
    rest = {n: v for n, v in state.items() if not n.startswith(BESIDE)}
    prefix = _common_prefix(list(rest))
    if prefix:
        state = {name.removeprefix(prefix): value for name, value in rest.items()}
    taken = [*removed, *([prefix] if prefix else [])]
    if taken:
        notes.append(f"names without {' and '.join(map(repr, taken))}")
    beside = [name for name in state if name.startswith(BESIDE)]
    for name in beside:
        del state[name]
    return state, tuple(notes)


def _own_part(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Of the checkpoint of a run only the weights, the averaged ones if there are."""
    if not any(name.startswith(OWN_OTHERS) for name in state):
        return state, []
    for part in OWN_PARTS:
        own = {n[len(part) :]: v for n, v in state.items() if n.startswith(part)}
        if own:
            return own, [f"the checkpoint of a run: its part {part!r} is used"]
    return state, []


def _without_wrappers(state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    found = [w for w in WRAPPERS if any(f".{w}" in f".{name}" for name in state)]
    renamed = {}
    for name, value in state.items():
        short = f".{name}"
        for wrapper in found:
            short = short.replace(f".{wrapper}", ".")
        renamed[short[1:]] = value
    return (renamed, found) if len(renamed) == len(state) else (state, [])


def _common_prefix(names: list[str]) -> str:
    """What all names begin with, in whole parts: "model.detr." for Lightning's."""
    prefix = ""
    while len(names) > 1:
        first = names[0].partition(".")[0] + "."
        body = first == "model." and any(name.startswith(HF_BODY) for name in names)
        if first in PARTS or body or not all(n.startswith(first) for n in names):
            break
        prefix += first
        names = [name[len(first) :] for name in names]
    return prefix
