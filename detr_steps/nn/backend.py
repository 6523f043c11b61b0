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
from .ms_deform_attn import operator

VARIABLE = "DETR_STEPS_BACKEND"
BACKENDS = ("auto", "torch", "cpp", "cuda")
HOME = {"cpp": "cpu", "cuda": "cuda"}  # the device that a compiled backend computes on


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
        operator()
    except NotCompiled as error:
        return error
    return None


def compiles(value: Tensor) -> bool:
    """Whether the compiled loops compute with this tensor.

    Raises: NotCompiled or ValueError where the backend asked for cannot.
    """
    return _decide(_chosen, value.device.type)


@torch.compiler.assume_constant_result
def _decide(backend: str, device: str) -> bool:
    if backend == "auto":
        return device == "cpu" and _available_or_warned()
    if backend == "torch":
        return False
    if backend == "cuda":
        raise NotCompiled("backend cuda: there are no CUDA kernels in the course yet")
    if device != HOME[backend]:
        raise ValueError(
            f"backend {backend} computes on {HOME[backend]}, these tensors are on "
            f"{device}: move them, or take backend auto"
        )
    if trouble():
        raise trouble()
    return True


def _available_or_warned() -> bool:
    if trouble():
        _warn_once()
    return trouble() is None


@functools.cache
def _warn_once() -> None:
    warnings.warn(
        f"{trouble()}. Until then torch's own operators compute it, several times "
        f"slower; {VARIABLE}=torch does without this warning",
        RuntimeWarning,
        stacklevel=2,
    )
