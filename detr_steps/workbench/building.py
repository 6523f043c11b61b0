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

from ..nn.compiled import NotCompiled, cache

TEXT = "kernel"  # what compilers call a reader's text, so that its lines are known
FLAGS = (
    "-std=c++17", "-O1", "-g1", "-fPIC", "-fno-exceptions", "-fno-strict-aliasing",
    "-fno-optimize-sibling-calls", "-Wno-unknown-pragmas", "-fmax-errors=5",
    "-fdiagnostics-color=never", "-fno-diagnostics-show-caret",
    "-ffp-contract=off",
)  # fmt: skip
# Have every load and store reported (see kernels/emulator.h), a vector as one.
WATCHED = ("-fsanitize=thread", "-fno-tree-sra")
RUNTIME = ("memory", "threads")  # of kernels/emulator/
READER_SLOTS = 128  # shared arrays of a reader's text are numbered from here on
_SKIP_OR_SHARED = re.compile(
    r"""//[^\n]* | /\*.*?\*/ | "(?:\\.|[^"\\\n])*"
    | (?P<extern>extern\s+)? \b__shared__\s+ (?P<declared>[^;{}]+);""",
    re.DOTALL | re.VERBOSE,
)
_ALIGNED = re.compile(r"\b(?:alignas|__align__)\s*\([^)]*\)\s*")
_DECLARED = re.compile(r"^(?P<type>.*?)\s*\b(?P<name>\w+)\s*(?P<sizes>(?:\[.*\])?)\s*$",
                       re.DOTALL)  # fmt: skip
_ERROR = re.compile(
    rf"^{TEXT}[:(](?P<line>\d+)\)?(?::\d+)?:\s+(?:fatal )?error:?\s*(?P<fault>.*)$",
    re.MULTILINE,
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


def runtime(folder: Path | None = None) -> Path:
    """A folder with the kernels' sources and the emulator's machine code.

    Shared arrays in those sources are declared so that they are watched. `folder`: of
    other sources than the library's.
    Raises: NotCompiled.
    """
    files = _files(folder or sources())
    name = digest([compiler(), *FLAGS, *(f"{a}\n{b}" for a, b in files.items())])
    return kept(f"emulator-{name}", lambda work: _build_runtime(files, work))


def _files(folder: Path) -> dict[str, str]:
    """Every file of C++ or CUDA in a folder, by its path in it."""
    found = (path for path in folder.rglob("*") if path.suffix in _SUFFIXES)
    paths = sorted(path.relative_to(folder).as_posix() for path in found)
    return {path: (folder / path).read_text("utf-8") for path in paths}


_SUFFIXES = (".h", ".cuh", ".cpp", ".cu")


def _build_runtime(files: dict[str, str], work: Path) -> None:
    slot = 0
    for path, text in files.items():
        watched, slot = (text, slot) if path == "emulator.h" else watch(text, slot)
        place = work / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(watched, "utf-8")
    for name in RUNTIME:
        command = [*compiler().split(), "-std=c++17", "-O2", "-fPIC", "-c"]
        source = work / "emulator" / f"{name}.cpp"
        run([*command, str(source), "-o", str(work / f"{name}.o")], "")


def command(folder: Path, source: str, target: str) -> list[str]:
    """How a source becomes a library that the emulator runs."""
    return [
        *compiler().split(), *FLAGS, *WATCHED, "-include", str(folder / "emulator.h"),
        "-I", str(folder), "-I", str(folder / "cuda"), "-c", source, "-o", target,
    ]  # fmt: skip


def link(folder: Path, objects: Iterable[str], target: str) -> list[str]:
    """How what `command` made becomes a library."""
    system = [] if sys.platform == "darwin" else ["-ldl"]
    runtime_objects = [str(folder / f"{name}.o") for name in RUNTIME]
    return [*compiler().split(), "-shared", *objects, *runtime_objects, "-o", target,
            *system]  # fmt: skip


def watch(text: str, first_slot: int) -> tuple[str, int]:
    """Rewrite declarations of shared arrays; lines stay where they are.

    `__shared__ float tile[64];` becomes
    `auto& tile = emulator::shared<float [64], 0>("tile");`. Returns the text and the
    first slot that is free after it.
    """
    slot = first_slot

    def rewrite(found: re.Match) -> str:
        nonlocal slot
        if found["declared"] is None:
            return found[0]  # a comment or a string
        dynamic, new, type_ = found["extern"] is not None, [], None
        for one in _split(_ALIGNED.sub("", found["declared"])):
            parts = _DECLARED.match(one.strip())
            if parts is None:
                return found[0]
            type_ = type_ or parts["type"]
            new.append(_declare(type_, parts["name"], parts["sizes"], slot, dynamic))
            slot += 1
        lines = found[0].count("\n") - "".join(new).count("\n")
        return " ".join(new) + "\n" * max(0, lines)

    return _SKIP_OR_SHARED.sub(rewrite, text), slot


def _declare(type_: str, name: str, sizes: str, slot: int, dynamic: bool) -> str:
    if dynamic:
        return f'{type_}* {name} = emulator::dynamic_shared<{type_}, {slot}>("{name}");'
    return f'auto& {name} = emulator::shared<{type_} {sizes}, {slot}>("{name}");'


def _split(declared: str) -> list[str]:
    """`float a[2], b` at its commas, but not at those within brackets."""
    parts, depth = [""], 0
    for character in declared:
        depth += character in "([<"
        depth -= character in ")]>"
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts


# --- running compilers, and keeping what they made ------------------------------------


def run(command: list[str], text: str) -> None:
    """Run a compiler. Raises: CompileFault in the words of the text's own lines."""
    plain = os.environ | {
        "LC_ALL": "C"
    }  # English, and quotes that are on every keyboard
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
    told = []
    for line, why in dict(found).items():
        quoted = lines[line - 1].strip() if line <= len(lines) else ""
        told.append(f"line {line}: {why}\n    {quoted}".rstrip())
    return CompileFault("\n".join(told), found[0][0])


def _fault_elsewhere(output: str, lines: list[str]) -> CompileFault:
    """An error outside of the text: say which line of it led there, if one did."""
    errors = re.findall(r"\b(?:fatal )?error:?\s*(.*)", output)
    why = errors[0] if errors else (output.strip() or "the compiler gave no reason")
    undefined = re.search(r"undefined reference to `?([^']*)'", output)
    if undefined:
        why = f"{undefined[1]} is declared but nowhere defined"
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
    except OSError as error:
        raise NotCompiled(
            f"it cannot be kept in {place.parent} ({error.strerror or error}): set "
            "TORCH_EXTENSIONS_DIR to a folder that can be written"
        ) from error
    return place


def _put(ready: Path, place: Path) -> None:
    try:
        os.replace(ready, place)
    except OSError:
        if not place.is_dir():  # unless another process was faster
            raise
