"""What sources become for the emulator: every access in them is reported."""

import functools
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from ..ops.building import check_compiler, compiler, digest, does_not_build, kept, run
from ..ops.compiled import sources
from .faults import CompileFault

FLAGS = (
    # -g1 and no sibling calls: an address tells its line. No contraction: sums are
    # rounded alike whichever processor this is.
    "-std=c++17", "-g1", "-fPIC", "-fno-exceptions", "-fno-strict-aliasing",
    "-fno-optimize-sibling-calls", "-ffp-contract=off", "-Wno-unknown-pragmas",
    # Have every load and store reported (see kernels/emulator.h), and addresses that
    # a vector must not have. Nothing may tear a vector into its numbers before that:
    # Clang only leaves it whole where it improves nothing at all.
    "-fsanitize=thread,alignment",
)  # fmt: skip
GCC, CLANG = ("-O1", "-fno-tree-sra"), ("-O0",)
RUNTIME = ("emulator.h", "emulator/machine.h", "emulator/memory.cpp",
           "emulator/threads.cpp")  # fmt: skip
LINKED = () if sys.platform == "darwin" else ("-ldl", "-Wl,-z,defs")
READER_SLOTS = 128  # shared arrays of a reader's text are numbered from here on
_SKIP_OR_SHARED = re.compile(
    r"""//[^\n]* | /\*.*?\*/ | "(?:\\.|[^"\\\n])*"
    | (?P<extern>extern\s+)? \b__shared__\s+ (?P<declared>[^;{}]+);""",
    re.DOTALL | re.VERBOSE,
)
_ALIGNED = re.compile(r"\b(?:alignas|__align__)\s*\([^)]*\)\s*")
_DECLARED = re.compile(r"^(?P<type>.*?)\s*\b(?P<name>\w+)\s*(?P<sizes>(?:\[.*\])?)\s*$",
                       re.DOTALL)  # fmt: skip


def watched_sources(folder: Path | None = None) -> Path:
    """A folder with a copy of `kernels/` in which shared arrays are watched.

    `folder`: of other sources than the library's.
    Raises: NotCompiled.
    """
    files = _files(folder or sources())
    name = digest([*FLAGS, *own_flags(), *(f"{a}\n{b}" for a, b in files.items())])
    return kept(f"sources-{name}", lambda work: _watch_all(files, work))


def emulator_objects() -> Path:
    """A folder with the emulator itself, built on first use. Raises: NotCompiled."""
    folder = sources()
    name = digest([compiler(), *LINKED, *(folder / name for name in RUNTIME)])

    def build(work: Path) -> None:
        for path in (folder / name for name in RUNTIME if name.endswith(".cpp")):
            flags = ["-std=c++17", "-O2", "-fPIC", "-c", str(path)]
            target = str(work / f"{path.stem}.o")
            run([*compiler().split(), *flags, "-o", target], does_not_build)

    return kept(f"emulator-{name}", build)


def _files(folder: Path) -> dict[str, str]:
    """Every file of C++ or CUDA in a folder, by its path in it."""
    found = (path for path in folder.rglob("*") if path.suffix in _SUFFIXES)
    paths = sorted(path.relative_to(folder).as_posix() for path in found)
    return {path: (folder / path).read_text("utf-8") for path in paths}


_SUFFIXES = (".h", ".cuh", ".cpp", ".cu")


def _watch_all(files: dict[str, str], work: Path) -> None:
    slot = 0
    for path, text in files.items():
        watched, slot = (text, slot) if path in RUNTIME else watch(text, slot)
        place = work / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(watched, "utf-8")


def make_library(
    folder: Path, source: Path, options: Iterable[str] = (), text: str = ""
) -> None:
    """Compile a source, and link it with the emulator: `x.cpp` becomes `x.so`.

    `folder`: of what it includes. `text`: the lines a fault is told in, if its own.
    Raises: CompileFault.
    """
    fault = functools.partial(CompileFault.of, text=text)
    made, library = str(source.with_suffix(".o")), str(source.with_suffix(".so"))
    command = [
        *compiler().split(), *FLAGS, *own_flags(), *options, f"-I{folder}",
        f"-I{folder / 'cuda'}", "-include", str(folder / "emulator.h"),
    ]  # fmt: skip
    run([*command, "-c", str(source), "-o", made], fault)
    emulator = [str(path) for path in sorted(emulator_objects().glob("*.o"))]
    link = [*compiler().split(), "-shared", made, *emulator, "-o", library, *LINKED]
    run(link, fault)


@functools.cache
def _own_flags_of(called: str) -> tuple[str, ...]:
    about = subprocess.run([*called.split(), "--version"], capture_output=True)
    return CLANG if b"clang" in about.stdout else GCC


def own_flags() -> tuple[str, ...]:
    """Flags that the compiler does not share with others: GCC or CLANG.

    Raises: NotCompiled where there is no compiler.
    """
    check_compiler()
    return _own_flags_of(compiler())


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
