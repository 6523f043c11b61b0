"""The binding of the CUDA kernels, without GPU and kernels: all but the numbers.

kernels/ms_deform_attn_cuda.cpp is compiled as it is, for tensors of a CPU; in place of
each launcher stands one that writes down what it was given (tests/ops/binding).
"""

import ctypes
import subprocess
from pathlib import Path

import pytest
import torch

from detr_steps.ops import building, compiled, compiled_tools
from detr_steps.ops.compiled_cuda import flags
from detr_steps.ops.ms_deform_attn import SCHEMAS

HERE = Path(__file__).parent / "binding"
SIZES = [5, 6, 1, 1]  # of two levels
FLOAT = torch.float32


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> ctypes.CDLL:
    """The binding, loaded; its operators are torch.ops.pretended."""
    try:
        building.check_compiler()
        compiled_tools.check_torch()
    except building.NotCompiled as error:
        pytest.skip(str(error))
    work = tmp_path_factory.mktemp("binding")
    built = work / "binding.so"
    command = [
        *(building.compiler().split()[0], "-shared", "-fPIC", f"-I{HERE}"),
        f"-I{compiled.sources()}",
        *(flag for flag in flags() if not flag.startswith("-X")),
        *(str(HERE / "binding.cpp"), "-o", str(built), "-Wl,--no-as-needed"),
        *compiled_tools.torch_libraries(),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, schema in SCHEMAS.items():
        torch.library.define(name.replace("detr_steps", "pretended"), schema)
    torch.ops.load_library(built)
    loaded = ctypes.CDLL(str(built))
    loaded.told_launches.restype = ctypes.c_char_p
    return loaded


@pytest.fixture
def launches(library):
    """Ask what was launched since the last question."""
    library.told_launches()
    return lambda: library.told_launches().decode()


def given(q=3, d=32, dtype=FLOAT, exact=FLOAT, points=(4, 2)) -> list:
    value = torch.full((2, 31, 2, d), 0.5, dtype=dtype)
    locations = torch.full((2, q, 2, sum(points), 2), 0.25, dtype=exact)
    weights = torch.full((2, q, 2, sum(points)), 2, dtype=exact)
    return [value, SIZES, list(points), locations, weights]


def asked(sides=2, **how) -> list:
    value, sizes, points, offsets, logits = given(**how)
    references = torch.full((2, offsets.shape[1], 2, sides), 8.0)
    return [value, sizes, points, references, offsets, logits]


def grad(arguments) -> torch.Tensor:
    value, where = arguments[0], arguments[-1]
    shape = 2, where.shape[1], 2 * value.shape[3]
    return torch.ones(shape, dtype=value.dtype)


ops = torch.ops.pretended
TYPES = (FLOAT, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_the_fastest_that_takes_it(launches, dtype):
    size = dtype.itemsize
    result = ops.ms_deform_attn(*given(dtype=dtype))
    assert (
        result.shape == (2, 3, 64) and result.dtype == dtype and (result == 0.5).all()
    )
    assert launches() == f"tiles 2x31x2x32 of {size}: 0.25 2; "
    assert (ops.ms_deform_attn(*given(d=24, dtype=dtype)) == 0.5).all()
    assert launches() == f"naive 2x31x2x24 of {size}: 0.25 2; "
    ops.ms_deform_attn(*given(points=(30, 3), dtype=dtype))
    assert launches().startswith("naive")


def test_float64_is_naive(launches):
    exact = torch.float64
    result = ops.ms_deform_attn(*given(dtype=exact, exact=exact))
    assert result.dtype == exact
    assert launches() == "naive 2x31x2x32 of 8: 0.25 2; "


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(
    "q, deterministic, step",
    [(3, False, "vectors"), (31, False, "vectors"), (3, True, "fixed")],
)
def test_the_backward_pass(launches, dtype, q, deterministic, step):
    """The gradient of the value is summed in float32 and rounded once, from zeros."""
    arguments = given(q=q, dtype=dtype)
    grads = ops.ms_deform_attn_backward(*arguments, grad(arguments), deterministic)
    assert launches() == f"{step} 2x31x2x32 of {dtype.itemsize}: 0.25 2; "
    assert [x.dtype for x in grads] == [dtype, FLOAT, FLOAT]
    assert [x.shape for x in grads] == [arguments[i].shape for i in (0, 3, 4)]
    wanted = torch.tensor(257 / 256).to(dtype), 5, 6
    assert all((x == each).all() for x, each in zip(grads, wanted))


def test_the_backward_pass_of_odd_shapes(launches):
    for d, dtype in ((24, FLOAT), (32, torch.float64)):
        arguments = given(d=d, dtype=dtype, exact=torch.promote_types(dtype, FLOAT))
        ops.ms_deform_attn_backward(*arguments, grad(arguments), False)
        assert launches().startswith("naive")


def test_no_fixed_order_in_float64(launches):
    arguments = given(dtype=torch.float64, exact=torch.float64)
    with pytest.raises(RuntimeError, match="no fixed order in float64: take float32"):
        ops.ms_deform_attn_backward(*arguments, grad(arguments), True)
    assert launches() == ""


@pytest.mark.parametrize("sides", [2, 4])
def test_all_at_once(launches, sides):
    arguments = asked(sides, dtype=torch.bfloat16)
    result = ops.ms_deform_attn_fused(*arguments)
    assert launches() == f"fused 2x31x2x32 of 2: 8 0.25 2; tiles {sides}; "
    assert (result == 0.5).all() and result.dtype == torch.bfloat16
    grads = ops.ms_deform_attn_fused_backward(*arguments, grad(arguments))
    assert launches() == f"fused 2x31x2x32 of 2: 8 0.25 2; vectors {sides}; "
    assert [x.dtype for x in grads] == [torch.bfloat16, FLOAT, FLOAT]
    assert [x.shape for x in grads] == [arguments[i].shape for i in (0, 4, 5)]


def test_all_at_once_refuses_what_it_has_no_kernel_for(launches):
    with pytest.raises(RuntimeError, match="does not take D = 24, 6 points"):
        ops.ms_deform_attn_fused(*asked(d=24))
    with pytest.raises(RuntimeError, match="does not take D = 24, 6 points"):
        ops.ms_deform_attn_fused_backward(*asked(d=24), grad(asked(d=24)))
    wrong = asked()
    wrong[3] = wrong[3][..., :1]
    with pytest.raises(RuntimeError, match="references"):
        ops.ms_deform_attn_fused(*wrong)
    assert launches() == ""


@pytest.mark.parametrize("empty", ["queries", "images", "points", "channels"])
def test_nothing_to_do_launches_nothing(launches, empty):
    how = {"queries": {"q": 0}, "points": {"points": (0, 0)}, "channels": {"d": 0}}
    arguments = asked(**how.get(empty, {}))
    if empty == "images":
        arguments = [x[:0] if torch.is_tensor(x) else x for x in arguments]
    plain = arguments[:3] + arguments[4:]
    for forward in (ops.ms_deform_attn(*plain), ops.ms_deform_attn_fused(*arguments)):
        assert (forward == 0).all()
        assert forward.shape == (*plain[3].shape[:2], 2 * plain[0].shape[3])
    upstream = grad(arguments)[: len(arguments[0])]
    for back in (
        ops.ms_deform_attn_backward(*plain, upstream, False),
        ops.ms_deform_attn_backward(*plain, upstream, True),
        ops.ms_deform_attn_fused_backward(*arguments, upstream),
    ):
        assert all((x == 0).all() for x in back)
        assert [x.shape for x in back] == [plain[i].shape for i in (0, 3, 4)]
    assert launches() == ""


def shifted(x: torch.Tensor) -> torch.Tensor:
    """The same numbers, contiguous, at an address that 16 does not divide."""
    room = torch.empty(x.numel() + 1, dtype=x.dtype)
    moved = room[1:].view(x.shape).copy_(x)
    assert moved.is_contiguous() and moved.data_ptr() % 16
    return moved


def turned(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(0, 1).contiguous().transpose(0, 1)


@pytest.mark.parametrize("change", [shifted, turned])
def test_however_it_lies_in_memory(launches, change):
    arguments = [change(x) if torch.is_tensor(x) else x for x in asked()]
    plain, upstream = arguments[:3] + arguments[4:], change(grad(arguments))
    ops.ms_deform_attn(*plain)
    assert launches() == "tiles 2x31x2x32 of 4: 0.25 2; "
    ops.ms_deform_attn_backward(*plain, upstream, False)
    assert launches() == "vectors 2x31x2x32 of 4: 0.25 2; "
    ops.ms_deform_attn_fused(*arguments)
    assert launches() == "fused 2x31x2x32 of 4: 8 0.25 2; tiles 2; "


def test_a_launch_that_fails_is_no_silence(library, launches):
    library.fail_next_launch()
    with pytest.raises(RuntimeError, match="did not start, .* invalid configuration"):
        ops.ms_deform_attn(*given())
    assert "a guard is left" not in launches()
    ops.ms_deform_attn(*given())  # it is not said twice


def test_sizes_beyond_32_bits_are_refused_though_empty(launches):
    for value in (torch.empty(1, 2**32, 1, 0), torch.empty(0, 2**32, 1, 2)):
        row = len(value), 1, 1, 1
        given = [1], torch.empty(*row, 2), torch.empty(row)
        for shapes in ([2**32, 1], [2**16, 2**16]):
            with pytest.raises(RuntimeError, match="a size of 2\\^31 or more"):
                ops.ms_deform_attn(value, shapes, *given)
    assert launches() == ""


def test_what_does_not_belong_together(launches):
    value, sizes, points, locations, weights = given()
    for wrong in (
        (value[:, 1:], sizes, points, locations, weights),
        (value, sizes, [4, 3], locations, weights),
        (value, sizes, [9, -3], locations, weights),
        (value, [5, 6, 0, 1], points, locations, weights),
        (value, [-5, -6, 1, 1], points, locations, weights),
        # sums and products that wrap around in 64 bits, to 31 tokens and 6 points
        (value[:, :0], [2**32, 2**32], [6], locations, weights),
        (value, [31, 1, 2**32, 2**32], points, locations, weights),
        (
            value,
            [28, 1, 1, 1, 1, 1, 1, 1],
            [2**63 - 1, 2**63 - 1, 8, 0],
            locations,
            weights,
        ),
        (value, sizes, points, locations[:, :2], weights),
        (value, sizes, points, locations[..., :1], weights),
        (value[:1], sizes, points, locations, weights),
        (value, sizes, points, locations, weights[..., :5]),
    ):
        with pytest.raises(RuntimeError, match="belong together"):
            ops.ms_deform_attn(*wrong)
    for wrong in (
        (value, sizes, points, locations.double(), weights),
        (value, sizes, points, locations, weights.half()),
        (value.double(), sizes, points, locations, weights),
    ):
        with pytest.raises(RuntimeError, match="all else float32"):
            ops.ms_deform_attn(*wrong)
    with pytest.raises(RuntimeError, match="float16, bfloat16, float32 or float64"):
        ops.ms_deform_attn(value.int(), *given()[1:])
    for wrong in ((value[0], sizes, points), (value, sizes[:2], points)):
        with pytest.raises(RuntimeError, match="expected value"):
            ops.ms_deform_attn(*wrong, locations, weights)
    many = [1, 1] * 31, [1] * 31, locations[..., :1, :], weights[..., :1]
    with pytest.raises(RuntimeError, match="31 levels, but the kernels know 8"):
        ops.ms_deform_attn(value, *many)
    for wrong in (torch.ones(2, 3, 63), torch.ones(2, 3, 64).half()):
        with pytest.raises(RuntimeError, match="the gradient"):
            ops.ms_deform_attn_backward(*given(), wrong, False)
    assert launches() == ""
