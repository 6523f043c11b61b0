"""A library that the emulator runs, as Python calls it."""

import ctypes
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy

from .faults import TEXT, KernelFault

SECONDS = 60.0  # what takes longer has hung
_EVENT = numpy.dtype(  # Event in kernels/emulator/memory.cpp
    [("block", "i8"), ("byte", "i8"), ("site", "i8"), ("thread", "i4"), ("step", "i4"),
     ("array", "i2"), ("access", "u1"), ("bytes", "u1"), ("unused", "i4")]
)  # fmt: skip
_OURS = ("emulator.h", "machine.h")  # no line of these is where something went wrong


class _Fault(ctypes.Structure):  # Fault in kernels/emulator/threads.cpp
    _fields_ = [
        ("kind", ctypes.c_char * 16),
        ("kernel", ctypes.c_char * 200),
        ("block", ctypes.c_char * 64),
        ("thread", ctypes.c_char * 64),
        ("sentence", ctypes.c_char * 600),
        ("site", ctypes.c_void_p),
        ("other", ctypes.c_void_p),
    ]


@dataclass(frozen=True)
class Watched:
    """An array that a run may touch."""

    name: str
    address: int  # where it lies now; the run works on a copy
    bytes: int
    item_bytes: int  # of an element, as faults and traces count them
    number_bytes: int  # what two threads may touch without disturbing each other
    writable: bool


class EmulatorLibrary:
    """One library of kernels, loaded; runs one kernel call at a time."""

    def __init__(self, file: Path):
        self.file = file
        self._library = ctypes.CDLL(str(file))
        self._lock = threading.Lock()
        self._lines: dict[int, tuple[str, int]] = {}
        for name, result, *takes in _FUNCTIONS:
            function = getattr(self._library, name)
            function.restype, function.argtypes = result, takes

    def function(self, name: str):
        """A function of the library."""
        return getattr(self._library, name)

    @contextmanager
    def session(
        self,
        arrays: Iterable[Watched],
        shared_bytes: int = 0,
        *,
        schedule: int = 0,
        trace: bool = False,
        seconds: float = SECONDS,
    ) -> Iterator[list[ctypes.c_void_p]]:
        """Give the addresses of copies to run on; copy back what may be written.

        Raises: KernelFault when the run ends with one (nothing is copied back),
        MemoryError where an array is too large for the emulator.
        """
        arrays, c = list(arrays), self._library
        with self._lock:
            try:
                if not c.emulator_open(trace):
                    raise MemoryError("the emulator gets no address space here")
                c.emulator_begin(schedule, shared_bytes, seconds)
                yield [self._copy(one) for one in arrays]
                self._raise_fault()
                for number, one in enumerate(arrays):
                    if one.writable:
                        c.emulator_result(number, one.address)
            finally:
                c.emulator_close()

    def events(self) -> numpy.ndarray:
        """The accesses of the run so far; within a session only."""
        first = ctypes.c_void_p()
        count = self._library.emulator_trace(ctypes.byref(first))
        if not count:
            return numpy.zeros(0, _EVENT)
        raw = ctypes.string_at(first.value, count * _EVENT.itemsize)
        return numpy.frombuffer(raw, _EVENT)

    def lines(self, sites: Sequence[int]) -> list[tuple[str, int]]:
        """File and line of instructions (line 0 where that is not known)."""
        unknown = sorted({site for site in sites if site not in self._lines})
        if unknown:
            self._lines |= dict(zip(unknown, _look_up(self.file, unknown), strict=True))
        return [self._lines[site] for site in sites]

    def _copy(self, one: Watched) -> ctypes.c_void_p:
        address = self._library.emulator_argument(
            one.name.encode(), one.address, one.bytes, one.item_bytes,
            min(4, one.number_bytes), one.writable,
        )  # fmt: skip
        if not address:
            raise MemoryError(f"{one.name} is too large for the emulator")
        return ctypes.c_void_p(address)

    def _raise_fault(self) -> None:
        address = self._library.emulator_fault()
        if not address:
            return
        found = _Fault.from_address(address)
        begin = self._library.emulator_library()
        sites = [site - begin for site in (found.site, found.other) if site]
        lines = tuple(_line_name(*one) for one in self.lines(sites))
        raise KernelFault(
            found.kind.decode(),
            found.sentence.decode(errors="replace").format(*lines, "", ""),
            kernel=found.kernel.decode().strip("()"),
            block=found.block.decode(),
            thread=found.thread.decode() or None,
            lines=lines,
        )


_FUNCTIONS = (
    ("emulator_open", ctypes.c_int, ctypes.c_int),
    ("emulator_begin", None, ctypes.c_uint64, ctypes.c_int64, ctypes.c_double),
    ("emulator_argument", ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p,
     ctypes.c_int64, ctypes.c_int, ctypes.c_int, ctypes.c_int),
    ("emulator_result", None, ctypes.c_int, ctypes.c_void_p),
    ("emulator_trace", ctypes.c_int64, ctypes.c_void_p),
    ("emulator_fault", ctypes.c_void_p),
    ("emulator_library", ctypes.c_void_p),
    ("emulator_close", None),
)  # fmt: skip


def _line_name(file: str, line: int) -> str:
    if not line:
        return "a line that is not known"
    return f"line {line}" if file == TEXT else f"line {line} of {file}"


def _look_up(file: Path, sites: Sequence[int]) -> list[tuple[str, int]]:
    """File and line of instructions, from what the compiler noted for debuggers."""
    calls = [hex(site - 1) for site in sites]  # each site is where a call returns to
    if sys.platform == "darwin":
        found = [_run(["atos", "-o", str(file), "-offset", call]) for call in calls]
        return [_inmost(re_at.splitlines()) for re_at in found]
    output = _run(["addr2line", "-a", "-i", "-e", str(file), *calls])
    blocks = [block.splitlines()[1:] for block in output.split("0x")[1:]]
    if len(blocks) != len(calls):
        return [("", 0)] * len(calls)
    return [_inmost(block) for block in blocks]


def _run(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout
    except OSError:
        return ""  # the tool is not there: lines are not known


def _inmost(places: Sequence[str]) -> tuple[str, int]:
    """The innermost of `file:line` that is not ours."""
    for place in places:
        name, _, line = place.split(" (")[0].rpartition(":")
        file = Path(name).name
        if line.isdigit() and file not in _OURS:
            return file, int(line)
    return "", 0
