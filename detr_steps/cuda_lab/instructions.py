"""Compile CUDA kernels and look at the machine code, without a GPU.

Built in chapters/07_cuda_kernel.ipynb.
"""

import dataclasses
import functools
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from ..ops import building
from ..ops.building import NotCompiled
from ..ops.compiled_cuda import cuda_tool
from .disassembly import Kernel, read

ARCHITECTURES = ("sm_75", "sm_80", "sm_90")  # T4, A100, H100 and H200
STANDARD = ("-std=c++17", "-O3")
PACKAGE = "nvidia-cuda-nvdisasm"
_TAKEN = re.compile(
    r"Function properties for (\S+)\s+(\d+) bytes stack frame, "
    r"(\d+) bytes spill stores, (\d+) bytes spill loads\s.*?Used (\d+) registers(.*)"
)


@functools.cache
def nvcc() -> str:
    """The CUDA compiler: on PATH, or in CUDA_HOME. Raises: NotCompiled."""
    return _find("nvcc", [], "install the CUDA toolkit, or set CUDA_HOME to it")


@functools.cache
def nvdisasm() -> str:
    """The disassembler: on PATH, in CUDA_HOME, or from pip. Raises: NotCompiled."""
    beside = Path(sys.prefix).glob("lib/python*/site-packages/nvidia/*/bin")
    return _find("nvdisasm", sorted(beside), f"pip install {PACKAGE}")


def _find(tool: str, beside: Sequence[Path], cure: str) -> str:
    if found := cuda_tool(tool, beside):
        return found
    raise NotCompiled(f"no {tool} here: {cure}")


def compile_kernels(
    text: str, arch: str = "sm_90", folder: Path | None = None, flags: Sequence = ()
) -> list[Kernel]:
    """Compile CUDA source for one architecture and read its kernels.

    A template becomes a kernel where something needs it, such as a list of pointers:
    `void *kept[] = {(void *)&kernel<float, 32>};`. `folder` is where the source's
    `#include "..."` look.
    Raises: NotCompiled; RuntimeError with what the compiler complains about.
    """
    with tempfile.TemporaryDirectory() as work:
        source, cubin = Path(work, "kernels.cu"), Path(work, "kernels.cubin")
        source.write_text(text, encoding="utf-8")
        includes = [f"-I{folder}"] if folder else []
        command = [nvcc(), *STANDARD, f"-arch={arch}", "-cubin", "-Xptxas", "-v"]
        log = run([*command, *includes, *flags, "-o", str(cubin), str(source)])
        kernels = read(run([nvdisasm(), "-c", str(cubin)]), arch)
    names = readable([kernel.name for kernel in kernels])
    taken = resources(log)
    return [
        dataclasses.replace(kernel, name=name, **taken[kernel.name])
        for name, kernel in zip(names, kernels)
    ]


def run(command: list[str]) -> str:
    """Run a tool and give back what it said.

    Raises: RuntimeError with its first complaints.
    """

    def fault(output: str) -> RuntimeError:
        said = output.strip().splitlines()
        faults = [line for line in said if "error" in line.lower()] or said
        return RuntimeError("\n".join([f"{Path(command[0]).name}:", *faults[:10]]))

    return building.run(command, fault)


def resources(log: str) -> dict[str, dict[str, int]]:
    """What `-Xptxas -v` says of each kernel: registers, spills, stack, shared."""
    found = {}
    for name, stack, stores, loads, registers, rest in _TAKEN.findall(log):
        shared = re.search(r"(\d+) bytes smem", rest)
        found[name] = {
            "registers": int(registers),
            "spills": int(stores) + int(loads),
            "stack": int(stack),
            "shared": int(shared.group(1)) if shared else 0,
        }
    return found


def readable(names: list[str]) -> list[str]:
    """The names as in the source; as they are where there is no c++filt."""
    if not names or not shutil.which("c++filt"):
        return names
    done = subprocess.run(["c++filt"], input="\n".join(names), capture_output=True,
                          text=True, check=True)  # fmt: skip
    return done.stdout.splitlines()


def find(kernels: list[Kernel], name: str) -> Kernel:
    """The one kernel whose name, without our namespace, holds `name`.

    Raises: LookupError.
    """
    found = [k for k in kernels if name in k.name.replace("detr_steps::cuda::", "")]
    if len(found) != 1:
        names = ", ".join(kernel.name for kernel in kernels)
        raise LookupError(f"{len(found)} kernels are called {name!r}; all: {names}")
    return found[0]
