"""Makes and mends the environment in .venv: which Python, and what is in it.

Standard library only, and parses in Python 3.8: see course.py, which calls it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from tools.installing import Trouble, diagnose, pip_environment, pip_install, say

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
OLDEST, NEWEST = (3, 11), (3, 13)
# Where these are found, all are: one of each part of pins.txt.
PROOF = "torch jupyterlab nbval pytest transformers myst_nb detr_steps".split()
FRESH_GB = 3  # a fresh .venv, and room for pip to unpack in
CUDA_GB = 9  # the same where PyTorch comes with its CUDA libraries
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"


# --- which Python ---------------------------------------------------------------


def supported(version) -> bool:
    """True for a (major, minor) that the course runs on."""
    return OLDEST <= tuple(version)[:2] <= NEWEST


def version_of(command: list) -> tuple | None:
    """(major, minor) of an interpreter; None where it does not run."""
    code = "import sys; print('%d %d' % sys.version_info[:2])"
    try:
        found = subprocess.run(
            [*map(str, command), "-c", code], stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, timeout=30, check=True,
        )  # fmt: skip
        return tuple(int(part) for part in found.stdout.split())
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def pick_python() -> list:
    """The interpreter for .venv: this one, or another supported one on the PATH."""
    mine = sys.version_info[:2]
    if supported(mine):
        return [sys.executable]
    for minor in range(NEWEST[1], OLDEST[1] - 1, -1):
        names = [["python3.%d" % minor]]
        if os.name == "nt":
            names.append(["py", "-3.%d" % minor])
        for command in names:
            if shutil.which(command[0]) and supported(version_of(command) or (0,)):
                say("This is Python %d.%d; " % mine + "using " + " ".join(command))
                return command
    raise Trouble(
        "This is Python %d.%d, too %s: " % (*mine, "old" if mine < OLDEST else "new")
        + "the course needs Python %d.%d to %d.%d, and none" % (*OLDEST, *NEWEST)
        + " was found beside it.\nInstall Python %d.%d" % NEWEST
        + " (python.org/downloads, or your system's packages),"
        + "\nthen run: python%d.%d course.py %s" % (*NEWEST, " ".join(sys.argv[1:]))
    )


# --- the environment ------------------------------------------------------------


def python() -> Path:
    """The environment's own interpreter."""
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def stamp_path() -> Path:
    return VENV / "course-installed.txt"


def unfinished_path() -> Path:
    return VENV / "course-unfinished.txt"


def wanted() -> str:
    """A hash of all that decides what is in .venv, the folder's own place too."""
    digest = hashlib.sha256(str(ROOT).encode())
    for name in ("pins.txt", "pyproject.toml"):
        digest.update(b"\0" + (ROOT / name).read_bytes())
    return digest.hexdigest()


def is_ready() -> bool:
    """True where .venv is whole and made from today's pins. Takes about 0.1 s."""
    try:
        if stamp_path().read_text() != wanted() or unfinished_path().exists():
            return False
    except OSError:
        return False
    code = "from importlib.util import find_spec as f; assert all(map(f, %r))" % PROOF
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        # From .venv, so that the package is found as installed, not as a folder here.
        return subprocess.call([str(python()), "-c", code], cwd=VENV, **quiet) == 0
    except OSError:
        return False


def ready() -> None:
    """Makes, renews or mends .venv; returns at once where nothing is to do."""
    if is_ready():
        return
    make_venv()
    unfinished_path().write_text("pip is at work, or was interrupted")
    install()
    keep_lab_quiet()
    stamp_path().write_text(wanted())
    unfinished_path().unlink()
    say("The environment in .venv is ready.")


def make_venv() -> None:
    """A .venv whose Python starts and is supported; one made here is rebuilt."""
    ours = stamp_path().exists() or unfinished_path().exists()
    if VENV.exists() and not ours and not (VENV / "pyvenv.cfg").exists():
        raise Trouble("%s is not a virtual environment. Delete or rename it." % VENV)
    version = version_of([python()]) if VENV.exists() else None
    if version and supported(version) and has_pip():
        return
    if VENV.exists() and not ours:
        why = "runs Python %d.%d" % version if version else "is broken"
        raise Trouble(
            "The environment in %s %s and was not made by course.py.\n" % (VENV, why)
            + "Delete that folder and run the same command again."
        )
    command = pick_python()
    need_space(FRESH_GB)
    say("Making the environment in .venv" + (" anew" if ours else ""))
    try:
        shutil.rmtree(VENV, ignore_errors=False) if VENV.exists() else None
        VENV.mkdir()
        unfinished_path().write_text("venv is at work, or was interrupted")
    except OSError as error:
        raise Trouble(
            "Cannot write %s (%s).\nClose what uses it, " % (VENV, error)
            + "delete that folder, and run the same command again."
        ) from error
    done = subprocess.run(
        [*command, "-m", "venv", str(VENV)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    if done.returncode:
        raise Trouble(diagnose(done.stdout.decode(errors="replace")))


def has_pip() -> bool:
    command = [str(python()), "-m", "pip", "--version"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.call(command, **quiet) == 0


def need_space(gigabytes: float) -> None:
    """Raises where the disk has too little room, before anything is written."""
    free = shutil.disk_usage(str(ROOT)).free / 1e9
    if free < gigabytes:
        raise Trouble(
            "Too little room on the disk of %s: %.1f GB are free, " % (ROOT, free)
            + "%g GB are needed.\nMake room and run the same command again." % gigabytes
        )


def install() -> None:
    """Everything in pins.txt, then the package itself, in place."""
    mend()
    pip(pinned("pip"))
    cpu_torch()
    pip("-r", str(ROOT / "pins.txt"), title="Installing the pinned packages")
    # Without isolation the build needs no second download: hatchling is pinned.
    pip("--no-deps", "--no-build-isolation", "-e", str(ROOT))
    compile_ahead()


def pip(*arguments: str, title: str = "") -> None:
    """One `pip install` into .venv."""
    pip_install(python(), *arguments, title=title)


def pinned(name: str) -> str:
    """The line of one package in pins.txt, for example 'torch==2.13.0'."""
    text = (ROOT / "pins.txt").read_text(encoding="utf-8")
    return re.search(r"(?m)^%s==\S+" % re.escape(name), text).group(0)


def cpu_torch() -> None:
    """On Linux without an NVIDIA GPU: PyTorch without gigabytes of CUDA libraries.

    Asks pip first what it would take; only where that brings CUDA along is the
    CPU build fetched from PyTorch's own index. Not reachable: the big one serves.
    """
    if not sys.platform.startswith("linux"):
        return
    ask = [str(python()), "-m", "pip", "install", "--quiet", "--dry-run", "--no-deps"]
    answer = subprocess.run(
        [*ask, "--report", "-", pinned("torch")], env=pip_environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    if answer.returncode:
        raise Trouble(diagnose(answer.stderr.decode(errors="replace")))
    found = json.loads(answer.stdout.decode())["install"]
    if not any(needs_cuda(item["metadata"]) for item in found):
        return
    if has_nvidia():
        return need_space(CUDA_GB)
    say("No NVIDIA GPU: taking PyTorch's CPU build")
    try:
        index = ["--index-url", CPU_WHEELS, "--retries", "1", "--timeout", "15"]
        pip("--no-deps", *index, pinned("torch"))
    except Trouble:
        say("It cannot be reached; the usual build works too, and is larger.")
        need_space(CUDA_GB)


def needs_cuda(metadata: dict) -> bool:
    return any(
        re.match(r"(nvidia|cuda)-", need) for need in metadata.get("requires_dist", [])
    )


def has_nvidia() -> bool:
    places = "/proc/driver/nvidia/version", "/usr/lib/wsl/lib/nvidia-smi"
    return bool(shutil.which("nvidia-smi")) or any(map(os.path.exists, places))


def site_packages() -> Path:
    found = next(VENV.glob("lib/python*/site-packages"), None)
    return found or VENV / "Lib" / "site-packages"  # Windows


def mend() -> None:
    """Takes out packages that an interrupted install left half there.

    pip takes a package with a METADATA file for whole. Here one counts as whole
    when every file of its RECORD is there; the others are removed, for pip to
    install again.
    """
    packages = site_packages()
    for leftover in packages.glob("~*"):  # what pip moves aside while it works
        shutil.rmtree(leftover, ignore_errors=True)
    for info in packages.glob("*.dist-info"):
        record = info / "RECORD"
        lines = record.read_text(encoding="utf-8") if record.exists() else "missing,,"
        names = (line.rsplit(",", 2)[0].strip('"') for line in lines.splitlines())
        if not all((packages / name).exists() for name in names if name[-4:] != ".pyc"):
            say("Half installed, taken out: " + info.name[: -len(".dist-info")])
            shutil.rmtree(info)


def compile_ahead() -> None:
    """Byte code for what the course imports, on all cores.

    pip would compile everything, on one core: half of the time that set-up takes.
    What is left out here compiles when it is first imported.
    """
    rarely = (
        r"[/\\](tests?|setuptools|fontTools|sympy|networkx|third_party|hypothesis"
        r"|transformers[/\\]models|torch[/\\](_inductor|onnx|testing|distributed))[/\\]"
    )
    options = ["-q", "-q", "-j", "0", "-x", rarely, str(site_packages())]
    subprocess.call([str(python()), "-m", "compileall", *options])


def keep_lab_quiet() -> None:
    """No news pop-up on JupyterLab's first start; written inside .venv only."""
    folder = VENV / "share" / "jupyter" / "lab" / "settings"
    folder.mkdir(parents=True, exist_ok=True)
    quiet = {"fetchNews": "false", "checkForUpdates": False}
    settings = {"@jupyterlab/apputils-extension:notification": quiet}
    (folder / "overrides.json").write_text(json.dumps(settings, indent=1))
