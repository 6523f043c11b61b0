"""Which device a run uses, and what is said when it is not there or too small."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..distributed import world

ACCELERATORS = ("cuda", "xpu", "mps")  # in the order in which "gpu" takes them


class OutOfMemory(RuntimeError):
    """What was asked for does not fit into the memory of a device."""


def devices() -> list[str]:
    """Names of the devices of this machine, the CPU first."""
    names = ["cpu"]
    for kind in ACCELERATORS:
        count = _count(kind)
        names += ["mps"] * count if kind == "mps" else _numbered(kind, count)
    return names


def _count(kind: str) -> int:
    module = getattr(torch, kind, None)
    if module is None or not module.is_available():
        return 0
    return module.device_count()


def _numbered(kind: str, count: int) -> list[str]:
    return [f"{kind}:{index}" for index in range(count)]


def pick_device(name: torch.device | str | None = None) -> torch.device:
    """The device of that name; without one the GPU of this process, else the CPU.

    `name`: as torch has them (`cpu`, `cuda`, `cuda:1`, `xpu`, `mps`), `gpu` for any
    there is, or the number of a GPU. Raises: ValueError that lists what there is.
    """
    if isinstance(name, torch.device):
        return name
    if name is None:
        return _own("cuda") if _count("cuda") else torch.device("cpu")
    there = devices()
    wanted = str(name).strip().lower()
    if wanted.isdecimal() and int(wanted) + 1 < len(there):
        return torch.device(there[int(wanted) + 1])
    if wanted == "gpu" and len(there) > 1:
        wanted = there[1].partition(":")[0]
    if f"{wanted}:0" in there:
        return _own(wanted)
    if wanted in there or wanted.removesuffix(":0") in there:
        return torch.device(wanted)
    raise ValueError(f"no device {str(name)!r} here: there is {', '.join(there)}")


def _own(kind: str) -> torch.device:
    """Each process of a run has a GPU of its own, as far as they go."""
    return torch.device(kind, world()[0] % _count(kind))


@contextmanager
def memory_named(device: torch.device, what: str) -> Iterator[None]:
    """Say what it was that the memory of a device did not suffice for.

    Raises: OutOfMemory.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"out of memory on {device} with {what}: take a smaller batch (--batch), "
            "smaller pictures (--size), or another device (--device)"
        ) from error


def is_out_of_memory(error: BaseException) -> bool:
    """Did a device, or the host, have no memory left? Each says so in its own way."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    words = "out of memory", "can't allocate memory", "not enough memory"
    return isinstance(error, RuntimeError) and any(w in str(error) for w in words)
