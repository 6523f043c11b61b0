"""Kernels for a graphics card, as far as that goes without one."""

import ctypes

import pytest
import torch

from detr_steps import cuda_lab
from detr_steps.cuda_lab import CompileFault, gpu
from detr_steps.cuda_lab.signature import parameters
from detr_steps.ops.building import NotCompiled
from detr_steps.ops.compiled import sources

needs_nvcc = pytest.mark.skipif(gpu.nvcc() is None, reason="no nvcc here")
needs_card = pytest.mark.skipif(
    not torch.cuda.is_available() or gpu.nvcc() is None, reason="no graphics card here"
)
TWICE = """
__global__ void __launch_bounds__(256) twice(const float* a, float* out, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) out[i] = 2 * a[i];
}
""".strip()


@pytest.fixture(autouse=True)
def shelf(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))


def test_the_command_says_for_which_card_and_what_it_includes():
    command = gpu.command("kernel.cu", "kernel.so", "sm_75")
    assert command[0].endswith("nvcc") and "-arch=sm_75" in command
    assert command[-3:] == ["-o", "kernel.so", "kernel.cu"]
    assert str(sources() / "cuda") in command


@needs_nvcc
def test_a_kernel_becomes_a_library_that_can_be_called():
    library = ctypes.CDLL(str(gpu.build(TWICE, "twice", "sm_75")))
    library.detr_steps_reason.restype = ctypes.c_char_p
    assert library.detr_steps_entry and b"no error" in library.detr_steps_reason(0)
    if not torch.cuda.is_available():  # it fails, and says so, but it does run
        three, none = ctypes.c_uint * 3, (ctypes.c_void_p * 3)()
        error = library.detr_steps_entry(three(1, 1, 1), three(1, 1, 1), 0, none)
        assert error != 0 and library.detr_steps_reason(error)


@needs_nvcc
def test_what_was_built_is_kept_for_each_card(monkeypatch):
    first = gpu.build(TWICE, "twice", "sm_75")
    monkeypatch.setattr(gpu, "run", None)  # nothing is compiled again
    assert gpu.build(TWICE, "twice", "sm_75") == first
    with pytest.raises(TypeError):
        gpu.build(TWICE, "twice", "sm_80")


@needs_nvcc
def test_errors_are_told_in_lines_of_the_text():
    with pytest.raises(CompileFault) as caught:
        gpu.build(TWICE.replace("2 * a[i]", "2 * b[i]"), "twice", "sm_75")
    assert caught.value.line == 3
    told = 'line 3: identifier "b" is undefined\n    if (i < n) out[i] = 2 * b[i];'
    assert str(caught.value) == told


@needs_nvcc
def test_the_kernels_own_headers_can_be_included():
    text = """#include "numbers.cuh"
        using namespace detr_steps::cuda;
        __global__ void widen_all(const unsigned short* a, float* out) {
          out[threadIdx.x] = widen(bfloat_bits{a[threadIdx.x]});
        }"""
    assert gpu.build(text, "widen_all", "sm_90").is_file()


def test_without_nvcc_or_a_card_it_says_which(monkeypatch):
    monkeypatch.setattr(gpu, "nvcc", lambda: None)
    with pytest.raises(NotCompiled, match="no nvcc"):
        cuda_lab.compile(TWICE, "twice", where="cuda")
    assert "no nvcc" in cuda_lab.trouble("cuda")
    monkeypatch.setattr(gpu, "nvcc", lambda: "nvcc")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(NotCompiled, match="no graphics card"):
        cuda_lab.compile(TWICE, "twice", where="cuda")
    with pytest.raises(ValueError, match="where is"):
        cuda_lab.compile(TWICE, "twice", where="gpu")


def test_auto_takes_the_emulator_where_there_is_no_card(monkeypatch):
    if cuda_lab.trouble("emulator"):
        pytest.skip(cuda_lab.trouble("emulator"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    kernel = cuda_lab.compile(TWICE, "twice")
    a, out = torch.randn(300), torch.zeros(300)
    kernel(2, 256, a, out, 300)
    assert kernel.where == "emulator" and (out == 2 * a).all()


def test_without_a_compiler_it_says_so(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert "no C++ compiler (no-such-compiler)" in cuda_lab.trouble("emulator")
    with pytest.raises(NotCompiled, match="install one"):
        cuda_lab.compile(TWICE, "twice", where="emulator")


def test_parameters_are_read_from_the_text():
    text = """// __global__ void k(int no) {
        __global__ __launch_bounds__(256) void k(
            const float* __restrict__ a, /* rows */ float4 *out,
            unsigned long long* sums, int64_t n, float const* b) {}"""
    found = parameters(text, "k")
    assert [one.name for one in found] == ["a", "out", "sums", "n", "b"]
    assert [one.dtype for one in found] == [
        "float32", "float32", "uint64", "int64", "float32",
    ]  # fmt: skip
    assert [one.const for one in found] == [True, False, False, False, True]
    assert [one.numbers for one in found] == [1, 4, 1, 1, 1]
    with pytest.raises(ValueError, match="as a pointer"):
        parameters("__global__ void k(float a[]) {}", "k")
    with pytest.raises(ValueError, match="pointers and single numbers"):
        parameters("__global__ void k(Call call) {}", "k")


@needs_card
def test_on_a_card_it_does_what_the_emulator_does():
    kernel = cuda_lab.compile(TWICE, "twice", where="cuda")
    a, out = torch.randn(300), torch.zeros(300)
    kernel(2, 256, a, out, 300)
    assert (out == 2 * a).all()
    there, out_there = a.cuda(), torch.zeros(300, device="cuda")
    kernel(2, 256, there, out_there, 300)
    assert (out_there.cpu() == 2 * a).all()
    assert kernel.milliseconds(2, 256, there, out_there, 300) > 0
    with pytest.raises(ValueError, match="cannot trace"):
        kernel(2, 256, a, out, 300, trace=True)
