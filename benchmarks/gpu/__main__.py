"""Everything that a graphics card is needed for: correctness, ceilings, times.

    benchmarks/gpu.sh [--part check sanitizer ceilings table training profile | zoo]
                      [--official PATH] [--minutes 9] [--dry]

Writes data/measured/kernel_times.json and benchmarks/results/gpu.md. Each piece is
kept as soon as it is there: a second call goes on where the first one stopped, so that
it can be run in pieces of some minutes. `--official` is a checkout of the paper's code
(https://github.com/fundamentalvision/Deformable-DETR), whose kernel is built from its
own source and timed beside ours. `--dry` runs all of it on a CPU with tiny shapes, the
kernels in the emulator: a test of this script, the times mean nothing.

`--part zoo`, only when named, trains what the zoo lacks until the minutes are over and
packs the runs into `zoo-records.zip` and `zoo-runs.zip`, in `--out` or in runs/, for
`detr-steps zoo import` on another machine.
"""

import argparse
import tempfile
from pathlib import Path

import torch

from detr_steps.files import write_whole
from detr_steps.ops.building import NotCompiled

from ..measuring import MEASURED, RESULTS
from . import ceilings, checks, report, runs, table, timing, training, watched
from .engines import Card, Emulated
from .record import PARTS, Record

RECORD, PAGE = MEASURED / "kernel_times.json", RESULTS / "gpu.md"


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """What the user asked for."""
    parser = argparse.ArgumentParser(prog="gpu.sh", description=__doc__.splitlines()[0])
    parser.add_argument("--part", nargs="+", choices=(*PARTS, "zoo"), default=PARTS)
    parser.add_argument("--official", type=Path, help="checkout of Deformable-DETR")
    parser.add_argument("--minutes", type=float, default=600, help="stop after so many")
    parser.add_argument("--again", action="store_true", help="start over")
    parser.add_argument("--dry", action="store_true", help="on a CPU, tiny")
    parser.add_argument("--out", type=Path, help="folder of record and page")
    return parser.parse_args(words)


def engine_for(dry: bool) -> Card | Emulated:
    """Who computes. Raises: SystemExit where there is no card, or no operator on it."""
    if dry:
        return Emulated()
    if not torch.cuda.is_available():
        raise SystemExit("no CUDA card here: --dry tests the script without one")
    try:
        return Card.ready()
    except NotCompiled as error:
        raise SystemExit(f"no operator on this card: {error}") from error


def places(chosen: argparse.Namespace) -> tuple[Path, Path]:
    """Where record and page go: a dry run touches neither of the real ones."""
    folder = chosen.out
    if chosen.dry and folder is None:
        folder = Path(tempfile.mkdtemp(prefix="gpu-dry-"))
    if folder is None:
        return RECORD, PAGE
    return folder / RECORD.name, folder / PAGE.name


def main(words: list[str] | None = None) -> None:
    """Run the parts, then write record and page."""
    chosen = parse(words)
    timing.dry = chosen.dry
    engine = engine_for(chosen.dry)
    where, page = places(chosen)
    record = Record(where, chosen.minutes, chosen.again, chosen.dry)
    parts = {
        "check": lambda: checks.run(record, engine, chosen.dry),
        "sanitizer": lambda: watched.sanitize(record, chosen.dry),
        "ceilings": lambda: ceilings.run(record, chosen.dry),
        "table": lambda: table.run(record, engine, chosen.dry, chosen.official),
        "training": lambda: training.run(record, chosen.dry),
        "profile": lambda: watched.profile(record, chosen.dry),
        "zoo": lambda: runs.run(record, chosen.dry, chosen.out),
    }
    for part in chosen.part:
        parts[part]()
    record.save(goals=report.judge(record.about, record.rows))
    text = report.page(record.about, record.rows)
    write_whole(page, lambda part: part.write_text(text, encoding="utf-8"))
    print(f"{where}\n{page}{' (time is up: call again)' if record.late else ''}")


if __name__ == "__main__":
    main()
