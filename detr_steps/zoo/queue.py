"""The queue: trains what is missing, several runs at a time, until all is published.

Each run is a process of its own (`detr-steps zoo job`) with a pipe to the queue. When
the pipe closes, the run saves its checkpoint and ends: so it stops in the same way
whether the queue asks it to, ends, or is killed.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from tqdm import tqdm

from .reading import names, recipe, sources
from .runs import Run, minutes_left

PACKAGE = Path(__file__).resolve().parents[2]  # what holds detr_steps
STOPPED, IN_USE = 3, 4  # how a job ends that saved its checkpoint, or found a lock
ERROR = "detr-steps: "  # before the one line in which a command says what is wrong
LOG = "log.txt"  # in the folder of the run
OWN_GROUP = (
    {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    if os.name == "nt"
    else {"start_new_session": True}
)
MARGIN = 60.0  # seconds before the limit that runs have to save and end, at most


@dataclass(frozen=True)
class Plan:
    """How a queue trains, and what it does with finished runs.

    `workers` runs at a time on a `device` (None: the trainer picks); `minutes` after
    which all must have ended. Of a finished run the record, and the weights if the zoo
    lacks them, are published or, with `publish` False, left in its folder;
    `publish_weights` replaces weights as well.
    """

    workers: int
    device: str | None = None
    minutes: float | None = None
    publish: bool = True
    publish_weights: bool = False

    @property
    def threads(self) -> int:
        """Threads of each run: one on the CPU, a share of the cores beside a GPU."""
        on_gpu = (self.device or default_device()).startswith("cuda")
        return max(1, cores() // self.workers) if on_gpu else 1


def default_device() -> str:
    """What the trainer picks."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def cores() -> int:
    """CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def longest_first(runs: Sequence[Run], root: Path) -> list[Run]:
    """Order runs so that no long one starts last; those of unknown length lead."""

    def left(run: Run) -> float:
        known = minutes_left(run, root)
        return float("inf") if known is None else known

    return sorted(runs, key=lambda run: (-left(run), run.name, run.seed))


def _print(line: str) -> None:
    print(line, flush=True)  # a pipe or a file would hold it back for hours


@dataclass
class Outcome:
    """What became of the runs."""

    done: list[Run] = field(default_factory=list)
    failed: list[Run] = field(default_factory=list)
    left: list[Run] = field(default_factory=list)
    interrupted: bool = False


class Queue:
    """Runs that wait and runs at work; `run()` ends when all have ended.

    `say` gets a line for every run that starts, ends or fails.
    """

    def __init__(
        self, runs: Sequence[Run], plan: Plan, say: Callable[[str], None] = _print
    ) -> None:
        self.waiting, self.plan, self.say = list(runs), plan, say
        self.working: dict[Run, subprocess.Popen] = {}
        self.began: dict[Run, float] = {}
        self.outcome = Outcome()
        self.presses = 0  # of Ctrl-C
        self.stopping = False
        self.waits_for: set[int] = set()  # processes of others, told once
        limit = float("inf") if plan.minutes is None else 60 * plan.minutes
        self.end = time.monotonic() + limit
        self.soon = self.end - min(MARGIN, 0.2 * limit)

    def run(self) -> Outcome:
        """Train all runs. The first Ctrl-C lets them save and end, a second kills."""
        with _Bar(self.waiting) as bar, self._signals():
            self.say = bar.say or self.say
            try:
                while self.waiting or self.working:
                    self._turn()
                    bar.show(self.working)
                    time.sleep(0.2)
            finally:  # after an error of our own: they save and end by themselves
                self._close_pipes()
        return self.outcome

    def _turn(self) -> None:
        for run, process in list(self.working.items()):
            if process.poll() is not None:
                del self.working[run]
                self._ended(run, process.returncode)
        if self.presses and not self.stopping:
            self.outcome.interrupted = True
            self._stop("stopping: the runs save their checkpoints (again: kill them)")
        if not self.stopping and time.monotonic() > self.soon:
            self._stop("time is up: the runs save their checkpoints")
        if self.presses > 1 or time.monotonic() > self.end:
            self._kill()
        if not self.stopping:
            self._start_what_can()

    def _start_what_can(self) -> None:
        for run in list(self.waiting):
            if len(self.working) >= self.plan.workers:
                return
            if not self._in_use(run) and not self._lacks(run):
                self.waiting.remove(run)
                self._start(run)

    def _in_use(self, run: Run) -> bool:
        """Whether somebody else trains it: then its end is waited for."""
        process = run.process
        if process is not None and process not in self.waits_for:
            self.waits_for.add(process)
            self.say(
                f"{run}: waits for process {process}, which is at work in {run.folder}"
            )
        return process is not None

    def _lacks(self, run: Run) -> bool:
        """Whether a run must wait for the weights that it starts from."""
        lacking = [each for each in sources(recipe(run.name)) if each not in names()]
        if not lacking:
            return False
        source = lacking[0]
        if any(each.name == source for each in [*self.waiting, *self.working]):
            return True
        self.waiting.remove(run)
        self.outcome.failed.append(run)
        self.say(f"{run}: FAILED: the zoo has no weights of {source} to start from")
        return True

    def _start(self, run: Run) -> None:
        run.folder.mkdir(parents=True, exist_ok=True)
        publish = "weights" if self.plan.publish_weights else "missing"
        command = [sys.executable, "-P", "-m", "detr_steps.cli", "zoo", "job", run.name]
        command += ["--seed", str(run.seed), "--out", str(run.folder)]
        command += ["--publish", publish if self.plan.publish else "nothing"]
        if self.plan.device:
            command += ["--device", self.plan.device]
        with open(run.folder / LOG, "a", encoding="utf-8") as log:
            # a group of its own: Ctrl-C in the terminal reaches the queue alone, which
            # asks each run once
            self.working[run] = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment(),
                **OWN_GROUP,
            )
        self.began[run] = time.monotonic()
        self.say(f"{run}: {_from(run)}, log in {run.folder / LOG}")

    def _environment(self) -> dict[str, str]:
        threads = str(self.plan.threads)
        path = [str(PACKAGE), os.environ.get("PYTHONPATH", "")]
        return os.environ | {
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            "TQDM_MININTERVAL": "60",  # the log is a file
        }

    def _ended(self, run: Run, code: int) -> None:
        took = (time.monotonic() - self.began[run]) / 60
        if code == 0:
            self.outcome.done.append(run)
            self.say(f"{run}: done{_score(run)} after {took:.1f} minutes")
        elif code == IN_USE and not self.stopping:
            self.waiting.append(run)  # another queue was faster; wait for its end
        elif self.stopping or code in (STOPPED, IN_USE):
            self.outcome.left.append(run)
            self.say(f"{run}: stopped at step {run.step} of {run.steps}")
        else:
            killed = f"killed by signal {-code}" if code < 0 else ""
            self._fail(run, killed or reason(run.folder / LOG))

    def _fail(self, run: Run, why: str) -> None:
        self.outcome.failed.append(run)
        self.say(f"{run}: FAILED: {why} (all of it: {run.folder / LOG})")

    def _stop(self, why: str) -> None:
        self.stopping = True
        self.outcome.left += self.waiting
        self.waiting = []
        self.say(why)
        self._close_pipes()

    def _close_pipes(self) -> None:
        for process in self.working.values():
            process.stdin.close()

    def _kill(self) -> None:
        for process in self.working.values():
            process.kill()
            process.wait()

    @contextmanager
    def _signals(self) -> Iterator[None]:
        def press(number, frame):
            self.presses += 1

        before = {}
        try:
            for name in ("SIGINT", "SIGTERM", "SIGHUP"):
                if hasattr(signal, name):
                    number = getattr(signal, name)
                    before[number] = signal.signal(number, press)
        except ValueError:
            pass  # not in the main thread: signals go elsewhere
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def reason(log: Path) -> str:
    """Why a run failed: the last line of its log that says so, else the very last."""
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - 4000))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if ERROR in line]
    return (told or lines or ["without a word"])[-1].rpartition(ERROR)[2]


def _from(run: Run) -> str:
    if run.finished:
        return "finished before, to be published"
    return f"goes on at step {run.step} of {run.steps}" if run.step else "starts"


def _score(run: Run) -> str:
    last = (run.record or [{}])[-1]
    found = [f"{key} {last[key]:.3f}" for key in ("AP", "accuracy") if last.get(key)]
    return "".join(f", {each}" for each in found)


class _Bar:
    """Steps done of all runs, where there is a terminal to show them."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self.bar = tqdm(
            total=sum(run.steps for run in runs),
            unit="step",
            disable=not sys.stderr.isatty(),
        )
        self.steps = {run: run.step for run in runs}
        self.next = 0.0
        self.say = None if self.bar.disable else self.bar.write

    def show(self, working: Iterable[Run]) -> None:
        """Look at the records of the runs at work, every two seconds."""
        if self.bar.disable or time.monotonic() < self.next:
            return
        self.next = time.monotonic() + 2
        for run in working:
            record = run.record
            self.steps[run] = record[-1]["step"] if record else run.step
        self.bar.n = sum(self.steps.values())
        at = (f"{run} {self.steps[run]}/{run.steps}" for run in working)
        self.bar.set_postfix_str(", ".join(at))

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.close()
