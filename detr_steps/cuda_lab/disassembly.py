"""Machine code of a GPU, as text, read into kernels, blocks and loops.

Nothing here runs a kernel or needs a GPU: `nvdisasm` prints what the compiler made, and
how often each piece runs follows from the loops, once their turns are known.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

_KERNEL = re.compile(r"^\.text\.([\w$.]+):$")
_LABEL = re.compile(r"^(\.L[\w.]*|\$[\w$.]+):")
_CODE = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;")
_PREDICATE = re.compile(r"^@!?U?PT?\d*\s+")
_TARGET = re.compile(r"`\(([\w.$]+)\)")


@dataclass(frozen=True)
class Instruction:
    """One instruction: its text, and what is read off it."""

    text: str

    @cached_property
    def bare(self) -> str:
        """The text without the predicate in front."""
        return _PREDICATE.sub("", self.text)

    @cached_property
    def opcode(self) -> str:
        """The name with its suffixes, such as LDG.E.128."""
        return self.bare.split()[0]

    @cached_property
    def target(self) -> str | None:
        """The label that it names, if any."""
        found = _TARGET.search(self.bare)
        return found and found.group(1)

    @cached_property
    def always(self) -> bool:
        """Whether it does what it says in every thread."""
        operands = self.bare.partition(" ")[2].partition("`")[0]
        return self.bare == self.text and not re.search(r"\bU?P\d", operands)


@dataclass(frozen=True)
class Loop:
    """A loop: its blocks, those of loops inside it too; `outer` is the next one out."""

    blocks: frozenset[int]
    code: tuple[Instruction, ...]
    outer: int | None

    def count(self, pattern: str) -> int:
        """How many instructions of one turn, inner loops once, begin like this."""
        return count(self.code, pattern)


@dataclass(frozen=True)
class Kernel:
    """One kernel's code, and what the compiler says that it takes.

    `name` readable, with template arguments; `registers` of a thread; `spills`,
    `stack` (of a thread) and `shared` (of a block) in bytes.
    """

    name: str
    arch: str
    code: tuple[Instruction, ...]
    labels: dict[str, int]
    registers: int = 0
    spills: int = 0
    stack: int = 0
    shared: int = 0

    @cached_property
    def blocks(self) -> list[range]:
        """The pieces that run from top to bottom, and that a warp can get to."""
        return _blocks(self)[0]

    @cached_property
    def loops(self) -> list[Loop]:
        """All loops, in the order of their first instruction, outer ones first."""
        return _loops(*_blocks(self), self.code)

    def count(self, pattern: str) -> int:
        """How many instructions of the code begin like this."""
        return count((x for block in self.blocks for x in self._of(block)), pattern)

    def issued(
        self,
        turns: Sequence[float] = (),
        pattern: str = "",
        skipped: Collection[int] = (),
    ) -> float:
        """How many instructions one warp issues (those that begin with `pattern`).

        Each instruction once, in a loop as often as that loop turns, in a loop inside a
        loop the product; `turns` in the order of `loops`. What a condition jumps over
        is counted, so this is the most that can be issued, unless its blocks are
        `skipped`; what only a call gets to (the slow path of a division) and what
        serves warps that have fallen apart is not.
        Raises: ValueError unless there is a number for each loop.
        """
        if len(turns) != len(self.loops):
            raise ValueError(f"{len(turns)} numbers of turns. {self.describe()}")
        total = 0.0
        for number, block in enumerate(self.blocks):
            often = float(number not in skipped)
            for loop, turned in zip(self.loops, turns):
                often *= turned if number in loop.blocks else 1.0
            total += often * count(self._of(block), pattern)
        return total

    def describe(self) -> str:
        """Name the loops: how long they are, how deep, and what they read and write."""
        lines = [f"{self.name} ({self.arch}) has {len(self.loops)} loops"]
        for number, loop in enumerate(self.loops):
            memory = Counter(
                x.opcode for x in loop.code if re.match("LD|ST|RED|ATOM", x.opcode)
            )
            inside = "" if loop.outer is None else f" in {loop.outer}"
            lines.append(f"  {number}{inside}: {len(loop.code)} {dict(memory)}")
        return "\n".join(lines)

    def holding(self, pattern: str, at_least: int) -> set[int]:
        """The blocks that hold so many instructions that begin like this."""
        blocks = enumerate(self.blocks)
        return {i for i, b in blocks if count(self._of(b), pattern) >= at_least}

    def _of(self, block: range) -> tuple[Instruction, ...]:
        return self.code[block.start : block.stop]


def count(code: Iterable[Instruction], pattern: str) -> int:
    """How many instructions begin with this (a regular expression)."""
    return sum(re.match(pattern, x.opcode) is not None for x in code)


def read(text: str, arch: str) -> list[Kernel]:
    """Read all kernels of what `nvdisasm -c` has printed."""
    kernels, code, labels = [], [], {}
    for line in text.splitlines():
        if found := _KERNEL.match(line):
            code, labels = [], {}
            kernels.append((found.group(1), code, labels))
        elif found := _LABEL.match(line):
            labels[found.group(1)] = len(code)
        elif found := _CODE.match(line):
            code.append(Instruction(found.group(1)))
    return [Kernel(name, arch, tuple(code), labels) for name, code, labels in kernels]


def _blocks(kernel: Kernel) -> tuple[list[range], list[set[int]]]:
    """The blocks that the first one leads to, in order, and what each one leads to."""
    code = kernel.code
    nexts = [_next(kernel, i) for i in range(len(code))]
    jumps = {i for i in range(len(code)) if nexts[i] != {i + 1}}
    starts = {0} | {i + 1 for i in jumps} | set().union(*(nexts[i] for i in jumps))
    starts |= set(kernel.labels.values())
    bounds = sorted(start for start in starts if start < len(code))
    all_blocks = {a: range(a, b) for a, b in zip(bounds, [*bounds[1:], len(code)])}
    found, open_ = set(), [0]
    while open_:
        start = open_.pop()
        if start not in found and start < len(code):
            found.add(start)
            open_ += nexts[all_blocks[start][-1]]
    order = {start: i for i, start in enumerate(sorted(found))}
    blocks = [all_blocks[start] for start in order]
    return blocks, [
        {order[n] for n in nexts[block[-1]] if n in order} for block in blocks
    ]


def _next(kernel: Kernel, i: int) -> set[int]:
    """Where a warp may go on after instruction i; calls come back."""
    x = kernel.code[i]
    name = x.opcode.split(".")[0]
    here = set() if x.always else {i + 1}
    if name in ("EXIT", "RET"):
        return here
    if name == "BSYNC":  # goes on where the matching BSSY says
        barrier = x.bare.split()[1]
        for before in reversed(kernel.code[:i]):
            if (
                before.opcode.startswith("BSSY")
                and barrier in before.bare.split(", ")[0]
            ):
                return here | {kernel.labels[before.target]}
    # a call of a place inside is a jump; one of a routine ($...) comes back
    local = name == "CALL" and (x.target or "$").startswith(".L")
    if local or name == "BRA" and ".DIV" not in x.opcode and x.target:
        return here | {kernel.labels[x.target]}
    return {i + 1}


def _loops(
    blocks: list[range], nexts: list[set[int]], code: tuple[Instruction, ...]
) -> list[Loop]:
    """The natural loops: a jump back to a block that every way here passes through."""
    above = _dominators(nexts)
    bodies: dict[int, set[int]] = {}
    for i, follows in enumerate(nexts):
        for head in follows:
            if above[i] >> head & 1 and (head != i or len(follows) > 1):
                bodies.setdefault(head, {head}).update(_body(nexts, i, head))
    sizes = sorted(bodies, key=lambda head: (head, -len(bodies[head])))
    return [_loop(head, sizes, bodies, blocks, code) for head in sizes]


def _loop(head, heads, bodies, blocks, code) -> Loop:
    around = [o for o in heads if o != head and bodies[head] < bodies[o]]
    outer = min(around, key=lambda o: len(bodies[o]), default=None)
    inside = [code[i] for b in sorted(bodies[head]) for i in blocks[b]]
    return Loop(
        frozenset(bodies[head]),
        tuple(inside),
        None if outer is None else heads.index(outer),
    )


def _body(nexts: list[set[int]], end: int, head: int) -> set[int]:
    """Every block that leads to `end` without passing through `head`."""
    before: list[set[int]] = [set() for _ in nexts]
    for i, follows in enumerate(nexts):
        for follow in follows:
            before[follow].add(i)
    body, open_ = {head}, [end]
    while open_:
        block = open_.pop()
        if block not in body:
            body.add(block)
            open_ += before[block]
    return body


def _dominators(nexts: list[set[int]]) -> list[int]:
    """For each block the bits of all blocks that every way to it passes through."""
    everything = (1 << len(nexts)) - 1
    above = [1] + [everything] * (len(nexts) - 1)
    changed = True
    while changed:
        changed = False
        incoming = [everything] * len(nexts)
        for i, follows in enumerate(nexts):
            for follow in follows:
                incoming[follow] &= above[i]
        for i in range(1, len(nexts)):
            new = incoming[i] | 1 << i
            changed |= new != above[i]
            above[i] = new
    return above
