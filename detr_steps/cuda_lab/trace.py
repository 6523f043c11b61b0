"""What a kernel touched, thread by thread and instruction by instruction."""

from dataclasses import dataclass

import numpy

KINDS = ("load", "store", "atomic")
ACCESS = numpy.dtype(
    [("block", "i8"), ("thread", "i4"), ("step", "i4"), ("line", "i4"),
     ("instruction", "i8"), ("kind", "i1"), ("argument", "i2"), ("element", "i8"),
     ("bytes", "i4")]
)  # fmt: skip


@dataclass(frozen=True)
class Trace:
    """Every load, store and atomic of a run on its arguments, in the order they came.

    `accesses` is a structured array: block, thread (number in the block), step (how
    many accesses this thread made before), line (of the kernel's text), instruction
    (tells apart those of one line), kind (0 load, 1 store, 2 atomic: see KINDS),
    argument (number of the parameter), element (index in its array), bytes (16 for a
    float4). What a thread keeps in registers and in shared memory is not in it.
    Built in chapters/07_cuda_kernel.ipynb.
    """

    accesses: numpy.ndarray
    names: tuple[str, ...]  # of the parameters
    shapes: tuple[tuple[int, ...], ...]  # of the arguments; () for numbers
    item_bytes: tuple[int, ...]  # of an element of each

    def of(self, argument: str | int, kind: str | None = None) -> numpy.ndarray:
        """The accesses of one argument, all or those of one kind.

        Raises: ValueError for an argument or a kind that is not there.
        """
        mine = self.accesses["argument"] == self._number(argument)
        if kind is not None:
            mine &= self.accesses["kind"] == KINDS.index(kind)
        return self.accesses[mine]

    def reads(self, argument: str | int) -> numpy.ndarray:
        """How often each element of an argument was read, in the argument's shape."""
        return self._counts(argument, "load")

    def writes(self, argument: str | int) -> numpy.ndarray:
        """How often each element was written or added to, in the argument's shape."""
        return self._counts(argument, "store") + self._counts(argument, "atomic")

    def _number(self, argument: str | int) -> int:
        if isinstance(argument, int):
            return argument
        if argument not in self.names:
            raise ValueError(f"no argument {argument}: there are {self.names}")
        return self.names.index(argument)

    def _counts(self, argument: str | int, kind: str) -> numpy.ndarray:
        number = self._number(argument)
        shape, item = self.shapes[number], self.item_bytes[number]
        counts = numpy.zeros(int(numpy.prod(shape)), "i8")
        mine = self.of(number, kind)
        for width in numpy.unique(mine["bytes"]):
            first = mine["element"][mine["bytes"] == width]
            for further in range(max(1, int(width) // item)):
                numpy.add.at(counts, first + further, 1)
        return counts.reshape(shape)
