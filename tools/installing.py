"""Runs pip with a line of progress, and says what its failures mean.

Standard library only, and parses in Python 3.8: see course.py.
"""

from __future__ import annotations

import collections
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path


class Trouble(Exception):
    """What went wrong, and what to do about it, in words for the person."""


def say(text: str) -> None:
    print(text, flush=True)


TROUBLES = (
    (
        r"ensurepip is not|No module named '?(venv|ensurepip)",
        "This Python comes without venv. On Debian and Ubuntu: "
        "sudo apt install python3-venv\nThen run the same command again.",
    ),
    (
        r"No space left|Errno 28|not enough space|WinError 112",
        "The disk (or the folder for temporary files) is full. "
        "Make room and run the same command again: it goes on where it stopped.",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLCertVerificationError",
        "The package index shows a certificate that this Python does not know.\n"
        "Behind a company proxy, set PIP_CERT to the company's certificate file.",
    ),
    (
        r"NewConnectionError|Failed to establish|NameResolutionError|getaddrinfo"
        r"|Temporary failure|Network is unreachable|Connection (refused|reset|aborted)"
        r"|[Tt]imed out|ProxyError|Max retries|IncompleteRead|RemoteDisconnected",
        "The Python package index cannot be reached. Check the network; behind a "
        "proxy set HTTPS_PROXY.\nThen run the same command again: what was "
        "downloaded is kept.",
    ),
    (
        r"No matching distribution|not a supported wheel",
        "A package has no build for this computer. The course needs a 64-bit "
        "Python on Linux, macOS (Apple silicon) or Windows.",
    ),
    (
        r"Permission denied|Errno 13|WinError (5|32)\b|Access is denied",
        "A file in .venv is in use or may not be written. Close JupyterLab and "
        "running notebooks, then run the same command again.",
    ),
)


def diagnose(output: str) -> str:
    """pip's or venv's output -> what happened, what to do, and the last lines."""
    lines = [line for line in output.splitlines() if line.strip()]
    telling = [line for line in lines if re.match(r"\s*(ERROR|WARNING|\w+Error)", line)]
    tail = "\n".join("  | " + line[:160] for line in (telling or lines)[-6:])
    for pattern, advice in TROUBLES:
        if re.search(pattern, output):
            return advice + "\n" + tail
    return (
        "The installation failed. Its last lines are below; if they do not help, "
        "delete the folder .venv and try again.\n" + tail
    )


def pip_environment() -> dict:
    """The caller's environment, less what leads pip out of .venv."""
    outside = ("PYTHONHOME", "PYTHONPATH", "PIP_USER", "PIP_TARGET", "PIP_PREFIX")
    kept = {name: value for name, value in os.environ.items() if name not in outside}
    kept.update(PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1")
    return kept


def pip_install(python: Path, *arguments: str, title: str = "") -> None:
    """One `pip install` by an interpreter, with a line of progress; raises Trouble."""
    if title:
        say(title)
    log = collections.deque(maxlen=400)
    command = [str(python), "-m", "pip", "install", "--progress-bar", "off"]
    process = subprocess.Popen(
        [*command, "--no-compile", *arguments],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=pip_environment(),
        encoding="utf-8", errors="replace",
    )  # fmt: skip
    try:
        for line in process.stdout:
            log.append(line)
            show_progress(line)
    except KeyboardInterrupt:
        process.wait()
        raise
    finally:
        show_progress("")
    if process.wait():
        raise Trouble(diagnose("".join(log)))


def show_progress(line: str) -> None:
    """pip's line, shortened, over the last one; nothing where no one watches."""
    if not sys.stdout.isatty():
        if line.startswith("Installing collected packages"):
            say("  unpacking")
    elif not line:
        print("\r\033[K", end="", flush=True)
    elif re.match(r"(Collecting|\s*Downloading|Installing|Building)", line):
        width = shutil.get_terminal_size().columns - 4
        print("\r\033[K  " + line.strip()[:width], end="", flush=True)
