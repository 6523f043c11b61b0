"""Finished runs, opened to be measured."""

from pathlib import Path

from torch import nn

from detr_steps.describable import from_json
from detr_steps.training.folder import (
    latest_weights,
    read_description,
    read_record,
)


def finished(run: Path) -> tuple[nn.Module, dict, dict]:
    """A run's model in eval mode, its description, the last line of its record.

    Raises: FileNotFoundError without a run there, ValueError for an unfinished one.
    """
    description = read_description(run)
    last, steps = read_record(run / "record.jsonl")[-1], description["recipe"]["steps"]
    if last["step"] < steps:
        raise ValueError(f"{run} is at step {last['step']} of {steps}: let it finish")
    model = from_json(description["model"]).build()
    model.load_state_dict(latest_weights(run))
    return model.eval(), description, last
