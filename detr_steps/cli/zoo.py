"""`detr-steps zoo`: what it has and lacks; train what is missing; carry runs over."""

import argparse
import os
import sys
import threading
from _thread import interrupt_main
from pathlib import Path

import torch

from .. import experiment, zoo
from ..zoo import archive, queue, runs, status, taking

WORKERS_ON_GPU = 4  # runs of the course's size leave a GPU mostly idle


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `zoo status | train | export | import`."""
    parser = commands.add_parser(
        "zoo", help="what the zoo has and lacks; train what is missing"
    )
    parts = parser.add_subparsers(required=True, metavar="PART")
    _add_status(parts)
    _add_train(parts)
    _add_archives(parts)
    _add_job(parts)


def _add_status(parts: argparse._SubParsersAction) -> None:
    parser = parts.add_parser(
        "status",
        help="which recipes have weights, which seeds have records, what is missing",
    )
    _add_seeds_and_runs(parser)
    parser.set_defaults(run=run_status)


def _add_train(parts: argparse._SubParsersAction) -> None:
    parser = parts.add_parser(
        "train",
        help="train what is missing, several runs at a time",
        description="Train the runs that the zoo lacks, the longest first, and publish "
        "each as it ends. Ctrl-C, a limit of minutes or a crash lose nothing: the same "
        "command goes on.",
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="recipes of the zoo")
    parser.add_argument("--missing", action="store_true", help="all recipes")
    _add_seeds_and_runs(parser)
    parser.add_argument(
        "--workers",
        type=_positive,
        help=f"runs at a time (one a core; {WORKERS_ON_GPU} on a GPU)",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1 (default: the GPU if any)")
    parser.add_argument(
        "--minutes", type=float, metavar="LIMIT", help="save and end after so many"
    )
    publish = parser.add_mutually_exclusive_group()
    publish.add_argument(
        "--publish-weights",
        action="store_true",
        help="train the recipe's own seed, and replace weights that the zoo has",
    )
    publish.add_argument(
        "--no-publish",
        action="store_true",
        help="leave finished runs in their folders, for zoo export",
    )
    parser.set_defaults(run=run_train)


def _add_archives(parts: argparse._SubParsersAction) -> None:
    parser = parts.add_parser(
        "export", help="pack this machine's runs into an archive, for another one"
    )
    parser.add_argument("file", type=Path, help="the archive to write, a .zip")
    parser.add_argument(
        "--records", action="store_true", help="no weights and no checkpoints: small"
    )
    _add_runs(parser)
    parser.set_defaults(run=run_export)
    parser = parts.add_parser(
        "import",
        help="check an archive of runs and take them in",
        description="Records and weights go into the zoo, checkpoints to the queue. "
        "Runs of other recipes and damaged ones are refused; what is here already is "
        "never overwritten.",
    )
    parser.add_argument("file", type=Path, help="what zoo export has written")
    _add_runs(parser)
    parser.set_defaults(run=run_import)


def _add_job(parts: argparse._SubParsersAction) -> None:
    """What the queue starts for each run; without help, so it is not listed."""
    parser = parts.add_parser("job")
    parser.add_argument("name")
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device")
    parser.add_argument("--publish", choices=("nothing", "missing", "weights"))
    parser.set_defaults(run=run_job)


def _add_seeds_and_runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--seeds", type=_positive, default=3, help="records of each recipe (3)"
    )
    _add_runs(parser)


def _add_runs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--runs", type=Path, default=runs.RUNS, help=f"where runs lie ({runs.RUNS})"
    )


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text}: at least 1")
    return value


def run_status(options: argparse.Namespace) -> int:
    """Print the table."""
    states = status.look(options.seeds, options.runs)
    print(status.table(states, options.seeds, options.runs))
    return 0


def run_train(options: argparse.Namespace) -> int:
    """Train what is missing; 1 where a run failed, 130 after Ctrl-C."""
    plan = _plan(options)
    todo = [run for name in _chosen(options) for run in _missing(name, options)]
    if not todo:
        print(f"nothing is missing for {options.seeds} seeds")
        return 0
    ordered = queue.longest_first(todo, options.runs)
    print(f"{len(todo)} runs, {plan.workers} at a time")
    outcome = queue.Queue(ordered, plan).run()
    print(_told(outcome))
    if outcome.interrupted:
        return 130
    return 1 if outcome.failed else 0


def _plan(options: argparse.Namespace) -> queue.Plan:
    device = options.device or queue.default_device()
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"--device {device}: there is no GPU here")
    if options.minutes is not None and options.minutes <= 0:
        raise ValueError(f"--minutes {options.minutes:g}: more than 0")
    default = WORKERS_ON_GPU if device.startswith("cuda") else queue.cores()
    return queue.Plan(
        workers=options.workers or default,
        device=options.device,
        minutes=options.minutes,
        publish=not options.no_publish,
        publish_weights=options.publish_weights,
    )


def _chosen(options: argparse.Namespace) -> list[str]:
    if bool(options.names) == options.missing:
        raise ValueError("name the recipes to train, or give --missing for all of them")
    if options.missing and options.publish_weights:
        raise ValueError("--publish-weights replaces weights: name their recipes")
    for name in options.names:
        zoo.recipe(name)  # raises for an unknown one
        if not runs.trainable(name):
            raise ValueError(
                f"{name} needs data that is not here: detr-steps train {name} "
                "--train IMAGES JSON --val IMAGES JSON"
            )
    return options.names or [name for name in zoo.recipes() if runs.trainable(name)]


def _missing(name: str, options: argparse.Namespace) -> list[runs.Run]:
    replace = options.publish_weights
    found = runs.missing(name, options.seeds, options.runs, publish_weights=replace)
    return [run for run in found if not (options.no_publish and run.finished)]


def _told(outcome: queue.Outcome) -> str:
    parts = [f"{len(outcome.done)} done"]
    if outcome.failed:
        parts.append(f"{len(outcome.failed)} failed")
    if outcome.left:
        parts.append(f"{len(outcome.left)} left: the same command goes on")
    return ", ".join(parts)


def run_export(options: argparse.Namespace) -> int:
    """Write the archive."""
    if options.file.exists():
        raise FileExistsError(f"{options.file} exists: name another file, or delete it")
    print("\n".join(archive.pack(options.file, options.runs, options.records)))
    print(f"{options.file}: {options.file.stat().st_size / 1e6:.1f} MB")
    return 0


def run_import(options: argparse.Namespace) -> int:
    """Take in what we lack; 1 where a run was refused."""
    return 0 if taking.take(options.file, options.runs) else 1


def run_job(options: argparse.Namespace) -> int:
    """Train one run from where it is, and publish it; what the queue starts."""
    threading.Thread(target=_stop_with_queue, daemon=True).start()
    run = runs.Run(options.name, options.seed, options.out)
    if run.process is not None:
        return queue.IN_USE
    description = zoo.recipe(run.name)
    description["recipe"]["seed"] = run.seed
    experiment.run(description, run.folder, resume=True, device=options.device)
    if not run.finished:
        return queue.STOPPED
    _publish(run, options)
    return 0


def _stop_with_queue() -> None:
    """Wait for the pipe from the queue to close; then it is as if Ctrl-C was pressed.

    `os.read` and not `sys.stdin`, whose lock would be held while Python ends.
    """
    while os.read(sys.stdin.fileno(), 1):
        pass
    interrupt_main()


def _publish(run: runs.Run, options: argparse.Namespace) -> None:
    if options.publish == "nothing":
        return
    own = run.seed == zoo.own_seed(run.name)
    lacking = zoo.ships_weights(run.name) and not runs.has_weights(run.name)
    if own and (lacking or options.publish == "weights"):
        zoo.publish(run.folder, run.name, device=options.device or "cpu")
    else:
        zoo.publish_record(run.folder, run.name)
