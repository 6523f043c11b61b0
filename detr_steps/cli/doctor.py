"""`detr-steps doctor`: what will work here, what will not, and how to mend it."""

import argparse
import importlib.metadata
import importlib.util
import platform
import shutil
import sys

import torch

from .. import __version__, notebook, zoo
from ..ops import backend
from ..ops.compiled_cuda import gpu_present


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `doctor`."""
    parser = commands.add_parser(
        "doctor", help="what will work here, and what will not"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print one line per fact; 1 when something the course needs is missing."""
    broken = 0
    for look in (_python, _packages, _device, _weights, _compiled, _browser):
        for good, line in look():
            broken += good is False
            print(f"{ {True: 'ok', False: 'NO', None: '--'}[good] }  {line}")
    return 1 if broken else 0


Lines = list[tuple[bool | None, str]]  # True works, False broken, None optional


def _python() -> Lines:
    good = (3, 11) <= sys.version_info[:2] <= (3, 13)
    cure = "" if good else ": install Python 3.11, 3.12 or 3.13"
    name = f"{platform.system()} {platform.machine()}"
    return [
        (True, f"detr_steps {__version__}"),
        (good, f"Python {platform.python_version()} on {name}{cure}"),
    ]


def _packages() -> Lines:
    lines: Lines = []
    for name in ("torch", "numpy", "scipy", "matplotlib", "pycocotools", "safetensors"):
        try:
            lines.append((True, f"{name} {importlib.metadata.version(name)}"))
        except importlib.metadata.PackageNotFoundError:
            lines.append((False, f"{name} is missing: python3 course.py setup"))
    return lines


def _device() -> Lines:
    env = notebook.look(0)
    memory = f"{env.memory_gb:.0f} GB" if env.memory_gb else "unknown memory"
    lines: Lines = [(True, f"{env.cores} CPU cores, {memory}")]
    if env.device == "cuda":
        lines.append((True, f"GPU {env.gpu}: training uses it by itself"))
    elif env.device == "mps":
        lines.append((None, "Apple GPU: --device mps; the CPU is the default"))
    else:
        why = "this torch has no CUDA" if not torch.version.cuda else "no GPU found"
        lines.append(
            (None, f"no GPU ({why}): all chapters run on the CPU; COCO needs one")
        )
    return lines


def _weights() -> Lines:
    lines: Lines = []
    for name in zoo.names():
        try:
            zoo.weights(name)
            lines.append((True, f"weights {name}"))
        except (OSError, ValueError) as error:
            lines.append((False, str(error)))
    return lines or [(False, "no weights in data/zoo: clone or install again")]


def _compiled() -> Lines:
    """Builds it if need be: what doctor says works must work."""
    if backend.chosen() != "auto":
        line = (
            f"{backend.VARIABLE}={backend.chosen()}: unset it to let the course choose"
        )
        return [(None, line)]
    devices = {"cpu": "the CPU"}
    if gpu_present() or torch.cuda.is_available():
        devices["cuda"] = "the GPU"
    return [_compiled_for(*device) for device in devices.items()]


def _compiled_for(device: str, name: str) -> tuple[bool | None, str]:
    if backend.trouble(device):
        slow = f"on {name} deformable attention works without, several times slower"
        return None, f"no compiled op: {backend.trouble(device)}; {slow}"
    return True, f"compiled op for deformable attention on {name}"


def _browser() -> Lines:
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if shutil.which(name):
            return [(True, f"{name}: browser tests run")]
    return [(None, "no Chromium: browser tests are skipped (apt-get install chromium)")]
