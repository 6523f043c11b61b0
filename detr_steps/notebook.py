"""The end of every notebook's set-up cell: look round, set defaults, say three lines.

What it prints is the same on every machine, for the notebooks' outputs are compared
when they are tested. What differs (device, versions, memory) is in the returned `Env`.
The cell itself is tools/setup_cell.py; `course.py publish` stamps a fork's name in it.
"""

import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

from . import zoo


@dataclass(frozen=True)
class Env:
    """What a chapter may ask about the machine it runs on."""

    chapter: int
    device: str  # "cuda", "mps" or "cpu": the fastest there is
    gpu: str | None  # the GPU's name
    cores: int  # CPU cores that this process may use
    memory_gb: float | None  # RAM of the machine; None where it cannot be read
    python: str
    torch: str
    on_colab: bool
    data: Path  # the folder with zoo/ and the samples


def check(chapter: int) -> Env:
    """Makes a notebook ready, prints a short table, and returns what was found.

    Seeds torch with 0 and sets nothing else, so running it again in the middle of a
    chapter does no harm but start the random numbers anew. On Colab without a GPU
    one line on stderr says where to get one.

    Raises:
        FileNotFoundError: the package was installed without its weights.
    """
    env = look(chapter)
    torch.manual_seed(0)
    print(table(env))
    if env.on_colab and env.device == "cpu":
        print(
            "No GPU here: all cells run on the CPU. For faster training: "
            "Runtime > Change runtime type > GPU.",
            file=sys.stderr,
        )
    return env


def table(env: Env) -> str:
    """What `check` prints: nothing that differs between two machines."""
    rows = {"chapter": f"{env.chapter:02}", "detr_steps": "ready", "data": "found"}
    return "\n".join(f"{name:12}{value}" for name, value in rows.items())


def look(chapter: int) -> Env:
    """Gathers what `check` returns; prints and changes nothing."""
    device = best_device()
    return Env(
        chapter=chapter,
        device=device,
        gpu=torch.cuda.get_device_name() if device == "cuda" else None,
        cores=cores(),
        memory_gb=memory_gb(),
        python=platform.python_version(),
        torch=torch.__version__,
        on_colab="google.colab" in sys.modules,
        data=zoo.folder().parent,
    )


def best_device() -> str:
    """The fastest there is, for `.to(device)`."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def cores() -> int:
    """CPU cores that this process may use: fewer than there are in a container."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_gb() -> float | None:
    """RAM of this machine in GB; None on systems without `os.sysconf`."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (AttributeError, OSError, ValueError):
        return None
