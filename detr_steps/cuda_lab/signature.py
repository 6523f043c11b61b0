"""What a kernel takes: its parameters, read from its text, and arguments for them."""

import ctypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch

_WHOLE = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
# How ctypes passes a number, by what torch and numpy call its type.
_PASSED = {name: getattr(ctypes, f"c_{name}") for name in ("bool", *_WHOLE)}
_PASSED |= {"float32": ctypes.c_float, "float64": ctypes.c_double}
# What torch calls the types of C; `long` as on Linux and macOS.
_DTYPES = {f"{name}_t": name for name in _WHOLE}
_DTYPES |= {"float": "float32", "double": "float64", "bool": "bool", "size_t": "uint64",
            "signed char": "int8", "unsigned": "uint32"}  # fmt: skip
_SIGNED = {"char": 8, "short": 16, "int": 32, "long": 64, "long long": 64}
_DTYPES |= {name: f"int{bits}" for name, bits in _SIGNED.items()}
_DTYPES |= {f"unsigned {name}": f"uint{bits}" for name, bits in _SIGNED.items()}
_VECTOR = re.compile(r"(u?)(char|short|int|longlong|float|double)([234])")
# Bits that a kernel takes apart itself: whatever has as many of them may be passed.
_SAME_BITS = {
    "uint16": {"uint16", "int16", "float16", "bfloat16"},
    "int16": {"int16", "float16", "bfloat16"},
    "uint8": {"uint8", "int8", "bool"},
    "uint32": {"uint32", "int32"},
    "uint64": {"uint64", "int64"},
}
_COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
_BOUNDS = r"(?:__launch_bounds__\s*\([^)]*\)\s*)?"


@dataclass(frozen=True)
class Parameter:
    """One parameter of a kernel: `const float* __restrict__ value`."""

    name: str
    type: str  # without const and *: "float"
    pointer: bool
    const: bool

    @property
    def dtype(self) -> str | None:
        """What an array for it holds, as torch calls it; None for what is not known."""
        type_ = self.type
        if vector := _VECTOR.fullmatch(type_):
            type_ = "unsigned " * bool(vector[1]) + vector[2].replace(
                "longlong", "long long"
            )
        return _DTYPES.get(type_)

    @property
    def numbers(self) -> int:
        """How many numbers an element has: 4 for `float4*`."""
        vector = _VECTOR.fullmatch(self.type)
        return int(vector[3]) if vector else 1


def parameters(text: str, name: str) -> list[Parameter]:
    """The parameters of the kernel `__global__ void name(...)` in a text.

    Raises: ValueError where there is no such kernel, or it takes what none can pass.
    """
    plain = _COMMENT.sub(" ", text)
    found = re.search(
        rf"__global__\s+{_BOUNDS}void\s+{_BOUNDS}{re.escape(name)}\s*\(([^)]*)\)", plain
    )
    if not found:
        raise ValueError(f"the text has no kernel `__global__ void {name}(...)`")
    listed = [one.strip() for one in found[1].split(",") if one.strip()]
    return [_parameter(one) for one in listed]


def _parameter(declared: str) -> Parameter:
    words = re.findall(r"\w+|\*|\S", declared)
    if "[" in words:
        raise ValueError(f"write `{declared}` as a pointer: float* name")
    kept = [w for w in words if w not in ("const", "*", "__restrict__", "__restrict")]
    const = "const" in words[: words.index("*")] if "*" in words else False
    type_, name = " ".join(kept[:-1]), kept[-1]
    one = Parameter(name, type_.replace(" : : ", "::"), "*" in words, const)
    if not one.pointer and one.type not in _DTYPES:
        raise ValueError(
            f"`{declared}`: a kernel takes pointers and single numbers "
            f"({', '.join(('float', 'double', 'int', 'unsigned', 'int64_t'))}, ...)"
        )
    return one


def paired(
    wanted: list[Parameter], given: tuple[Any, ...], kernel: str
) -> list[tuple[Parameter, Any]]:
    """Each parameter with its argument. Raises: TypeError unless there is one."""
    if len(given) != len(wanted):
        names = ", ".join(one.name for one in wanted)
        raise TypeError(
            f"{kernel} takes {len(wanted)} arguments ({names}); {len(given)} were given"
        )
    return list(zip(wanted, given))


def check_array(parameter: Parameter, given: Any) -> None:
    """Raise TypeError or ValueError unless a kernel can work on `given` in place."""
    if not isinstance(given, torch.Tensor | numpy.ndarray):
        raise TypeError(
            f"{parameter.name} is a pointer: give it a tensor or an array, "
            f"not {type(given).__name__}"
        )
    dtype = str(given.dtype).removeprefix("torch.")
    wanted = parameter.dtype
    if wanted and dtype not in _SAME_BITS.get(wanted, {wanted}):
        raise TypeError(
            f"{parameter.name} is `{parameter.type}*`, which is {wanted}; "
            f"a {dtype} array was given"
        )
    tensor = isinstance(given, torch.Tensor)
    if not (given.is_contiguous() if tensor else given.flags.c_contiguous):
        raise ValueError(f"{parameter.name} is not contiguous: use .contiguous()")
    if not tensor and not parameter.const and not given.flags.writeable:
        raise ValueError(f"{parameter.name} cannot be written: give a copy")


def scalar(parameter: Parameter, given: Any) -> Any:
    """A number as ctypes passes it. Raises: TypeError for what is not one."""
    dtype = _DTYPES[parameter.type]
    if isinstance(given, torch.Tensor | numpy.generic) and given.ndim == 0:
        given = given.item()
    fits = (int, float) if dtype.startswith("float") else (int,)
    if not isinstance(given, fits):
        raise TypeError(
            f"{parameter.name} is `{parameter.type}`; {type(given).__name__} was given"
        )
    return _PASSED[dtype](given)


Size = int | tuple[int, ...]  # of a grid or block, in up to three dimensions


def launch(
    entry: Any, grid: Size, block: Size, shared_bytes: int, passed: Sequence[Any]
) -> int:
    """Call a library's `detr_steps_entry` with what ctypes passes for each parameter.

    The addresses of its arguments are all that a launch takes, whatever their types.
    Raises: ValueError for a grid or block that cannot be.
    """
    pointers = ctypes.c_void_p * max(1, len(passed))
    addresses = pointers(*(ctypes.addressof(one) for one in passed))
    sizes = (_dimensions(grid, "grid"), _dimensions(block, "block"))
    return entry(*sizes, ctypes.c_uint(shared_bytes), addresses)


def _dimensions(given: Size, what: str) -> ctypes.Array:
    sizes = (given,) if isinstance(given, int) else tuple(given)
    if not 1 <= len(sizes) <= 3 or not all(0 < size < 2**31 for size in sizes):
        raise ValueError(f"{what} must be one to three sizes of at least 1: {given}")
    return (ctypes.c_uint * 3)(*(*sizes, 1, 1)[:3])
