"""The folder of a run: lock, record, checkpoint. Nothing in it is ever half written."""

import json
import os
import socket
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from ..files import read_tensors, write_json, write_tensors, write_whole
from .recipe import Recipe


class RunFolder:
    """One run's files: `recipe.json`, `record.jsonl`, `checkpoint.safetensors`,
    `model.safetensors`, and `kept/<step>.safetensors` for the steps a recipe keeps.

    Raises: FileExistsError when another run is at work in the folder, or when it holds
    a run and `resume` is False; ValueError when the recipe is not the one begun with.
    """

    def __init__(self, path: Path, recipe: Recipe, notes: dict, resume: bool) -> None:
        self.path = Path(path)
        self.recipe_file = self.path / "recipe.json"
        self.record_file = self.path / "record.jsonl"
        self.checkpoint_file = self.path / "checkpoint.safetensors"
        self.model_file = self.path / "model.safetensors"
        self.lock_file = self.path / "run.lock"
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock()
        try:
            self._begin({"recipe": asdict(recipe), **notes}, resume)
        except BaseException:
            self.unlock()
            raise

    def _begin(self, description: dict, resume: bool) -> None:
        description = json.loads(json.dumps(description))  # as it comes back from disk
        used = self.record_file.exists() or self.checkpoint_file.exists()
        if used and not resume:
            raise FileExistsError(
                f"{self.path} already holds a run: add --resume (resume=True) to go "
                "on with it, or name another folder"
            )
        if used and self.recipe_file.exists():
            self._check_same(json.loads(self.recipe_file.read_text()), description)
        write_json(self.recipe_file, description)

    def _check_same(self, before: dict, now: dict) -> None:
        old, new = _flat(before), _flat(now)
        changed = sorted(k for k in old | new if old.get(k) != new.get(k))
        if changed:
            lines = [f"  {k}: was {old.get(k)}, now {new.get(k)}" for k in changed]
            raise ValueError(
                f"the run in {self.path} was begun with other settings:\n"
                + "\n".join(lines)
                + "\nResume with the same ones, or name another folder"
            )

    def _lock(self) -> None:
        mine = {"pid": os.getpid(), "host": socket.gethostname()}
        try:
            with open(self.lock_file, "x", encoding="utf-8") as file:
                json.dump(mine, file)
        except FileExistsError:
            owner = _read_lock(self.lock_file)
            if owner.get("host") != mine["host"] or _alive(owner.get("pid", 0)):
                raise FileExistsError(
                    f"another run (process {owner.get('pid')} on {owner.get('host')}) "
                    f"is at work in {self.path}: name another folder, or delete "
                    f"{self.lock_file} if that run is dead"
                ) from None
            self.lock_file.write_text(json.dumps(mine), encoding="utf-8")

    def unlock(self) -> None:
        """Let other runs use the folder."""
        self.lock_file.unlink(missing_ok=True)

    def append(self, line: dict) -> None:
        """Add one line to the record."""
        with open(self.record_file, "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def cut_record(self, step: int) -> None:
        """Forget what was recorded after a step: it will be done again."""
        kept = [line for line in read_record(self.record_file) if line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_whole(self.record_file, lambda p: p.write_text(text, encoding="utf-8"))

    def save(
        self,
        step: int,
        seconds: float,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        average: dict[str, Tensor],
    ) -> None:
        """Write everything a resume needs into one file, at once."""
        tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in average.items()}
        names = {id(p): name for name, p in model.named_parameters()}
        for parameter, state in optimiser.state.items():
            for key, value in state.items():
                tensors[f"optimiser.{key}.{names[id(parameter)]}"] = value
        write_tensors(self.checkpoint_file, tensors, {"step": step, "seconds": seconds})

    def keep(self, step: int, weights: dict[str, Tensor]) -> None:
        """Put a step's weights aside in half precision, for looking back later."""
        half = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
        write_tensors(kept_file(self.path, step), half, {"step": step})

    def restore(
        self,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        average: dict[str, Tensor],
    ) -> tuple[int, float]:
        """Go back to the last checkpoint: its step and seconds, (0, 0) if none."""
        if not self.checkpoint_file.exists():
            return 0, 0.0
        tensors, notes = read_tensors(self.checkpoint_file)
        parts: dict[str, dict] = {"model": {}, "average": {}, "optimiser": {}}
        for name, value in tensors.items():
            part, rest = name.split(".", 1)
            parts[part][rest] = value
        model.load_state_dict(parts["model"])
        for name, value in average.items():
            value.copy_(parts["average"][name])
        parameters = dict(model.named_parameters())
        for name, value in parts["optimiser"].items():
            key, parameter = name.split(".", 1)
            home = parameters[parameter]
            value = value if key == "step" else value.to(home.device)
            optimiser.state[home][key] = value
        return notes["step"], notes["seconds"]


def kept_file(run: Path, step: int) -> Path:
    """Where a run keeps the weights of a step."""
    return Path(run) / "kept" / f"{step:06d}.safetensors"


def at_work(run: Path) -> int | None:
    """The process that is at work in a run's folder, None where nobody is."""
    owner = _read_lock(Path(run) / "run.lock")
    elsewhere = owner.get("host") != socket.gethostname()
    alive = owner and (elsewhere or _alive(owner.get("pid", 0)))
    return owner.get("pid", 0) if alive else None


def read_record(path: Path) -> list[dict]:
    """Read a `record.jsonl`: one dict a line; a last line cut short is left out."""
    path = Path(path)
    if not path.exists():
        return []
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines


def _read_lock(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return {}


def _alive(pid: int) -> bool:
    if os.name == "nt":  # no harmless signal there: better refuse than overwrite
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return pid > 0


def _flat(value: dict, prefix: str = "") -> dict:
    flat = {}
    for key, inner in value.items():
        if isinstance(inner, dict):
            flat |= _flat(inner, f"{prefix}{key}.")
        else:
            flat[prefix + key] = inner
    return flat
