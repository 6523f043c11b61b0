"""Small runs for tests: a model, a recipe, data that die; one process or two."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from small import small_detr

from detr_steps import DETR
from detr_steps.data.scenes import Scenes
from detr_steps.files import read_notes, read_tensors  # noqa: F401
from detr_steps.training import Recipe, train

# for other processes, which import this module: what pytest's pythonpath gives here
PATHS = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
IMPORTS = f"import sys; sys.path[:0] = {PATHS}\nfrom runs import *\n"


def small_model(dropout: float = 0.1) -> DETR:
    """A fresh model for Scenes; always the same weights."""
    return small_detr(seed=1, classes=6, dropout=dropout)


def recipe(**changes: object) -> Recipe:
    """Six steps of two pictures, a checkpoint and a line of the record every two."""
    settings = dict(
        steps=6, batch=2, evaluate_every=100, save_every=2, log_every=2, warmup=2
    )
    return Recipe(**(settings | changes))


def fit(
    out: Path,
    *,
    dropout: float = 0.1,
    resume: bool = False,
    validate=None,
    data=None,
    progress: bool = False,
    **changes: object,
):
    """Train the small model on Scenes with that recipe: model and record."""
    model = small_model(dropout)
    record = train(
        model,
        data or Scenes("train", size=32),
        recipe(**changes),
        out,
        validate=validate,
        device="cpu",
        resume=resume,
        progress=progress,
    )
    return model, record


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights that a run has left at its end."""
    return read_tensors(folder / "model.safetensors")[0]


class Killed(BaseException):
    """Stands for a run that dies between two checkpoints."""


class Dying(Scenes):
    """Data that kill their reader when it asks for one batch too many."""

    after = 3  # batches: one step after the checkpoint of step 2

    def batches(self, *args, **kwargs):
        for count, item in enumerate(super().batches(*args, **kwargs)):
            if count == self.after:
                raise Killed
            yield item


def pressing(batches: Callable, step: int) -> Callable:
    """That method of data, which presses Ctrl-C as it gives the batch of a step."""

    def press(*args, **kwargs):
        for count, item in enumerate(batches(*args, **kwargs), start=1):
            if count == step:
                os.kill(os.getpid(), signal.SIGINT)
            yield item

    return press


def two_processes(code: str, folder: Path) -> None:
    """Run a few lines with this module's names in two processes that form one run."""
    script = folder / "two.py"
    script.write_text(
        f"{IMPORTS}"
        'torch.distributed.init_process_group("gloo")\n'
        f"out = Path({str(folder / 'two')!r})\n"
        f"{code}\n"
        "torch.distributed.destroy_process_group()\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    result = subprocess.run(
        [*launch, "--nproc-per-node=2", str(script)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
