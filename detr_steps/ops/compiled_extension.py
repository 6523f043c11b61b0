"""The part of the op for GPUs, built by torch.utils.cpp_extension.

For a torch with CUDA, and what a reader's own op would use (chapter 07): ninja compiles
the sources side by side, and after an edit only those that it concerns. None of the
kernels includes a header of torch, only the binding does, so that it takes seconds.

It is built in a folder of its own for each torch, toolkit and kind of GPU, which stays
for the next edit. While it builds, torch keeps a file there, `lock`, for which other
processes wait; a build that was stopped leaves it behind, and all later ones would wait
for ever. Such a lock is found by its age and named.
"""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from .building import NotCompiled, cache, digest, does_not_build
from .compiled_objects import Unit
from .compiled_tools import TARGET, Part

Capability = tuple[int, int]  # (9, 0) is sm_90
STALE = 10 * 60  # seconds: no build takes as long
_FLAGS = ("-std=c++17", "-DUSE_CUDA", TARGET)  # as compiled_cuda.flags()


def build_extension(
    part: Part,
    units: Sequence[Unit],
    folder: Path,
    capabilities: Sequence[Capability],
) -> Path:
    """Build a part with cpp_extension, and load it; where its library then is.

    Raises: NotCompiled with the compiler's first complaint, for a stale lock, and
    without ninja.
    """
    from torch.utils import cpp_extension

    if not cpp_extension.is_ninja_available():
        raise NotCompiled("no ninja, which compiles the kernels: pip install ninja")
    place = build_folder(part, folder, capabilities)
    place.mkdir(parents=True, exist_ok=True)
    check_lock(place / "lock")
    sources = [str(unit_source(unit, folder, place)) for unit in units]
    try:
        with gpus_named(capabilities):
            cpp_extension.load(
                part.name,
                sources,
                extra_cflags=["-O1", "-fvisibility=hidden", *_FLAGS],
                extra_cuda_cflags=["-O1", "-Xcompiler=-fvisibility=hidden", *_FLAGS],
                extra_include_paths=[str(folder)],
                build_directory=str(place),
                with_cuda=True,
                is_python_module=False,
            )
    except (RuntimeError, OSError) as error:
        lines = str(error).splitlines()  # the first one only names the extension
        said = [line for line in lines[1:] if "error" in line.lower()]
        raise does_not_build("\n".join(said or lines)) from error
    return place / part.file


def build_folder(part: Part, folder: Path, capabilities: Sequence[Capability]) -> Path:
    """Where a part is built: another folder for other sources' places, GPUs, tools.

    Ninja looks at files and commands only: another nvcc in the same place would find
    its objects made already.
    """
    gpus = [f"{major}.{minor}" for major, minor in capabilities]
    about = (part.name, str(folder), torch.__version__, *gpus, *part.about())
    return cache() / f"extension-{digest(about)}"


def check_lock(lock: Path) -> None:
    """Raise NotCompiled where a stopped build has left its lock behind."""
    try:
        age = time.time() - lock.stat().st_mtime
    except FileNotFoundError:
        return
    if age > STALE:
        raise NotCompiled(
            f"{lock} is there for {age / 60:.0f} minutes: a build was stopped, and "
            "others would wait for it for ever. Delete that file"
        )


def unit_source(unit: Unit, folder: Path, place: Path) -> Path:
    """The file that a unit is compiled from.

    cpp_extension gives all files the same flags, so how wide the numbers are is said in
    a file of two lines; the binding gets one, too, for only nvcc always finds CUDA's
    headers. Such a file is left alone where it is right: a new one compiles anew.
    """
    source = folder / unit.source
    if not unit.bytes and source.suffix == ".cu":
        return source
    file = place / f"{source.stem}-{unit.bytes or 'all'}.cu"
    define = f"#define BYTES {unit.bytes}\n" if unit.bytes else ""
    text = f'{define}#include "{source.as_posix()}"\n'
    if not file.is_file() or file.read_text("utf-8") != text:
        file.write_text(text, "utf-8")
    return file


@contextlib.contextmanager
def gpus_named(capabilities: Sequence[Capability]) -> Iterator[None]:
    """Tell cpp_extension for which GPUs to compile, whatever there is."""
    name, before = "TORCH_CUDA_ARCH_LIST", os.environ.get("TORCH_CUDA_ARCH_LIST")
    os.environ[name] = ";".join(f"{major}.{minor}" for major, minor in capabilities)
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before
