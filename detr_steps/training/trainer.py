"""The training loop: the same for every system, one process or many.

A run is a pure function of model, data, recipe and seed: step s always sees the same
images and the same dropout, so a run that was stopped goes on as if it had not been.
"""

import signal
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from ..data import hashing
from ..distributed import mean_over_processes, world
from ..files import write_tensors
from .folder import RunFolder, read_record
from .recipe import Recipe


class Diverged(RuntimeError):
    """The loss is not finite."""


def pick_device() -> torch.device:
    """The GPU of this process if there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", world()[0] % torch.cuda.device_count())
    return torch.device("cpu")


def train(
    model: nn.Module,
    data: object,
    recipe: Recipe,
    out: str | Path,
    *,
    validate: Callable[[nn.Module], dict] | None = None,
    device: torch.device | str | None = None,
    resume: bool = False,
    notes: dict | None = None,
    progress: bool = True,
) -> list[dict]:
    """Train a model and leave weights and record in a folder.

    `model(batch)` and `model.loss(output, targets)` as every system has them; `data`
    has `batches(...)` (Scenes, CocoFolder); `validate(model)` returns numbers for the
    record (AP and whatever an analysis measures); `notes` go into `recipe.json`.
    Ctrl-C saves and returns; `resume=True` goes on, bit for bit on the same machine.
    Under `torchrun` the batch is shared between the processes.
    Raises: FileExistsError, ValueError for a folder in use (see RunFolder);
    Diverged when the loss is not finite. Returns the record.
    """
    device = torch.device(device) if device else pick_device()
    model.to(device)
    rank, _ = world()
    folder = RunFolder(Path(out), recipe, notes or {}, resume) if rank == 0 else None
    run = _Run(model, recipe, device, folder)
    try:
        with _stop_on_ctrl_c() as interrupted:
            run.start(Path(out))
            run.loop(data, validate, interrupted, progress and rank == 0)
    finally:
        if folder:
            folder.unlock()
    return read_record(Path(out) / "record.jsonl")


class _Run:
    """State of a run between two steps."""

    def __init__(
        self,
        model: nn.Module,
        recipe: Recipe,
        device: torch.device,
        folder: RunFolder | None,
    ) -> None:
        self.model, self.recipe, self.device = model, recipe, device
        self.folder = folder  # None in all processes but the first
        self.optimiser = recipe.optimiser(model)
        self.average = _copy_weights(model) if recipe.ema else {}
        self.step, self.seconds = 0, 0.0
        self.sums: dict[str, Tensor] = {}
        self.summed = 0  # steps in `sums`

    def start(self, path: Path) -> None:
        """Go back to the last checkpoint, in every process, or share fresh weights."""
        if self.folder:
            self.step, self.seconds = self.folder.restore(
                self.model, self.optimiser, self.average
            )
            self.folder.cut_record(self.step)
        self._share()
        self.parallel = _parallel(self.model, self.device)
        if self.step == 0:
            self._keep()

    def _share(self) -> None:
        if world()[1] == 1:
            return
        payload = [(self.step, self.seconds, self.optimiser.state_dict(), self.average)]
        torch.distributed.broadcast_object_list(payload)
        self.step, self.seconds, state, self.average = payload[0]
        if self.step:
            self.optimiser.load_state_dict(state)

    def loop(
        self,
        data: object,
        validate: Callable | None,
        interrupted: Callable[[], bool],
        progress: bool,
    ) -> None:
        recipe = self.recipe
        rank, size = world()
        batches = data.batches(
            recipe.batch,
            self.step,
            device=self.device,
            rank=rank,
            world=size,
            seed=recipe.seed,
        )
        bar = tqdm(
            total=recipe.steps, initial=self.step, disable=not progress, leave=True
        )
        clock = time.monotonic()
        self.model.train()
        while self.step < recipe.steps:
            self._one_step(*next(batches))
            now = time.monotonic()
            self.seconds, clock = self.seconds + now - clock, now
            bar.update()
            self._log_and_save(validate, bar)
            if interrupted():
                self._save()
                bar.write(f"stopped after step {self.step}; resume=True goes on")
                return
        self._finish()
        bar.close()

    def _one_step(self, batch: object, targets: list[dict]) -> None:
        # dropout belongs to the step, not to the history: resuming needs no state
        torch.manual_seed(hashing.key(self.recipe.seed, self.step, world()[0]))
        self.recipe.set_lr(self.optimiser, self.step)
        with _autocast(self.recipe.precision, self.device):
            output = self.parallel(batch)
        terms = self.model.loss(output, targets)
        self.optimiser.zero_grad(set_to_none=True)
        terms["total"].backward()
        if self.recipe.clip:
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
            terms["gradient_norm"] = norm
        self.optimiser.step()
        self.step += 1
        self.summed += 1
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, 0) + value.detach()
        _update_ema(self.average, self.model, self.recipe.ema)

    def _log_and_save(self, validate: Callable | None, bar: tqdm) -> None:
        recipe, step = self.recipe, self.step
        last = step == recipe.steps
        evaluate = validate and (step % recipe.evaluate_every == 0 or last)
        if step % recipe.log_every == 0 or evaluate or last:
            line = {"step": step, **self._mean_losses(), "seconds": self.seconds}
            if evaluate:
                line |= self._validate(validate)
            if self.folder:
                line["seconds"] = round(line["seconds"], 1)
                self.folder.append(line)
            bar.set_postfix(
                {
                    k: f"{line[k]:.3f}"
                    for k in ("total", "AP")
                    if line.get(k) is not None
                }
            )
        self._keep()
        if step % recipe.save_every == 0 or last:
            self._save()

    def _keep(self) -> None:
        if self.folder and self.step in self.recipe.keep:
            self.folder.keep(self.step, self.average or self.model.state_dict())

    def _mean_losses(self) -> dict[str, float]:
        names = list(self.sums)
        values = torch.stack([self.sums[name].float() for name in names]) / self.summed
        values = mean_over_processes(values).tolist()
        self.sums, self.summed = {}, 0
        means = dict(zip(names, (round(v, 6) for v in values)))
        if not all(v == v and abs(v) != float("inf") for v in values):
            raise Diverged(
                f"the loss is not finite near step {self.step}: {means}. The last "
                "checkpoint is kept; lower the learning rate or clip gradients"
            )
        return means

    def _validate(self, validate: Callable) -> dict:
        kept = _copy_weights(self.model) if self.average else {}
        _set_weights(self.model, self.average)
        self.model.eval()
        try:
            return validate(self.model)
        finally:
            self.model.train()
            _set_weights(self.model, kept)

    def _save(self) -> None:
        if self.folder:
            self.folder.save(
                self.step, self.seconds, self.model, self.optimiser, self.average
            )

    def _finish(self) -> None:
        _set_weights(self.model, self.average)
        self.model.eval()
        if self.folder:
            tensors = self.model.state_dict()
            write_tensors(self.folder.model_file, tensors, {"step": self.step})


def _parallel(model: nn.Module, device: torch.device) -> nn.Module:
    if world()[1] == 1:
        return model
    ids = [device] if device.type == "cuda" else None
    return DistributedDataParallel(model, device_ids=ids)


def _autocast(precision: str, device: torch.device):
    if precision == "auto":
        able = (
            device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8
        )
        precision = "bfloat16" if able else "float32"
    if precision == "float32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _copy_weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@torch.no_grad()
def _set_weights(model: nn.Module, weights: dict[str, Tensor]) -> None:
    if weights:
        model.load_state_dict(weights)


@torch.no_grad()
def _update_ema(average: dict[str, Tensor], model: nn.Module, decay: float) -> None:
    for name, value in model.state_dict().items() if average else ():
        average[name].lerp_(value, 1 - decay)


@contextmanager
def _stop_on_ctrl_c():
    """Yield a question: was Ctrl-C pressed? A second press stops at once."""
    pressed = []

    def handler(number, frame):
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    try:
        before = signal.signal(signal.SIGINT, handler)
    except ValueError:  # not in the main thread: leave Ctrl-C alone
        yield lambda: False
        return
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)
