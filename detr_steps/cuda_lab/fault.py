"""What a kernel did that it must not do."""


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
