"""What the card can do at most: copying, reading from L2, gathering, adding to memory.

roofline.py assumes these rates until they have been measured.
"""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from .record import Record
from .timing import on_card, seconds_eager

SOURCE = Path(__file__).with_name("ceilings.cu")
ROW = 128  # bytes
PIECE = 16
THREADS = 256
MAP_ROWS = 285_136  # 36.5 MB: the values of two pictures, or their gradients
FEW_ROWS = 1024


def run(record: Record, dry: bool) -> None:
    """Measure each ceiling: bytes per second, and what was moved."""
    for key, measure in _all(dry).items():
        if record.late:
            return
        if not record.has("ceilings", key):
            record.put("ceilings", key, measure())


def _all(dry: bool) -> dict[str, Callable[[], dict]]:
    scale = 4096 if dry else 1  # smaller by so much
    many, few = max(16, MAP_ROWS // scale), max(4, FEW_ROWS // scale)
    found = {
        "DRAM copy": lambda: _copy((1 << 30) // scale),
        "L2 read of 20 MB": lambda: _read_l2(20_000_000 // scale, 2 if dry else 200),
        "random rows read": lambda: _rows("gather", many, dry),
    }
    for name, kernel in (("scalars", "add_scalars"), ("vectors", "add_vectors")):
        found[f"{name} added to random rows"] = lambda k=kernel: _rows(k, many, dry)
        found[f"{name} added to few rows"] = lambda k=kernel: _rows(k, few, dry)
    return found


def _kernel(name: str) -> Callable:
    from detr_steps import cuda_lab

    where = "cuda" if on_card() else "emulator"
    return cuda_lab.compile(SOURCE.read_text("utf-8"), name, where)


def _numbers(count: int) -> Tensor:
    return torch.zeros(count, device="cuda" if on_card() else "cpu")


def _blocks() -> int:
    if not on_card():
        return 1
    return 8 * torch.cuda.get_device_properties(0).multi_processor_count


def _rate(moved: float, call: Callable[[], object]) -> dict:
    taken = seconds_eager([call], rounds=10)
    return {"bytes per second": moved / taken, "bytes": moved, "seconds": taken}


def _copy(size: int) -> dict:
    kernel, pieces = _kernel("copy"), size // PIECE
    there, here = _numbers(4 * pieces), _numbers(4 * pieces)
    return _rate(2 * size, lambda: kernel(_blocks(), THREADS, here, there, pieces))


def _read_l2(size: int, rounds: int) -> dict:
    kernel, pieces = _kernel("read_l2"), size // PIECE
    here, out = _numbers(4 * pieces), _numbers(1)
    return _rate(
        size * rounds,
        lambda: kernel(_blocks(), THREADS, here, out, pieces, rounds),
    )


def _rows(name: str, rows: int, dry: bool) -> dict:
    """Read or add 16 million rows, anywhere among so many."""
    kernel, memory, out = _kernel(name), _numbers(rows * ROW // 4), _numbers(1)
    groups = _blocks() * THREADS // 8
    each = 2 if dry else 16_000_000 // groups
    arguments = (memory, out) if name == "gather" else (memory,)
    moved = float(groups * each * ROW)
    return _rate(moved, lambda: kernel(_blocks(), THREADS, *arguments, rows, each))
