"""The zoo's queue on a GPU: runs inside the time limit, packed to be carried home."""

import os
import tempfile
import time
from pathlib import Path

from detr_steps import zoo
from detr_steps.files import write_json
from detr_steps.zoo import archive, queue, runs

from .record import ROOT, Record

WORKERS = 4  # runs of the course's size leave a GPU mostly idle
SEEDS = 3
PACKING = 0.5  # minutes kept back for the archives
TINY = {"steps": 2, "batch": 2, "drops": [], "evaluate_images": 2, "log_every": 1}


def run(record: Record, dry: bool, out: Path | None) -> None:
    """Train what is missing and write both archives; a later call goes on."""
    spent = (time.monotonic() - record.started) / 60
    minutes = record.minutes - spent - PACKING
    if minutes <= 0:
        print("zoo        no minutes are left")
    elif dry:
        _dry(minutes, out)
    else:
        plan = queue.Plan(WORKERS, "cuda", minutes, publish=False)
        _train_and_pack(plan, SEEDS, ROOT / runs.RUNS, out or ROOT / "runs")


def _train_and_pack(plan: queue.Plan, seeds: int, root: Path, out: Path) -> None:
    names = [name for name in zoo.recipes() if runs.trainable(name)]
    missing = [run for name in names for run in runs.missing(name, seeds, root)]
    todo = [run for run in missing if not run.finished]
    outcome = queue.Queue(queue.longest_first(todo, root), plan).run()
    for name, records_only in (("zoo-records.zip", True), ("zoo-runs.zip", False)):
        try:
            packed = archive.pack(out / name, root, records_only)
            print(f"zoo        {out / name}: {len(packed)} runs")
        except ValueError as error:  # nothing has come so far yet
            print(f"zoo        {name} is not written: {error}")
    if outcome.interrupted:
        raise KeyboardInterrupt


def _dry(minutes: float, out: Path | None) -> None:
    """One run of two steps on the CPU, of a zoo of its own."""
    folder = Path(tempfile.mkdtemp(prefix="gpu-dry-"))
    description = zoo.recipe("deformable-single")
    description |= {"start": {}, "recipe": description["recipe"] | TINY}
    write_json(folder / "zoo" / "dry" / "recipe.json", description)
    before = os.environ.get(zoo.VARIABLE)
    os.environ[zoo.VARIABLE] = str(folder / "zoo")
    try:
        plan = queue.Plan(1, "cpu", minutes, publish=False)
        _train_and_pack(plan, 1, folder / "runs", out or folder)
    finally:
        del os.environ[zoo.VARIABLE]
        if before is not None:
            os.environ[zoo.VARIABLE] = before
