"""Who computes deformable attention: compiled loops or torch's own operators.

`auto`, the default, takes the compiled loops where they can be had, and otherwise
torch, with one warning that says why; `torch`, `cpp` and `cuda` take that or raise. The
environment variable DETR_STEPS_BACKEND says what a process starts with.
"""

import contextlib
import functools
import os
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from .compiled import NotCompiled
from .ms_deform_attn import register

VARIABLE = "DETR_STEPS_BACKEND"
BACKENDS = ("auto", "torch", "cpp", "cuda")


def _known(name: str, source: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{source} {name!r}: expected one of {', '.join(BACKENDS)}")
    return name


_chosen = _known(os.environ.get(VARIABLE) or "auto", VARIABLE)


def chosen() -> str:
    """The backend asked for: auto, torch, cpp or cuda."""
    return _chosen


@contextlib.contextmanager
def use(name: str) -> Iterator[None]:
    """Compute with another backend inside a `with` block, in all threads.

    Raises: ValueError for a name that is none.
    """
    global _chosen
    before, _chosen = _chosen, _known(name, "backend")
    try:
        yield
    finally:
        _chosen = before


@functools.cache
def trouble() -> NotCompiled | None:
    """What keeps the compiled loops from being used here; None when nothing does.

    The first call builds them if need be, which takes seconds.
    """
    try:
        register()
    except NotCompiled as error:
        return error
    return None


def compiles(value: Tensor) -> bool:
    """Whether the compiled loops compute with this tensor.

    Raises: NotCompiled or ValueError where the backend asked for cannot.
    """
    return _compiles(_chosen, value.device.type)


# torch.compile and torch.export ask once and take the answer for granted: a build is
# nothing that they should look into
@torch.compiler.assume_constant_result
def _compiles(backend: str, device: str) -> bool:
    if backend == "auto":
        if device != "cpu":
            return False
        if trouble():
            _warn()
        return trouble() is None
    if backend == "cuda":
        raise NotCompiled("backend cuda: the course has no CUDA kernels yet")
    if backend == "cpp":
        _demand(device)
    return backend == "cpp"


def _demand(device: str) -> None:
    if device != "cpu":
        raise ValueError(
            f"backend cpp computes on the CPU, these tensors are on {device}: move "
            "them, or take backend auto"
        )
    if trouble():
        raise NotCompiled(f"backend cpp: {trouble()}") from trouble()


@functools.cache
def _warn() -> None:
    """Say once that torch's operators compute, and how that could change.

    The first three words are what `course.py test` keeps out of notebooks.
    """
    warnings.warn(
        f"no compiled op: {trouble()}. torch's own operators compute instead, several "
        f"times slower; {VARIABLE}=torch does so without this warning",
        RuntimeWarning,
        stacklevel=2,
    )
