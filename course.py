"""Sets the course up and runs it. Needs nothing but Python 3.11, 3.12 or 3.13.

    python3 course.py lab            open the course in JupyterLab
    python3 course.py test           run every test, notebooks too
    python3 course.py setup          only make or renew the environment in .venv
    python3 course.py run 02         run chapter 02 without a browser
    python3 course.py book --open    build the course as a site in build/book
    python3 course.py book --pdf     and each of its chapters as a PDF, for paper
    python3 course.py student DIR    copies to hand out: no outputs, no solutions
    python3 course.py answers DIR    the key: the exercises and their solutions
    python3 course.py publish --repo OWNER/NAME --tag TAG

`lab` hands options that it does not know to JupyterLab, `test` to pytest.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys

from tools.environment import ROOT, VENV, Trouble, python, ready

CHAPTERS = ROOT / "chapters"
# for PYTHONWARNINGS: outputs are compared, also where nothing can be compiled
QUIET = "ignore:no compiled op:RuntimeWarning"

HANDOUTS = {
    "student": "copies without outputs and solutions, in FOLDER or build/student",
    "answers": "the key, a file for each chapter, in FOLDER or build/answers",
}


def call(*command, **environment: str) -> int:
    """Runs a program of .venv; Ctrl-C goes to it alone. Returns its exit status."""
    process = subprocess.Popen(
        [str(python()), *map(str, command)], cwd=ROOT, env={**os.environ, **environment}
    )
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        return process.wait()
    finally:
        signal.signal(signal.SIGINT, before)


def lab(arguments: list) -> int:
    """JupyterLab on the repository, with chapter 00 open."""
    first = min(CHAPTERS.glob("[0-9]*.ipynb"), default=CHAPTERS)
    url = "/lab/tree/" + first.relative_to(ROOT).as_posix()
    options = ["--ServerApp.root_dir=%s" % ROOT, "--LabApp.default_url=" + url]
    # Its own workspace: no tabs of another project's JupyterLab come back here.
    options.append("--LabApp.workspaces_dir=%s" % (VENV / "lab-workspaces"))
    if getattr(os, "geteuid", lambda: 1)() == 0:  # a container: root is all there is
        options.append("--allow-root")
    return call("-m", "jupyterlab", *options, *arguments)


def test_command(arguments: list, cores: int) -> tuple:
    """pytest's arguments and the threads for each of its workers.

    With a path among the arguments only that is run, in one process; otherwise
    everything: modules and notebooks side by side, each on one worker.
    """
    notebooks = ["--nbval", "--nbval-current-env", "--nbval-cell-timeout=600"]
    notebooks += ["--nbval-sanitize-with", str(ROOT / "tests" / "nbval_sanitize.cfg")]
    command = ["-m", "pytest", *notebooks, *arguments]
    if any((ROOT / argument.split("::")[0]).exists() for argument in arguments):
        return command, cores
    workers = 2 if cores > 1 else 1
    command += ["tests", *(["chapters"] if CHAPTERS.is_dir() else [])]
    if not any(re.match(r"-n|--numprocesses|--pdb", each) for each in arguments):
        command += ["-n", str(workers), "--dist", "loadscope"]
    return command, max(1, cores // workers)


def test(arguments: list) -> int:
    """Unit, parity, notebook and browser tests in one run of pytest."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    command, threads = test_command(arguments, cores or 1)
    threads = os.environ.get("OMP_NUM_THREADS", str(threads))
    quiet = ",".join(filter(None, (os.environ.get("PYTHONWARNINGS"), QUIET)))
    return call(*command, OMP_NUM_THREADS=threads, PYTHONWARNINGS=quiet)


def parse(arguments: list) -> tuple:
    """(options, the rest). The rest is for JupyterLab or pytest."""
    parser = argparse.ArgumentParser(
        prog="course.py", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", metavar="command", required=True)
    add = lambda name, text: commands.add_parser(name, help=text, allow_abbrev=False)  # noqa: E731
    add("setup", "make or renew the environment in .venv")
    add("lab", "open the course in JupyterLab; --no-browser and --port N pass through")
    add("test", "run every test; pytest's arguments pass through")
    run = add("run", "run chapters without a browser, with progress by cell")
    run.add_argument("chapters", nargs="+", metavar="NN", help="02, or a file's name")
    run.add_argument(
        "--save", action="store_true", help="put the new outputs into the notebook"
    )
    book = add("book", "build the course as a site that needs no server, in build/book")
    book.add_argument("--open", action="store_true", help="show it in the browser")
    book.add_argument("--out", metavar="FOLDER", help="another folder than build/book")
    book.add_argument(
        "--pdf", nargs="*", metavar="NN", help="print chapters too: all, or these"
    )
    for name, text in HANDOUTS.items():
        add(name, text).add_argument("folder", nargs="?", metavar="FOLDER")
    publish = add("publish", "stamp a fork's name into badges and set-up cells")
    publish.add_argument("--repo", required=True, metavar="OWNER/NAME")
    publish.add_argument("--tag", required=True, help="a tag or branch of that fork")
    options, rest = parser.parse_known_args(arguments)
    if rest and options.command not in ("lab", "test"):
        parser.error("unknown argument: " + " ".join(rest))
    return options, rest


def main(arguments: list) -> int:
    options, rest = parse(arguments)
    try:
        ready()
    except Trouble as trouble:
        print("\n%s" % trouble, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on from here.", file=sys.stderr)
        return 130
    if options.command == "lab":
        return lab(rest)
    if options.command == "test":
        return test(rest)
    if options.command == "book":
        return call("-m", "tools.book", *arguments[1:])
    if options.command in ("run", "publish"):
        return call(ROOT / "tools" / "notebooks.py", *arguments)
    if options.command in HANDOUTS:
        folder = [os.path.abspath(options.folder)] if options.folder else []
        return call(ROOT / "tools" / "handouts.py", options.command, *folder)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
