"""What chapter 07 works with: kernels compiled, run, watched and counted.

`compile` takes the text of a CUDA kernel and gives a function that runs it: on the
graphics card where there is one, in the emulator of `kernels/emulator.h` where there is
none. `emulator` also runs the library's own kernels.
Built in chapters/07_cuda_kernel.ipynb.
"""

from . import emulator
from .faults import CompileFault, KernelFault
from .kernel import compile, trouble
from .trace import Trace

__all__ = ["CompileFault", "KernelFault", "Trace", "compile", "emulator", "trouble"]
