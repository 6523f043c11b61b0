"""The counter of instructions on code whose count is known by hand."""

import pytest

from detr_steps.cuda_lab import disassembly
from detr_steps.cuda_lab.instructions import (
    compile_kernels,
    find,
    nvcc,
    nvdisasm,
    resources,
)
from detr_steps.ops.building import NotCompiled

# An outer loop (.L_x_1) that turns 3 times with an inner one (.L_x_2) that turns 5
# times, a part that a condition jumps over, a slow path that only a call gets to, one
# for warps that have fallen apart, and what the compiler fills up with.
NESTED = """
.text.nested:
        /*0000*/                   S2R R0, SR_TID.X ;
        /*0010*/                   MOV R1, RZ ;
.L_x_1:
        /*0020*/                   LDG.E R2, [R4.64] ;
.L_x_2:
        /*0030*/                   FFMA R3, R2, R2, R3 ;
        /*0040*/                   ISETP.NE.AND P0, PT, R1, 0x5, PT ;
        /*0050*/               @P0 BRA `(.L_x_2) ;
        /*0060*/                   BRA.DIV ~URZ, `(.L_x_6) ;
        /*0070*/              @!P1 BRA `(.L_x_3) ;
        /*0080*/                   FADD R3, R3, 1 ;
.L_x_3:
        /*0090*/               @P2 BRA `(.L_x_1) ;
        /*00a0*/               @P3 CALL.REL.NOINC `($slow) ;
        /*00b0*/                   EXIT ;
.L_x_6:
        /*00c0*/                   WARPSYNC R1 ;
        /*00d0*/                   BRA `(.L_x_3) ;
$slow:
        /*00e0*/                   FMUL R3, R3, R3 ;
        /*00f0*/                   RET.REL.NODEC R20 `(.text.nested);
.L_x_7:
        /*0100*/                   BRA `(.L_x_7);
        /*0110*/                   NOP;
"""


def nested():
    (kernel,) = disassembly.read(NESTED, "sm_90")
    return kernel


def test_loops_are_found_with_what_is_around_them():
    loops = nested().loops
    assert [len(loop.code) for loop in loops] == [8, 3]
    assert [loop.outer for loop in loops] == [None, 0]
    assert loops[0].count("LDG") == 1 and loops[1].count("LDG") == 0


def test_instructions_are_counted_as_often_as_their_loops_turn():
    kernel = nested()
    # before 2; outer: 1 + 4 after the inner loop, 3 times; inner: 3, 15 times; after 2
    assert kernel.issued([3, 5]) == 2 + 3 * 5 + 15 * 3 + 2
    assert kernel.issued([3, 5], "FFMA") == 15
    assert kernel.issued([0, 5]) == 4


def test_what_no_warp_gets_to_is_not_counted():
    assert nested().count("FMUL|WARPSYNC|NOP|RET") == 0
    assert nested().count("FADD") == 1


def test_turns_must_fit_the_loops():
    with pytest.raises(ValueError, match="1 in 0: 3"):
        nested().issued([3])


def test_code_behind_the_end_that_jumps_back_is_no_loop():
    text = """
.text.away:
        /*0000*/               @P0 BRA `(.L_x_9) ;
.L_x_8:
        /*0010*/                   FADD R3, R3, 1 ;
        /*0020*/                   EXIT ;
.L_x_9:
        /*0030*/                   FMUL R3, R3, R3 ;
        /*0040*/                   BRA `(.L_x_8) ;
"""
    (kernel,) = disassembly.read(text, "sm_90")
    assert kernel.loops == [] and kernel.issued() == 5


def test_a_call_of_a_place_inside_is_a_jump():
    text = """
.text.called:
.L_x_6:
        /*0000*/                   FADD R3, R3, 1 ;
        /*0010*/              @!P0 CALL.REL.NOINC `(.L_x_5) ;
        /*0020*/                   BRA `(.L_x_6) ;
.L_x_5:
        /*0030*/                   EXIT ;
"""
    (kernel,) = disassembly.read(text, "sm_80")
    assert [len(loop.code) for loop in kernel.loops] == [3]
    assert kernel.issued([4]) == 13


def test_what_the_compiler_says_is_read():
    log = """ptxas info    : Compiling entry function '_Z1av' for 'sm_90'
ptxas info    : Function properties for _Z1av
    16 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 4352 bytes smem, 400 bytes cmem[0]
ptxas info    : Function properties for _Z1bv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 7 registers, 400 bytes cmem[0]
"""
    assert resources(log) == {
        "_Z1av": {"registers": 40, "spills": 20, "stack": 16, "shared": 4352},
        "_Z1bv": {"registers": 7, "spills": 0, "stack": 0, "shared": 0},
    }


SUMS = """
template <int N>
__global__ void sums(const float *x, float *y, int rows, int columns) {
    __shared__ float kept[N];
    float sum = 0;
    #pragma unroll 1
    for (int i = 0; i < rows; ++i) {
        #pragma unroll 1
        for (int j = 0; j < columns; ++j) sum = fmaf(sum, x[j], x[i]);
    }
    kept[threadIdx.x] = sum;
    __syncthreads();
    y[threadIdx.x] = kept[N - 1 - threadIdx.x];
}
template <int N>
__global__ void unrolled(const float *x, float *y) {
    float sum = 0;
    #pragma unroll
    for (int i = 0; i < N; ++i) sum = fmaf(sum, x[i], 1.f);
    *y = sum;
}
__global__ void spilling(float *x) {
    float big[200];
    for (int i = 0; i < 200; ++i) big[i] = x[i];
    for (int i = 0; i < 200; ++i) x[i] = big[int(x[i])];
}
void *kept[] = {(void *)&sums<64>, (void *)&unrolled<8>, (void *)&unrolled<24>};
"""


@pytest.fixture(scope="module", params=["sm_75", "sm_80", "sm_90"])
def sums(request):
    try:
        nvcc(), nvdisasm()
    except NotCompiled as missing:
        pytest.skip(str(missing))
    return compile_kernels(SUMS, request.param)


def test_a_loop_in_a_loop(sums):
    kernel = find(sums, "sums<64>")
    assert [loop.outer for loop in kernel.loops] == [None, 0]
    assert kernel.issued([7, 5], "FFMA") == 35
    assert kernel.issued([7, 5], "LDG") in (35 + 7, 70)  # x[i] may be read outside
    assert kernel.count("BAR") == 1 and kernel.count("STS") == 1
    assert kernel.shared in (256, 1280) and kernel.spills == 0


def test_an_unrolled_loop(sums):
    for n in (8, 24):
        kernel = find(sums, f"unrolled<{n}>")
        assert kernel.loops == [] and kernel.issued((), "FFMA|FADD") == n
        assert kernel.issued((), "LDG") == n


def test_an_array_that_registers_do_not_hold_shows(sums):
    kernel = find(sums, "spilling")
    assert kernel.stack >= 800
    assert kernel.count("STL") and kernel.count("LDL")


def test_an_error_of_the_compiler_is_told(sums):
    with pytest.raises(RuntimeError, match="undeclared_name"):
        compile_kernels("__global__ void f() { undeclared_name = 1; }", sums[0].arch)


def test_a_missing_kernel_is_named(sums):
    with pytest.raises(LookupError, match="sums"):
        find(sums, "unrolled")
