"""Text into machine code that Python can call, kept for the next time."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from ..ops.compiled import NotCompiled, cache

TEXT = "kernel"  # what compilers call a reader's text, so that its lines are known
MOST = 5  # lines that are told; what comes later often only follows from them
KEPT = 200  # folders of one kind; the oldest go
_ERROR = re.compile(
    rf"^{TEXT}[:(](?P<line>\d+)\)?(?::\d+)?:\s+(?:fatal )?error:?\s*(?P<fault>.*)$",
    re.MULTILINE,
)
_ERROR_ELSEWHERE = re.compile(
    r"^(?P<file>[^\s:(]+)[:(](?P<line>\d+)\)?(?::\d+)?:\s+(?:fatal )?error:?\s*"
    r"(?P<fault>.*)$",
    re.MULTILINE,
)
_UNDEFINED = re.compile(  # as the linkers of GNU, LLVM and Apple say it
    r"undefined reference to `?([^'\n]+)'|undefined symbol: (.+)|"
    r'Undefined symbols.*\n\s*"(.+)", referenced'
)
_ELSEWHERE = re.compile(rf"^{TEXT}[:(](?P<line>\d+)\)?.*required from here", re.M)


class CompileFault(RuntimeError):
    """A kernel's text does not compile; says in which of its lines, and why.

    `line` is the first such line (None where no line is to blame).
    """

    def __init__(self, message: str, line: int | None = None):
        super().__init__(message)
        self.line = line


def compiler() -> str:
    """The C++ compiler. Raises: NotCompiled where there is none."""
    found = os.environ.get("CXX") or "c++"
    if sys.platform == "win32":
        raise NotCompiled("the emulator needs Linux or macOS: on Windows use WSL")
    if not shutil.which(found.split()[0]):
        raise NotCompiled(
            f"no C++ compiler ({found}): install one (Debian, Ubuntu: apt install g++; "
            "macOS: xcode-select --install)"
        )
    return found


def sources() -> Path:
    """The folder of the kernels: inside the package, or `kernels/` of a clone.

    Raises: NotCompiled where there is neither.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_kernels", package.parent / "kernels"):
        if (folder / "emulator.h").is_file():
            return folder
    raise NotCompiled("its sources are missing: clone or install the course again")


def run(command: list[str], text: str) -> None:
    """Run a compiler. Raises: CompileFault in the words of the text's own lines."""
    plain = os.environ | {"LC_ALL": "C"}  # English, and quotes as on a keyboard
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", env=plain
    )
    if done.returncode != 0:
        raise fault(done.stderr + done.stdout, text)


def fault(output: str, text: str) -> CompileFault:
    """What a compiler complained about, in lines of the text only."""
    found = [(int(one["line"]), one["fault"]) for one in _ERROR.finditer(output)]
    lines = text.splitlines()
    if not found:
        return _fault_elsewhere(output, lines)
    first, told = {}, []
    for line, why in found:
        first.setdefault(line, why)
    for line, why in list(first.items())[:MOST]:
        quoted = lines[line - 1].strip() if line <= len(lines) else ""
        told.append(f"line {line}: {why}\n    {quoted}".rstrip())
    return CompileFault("\n".join(told), found[0][0])


def _fault_elsewhere(output: str, lines: list[str]) -> CompileFault:
    """An error outside of the text: say which line of it led there, if one did."""
    named = _ERROR_ELSEWHERE.search(output)
    why = output.strip() or "the compiler gave no reason"
    if named:
        file = Path(named["file"]).name
        why = f"{named['fault']} (in line {named['line']} of {file})"
    undefined = _UNDEFINED.search(output)
    if undefined:
        missing = undefined[1] or undefined[2] or undefined[3]
        why = f"{missing} is declared but nowhere defined"
    led = _ELSEWHERE.search(output)
    if not led:
        return CompileFault(why)
    line = int(led["line"])
    quoted = lines[line - 1].strip() if line <= len(lines) else ""
    return CompileFault(f"line {line}: {why}\n    {quoted}".rstrip(), line)


def digest(parts: Iterable[str]) -> str:
    """A name for what is built from these."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def kept(name: str, build: Callable[[Path], None]) -> Path:
    """The folder of that name among what is kept, built first if need be.

    It is built elsewhere and put in its place at once, so that nobody ever finds half
    of it. Raises: NotCompiled where nothing can be kept.
    """
    place = cache() / name
    if place.is_dir():
        return place
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix="building-", dir=place.parent, ignore_cleanup_errors=True
        ) as work:
            ready = Path(work, "ready")
            ready.mkdir()
            build(ready)
            _put(ready, place)
        _forget_old(place)
    except OSError as error:
        raise NotCompiled(
            f"it cannot be kept in {place.parent} ({error.strerror or error}): set "
            "TORCH_EXTENSIONS_DIR to a folder that can be written"
        ) from error
    return place


def _forget_old(newest: Path) -> None:
    """Remove the oldest of what is kept if there is too much of that kind."""
    kind = newest.name.partition("-")[0]
    folders = [(path.stat().st_mtime, path) for path in newest.parent.glob(f"{kind}-*")]
    for _, path in sorted(folders)[:-KEPT]:
        shutil.rmtree(path, ignore_errors=True)


def _put(ready: Path, place: Path) -> None:
    try:
        os.replace(ready, place)
    except OSError:
        if not place.is_dir():  # unless another process was faster
            raise
