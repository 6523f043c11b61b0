"""Who computes deformable attention: compiled loops or torch's own operators.

`auto`, the default, takes the compiled loops of the CPU or the kernels of the GPU where
they can be had, and otherwise torch, with one warning that says why; `torch`, `cpp` and
`cuda` take that or raise. The environment variable DETR_STEPS_BACKEND says what a
process starts with.

torch.use_deterministic_algorithms(True) makes the backward pass of the GPU's kernels
add in a fixed order, which is slower; that of torch's own operators raises on a GPU
(grid_sampler_2d_backward_cuda). On a CPU both always give the same.
"""

import contextlib
import functools
import os
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from .building import NotCompiled
from .ms_deform_attn import register

VARIABLE = "DETR_STEPS_BACKEND"
DEVICES = {"cpp": "cpu", "cuda": "cuda"}  # on which the compiled ones compute
BACKENDS = ("auto", "torch", *DEVICES)


def _known(name: str, source: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{source} {name!r}: expected one of {', '.join(BACKENDS)}")
    return name


_chosen = _known(os.environ.get(VARIABLE) or "auto", VARIABLE)


def recording() -> bool:
    """Whether operators are being recorded for a file: `torch.jit.trace`, `export`."""
    return torch.jit.is_tracing() or torch.compiler.is_compiling()


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
def trouble(device: str = "cpu") -> NotCompiled | None:
    """What keeps the compiled op from being used here; None when nothing does.

    `device` is "cpu" or "cuda". The first call for each builds its part if need be,
    which takes seconds.
    """
    try:
        register(device)
    except NotCompiled as error:
        return error
    return None


def compiles(value: Tensor) -> bool:
    """Whether the compiled op computes with this tensor.

    Raises: NotCompiled or ValueError where the backend asked for cannot.
    """
    return _compiles(_chosen, value.device.type)


# torch.compile and torch.export ask once and take the answer for granted: a build is
# nothing that they should look into
@torch.compiler.assume_constant_result
def _compiles(backend: str, device: str) -> bool:
    if backend == "auto":
        if device not in DEVICES.values():
            return False
        if trouble(device):
            _warn(device)
        return trouble(device) is None
    if backend in DEVICES:
        _demand(backend, device)
    return backend in DEVICES


def _demand(backend: str, device: str) -> None:
    wanted = DEVICES[backend]
    if device == wanted or (wanted == "cuda" and not torch.cuda.is_available()):
        if trouble(wanted):
            raise NotCompiled(f"backend {backend}: {trouble(wanted)}")
    if device != wanted:
        where = {"cpu": "the CPU", "cuda": "a GPU"}[wanted]
        raise ValueError(
            f"backend {backend} computes on {where}, these tensors are on {device}: "
            "move them, or take backend auto"
        )


@functools.cache
def _warn(device: str) -> None:
    """Say once that torch's operators compute, and how that could change.

    The first three words are what `course.py test` keeps out of notebooks.
    """
    warnings.warn(
        f"no compiled op: {trouble(device)}. torch's own operators compute instead, "
        f"several times slower; {VARIABLE}=torch does so without this warning",
        RuntimeWarning,
        stacklevel=2,
    )
