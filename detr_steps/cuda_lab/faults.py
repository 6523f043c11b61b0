"""What is wrong with a kernel: with its text, or with what it did."""

import re
from pathlib import Path

TEXT = "kernel"  # what compilers call a reader's text, so that its lines are known
MOST = 5  # lines that are told; what comes later often only follows from them
_PLACE = r"[:(](?P<line>\d+)\)?"  # name:3 of GCC and Clang, name(3) of nvcc
_ERROR = rf"{_PLACE}(?::\d+)?:\s+(?:fatal )?error:?\s*(?P<fault>.*)$"
_ERROR_HERE = re.compile(rf"^{TEXT}{_ERROR}", re.MULTILINE)
_ERROR_ELSEWHERE = re.compile(rf"^(?P<file>[^\s:(]+){_ERROR}", re.MULTILINE)
_LED_THERE = re.compile(rf"^{TEXT}{_PLACE}.*required from here", re.MULTILINE)
_UNDEFINED = re.compile(  # as the linkers of GNU, LLVM and Apple say it
    r"undefined reference to `?([^'\n]+)'|undefined symbol: (.+)|"
    r'Undefined symbols.*\n\s*"(.+)", referenced'
)


class CompileFault(RuntimeError):
    """A kernel's text does not compile; says in which of its lines, and why.

    `line` is the first such line (None where no line is to blame).
    """

    def __init__(self, message: str, line: int | None = None):
        super().__init__(message)
        self.line = line

    @classmethod
    def of(cls, output: str, text: str) -> "CompileFault":
        """What a compiler complained about, in lines of the text only."""
        found = list(_ERROR_HERE.finditer(output))
        if not found:
            return cls._elsewhere(output, text)
        first: dict[int, str] = {}
        for one in found:
            first.setdefault(int(one["line"]), one["fault"])
        told = [_quoted(text, *one) for one in list(first.items())[:MOST]]
        return cls("\n".join(told), int(found[0]["line"]))

    @classmethod
    def _elsewhere(cls, output: str, text: str) -> "CompileFault":
        """An error outside of the text: say which line of it led there, if one did."""
        why = output.strip() or "the compiler gave no reason"
        if named := _ERROR_ELSEWHERE.search(output):
            file = Path(named["file"]).name
            why = f"{named['fault']} (in line {named['line']} of {file})"
        if undefined := _UNDEFINED.search(output):
            missing = undefined[1] or undefined[2] or undefined[3]
            why = f"{missing} is declared but nowhere defined"
        if led := _LED_THERE.search(output):
            return cls(_quoted(text, int(led["line"]), why), int(led["line"]))
        return cls(why)


def _quoted(text: str, line: int, why: str) -> str:
    lines = text.splitlines()
    quoted = lines[line - 1].strip() if line <= len(lines) else ""
    return f"line {line}: {why}\n    {quoted}".rstrip()


class KernelFault(RuntimeError):
    """A kernel did what it must not do; says which thread did what, and where.

    `kind`: "bounds" (outside of an array), "const" (wrote what is const), "alignment"
    (a vector at an odd address), "race" (two threads, one number, no barrier between),
    "barrier" (not all threads come to it), "lanes" (a mask that is not true), "shared"
    (too much of it), "launch" (a grid or block that cannot be), "time" (it does not
    end), or "card" (what a graphics card reports).
    `block` and `thread` are None where nobody in particular did it; `lines` are the
    lines of source that the sentence names.
    Built in chapters/07_cuda_kernel.ipynb.
    """

    def __init__(
        self,
        kind: str,
        sentence: str,
        *,
        kernel: str = "",
        block: str | None = None,
        thread: str | None = None,
        lines: tuple[str, ...] = (),
    ):
        who = f"{thread} of {block} " if thread else ""
        super().__init__(f"kernel {kernel}: {who}{sentence}")
        self.kind, self.kernel, self.lines = kind, kernel, lines
        self.block, self.thread = (block, thread) if thread else (None, None)
