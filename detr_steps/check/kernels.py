"""Running a reader's CUDA kernel on the emulator, and naming what is wrong with it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .. import cuda_lab
from ..ops.building import NotCompiled
from . import Verdict, right, wrong

GAP = "____"
SCHEDULES = (0, 1, 2, 3)  # orders in which the threads take turns
BARRIER = (
    "between writing shared memory and reading it, all threads of the block must wait "
    "for each other: __syncthreads();"
)
Slips = list[tuple[Tensor, str]]


@dataclass(frozen=True)
class Trial:
    """One launch of the reader's kernel, and what it should write.

    `given` all arguments, in order; `result` which of them is written. `slips` pairs
    of what a mistake gives and its diagnosis; `faults` what a fault most likely is, by
    its kind and words of its sentence ("race hits"); `used` complains about how memory
    was used, or returns None; `remark` says more about an answer that is right.
    """

    grid: int
    block: int
    given: tuple
    result: int
    wanted: Tensor
    slips: Slips = field(default_factory=list)
    faults: Mapping[str, str] = field(default_factory=dict)
    used: Callable[[cuda_lab.Trace], str | None] | None = None
    remark: Callable[[cuda_lab.Trace], str] | None = None
    order: str = BARRIER


def judge(text: str | None, name: str, trials: list[Trial], praise: str) -> Verdict:
    """Compile the reader's kernel and try it; the first trial that fails decides."""
    if text is None or GAP in text:
        gaps = (text or GAP).count(GAP)
        left = "1 gap is" if gaps == 1 else f"{gaps} gaps are"
        return wrong(f"not yet: {left} left. Write CUDA in place of {GAP}.")
    try:
        if trouble := cuda_lab.trouble("emulator"):
            raise NotCompiled(trouble)
        kernel = cuda_lab.compile(text, name, where="emulator")
    except NotCompiled as error:
        return wrong(f"cannot be tried here: {error}")
    except (cuda_lab.CompileFault, ValueError) as fault:
        return wrong(f"it does not compile: {fault}")
    said = [praise]
    for trial in trials:
        verdict = _try(kernel, trial)
        if not verdict:
            return verdict
        said.append(verdict.message)
    if cuda_lab.trouble("cuda") is None:
        verdict = _on_card(text, name, trials)
        if not verdict:
            return verdict
        said.append(verdict.message)
    return right(" ".join(filter(None, said)))


def _on_card(text: str, name: str, trials: list[Trial]) -> Verdict:
    """Run it for real as well, where there is a graphics card."""
    try:
        kernel = cuda_lab.compile(text, name, where="cuda")
        for trial in trials:
            given = [x.clone() if isinstance(x, Tensor) else x for x in trial.given]
            kernel(trial.grid, trial.block, *given)
            verdict = _compare(given[trial.result], trial)
            if verdict is not None:
                return wrong(
                    f"right on the emulator, but on the card {verdict.message}"
                )
    except (NotCompiled, cuda_lab.CompileFault, cuda_lab.KernelFault) as fault:
        return wrong(f"right on the emulator, but not on the card: {fault}")
    return right("The card says so, too.")


def _try(kernel: Callable, trial: Trial) -> Verdict:
    results = []
    for schedule in SCHEDULES:
        given = [x.clone() if isinstance(x, Tensor) else x for x in trial.given]
        try:
            trace = kernel(
                trial.grid, trial.block, *given, schedule=schedule, trace=True
            )
        except cuda_lab.KernelFault as fault:
            return wrong(f"{fault}.{_likely(fault, trial)}")
        results.append(given[trial.result])
    for other in results[1:]:
        if not torch.allclose(results[0], other, atol=1e-5, equal_nan=True):
            return wrong(
                "what comes out depends on which thread is first: " + trial.order
            )
    verdict = _compare(results[0], trial)
    if verdict is not None:
        return verdict
    complaint = trial.used(trace) if trial.used else None
    if complaint:
        return wrong(complaint)
    return right(trial.remark(trace) if trial.remark else "")


def _likely(fault: cuda_lab.KernelFault, trial: Trial) -> str:
    """What is most likely behind a fault: of the first key all of whose words fit."""
    for key, cure in trial.faults.items():
        kind, *words = key.split()
        if kind == fault.kind and all(word in str(fault) for word in words):
            return f" Likely: {cure}"
    return ""


def _compare(result: Tensor, trial: Trial) -> Verdict | None:
    """What is wrong with the numbers; None if nothing is."""
    wanted = trial.wanted.to(result.dtype)
    if _close(result, wanted):
        return None
    for slip, diagnosis in trial.slips:
        if slip.shape == result.shape and _close(result, slip.to(result.dtype)):
            return wrong(diagnosis)
    at = int((~((result - wanted).abs() < 1e-4)).flatten().nonzero()[0])
    left = result.flatten()[at].item()
    return wrong(
        f"result[{at}]: expected {wanted.flatten()[at].item():.4g}, got {left:.4g}"
        + (": nothing was written there." if left != left else ".")
    )


def _close(a: Tensor, b: Tensor) -> bool:
    return torch.allclose(a.double(), b.double(), atol=1e-4)
