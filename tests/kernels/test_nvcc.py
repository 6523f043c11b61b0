"""The kernels compile for every card of the course, and fit into its registers."""

import re
import subprocess

import pytest

from detr_steps.cuda_lab import steps
from detr_steps.cuda_lab.instructions import (
    ARCHITECTURES,
    STANDARD,
    nvcc,
    readable,
    resources,
    run,
)
from detr_steps.cuda_lab.steps import STEPS
from detr_steps.ops import compiled, compiled_cuda
from detr_steps.ops.building import NotCompiled
from detr_steps.ops.compiled import PARTS

# Registers of a thread: a processor has 65,536 of them, and hides the time that loads
# take behind other warps, so many as fit. Heads of 32 channels are what counts.
CAP_USUAL, CAP = 80, 128
PTX = "compute_90"
UNITS = list(dict.fromkeys(
    unit for part in ("cuda", "steps") for unit in compiled_cuda.units(PARTS[part])
))  # fmt: skip


@pytest.fixture(autouse=True)
def toolkit():
    try:
        nvcc()
    except NotCompiled as missing:
        pytest.skip(str(missing))


def check(log):
    """No kernel of a compiler's log spills, none takes too much."""
    found = resources(log)
    assert found
    assert [fault for pair in zip(readable(list(found)), found.values())
            for fault in faults(*pair)] == []  # fmt: skip


def faults(name, taken):
    """What is wrong with one kernel."""
    cap = CAP_USUAL if ", 32" in name else CAP
    limits = {"spills": 0, "stack": 0, "shared": 48 * 1024, "registers": cap}
    return [(name, each, taken[each]) for each in limits if taken[each] > limits[each]]


def test_three_architectures_and_ptx_in_one_go(tmp_path):
    source, made = tmp_path / "steps.cu", tmp_path / "steps.fatbin"
    source.write_text(steps.source(STEPS, ["fp32", "bf16"]), encoding="utf-8")
    codes = [(f"compute_{arch[3:]}", arch) for arch in ARCHITECTURES] + [(PTX, PTX)]
    targets = [f"-gencode=arch={virtual},code={code}" for virtual, code in codes]
    flags = ["-fatbin", "-Xptxas", "-v", "-no-compress", f"-I{compiled.sources()}"]
    log = run([nvcc(), *STANDARD, *targets, *flags, "-o", str(made), str(source)])
    assert set(re.findall(r"for '(sm_\d+)'", log)) == set(ARCHITECTURES)
    assert b".target sm_90" in made.read_bytes()  # PTX: for cards that are to come
    for arch in ARCHITECTURES:
        parts = log.split("Compiling entry function")
        check("".join(part for part in parts if f"'{arch}'" in part))


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_each_object_compiles(unit, tmp_path):
    """All of both parts, as for a card; tests/ops/test_backend_cuda.py links them."""
    command = compiled_cuda.compile_command(
        unit, compiled.sources(), tmp_path / unit.name, [(9, 0)]
    )
    done = subprocess.run([*command, "-Xptxas", "-v"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "warning" not in done.stderr
    if unit.source.endswith(".cu"):
        check(done.stderr)
