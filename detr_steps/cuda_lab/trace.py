"""What a kernel touched, thread by thread and instruction by instruction."""

from dataclasses import dataclass

import numpy

SECTOR = 32  # bytes: the least that a GPU moves between its caches and its memory
KINDS = ("load", "store", "atomic")
ACCESS = numpy.dtype(
    [("block", "i8"), ("thread", "i4"), ("step", "i4"), ("line", "i4"),
     ("instruction", "i8"), ("kind", "i1"), ("argument", "i2"), ("element", "i8"),
     ("bytes", "i4")]
)  # fmt: skip
WARP_INSTRUCTION = numpy.dtype(
    [("block", "i8"), ("warp", "i4"), ("line", "i4"), ("time", "i4"), ("kind", "i1"),
     ("argument", "i2"), ("lanes", "i4"), ("bytes", "i8"), ("sectors", "i8")]
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

    def instructions(self, argument: str | int | None = None) -> numpy.ndarray:
        """What warps did together: one row for each instruction of each warp.

        Lanes act together when they are at the same instruction for the same time.
        Columns: block, warp, line, time, kind, argument, lanes, bytes (that they asked
        for), sectors (of 32 bytes that had to be moved for them).
        """
        all_ = self.accesses if argument is None else self.of(argument)
        if not len(all_):
            return numpy.zeros(0, WARP_INSTRUCTION)
        keys = (all_["block"], all_["thread"] // 32, all_["instruction"], _times(all_))
        order = numpy.lexsort(keys[::-1])
        sorted_keys = numpy.stack([key[order] for key in keys])  # [4, accesses]
        starts = _starts(sorted_keys)
        rows = numpy.zeros(len(starts), WARP_INSTRUCTION)
        first = all_[order][starts]
        for name in ("block", "line", "kind", "argument"):
            rows[name] = first[name]
        rows["warp"], rows["time"] = sorted_keys[1][starts], sorted_keys[3][starts]
        rows["lanes"] = numpy.diff(numpy.append(starts, len(order)))
        rows["bytes"] = numpy.add.reduceat(all_["bytes"][order].astype("i8"), starts)
        rows["sectors"] = self._sectors(all_[order], starts)
        return rows

    def sectors(self, argument: str | int | None = None) -> numpy.ndarray:
        """How many 32-byte sectors each warp instruction moves, one number for each."""
        return self.instructions(argument)["sectors"]

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

    def _sectors(self, accesses: numpy.ndarray, starts: numpy.ndarray) -> numpy.ndarray:
        """Different sectors in each group of accesses; groups begin at `starts`."""
        group = numpy.repeat(
            numpy.arange(len(starts)), numpy.diff(numpy.append(starts, len(accesses)))
        )
        item = numpy.array(self.item_bytes)[accesses["argument"]]
        byte = accesses["element"] * item
        ends = (byte, byte + accesses["bytes"] - 1)  # at most two sectors
        touched = numpy.concatenate(
            [numpy.stack([group, end // SECTOR], axis=1) for end in ends]
        )
        different = numpy.unique(touched, axis=0)
        return numpy.bincount(different[:, 0], minlength=len(starts))


def _starts(keys: numpy.ndarray) -> numpy.ndarray:
    """Where runs of equal columns begin."""
    changes = (keys[:, 1:] != keys[:, :-1]).any(axis=0)
    return numpy.concatenate([[0], 1 + numpy.flatnonzero(changes)])


def _times(accesses: numpy.ndarray) -> numpy.ndarray:
    """How often its thread had been at an access's instruction before."""
    keys = (accesses["block"], accesses["thread"], accesses["instruction"])
    order = numpy.lexsort((accesses["step"], *keys[::-1]))
    starts = _starts(numpy.stack([key[order] for key in keys]))
    lengths = numpy.diff(numpy.append(starts, len(order)))
    times = numpy.empty(len(order), "i8")
    times[order] = numpy.arange(len(order)) - numpy.repeat(starts, lengths)
    return times
