"""The training loop: the same for every system, one process or many.

A run is a pure function of model, data, recipe and seed: step s always sees the same
images and the same dropout, so a run that was stopped goes on as if it had not been.
"""

import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from ..data import hashing
from ..data.dataset import Dataset
from ..distributed import any_process, mean_over_processes, world
from ..files import write_tensors
from ..images import ImageBatch
from .device import memory_named, pick_device
from .folder import RunFolder, read_record, score
from .freezing import frozen
from .recipe import Recipe
from .teacher import Teacher


class Diverged(RuntimeError):
    """The loss is not finite."""


def train(
    model: nn.Module,
    data: Dataset,
    recipe: Recipe,
    out: str | Path,
    *,
    validate: Callable[[nn.Module], dict] | None = None,
    device: torch.device | str | None = None,
    resume: bool = False,
    notes: dict | None = None,
    progress: bool = True,
    teacher: Teacher | None = None,
) -> list[dict]:
    """Train a model and leave weights and record in a folder.

    `model(batch)` and `model.loss(output, targets)` as every system has them; `data`
    has `batches(...)` (Scenes, CocoFolder); `validate(model)` returns numbers for the
    record (AP and whatever an analysis measures); `notes` go into `recipe.json`;
    a `teacher` matches queries and objects in place of the model. What the recipe
    freezes learns again afterwards.
    Ctrl-C saves and returns; `resume=True` goes on, bit for bit on the same machine.
    Under `torchrun` the batch is shared between the processes.
    Raises: FileExistsError, ValueError for a folder in use (see RunFolder); ValueError
    for a device that is not there, a part to freeze that is not, a teacher of other
    classes or queries; Diverged when the loss is not finite; OutOfMemory.
    Returns the record.
    """
    device = pick_device(device)
    if teacher:
        teacher.check(model)
    rank, size = world()
    if size > 1 and device.type == "cuda":
        torch.cuda.set_device(device)  # else all share their state through the first
    with frozen(model, recipe.freeze):
        folder = RunFolder(Path(out), recipe, notes or {}, resume) if not rank else None
        try:
            run = _Run(model.to(device), recipe, device, folder)
            run.teacher = teacher and teacher.on(device)
            with _stop_on_ctrl_c() as stopped:
                run.start()
                run.loop(data, validate, stopped, progress and rank == 0)
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
        self.step, self.began = 0, time.monotonic()
        self.sums: dict[str, Tensor] = {}  # of the losses since the last line
        self.summed = 0  # steps in `sums`
        self.wants_targets = getattr(model, "wants_targets", False)
        self.teacher: Teacher | None = None
        self.exhausted = False  # is the recipe's patience? Only the first process knows

    def start(self) -> None:
        """Go back to the last checkpoint, in every process, or share fresh weights."""
        if self.folder:
            notes, sums = self.folder.restore(self.model, self.optimiser, self.average)
            self.step = notes["step"]
            self.began = time.monotonic() - notes.get("seconds", 0.0)
            self.sums, self.summed = sums, notes.get("summed", 0)
            self.folder.cut_record(self.step)
            self._judge()
        self._share()
        for tensors in (self.sums, self.average):  # from a file, or the first process
            for name, value in tensors.items():
                tensors[name] = value.to(self.device)
        self.parallel = _parallel(self.model, self.device)
        if self.step == 0:
            self._keep()

    def _share(self) -> None:
        if world()[1] == 1:
            return
        own = (self.step, self.sums, self.summed, self.average)
        payload = [own, self.optimiser.state_dict()]
        torch.distributed.broadcast_object_list(payload)
        own, state = payload
        self.step, self.sums, self.summed, self.average = own
        if self.step:
            self.optimiser.load_state_dict(state)

    def loop(
        self,
        data: Dataset,
        validate: Callable | None,
        stopped: Callable[[], bool],
        progress: bool,
    ) -> None:
        """Take the steps that are left; Ctrl-C and the recipe's patience end it."""
        steps = self.recipe.steps
        batches = self._batches(data)
        self.model.train()
        with tqdm(total=steps, initial=self.step, disable=not progress) as bar:
            self._name_report(bar)
            while self.step < steps and not self._ends_early(stopped(), bar):
                self._one_step(*next(batches))
                bar.update()
                self._log_and_save(validate, bar)
        if self.step == steps or self.exhausted:
            self._finish()

    def _name_report(self, bar: tqdm) -> None:
        if self.folder and not bar.disable:
            command = shlex.join(["detr-steps", "report", str(self.folder.path)])
            bar.write(f"at any time, this run on a page: {command}", file=sys.stderr)

    def _ends_early(self, interrupted: bool, bar: tqdm) -> bool:
        # all processes must stop at the same step, or the others wait for ever
        asked = [self.exhausted, interrupted]
        self.exhausted, interrupted = any_process(asked, self.device)
        at = f"after step {self.step} of {self.recipe.steps}"
        said = f"stopped {at}: a resume goes on from there"
        if self.exhausted:
            said = f"ended {at}: no better score in {self.recipe.patience} evaluations"
        elif interrupted:
            self._save()
        else:
            return False
        if not bar.disable:
            bar.write(said, file=sys.stderr)
        return True

    def _batches(self, data: Dataset) -> Iterator:
        rank, size = world()
        return data.batches(
            self.recipe.batch,
            self.step,
            device=self.device,
            rank=rank,
            world=size,
            seed=self.recipe.seed,
        )

    def _one_step(self, batch: ImageBatch, targets: list[dict]) -> None:
        # dropout belongs to the step, not to the history: resuming needs no state
        torch.manual_seed(hashing.key(self.recipe.seed, self.step, world()[0]))
        self.recipe.set_lr(self.optimiser, self.step)
        height, width = batch.pixels.shape[-2:]
        what = f"a batch of {len(batch)} images of {height} x {width} pixels"
        with memory_named(self.device, what):
            terms = self._update(batch, targets)
        self.step += 1
        self.summed += 1
        self.sums = {
            name: self.sums.get(name, 0) + value.detach()
            for name, value in terms.items()
        }
        _update_ema(self.average, self.model, self.recipe.ema)

    def _update(self, batch: ImageBatch, targets: list[dict]) -> dict[str, Tensor]:
        with _autocast(self.recipe.precision, self.device):
            # some systems and schemes prepare for the objects before they predict
            given = {"targets": targets} if self.wants_targets else {}
            output = self.parallel(batch, **given)
            taught = self._taught(batch, targets)
        terms = self.model.loss(output, targets, **taught)
        self.optimiser.zero_grad(set_to_none=True)
        terms["total"].backward()
        if self.recipe.clip:
            norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip)
            terms["gradient_norm"] = norm
        self.optimiser.step()
        return terms

    def _taught(self, batch: ImageBatch, targets: list[dict]) -> dict[str, Tensor]:
        """The assignment to learn by, where it is not the model's own."""
        if self.teacher is None or not self.teacher.teaches(self.step):
            return {}
        return {"matched": self.teacher.match(batch, targets)}

    def _log_and_save(self, validate: Callable | None, bar: tqdm) -> None:
        recipe, step = self.recipe, self.step
        last = step == recipe.steps
        evaluate = validate and (step % recipe.evaluate_every == 0 or last)
        if step % recipe.log_every == 0 or evaluate or last:
            line = {"step": step, **self._mean_losses(), "seconds": self._seconds()}
            if evaluate:
                line |= self._validate(validate)
            self._log(line, bar)
        self._keep()
        # the end: only the first process knows of it, but nobody waits for another
        # in `_save` right after an evaluation, for there are no sums to share
        if step % recipe.save_every == 0 or last or self.exhausted:
            self._save()

    def _log(self, line: dict, bar: tqdm) -> None:
        if self.folder:
            self.folder.append(line)
            if score(line) is not None:
                self._keep_best(line)
                self._judge()
        shown = {key: line.get(key) for key in ("total", "AP")}
        bar.set_postfix({k: f"{v:.3f}" for k, v in shown.items() if v is not None})

    def _keep(self) -> None:
        if self.folder and self.step in self.recipe.keep:
            self.folder.keep(self.step, self.average or self.model.state_dict())

    def _keep_best(self, line: dict) -> None:
        if score(line) > self.folder.best()[1]:
            weights = self.average or self.model.state_dict()
            self.folder.keep_best(self.step, score(line), weights)

    def _judge(self) -> None:
        """Have so many evaluations not been better that the recipe gives up?"""
        since = self.folder.evaluations_since(self.folder.best()[0])
        self.exhausted = 0 < self.recipe.patience <= since

    def _mean_losses(self) -> dict[str, float]:
        """Means since the last line of the record; those of the next one begin anew."""
        sums, summed = self._all_sums(), self.summed
        self.sums, self.summed = {}, 0
        values = (torch.stack(list(sums.values())) / summed).tolist()
        return dict(zip(sums, (round(v, 6) for v in values)))

    def _all_sums(self) -> dict[str, Tensor]:
        """Sums of the losses since the last line, averaged over the processes."""
        if not self.sums:
            return {}
        values = torch.stack([value.float() for value in self.sums.values()])
        values = mean_over_processes(values)
        sums = dict(zip(self.sums, values))
        if not values.isfinite().all():
            means = {k: round(v.item() / self.summed, 6) for k, v in sums.items()}
            raise Diverged(
                f"the loss is not finite near step {self.step}: {means}. The last "
                "checkpoint is kept; lower the learning rate or clip gradients"
            )
        return sums

    def _seconds(self) -> float:
        """Time spent on the run so far, before it was stopped as well."""
        return round(time.monotonic() - self.began, 1)

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
        sums = self._all_sums()  # raises before a run that has diverged is saved
        if self.folder:
            notes = {"step": self.step, "summed": self.summed}
            notes["seconds"] = self._seconds()
            self.folder.save(notes, self.model, self.optimiser, self.average, sums)

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
