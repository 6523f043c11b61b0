"""The emulator: kernels that are right run, those that are wrong are told where."""

import numpy
import pytest
import torch

from detr_steps.cuda_lab import (
    CompileFault,
    KernelFault,
    emulator,
    trouble,
    watching,
)

pytestmark = pytest.mark.skipif(trouble("emulator") is not None, reason=f"{trouble()}")
SCHEDULES = (0, 1, 2, 3)
TOTAL = """
__global__ void total(const float* __restrict__ a, float* out, int n) {
  __shared__ float tile[64];
  const int t = threadIdx.x, i = blockIdx.x * blockDim.x + t;
  tile[t] = i < n ? a[i] : 0.f;
  for (int half = 32; half > 0; half /= 2) {
    __syncthreads();
    if (t < half) tile[t] += tile[t + half];
  }
  if (t == 0) atomicAdd(out, tile[0]);
}
""".strip()


def kernel(body: str, takes: str = "float* out", name: str = "k"):
    """A kernel whose body starts in line 2 of its text."""
    return emulator.compile(f"__global__ void {name}({takes}) {{\n{body}\n}}", name)


def fault(run, grid, block, *arguments, **options) -> KernelFault:
    with pytest.raises(KernelFault) as caught:
        run(grid, block, *arguments, **options)
    return caught.value


# --- kernels that are right ---------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_sum_in_shared_memory(schedule):
    a, out = torch.randn(1000), torch.zeros(1)
    emulator.compile(TOTAL, "total")(16, 64, a, out, 1000, schedule=schedule)
    torch.testing.assert_close(out[0], a.double().sum().float())


def test_indices_of_three_dimensions():
    out = numpy.zeros((2, 3, 4, 2, 3, 2), "i4")  # [grid z, y, x, block z, y, x]
    run = kernel(
        """const dim3 g = gridDim; const uint3 b = blockIdx, t = threadIdx;
        const int block = (b.z * g.y + b.y) * g.x + b.x;
        const int thread = (t.z * blockDim.y + t.y) * blockDim.x + t.x;
        out[block * blockDim.x * blockDim.y * blockDim.z + thread] =
            100000 * b.z + 10000 * b.y + 1000 * b.x + 100 * t.z + 10 * t.y + t.x;""",
        "int* out",
    )
    run((4, 3, 2), (2, 3, 2), out)
    digits = numpy.indices(out.shape)
    assert (out == sum(10 ** (5 - i) * digits[i] for i in range(6))).all()


def test_lanes_exchange_numbers():
    out = torch.zeros(8, 64)
    run = kernel(
        """const int t = threadIdx.x; const float x = t;
        out[t] = __shfl_sync(~0u, x, 5);
        out[64 + t] = __shfl_sync(~0u, x, 3, 8);
        out[128 + t] = __shfl_up_sync(~0u, x, 2);
        out[192 + t] = __shfl_down_sync(~0u, x, 2, 8);
        out[256 + t] = __shfl_xor_sync(~0u, x, 4);
        out[320 + t] = __ballot_sync(~0u, t % 2) == 0xaaaaaaaau;
        out[384 + t] = __reduce_add_sync(~0u, t);
        out[448 + t] = __any_sync(~0u, t == 40) + 2 * __all_sync(~0u, t < 32);"""
    )
    run(1, 64, out)
    t = torch.arange(64)
    lane, first = t % 32, t // 32 * 32
    assert (out[0] == first + 5).all()
    assert (out[1] == t // 8 * 8 + 3).all()
    assert (out[2] == torch.where(lane >= 2, t - 2, t)).all()
    assert (out[3] == torch.where(t % 8 < 6, t + 2, t)).all()
    assert (out[4] == (t ^ 4)).all()
    assert (out[5] == 1).all()
    assert (out[6] == torch.where(t < 32, 496, 496 + 32 * 32)).all()
    assert (out[7] == torch.where(t < 32, 2, 1)).all()


def test_part_of_a_warp_may_wait_for_itself():
    out = torch.zeros(32)
    run = kernel(
        """const int t = threadIdx.x;
        if (t >= 16) return;
        for (int i = 0; i < 1 + t / 8; ++i)
          out[t] += __shfl_xor_sync(t < 8 ? 0xffu : 0xff00u, 1.f, 1);"""
    )
    run(1, 32, out)
    assert out.tolist() == [1.0] * 8 + [2.0] * 8 + [0.0] * 16


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_atomics(schedule):
    counts, floats = torch.zeros(4, dtype=torch.int32), torch.zeros(1)
    longs = torch.zeros(1, dtype=torch.int64)
    run = kernel(
        """__shared__ int slots[1];
        if (threadIdx.x == 0) slots[0] = 0;
        __syncthreads();
        const int mine = atomicAdd(&slots[0], 1), i = blockIdx.x * 64 + threadIdx.x;
        atomicAdd(counts, mine);
        atomicMax(counts + 1, i); atomicMin(counts + 2, -i);
        atomicOr(counts + 3, 1 << i % 8);
        atomicAdd(floats, 0.5f);
        atomicAdd(longs, (unsigned long long)-1);""",
        "int* counts, float* floats, unsigned long long* longs",
    )
    run(3, 64, counts, floats, longs, schedule=schedule)
    assert counts.tolist() == [3 * 2016, 191, -191, 255]
    assert floats.item() == 96
    assert longs.item() == -192


def test_vectors_and_functions():
    out = torch.zeros(8)
    run = kernel(
        """const float4 v = *reinterpret_cast<const float4*>(a);
        float4* to = (float4*)out;
        to[0] = make_float4(fmaf(v.x, v.y, 1.f), floorf(v.z), max(v.w, 2), min(1, 2));
        out[4] = __int_as_float(__float_as_int(v.x));
        out[5] = __float2int_rd(-0.5f);
        out[6] = __popc(255u) + __clz(1) + __ffs(8);
        out[7] = rsqrtf(4.f);""",
        "const float* a, float* out",
    )
    run(1, 1, torch.tensor([2.0, 3.0, -1.5, 1.0]), out)
    assert out.tolist() == [7, -2, 2, 1, 2, -1, 8 + 31 + 4, 0.5]


def test_shared_memory_sized_at_the_start():
    out = torch.zeros(64)
    run = kernel(
        """extern __shared__ float room[];
        room[threadIdx.x] = threadIdx.x;
        __syncthreads();
        out[threadIdx.x] = room[63 - threadIdx.x];"""
    )
    run(1, 64, out, shared_bytes=256)
    assert (out == torch.arange(63, -1, -1)).all()
    caught = fault(run, 1, 64, out, shared_bytes=252)
    assert "shared array room[63]" in str(caught)


def test_sixteen_bits():
    run = emulator.compile(
        """#include "numbers.cuh"
        using namespace detr_steps::cuda;
        template <typename T> __device__ void twice(T* x, int n) {
          if (threadIdx.x < n) x[threadIdx.x] = narrow<T>(2 * widen(x[threadIdx.x]));
        }
        __global__ void k(unsigned short* half, unsigned short* bfloat, int n) {
          twice((half_bits*)half, n); twice((bfloat_bits*)bfloat, n);
        }""",
        "k",
    )
    values = torch.tensor([1.0, -3.140625, 6e-8, 1e4, float("inf"), float("nan"), 0.3])
    half, bfloat = values.half(), values.bfloat16()
    run(1, 32, half, bfloat, len(values))
    torch.testing.assert_close(half, 2 * values.half(), equal_nan=True, rtol=0, atol=0)
    wanted = 2 * values.bfloat16()
    torch.testing.assert_close(bfloat, wanted, equal_nan=True, rtol=0, atol=0)


def test_scalars_and_numpy():
    out = numpy.zeros(3)
    run = kernel("out[0] = a; out[1] = b; out[2] = c;",
                 "double* out, int a, int64_t b, float c")  # fmt: skip
    run(1, 1, out, -7, 2**40, 0.5)
    assert out.tolist() == [-7, 2**40, 0.5]


# --- memory -------------------------------------------------------------------------


def test_out_of_bounds_names_array_index_thread_and_line():
    a, out = torch.zeros(100), torch.zeros(128)
    run = kernel(
        "const int i = threadIdx.x;\nout[i] = a[i];", "const float* a, float* out"
    )
    caught = fault(run, 1, 128, a, out)
    assert caught.kind == "bounds" and caught.lines == ("line 3",)
    told = "thread 100 of block 0 reads a[100] in line 3, but it has 100 elements"
    assert str(caught) == f"kernel k: {told}"
    assert not out.any()  # nothing is changed by a run that failed


@pytest.mark.parametrize("index", [-1, 64, 10**6, -(10**6), 2**28])
@pytest.mark.parametrize("array", ["out", "tile"])
def test_out_of_bounds_near_and_far(array, index):
    run = kernel(f"__shared__ float tile[64];\n{array}[i] = 1;", "float* out, int i")
    caught = fault(run, 1, 1, torch.zeros(64), index)
    assert caught.kind == "bounds"
    if array == "out" or abs(index) < 10**5:  # far from shared memory lies anything
        assert f"{array}[{index}]" in str(caught)


def test_a_vector_that_is_half_outside():
    run = kernel("*(float4*)(out + 4) = make_float4(0, 0, 0, 0);")
    caught = fault(run, 1, 1, torch.zeros(6))
    assert "16 bytes from out[4]" in str(caught) and "6 elements" in str(caught)


def test_a_misaligned_vector():
    if watching.own_flags() == watching.CLANG:
        pytest.skip("Clang does not report where a copied structure lies")
    run = kernel("const float4 v = *(const float4*)(a + 2);\nout[0] = v.x + v.w;",
                 "const float* a, float* out")  # fmt: skip
    caught = fault(run, 1, 1, torch.zeros(64), torch.zeros(1))
    assert caught.kind == "alignment" and "a vector at byte 8 of a in line 2" in str(
        caught
    )
    two = kernel("*(float2*)(out + 2) = make_float2(1, 2);")
    two(1, 1, torch.zeros(4))  # 8 bytes may lie there
    pair = kernel("struct Pair { double a, b; };\n((Pair*)(out + 1))[0] = {1, 2};",
                  "double* out")  # fmt: skip
    pair(1, 1, torch.zeros(3, dtype=torch.float64))  # 16 bytes, but no vector


def test_writing_what_is_const():
    caught = fault(kernel("*(float*)a = 1;", "const float* a"), 1, 1, torch.zeros(1))
    assert caught.kind == "const"


def test_an_address_that_is_no_array():
    run = kernel("if (*out == 0) *(int*)address = 1;", "float* out, size_t address")
    for address in (0, 64, 2**45):
        caught = fault(run, 1, 1, torch.zeros(1), address)
        assert caught.kind == "bounds" and "lies in no array" in str(caught)


def test_a_crash_is_a_fault_and_not_the_end():
    constant = fault(kernel("\n*(int*)64 = 1;"), 1, 1, torch.zeros(1))
    assert constant.kind == "bounds" and "address 0x40" in str(constant)
    divided = fault(kernel("\nout[0] = 7 / n;", "int* out, int n"), 1, 1,
                    torch.zeros(1, dtype=torch.int32), 0)  # fmt: skip
    assert divided.kind == "division" and "divides by 0" in str(divided)
    deep = """int dive(int n, volatile int* x) {
          int y[1000]; y[n % 1000] = n; x = y; return n ? dive(n - 1, x) + x[n] : 0;
        }
        __global__ void k(int* out, int n) { out[0] = dive(n, out); }"""
    run = emulator.compile(deep, "k")
    caught = fault(run, 1, 1, torch.zeros(1, dtype=torch.int32), 100)
    assert caught.kind == "stack" and "64 KB" in str(caught)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_shared_memory_starts_full_of_nan(schedule):
    out, counts = torch.zeros(2), torch.zeros(2, dtype=torch.int32)
    run = kernel(
        """__shared__ float x[32]; __shared__ int n;
        if (threadIdx.x == 0) out[blockIdx.x] = x[7], counts[blockIdx.x] = n;
        __syncthreads();
        x[threadIdx.x] = 1;  // which the next block must not see
        if (threadIdx.x == 0) n = 5;""",
        "float* out, int* counts",
    )
    run(2, 32, out, counts, schedule=schedule)
    assert out.isnan().all() and (counts == -1).all()


def test_too_much_shared_memory():
    run = kernel("__shared__ double x[8000]; x[0] = 1; out[0] = x[0];")
    caught = fault(run, 1, 1, torch.zeros(1))
    assert caught.kind == "shared" and "64000 bytes" in str(caught)


# --- barriers and lanes -------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_missing_barrier_of_the_block(schedule):
    run = emulator.compile(TOTAL.replace("__syncthreads();", ""), "total")
    caught = fault(run, 1, 64, torch.zeros(64), torch.zeros(1), 64, schedule=schedule)
    assert caught.kind == "race" and set(caught.lines) <= {"line 4", "line 7", "line 9"}
    assert "with no barrier between" in str(caught)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    "barrier", ["__syncwarp();", "__syncwarp(0xffu << t / 8 * 8);"]
)
def test_a_barrier_of_lanes_orders_what_they_touch(barrier, schedule):
    text = f"""__shared__ float x[32];
        const int t = threadIdx.x;
        x[t] = t;
        {barrier}
        out[t] = x[t ^ 3];"""
    out = torch.zeros(32)
    kernel(text)(1, 32, out, schedule=schedule)
    assert (out == (torch.arange(32) ^ 3)).all()
    caught = fault(kernel(text.replace(barrier, "")), 1, 32, out, schedule=schedule)
    assert caught.kind == "race"
    # A shuffle makes lanes wait for each other, but orders no memory.
    shuffled = text.replace(barrier, "__shfl_sync(~0u, t, 0);")
    assert fault(kernel(shuffled), 1, 32, out, schedule=schedule).kind == "race"
    # Of those lanes only: the neighbours' groups may be anywhere.
    if "0xff" in barrier:
        further = fault(
            kernel(text.replace("^ 3", "^ 8")), 1, 32, out, schedule=schedule
        )
        assert further.kind == "race"


def test_lanes_that_wait_do_not_wait_for_other_warps():
    text = """__shared__ float x[64];
        x[threadIdx.x] = 1;
        __syncwarp();
        out[threadIdx.x] = x[threadIdx.x ^ 32];"""
    assert fault(kernel(text), 1, 64, torch.zeros(64)).kind == "race"


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_reading_before_another_overwrites_needs_a_barrier_too(schedule):
    text = """__shared__ float x[32];
        const int t = threadIdx.x;
        x[t] = t;
        __syncthreads();
        const float next = x[(t + 1) % 32];
        __syncthreads();
        x[t] = next;
        __syncthreads();
        out[t] = x[t];"""
    out = torch.zeros(32)
    kernel(text)(1, 32, out, schedule=schedule)
    assert (out == (torch.arange(32) + 1) % 32).all()
    second = text.replace("next = x[(t + 1) % 32];\n        __syncthreads();",
                          "next = x[(t + 1) % 32];")  # fmt: skip
    caught = fault(kernel(second), 1, 32, out, schedule=schedule)
    assert caught.kind == "race"


def test_adding_without_atomics_is_a_race():
    within = fault(kernel("out[0] += 1;"), 1, 2, torch.zeros(1))
    assert within.kind == "race"
    between = fault(kernel("out[0] += 1;"), 2, 1, torch.zeros(1))
    assert between.kind == "race" and "blocks run in any order" in str(between)
    mixed = kernel("if (threadIdx.x) atomicAdd(out, 1.f); else out[0] = 0;")
    assert fault(mixed, 1, 2, torch.zeros(1)).kind == "race"


def test_neighbours_of_sixteen_bits_do_not_race():
    out = torch.zeros(64, dtype=torch.int16)
    run = kernel(
        """__shared__ short x[64]; __shared__ unsigned char flags[64];
        x[threadIdx.x] = threadIdx.x; flags[threadIdx.x] = 1;
        __syncthreads();
        out[threadIdx.x] = x[threadIdx.x] + flags[63 - threadIdx.x];""",
        "short* out",
    )
    run(1, 64, out, schedule=2)
    assert (out == torch.arange(64) + 1).all()


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_barrier_that_some_never_reach(schedule):
    divergent = kernel("if (threadIdx.x < 40)\n__syncthreads();")
    caught = fault(divergent, 1, 64, torch.zeros(1), schedule=schedule)
    assert caught.kind == "barrier" and "never reaches" in str(caught)
    assert "(line 3)" in str(caught) and "has returned" in str(caught)
    two = kernel("if (threadIdx.x < 40)\n__syncthreads(); else\n__syncthreads();")
    caught = fault(two, 1, 64, torch.zeros(1), schedule=schedule)
    assert caught.kind == "barrier"
    assert "in line 3" in str(caught) and "in line 4" in str(caught)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("if (threadIdx.x == 3) __syncwarp(0xf0u);", "its own lane 3 is missing"),
        ("if (threadIdx.x == 7) return; __syncwarp();", "has returned"),
        ("if (threadIdx.x != 7) out[0] = __shfl_sync(~0u, 1, 0); else __syncthreads();",
         "waits at"),
        ("const unsigned mask = 0xffu << threadIdx.x / 8 * 8;"
         "__shfl_sync(mask, 1, 20);", "reads from lane 20"),
        ("if (threadIdx.x < 8) __syncwarp(0xffffu); else __syncwarp(~0xffu);",
         "with mask"),
    ],
)  # fmt: skip
def test_masks_that_are_not_true(body, told, schedule):
    caught = fault(kernel(body), 1, 32, torch.zeros(1), schedule=schedule)
    assert caught.kind in ("lanes", "barrier") and told in str(caught)


def test_a_warp_that_is_not_full_has_no_other_lanes():
    caught = fault(kernel("__syncwarp();"), 1, 40, torch.zeros(1))
    assert caught.kind == "lanes" and "has no lane 8" in str(caught)


# --- launches and arguments ---------------------------------------------------------


def test_a_kernel_without_end():
    endless = kernel("for (;;) atomicAdd(out, 1.f);")
    assert fault(endless, 1, 1, torch.zeros(1), seconds=0.1).kind == "time"
    waiting = kernel("for (;;) __syncthreads();")
    assert fault(waiting, 1, 2, torch.zeros(1), seconds=0.1).kind == "time"


def test_a_launch_that_cannot_be():
    run = kernel("")
    assert fault(run, 1, 2048, torch.zeros(1)).kind == "launch"
    assert fault(run, (1, 70000), 1, torch.zeros(1)).kind == "launch"
    with pytest.raises(ValueError, match="grid must be"):
        run(0, 32, torch.zeros(1))
    run(1, 32, torch.zeros(1))  # a fault does not outlive its run


@pytest.mark.parametrize(
    ("given", "error", "told"),
    [
        ((torch.zeros(1, dtype=torch.float64), 1), TypeError, "which is float32"),
        ((1.0, 1), TypeError, "is a pointer"),
        ((torch.zeros(4, 4).T[:2], 1), ValueError, "not contiguous"),
        ((torch.zeros(1),), TypeError, "takes 2 arguments"),
        ((torch.zeros(1), 1.5), TypeError, "is `int`"),
    ],
)
def test_arguments_that_do_not_suit(given, error, told):
    with pytest.raises(error, match=told):
        kernel("", "float* out, int n")(1, 1, *given)


# --- texts that do not compile ------------------------------------------------------


def test_errors_are_told_in_lines_of_the_text():
    with pytest.raises(CompileFault) as caught:
        kernel("int x = 1;\nout[0] = y;\nfloat z = ;")
    assert caught.value.line == 3
    assert str(caught.value).startswith("line 3: ") and "'y'" in str(caught.value)
    assert "out[0] = y;" in str(caught.value) and "line 4:" in str(caught.value)
    assert "emulator.h" not in str(caught.value)


def test_an_error_in_what_the_text_calls():
    with pytest.raises(CompileFault) as caught:
        kernel("int x = 1;\nmin(out, out + 1) ;\natomicAdd(x, 1);")
    assert caught.value.line in (3, 4)
    with pytest.raises(CompileFault, match="nowhere defined"):
        emulator.compile("void missing();\n__global__ void k() { missing(); }", "k")


def test_a_name_that_is_not_there():
    with pytest.raises(ValueError, match="no kernel `__global__ void other"):
        emulator.compile(TOTAL, "other")


# --- the trace ----------------------------------------------------------------------


def test_the_trace_counts_reads_and_writes():
    text = """__global__ void copy(const float* a, float* out, int step) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = a[i * step];
}"""
    run = emulator.compile(text, "copy")
    for step in (1, 2, 8):
        a, out = torch.randn(64 * 8), torch.zeros(64)
        trace = run(1, 64, a, out, step, trace=True)
        assert (out == a[: 64 * step : step]).all()
        reads = trace.reads("a")
        assert reads.shape == (512,) and reads[: 64 * step : step].all()
        assert reads.sum() == 64 and (trace.writes("out") == 1).all()
    assert set(trace.accesses["line"].tolist()) == {3}
    assert trace.of("a", "load")["thread"].tolist() == list(range(64))


def test_the_trace_sees_vectors_loops_and_atomics():
    text = """__global__ void k(const float* a, float4* rows, int* counts) {
  const int t = threadIdx.x;
  const float4* quads = reinterpret_cast<const float4*>(a);
  float4 sum = make_float4(0, 0, 0, 0);
  for (int i = 0; i < 2 + t / 16; ++i) {
    const float4 v = quads[t];
    sum.x += v.x; sum.y += v.y; sum.z += v.z; sum.w += v.w;
    __syncwarp(t < 16 ? 0xffffu : 0xffff0000u);
  }
  rows[t] = sum;
  atomicAdd(counts + t % 4, 1);
}"""
    a, rows = torch.randn(32, 4), torch.zeros(32, 4)
    counts = torch.zeros(4, dtype=torch.int32)
    for schedule in SCHEDULES:
        trace = emulator.compile(text, "k")(
            1, 32, a, rows, counts, trace=True, schedule=schedule
        )
        loads = trace.of("a", "load")
        assert len(loads) == 32 + 32 + 16 and (loads["line"] == 6).all()
        assert (loads["bytes"] == 16).all()
        assert (trace.reads("a")[:16] == 2).all() and (trace.reads("a")[16:] == 3).all()
        stores = trace.of("rows", "store")
        assert sorted(stores["element"]) == list(range(32))  # counted in float4s
        assert (stores["bytes"] == 16).all()
        assert (trace.writes("counts") == 8).all()


def test_a_run_that_touches_nothing_has_an_empty_trace():
    trace = kernel("")(1, 1, torch.zeros(1), trace=True)
    assert len(trace.accesses) == 0
    with pytest.raises(ValueError, match="no argument a"):
        trace.reads("a")
