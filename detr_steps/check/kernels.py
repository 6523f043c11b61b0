"""Running a reader's CUDA kernel on the emulator, and naming what is wrong with it."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .. import cuda_lab as lab
from ..ops.building import NotCompiled
from . import Verdict, right, wrong
from .trying import Fault, Fits, Trial, compare, fit, present

GAP = "____"
SCHEDULES = (0, 1, 2, 3)  # orders in which the threads take turns
BARRIER = (
    "between writing shared memory and reading it, all threads of the block must wait "
    "for each other: __syncthreads();"
)
# What a Python reader writes, by what it looks like in a text that does not compile
# or in what the compiler says of it.
HALF_LINE = re.compile(r"^[^/\n]*[\w\])][ \t]*//=?[ \t]*\w", re.MULTILINE)
NO_ADDRESS = re.compile(r"no matching function for call to \W?atomic(\w+)")
COMMENT = "`//` begins a comment in C; whole numbers divide with one stroke, /."


@dataclass(frozen=True)
class Launch:
    """One launch of the reader's kernel, and the trial that judges what it wrote.

    `given` all arguments, in order; `result` which of them is written. `faults` what a
    fault most likely is, by its kind and words of its sentence ("race hits"); a pair:
    in a text without a barrier, in one with. `used` diagnosis -> does it fit how
    memory was used? `remark` says more about an answer that is right.
    """

    grid: int
    block: int
    given: tuple
    result: int
    trial: Trial
    faults: Mapping[str, str | tuple[str, str]] = field(default_factory=dict)
    used: Fits = field(default_factory=dict)
    remark: Callable[[lab.Trace], str] = lambda trace: ""

    def run(self, kernel: Callable, **options: object) -> tuple[Tensor, lab.Trace]:
        """Launch on copies of what is given: what was written, and what was traced."""
        given = [x.clone() if isinstance(x, Tensor) else x for x in self.given]
        trace = kernel(self.grid, self.block, *given, **options)
        return given[self.result], trace


def puzzle(
    module: str, name: str, about: str, *launches: Launch, praise: str
) -> Callable[[str | None], Verdict]:
    """Make the check of the kernel `name`: a function of its text.

    `module` where the check is found, `about` its docstring. The first launch that
    fails decides. Where there is a GPU, what is right on the emulator is tried there.
    """

    def check(text: str | None) -> Verdict:
        try:
            kernel = _compile(text, name)
            said = [praise, *(_on_emulator(text, kernel, x) for x in launches)]
            if lab.trouble("cuda") is None:
                said.append(_on_card(text, name, launches))
        except Fault as fault:
            return wrong(str(fault))
        return right(" ".join(filter(None, said)))

    trials = [launch.trial for launch in launches]
    return present(check, module, name, about, trials)


def _compile(text: str | None, name: str) -> Callable:
    if gaps := 1 if text is None else text.count(GAP):
        left = "1 gap is" if gaps == 1 else f"{gaps} gaps are"
        raise Fault(f"not yet: {left} left. Write CUDA in place of {GAP}.")
    try:
        if trouble := lab.trouble("emulator"):
            raise NotCompiled(trouble)
        return lab.compile(text, name, where="emulator")
    except NotCompiled as error:
        raise Fault(f"cannot be tried here: {error}") from error
    except (lab.CompileFault, ValueError) as fault:
        raise Fault(f"it does not compile: {fault}{_foreign(fault, text)}") from fault


def _foreign(fault: Exception, text: str) -> str:
    """What a reader of Python may have written that means something else in C."""
    if found := NO_ADDRESS.search(str(fault)):
        return f"\nLikely: atomic{found[1]} wants an address, so & before the place."
    line = getattr(fault, "line", None)
    lines = text.splitlines()[max(0, (line or 1) - 2) : line]
    return f"\nLikely: {COMMENT}" if any(map(HALF_LINE.search, lines)) else ""


def _on_emulator(text: str, kernel: Callable, launch: Launch) -> str:
    """Launch it with several orders of threads: a remark; raises Fault."""
    results = []
    for schedule in SCHEDULES:
        try:
            result, trace = launch.run(kernel, schedule=schedule, trace=True)
        except lab.KernelFault as fault:
            raise Fault(f"{fault}.{_likely(fault, launch, text)}") from fault
        results.append(result)
    for other in results[1:]:
        if not torch.allclose(results[0], other, atol=1e-5, equal_nan=True):
            raise Fault(f"what comes out depends on which thread is first: {BARRIER}")
    if fault := compare(results[:1], launch.trial) or fit(trace, launch.used):
        raise Fault(fault)
    return launch.remark(trace)


def _on_card(text: str, name: str, launches: Sequence[Launch]) -> str:
    """Run it for real as well, where there is a graphics card; raises Fault."""
    try:
        kernel = lab.compile(text, name, where="cuda")
        for launch in launches:
            result, _ = launch.run(kernel)
            if fault := compare([result], launch.trial):
                raise Fault(f"right on the emulator, but on the card {fault}")
    except (NotCompiled, lab.CompileFault, lab.KernelFault) as fault:
        raise Fault(f"right on the emulator, but not on the card: {fault}") from fault
    return "The card says so, too."


def _likely(fault: lab.KernelFault, launch: Launch, text: str) -> str:
    """What is most likely behind a fault: of the first key all of whose words fit."""
    for key, cure in launch.faults.items():
        kind, *words = key.split()
        if kind == fault.kind and all(word in str(fault) for word in words):
            cures = [cure, cure] if isinstance(cure, str) else cure
            return f" Likely: {cures['__syncthreads' in text]}"
    return ""
