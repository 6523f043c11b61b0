"""The part of the op for GPUs: who computes, and what is said when it cannot be had.

There need not be a GPU for these tests: they change the few things that the library
looks at to find out what there is.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from detr_steps.nn.deform_attention import (
    MultiScaleDeformableAttention,
    ReferencePoints,
)
from detr_steps.ops import backend, building, compiled, compiled_cuda
from detr_steps.ops import read_points as read_points_module
from detr_steps.ops.compiled_cuda import KERNELS
from detr_steps.ops.compiled_objects import Unit
from detr_steps.ops.ms_deform_attn import SCHEMAS

ROOT = Path(__file__).resolve().parents[2]


def there_is(monkeypatch, gpus=((9, 0),), cuda="13.0", nvcc="13.0") -> None:
    """Pretend: GPUs of these capabilities, a torch and an nvcc of these versions."""
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cuda and gpus))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i: gpus[i])
    monkeypatch.setattr(compiled_cuda, "gpu_present", lambda: bool(gpus))
    monkeypatch.setattr(compiled_cuda, "nvcc", lambda: nvcc and "/cuda/bin/nvcc")
    monkeypatch.setattr(compiled_cuda, "toolkit", lambda: nvcc or "")
    monkeypatch.setenv("CXX", sys.executable)  # anything that exists


def no_nvcc(monkeypatch):
    there_is(monkeypatch, nvcc=None)


def other_nvcc(monkeypatch):
    there_is(monkeypatch, nvcc="12.8")


def mute_nvcc(monkeypatch):
    there_is(monkeypatch)
    monkeypatch.setattr(compiled_cuda, "toolkit", lambda: "")


def torch_for_cpus(monkeypatch):
    there_is(monkeypatch, cuda=None)


def no_gpu(monkeypatch):
    there_is(monkeypatch, gpus=(), cuda=None)


def no_driver(monkeypatch):
    there_is(monkeypatch, gpus=())


def torch_for_amd(monkeypatch):
    there_is(monkeypatch, cuda=None)
    monkeypatch.setattr(torch.version, "hip", "6.4")


def old_torch(monkeypatch):
    there_is(monkeypatch)
    monkeypatch.setattr(torch, "__version__", "2.9.1+cu130")


def old_gpu(monkeypatch):
    there_is(monkeypatch, gpus=((9, 0), (7, 0)))


def no_compiler(monkeypatch):
    there_is(monkeypatch)
    monkeypatch.setenv("CXX", "no-such-compiler")


WORDS = {
    no_nvcc: r"no nvcc: install NVIDIA's CUDA toolkit 13\.0, or set CUDA_HOME",
    other_nvcc: r"nvcc is of CUDA 12\.8, torch of 13\.0: install the toolkit of 13",
    mute_nvcc: r"nvcc is of CUDA unknown, torch of 13\.0",
    torch_for_cpus: "is an NVIDIA GPU, but torch .* without CUDA: install a torch",
    no_gpu: "built without CUDA, and there is no GPU",
    no_driver: "finds no GPU: nvidia-smi must list one",
    torch_for_amd: "is for AMD GPUs",
    old_torch: r"torch 2\.9\.1.* too old for it: install torch 2\.10",
    old_gpu: r"GPU 1 is too old \(compute capability 7\.0, 7\.5 is needed\)",
    no_compiler: r"no C\+\+ compiler \(no-such-compiler\): install one",
}


@pytest.mark.parametrize("simulate", WORDS, ids=lambda simulate: simulate.__name__)
def test_each_trouble_has_its_words(simulate, monkeypatch):
    simulate(monkeypatch)
    with pytest.raises(building.NotCompiled, match=WORDS[simulate]):
        compiled.load_library("cuda")


def test_a_fault_in_the_kernels_is_quoted(monkeypatch, tmp_path):
    there_is(monkeypatch)
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'x.cu(3): error: no such thing' >&2\nexit 1\n")
    nvcc.chmod(0o755)
    monkeypatch.setattr(compiled_cuda, "nvcc", lambda: str(nvcc))
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "shelf"))
    with pytest.raises(building.NotCompiled, match=r"x\.cu\(3\): error: no such thing"):
        compiled.load_library("cuda")
    left = [path.name for path in (tmp_path / "shelf").rglob("*")]
    assert left == ["detr_steps"]


# --- which one computes -------------------------------------------------------------


@pytest.fixture
def asked(monkeypatch) -> list:
    """For which devices the op was wanted; it works on a CPU only."""
    devices = []

    def register(device="cpu"):
        devices.append(device)
        if device == "cuda":
            raise building.NotCompiled("no nvcc: install NVIDIA's CUDA toolkit")

    monkeypatch.setattr(backend, "register", register)
    for cached in (backend.trouble, backend._warn):
        cached.cache_clear()
    yield devices
    for cached in (backend.trouble, backend._warn):
        cached.cache_clear()


def test_each_part_is_built_when_its_first_tensor_comes(asked):
    assert backend._compiles("auto", "cpu") and asked == ["cpu"]
    with pytest.warns(RuntimeWarning):
        assert not backend._compiles("auto", "cuda")
    assert asked == ["cpu", "cuda"]
    assert not backend._compiles("auto", "mps") and asked == ["cpu", "cuda"]


def test_auto_warns_once_and_takes_torch(asked, recwarn):
    for _ in range(2):
        assert not backend._compiles("auto", "cuda")
    said = [str(each.message) for each in recwarn]
    assert len(said) == 1 and said[0].startswith("no compiled op: no nvcc: install")
    assert "DETR_STEPS_BACKEND=torch" in said[0]


def test_what_was_asked_for_raises(asked, monkeypatch):
    with pytest.raises(building.NotCompiled, match="backend cuda: no nvcc: install"):
        backend._compiles("cuda", "cuda")
    with pytest.raises(building.NotCompiled, match="backend cuda: no nvcc: install"):
        backend._compiles("cuda", "cpu")  # a machine without GPU: that comes first
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ValueError, match="on a GPU, these tensors are on cpu: move"):
        backend._compiles("cuda", "cpu")
    with pytest.raises(ValueError, match="on the CPU, these tensors are on cuda: move"):
        backend._compiles("cpp", "cuda")


# --- building -----------------------------------------------------------------------


def test_another_gpu_or_toolkit_builds_anew(monkeypatch):
    keys = []
    for change in ({}, {"gpus": ((7, 5),)}, {"nvcc": "13.1"}, {"cuda": "13.1"}):
        there_is(monkeypatch, **change)
        keys.append(compiled.key(KERNELS, compiled.sources()))
    assert len(set(keys)) == 4
    there_is(monkeypatch, gpus=((9, 0), (9, 0)))
    assert compiled.key(KERNELS, compiled.sources()) == keys[0]


def test_only_the_gpus_that_are_there_are_built_for(monkeypatch):
    there_is(monkeypatch, gpus=((9, 0), (7, 5), (9, 0)))
    call = compiled_cuda.compile_command(
        Unit("x.cu"), Path(), Path("x.o"), compiled_cuda.architectures()
    )
    assert [each for each in call if "gencode" in each] == [
        "-gencode=arch=compute_75,code=sm_75",
        "-gencode=arch=compute_90,code=sm_90",
    ]


def test_nvcc_is_found_where_it_may_be(monkeypatch, tmp_path):
    for name in ("first", "second"):
        folder = tmp_path / name / "bin"
        folder.mkdir(parents=True)
        (folder / "nvcc").write_text(
            "#!/bin/sh\necho 'Cuda compilation tools, release 12.6, V12.6.85'\n"
        )
        (folder / "nvcc").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "second" / "bin"), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    assert compiled_cuda.nvcc() == str(tmp_path / "second" / "bin" / "nvcc")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "first"))
    assert compiled_cuda.nvcc() == str(tmp_path / "first" / "bin" / "nvcc")
    assert compiled_cuda.toolkit() == "12.6"


needs_nvcc = pytest.mark.skipif(
    compiled_cuda.nvcc() is None, reason="no nvcc: nothing can be compiled for a GPU"
)


def test_every_operator_has_its_kernels():
    """What takes seconds to build is not built for this (tests/kernels do so)."""
    texts = {
        name: (compiled.sources() / name).read_text()
        for part in compiled.PARTS.values()
        for name in part.sources
    }
    bound = {
        name: set(re.findall(r'impl\("(\w+)"', text)) for name, text in texts.items()
    }
    found = {name: operators for name, operators in bound.items() if operators}
    names = {name.split("::")[1] for name in SCHEMAS}
    steps = {name for name in names if name.endswith("_step")}
    fused = {name for name in names if "fused" in name}
    assert found == {
        "ms_deform_attn.cpp": names - steps - fused,
        "ms_deform_attn_cuda.cpp": names - steps,
        "ms_deform_attn_steps.cpp": steps,
    }


STREAM = 'extern "C" int aoti_torch_get_current_cuda_stream(int, void**) { return 1; }'
PRETEND = """
import ctypes, sys, torch
from detr_steps.ops import backend, building, compiled, compiled_cuda
for name in sys.argv[1:]:
    ctypes.CDLL(name, ctypes.RTLD_GLOBAL)
torch.version.cuda = compiled_cuda.toolkit()
torch.cuda.is_available = lambda: True
torch.cuda.device_count = lambda: 1
torch.cuda.get_device_capability = lambda i: (9, 0)
assert backend.trouble("cuda") is None, backend.trouble("cuda")
kept = set(compiled.cache().glob("object-*"))
compiled.load_library("steps")
print(len(kept), len(set(compiled.cache().glob("object-*")) - kept))
for name in torch._C._dispatch_get_registrations_for_dispatch_key("CUDA"):
    if name.startswith("detr_steps::"):
        print(name)
"""


def runtime() -> str | None:
    """The library that a torch with CUDA brings along."""
    where = Path(compiled_cuda.nvcc() or "/").resolve().parents[1]
    folders = where, Path("/usr/local/cuda")
    found = [path for each in folders for path in each.glob("lib64/libcudart.so")]
    return str(found[0]) if found else None


@needs_nvcc
def test_kernels_are_built_and_loaded(tmp_path):
    """The way of a machine with a GPU, but for a torch with CUDA: what the library
    wants of that is one function, and the runtime of CUDA."""
    if runtime() is None:
        pytest.skip("no libcudart beside nvcc")
    stub = tmp_path / "stub.so"
    (tmp_path / "stub.cpp").write_text(STREAM)
    build = ["c++", "-shared", "-fPIC", str(tmp_path / "stub.cpp"), "-o", str(stub)]
    subprocess.run(build, check=True)
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "TORCH_EXTENSIONS_DIR": str(tmp_path / "shelf"),
        backend.VARIABLE: "auto",
    }
    done = subprocess.run(
        [sys.executable, "-c", PRETEND, str(stub), runtime()],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    counts, *names = done.stdout.splitlines()
    assert counts == "8 3"  # the steps share all kernels that compute
    assert sorted(names) == sorted(SCHEMAS)
    built = [path.name for path in tmp_path.glob("shelf/detr_steps/*/*.so")]
    assert sorted(built) == ["detr_steps_cuda.so", "detr_steps_steps.so"]


# --- tensors of a GPU, without their numbers ----------------------------------------


class Calls(TorchDispatchMode):
    """Keeps which operators of ours are called, and with what types."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        if function.namespace == "detr_steps":
            dtypes = [x.dtype for x in arguments if torch.is_tensor(x)]
            self.seen.append((function._opname, dtypes))
        return function(*arguments, **keywords or {})


@pytest.fixture
def gpu(monkeypatch):
    """Tensors may be on a GPU; operators are called, but nothing is computed."""
    if backend.trouble():
        pytest.skip(f"no compiled op: {backend.trouble()}")
    monkeypatch.setattr(read_points_module, "compiles", lambda value: True)
    with FakeTensorMode(), Calls() as calls:
        yield calls.seen


FLOAT, DOUBLE, BRAIN = torch.float32, torch.float64, torch.bfloat16
TYPES = {  # of value, locations and weights: what the operator gets
    (BRAIN, FLOAT, BRAIN): [BRAIN, FLOAT, FLOAT],
    (torch.float16, FLOAT, FLOAT): [torch.float16, FLOAT, FLOAT],
    (FLOAT, FLOAT, BRAIN): [FLOAT, FLOAT, FLOAT],
    (FLOAT, DOUBLE, FLOAT): [DOUBLE, DOUBLE, DOUBLE],
    (DOUBLE, FLOAT, FLOAT): [DOUBLE, DOUBLE, DOUBLE],
}


@pytest.mark.parametrize("given", TYPES, ids=str)
def test_half_precision_stays_half_on_a_gpu(gpu, given):
    value = torch.empty(2, 31, 2, 32, dtype=given[0], device="cuda")
    locations = torch.empty(2, 5, 2, 3, 4, 2, dtype=given[1], device="cuda")
    weights = torch.empty(2, 5, 2, 3, 4, dtype=given[2], device="cuda")
    sizes = ((4, 6), (2, 3), (1, 1))
    result = read_points_module.read_points(value, sizes, locations, weights)
    assert gpu == [("ms_deform_attn", TYPES[given])]
    assert result.shape == (2, 5, 64) and result.dtype == given[0]
    assert result.device.type == "cuda"


@pytest.mark.parametrize("dtype", [BRAIN, FLOAT], ids=str)
def test_a_layer_in_half_precision_asks_in_float32(gpu, dtype):
    """Also under autocast, where its linear layers give such results."""
    with torch.device("meta"):
        attention = MultiScaleDeformableAttention(64, heads=2, levels=3)
    there = {
        name: torch.empty(x.shape, dtype=dtype, device="cuda")
        for name, x in attention.named_parameters()
    }
    query, value = (torch.empty(2, n, 64, dtype=dtype, device="cuda") for n in (5, 31))
    references = torch.empty(2, 5, 3, 2, device="cuda")
    given = query, ReferencePoints(references, ((4, 6), (2, 3), (1, 1))), value
    result, _ = torch.func.functional_call(attention, there, given)
    assert gpu == [("ms_deform_attn_fused", [dtype, FLOAT, FLOAT, FLOAT])]
    assert result.dtype == dtype and result.shape == (2, 5, 64)
