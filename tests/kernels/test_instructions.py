"""Budgets of the machine code: a slower kernel shows without a GPU."""

import functools

import pytest

from detr_steps import zoo
from detr_steps.cuda_lab import steps
from detr_steps.cuda_lab.instructions import ARCHITECTURES, nvcc, nvdisasm
from detr_steps.cuda_lab.steps import STEPS, TYPES
from detr_steps.ops.building import NotCompiled

# Instructions that a warp issues for one sample at most: (float32, 16 bits), on sm_90
# with 16 points and 32 channels. A tenth above what they were when they were written.
BUDGETS = {
    ("forward", "naive"): (105, 110),
    ("forward", "points"): (37, 42),
    ("forward", "vectors"): (13.5, 15),
    ("forward", "tiles"): (12, 14),
    ("forward", "fused"): (14, 16),
    ("backward", "naive"): (375, 380),
    ("backward", "vectors"): (37, 34),
    ("backward", "sorted"): (66, 62),  # were every sorted corner in another pixel
    ("backward", "fixed"): (95, 88),
    ("backward", "fused"): (70, 66),
}
SLACK = 1.15  # on older architectures
IDS = [f"{step.direction} {step.name}" for step in STEPS]
each_step = pytest.mark.parametrize("step", STEPS, ids=IDS)
each_arch = pytest.mark.parametrize("arch", ARCHITECTURES)
each_dtype = pytest.mark.parametrize("dtype", TYPES)
scatter = pytest.mark.parametrize(
    "step",
    [step for step in STEPS if step.direction == "backward"],
    ids=lambda s: s.name,
)


@functools.cache
def kernels(arch):
    try:
        nvcc(), nvdisasm()
    except NotCompiled as missing:
        pytest.skip(str(missing))
    return steps.compile_steps(dtypes=TYPES, arch=arch)


def kernel_of(step, dtype="fp32", arch="sm_90"):
    return kernels(arch)[step.direction, step.name, dtype]


@each_arch
@each_dtype
@each_step
def test_instructions_per_sample(step, dtype, arch):
    budget = BUDGETS[step.direction, step.name][dtype != "fp32"]
    found = steps.per_sample(kernel_of(step, dtype, arch), step, dtype)
    assert found <= budget * (1 if arch == "sm_90" else SLACK)


@each_arch
@each_dtype
@each_step
def test_registers_hold_everything(step, dtype, arch):
    kernel = kernel_of(step, dtype, arch)
    assert (kernel.spills, kernel.stack) == (0, 0)
    assert not kernel.count("LDL|STL")


@each_arch
@each_dtype
@each_step
def test_corners_are_read_16_bytes_at_a_time(step, dtype, arch):
    kernel = kernel_of(step, dtype, arch)
    wide = steps.per_sample(kernel, step, dtype, r"LDG\.E\.128")
    # four corners; one instruction serves as many samples as a warp has groups
    at_least = 0 if step.scalar else 4 * step.lanes(dtype) / 32
    assert at_least <= wide <= 1.3 * at_least


@each_dtype
@scatter
def test_sums_go_to_memory_16_bytes_at_a_time(step, dtype):
    kernel = kernel_of(step, dtype)
    if not step.scalar and step.name != "fixed":
        assert kernel.count(r"REDG\.E\.ADD\.F32x4") and not kernel.count("RED.*F32[^x]")


@each_arch
@each_dtype
@scatter
def test_no_sum_is_tried_again_and_again(step, dtype, arch):
    """What the hardware cannot add in one go becomes a loop of compare-and-swap."""
    kernel = kernel_of(step, dtype, arch)
    assert not kernel.count(r"ATOMS?\S*CAS|ATOMS\.CAST|ATOMG\S*CAS")
    assert not kernel.count(r"ATOMG|ATOM\.")  # which waits for an answer


@each_step
def test_the_record_is_of_these_kernels(step):
    """`benchmarks.kernel_instructions` writes it; compilers differ a little."""
    record = zoo.measured("kernel_instructions")[step.direction][step.name]["sm_90"]
    found = steps.per_sample(kernel_of(step), step)
    assert record["per_sample"] == pytest.approx(found, rel=0.15)


def test_each_step_issues_less_than_the_one_before():
    for direction in ("forward", "backward"):
        chain = [s for s in STEPS if s.direction == direction]
        chain = [s for s in chain if s.name in ("naive", "points", "vectors", "tiles")]
        issued = [steps.per_sample(kernel_of(step), step) for step in chain]
        assert issued == sorted(issued, reverse=True)


def test_corners_in_the_same_pixel_save_instructions():
    for step in STEPS:
        kernel = kernel_of(step)
        most = steps.per_sample(kernel, step)
        least = steps.per_sample(kernel, step, grouped=True)
        assert least < 0.9 * most if step.entries else least == most


def test_a_walk_that_does_not_add_up_is_refused():
    naive = kernel_of(steps.find_step("forward", "naive"))
    with pytest.raises(ValueError, match="0 loads like"):
        steps.walk(naive, steps.find_step("forward", "vectors"))
