"""Are the numbers right? Every step, type and odd shape against float64."""

import dataclasses
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from .cases import DRY, DTYPES, ODD, STANDARD, Inputs, Shape, exact, make, off_the_grid
from .engines import STEPS, Card, Emulated, Grads, asked, plain
from .record import Record

# Relative to the norm: sums in float32, then one rounding to the type of the values.
# Gradients of values pass through as many sums as queries read a pixel.
LIMITS = {"fp32": 1e-5, "fp16": 2e-3, "bf16": 1.6e-2}
# Shapes of the published models, smaller: every step takes them. 277 = 9·17 + 64 + 60
# queries fill no tile evenly.
USUAL = {
    "square": Shape(2, None, 4, 32, ((16, 16), (8, 8), (4, 4), (2, 2)), (4, 4, 4, 4)),
    "cut tiles": ODD["cut tiles"],
    "decoder": Shape(2, 37, 8, 32, ((13, 17), (7, 9)), (4, 4)),
    "images of many queries": Shape(3, 300, 2, 32, ((13, 17), (7, 9)), (4, 4)),
}
Engine = Card | Emulated


def run(record: Record, engine: Engine, dry: bool) -> None:
    """All checks; each writes how far off the farthest array is, and if that fits."""
    for key, check in _all(engine, dry):
        if record.late:
            return
        if not record.has("check", key):
            record.put("check", key, _tried(check))


def _tried(check: Callable[[], dict]) -> dict:
    """What a check finds; what it raises is a finding too."""
    try:
        return check()
    except Exception as error:
        return {"ok": False, "raised": f"{type(error).__name__}: {error}"[:500]}


def _all(engine: Engine, dry: bool) -> Iterator[tuple[str, Callable[[], dict]]]:
    shapes = DRY if dry else USUAL | {"photo, " + k: v for k, v in STANDARD.items()}
    for name, shape in shapes.items():
        for dtype in DTYPES:
            for direction, steps in STEPS.items():
                for step in steps:
                    yield (
                        f"{name} {direction} {step} {dtype}",
                        _compare(engine, shape, direction, step, dtype),
                    )
    for name, shape in ODD.items():
        for direction in STEPS:
            yield (
                f"{name} {direction} naive",
                _compare(engine, shape, direction, "naive"),
            )
    yield "fixed twice the same bits", lambda: _same_bits(engine, shapes)
    if not dry:
        yield from _of_torch()


def _compare(
    engine: Engine, shape: Shape, direction: str, step: str, dtype: str = "fp32"
) -> Callable[[], dict]:
    def check() -> dict:
        given = off_the_grid(make(shape, "gaussian", DTYPES[dtype], engine.device))
        result, grads = exact(given)
        if direction == "forward":
            found, wanted = (engine.forward(step, given),), (result,)
        else:
            found = engine.backward(step, given)
            wanted = _by_asked(given, grads) if step == "fused" else grads
        off = max(distance(mine, right) for mine, right in zip(found, wanted))
        return {"ok": off <= LIMITS[dtype], "off": off}

    return check


def _by_asked(given: Inputs, grads: Grads) -> Grads:
    """Gradients of locations and weights as gradients of offsets and logits."""
    value, locations, weights = grads
    extent, _ = given.shape.by_point(value.device)
    share = given.weights.double()
    logits = share * (weights - (share * weights).sum(-1, keepdim=True))
    return value, locations / extent, logits


def distance(found: Tensor, wanted: Tensor) -> float:
    """How far off, relative to the norm of what is wanted; 0 for nothing at all."""
    if found.shape != wanted.shape:
        raise ValueError(f"shape {list(found.shape)} instead of {list(wanted.shape)}")
    if not found.numel():
        return 0.0
    off = (found.double() - wanted).norm() / wanted.norm().clamp_min(1e-30)
    return off.item() if off.isfinite() else float("inf")


def _same_bits(engine: Engine, shapes: dict[str, Shape]) -> dict:
    """`fixed` again and again, queries in another order too: exactly the same."""
    given = make(next(iter(shapes.values())), "gaussian", device=engine.device)
    first = engine.backward("fixed", given)
    same = all(
        torch.equal(a, b)
        for _ in range(3)
        for a, b in zip(first, engine.backward("fixed", given))
    )
    return {"ok": same}


def _of_torch() -> Iterator[tuple[str, Callable[[], dict]]]:
    """What torch wants of an operator, on the card."""
    yield "gradcheck float64", _gradcheck
    yield "opcheck", _opcheck
    yield "opcheck fused", lambda: _opcheck(fused=True)
    yield "torch.compile(fullgraph=True)", _compiled
    yield "graph capture, replayed on other inputs", _captured
    yield "deterministic algorithms", _deterministic
    yield "other stream", _other_stream


def _small(dtype: torch.dtype = torch.float32) -> Inputs:
    shape = Shape(1, 3, 2, 8, ((5, 4), (3, 2)), (2, 3))
    given = off_the_grid(make(shape, "uniform", torch.float32, "cuda"))
    cast = {
        name: x.to(dtype)
        for name in given.__dataclass_fields__
        if isinstance(x := getattr(given, name), Tensor)
    }
    return dataclasses.replace(given, **cast)


def _operator(given: Inputs) -> Callable[..., Tensor]:
    op, shape = torch.ops.detr_steps.ms_deform_attn, given.shape
    return lambda value, at, share: op(
        value, shape.flat_sizes, list(shape.points), at, share
    )


def _wanting(given: Inputs) -> list[Tensor]:
    arrays = (given.value, given.locations, given.weights)
    return [x.detach().clone().requires_grad_() for x in arrays]


def _gradcheck() -> dict:
    given = _small(torch.float64)
    good = torch.autograd.gradcheck(_operator(given), _wanting(given), nondet_tol=1e-9)
    return {"ok": good}


def _opcheck(fused: bool = False) -> dict:
    given = _small()
    ops = torch.ops.detr_steps
    op = ops.ms_deform_attn_fused if fused else ops.ms_deform_attn
    arguments = tuple(
        x.detach().clone().requires_grad_() if isinstance(x, Tensor) else x
        for x in (asked if fused else plain)(given)
    )
    found = torch.library.opcheck(op.default, arguments)
    return {"ok": set(found.values()) == {"SUCCESS"}}


def _compiled() -> dict:
    given = _small()
    plain_call = _operator(given)
    compiled = torch.compile(plain_call, fullgraph=True)
    both = []
    for call in (plain_call, compiled):
        wanting = _wanting(given)
        result = call(*wanting)
        both.append((result, *torch.autograd.grad(result.square().sum(), wanting)))
    off = max(distance(a, b.double()) for a, b in zip(*both))
    return {"ok": off < 1e-5, "off": off}


def _captured() -> dict:
    """A graph computes anew from what is in its inputs when it is replayed."""
    given, other = (
        make(USUAL["square"], "gaussian", device="cuda", seed=s) for s in (0, 1)
    )
    engine, graph = Card(), torch.cuda.CUDAGraph()
    engine.forward("tiles", given), engine.backward("sorted", given)
    torch.cuda.synchronize()
    with torch.cuda.graph(graph):
        found = (engine.forward("tiles", given), *engine.backward("sorted", given))
    for name in ("value", "locations", "weights", "grad"):
        getattr(given, name).copy_(getattr(other, name))
    graph.replay()
    wanted = (engine.forward("tiles", other), *engine.backward("sorted", other))
    off = max(distance(a, b.double()) for a, b in zip(found, wanted))
    return {"ok": off < 1e-5, "off": off}


def _deterministic() -> dict:
    """Under torch.use_deterministic_algorithms gradients are always the same bits."""
    given = make(USUAL["square"], "gaussian", device="cuda")
    torch.use_deterministic_algorithms(True)
    try:
        runs = []
        for _ in range(4):
            wanting = _wanting(given)
            result = _operator(given)(*wanting)
            runs.append(torch.autograd.grad(result, wanting, given.grad))
    finally:
        torch.use_deterministic_algorithms(False)
    same = all(torch.equal(a, b) for run in runs for a, b in zip(runs[0], run))
    return {"ok": same}


def _other_stream() -> dict:
    """The kernels run on the stream that is current, not on the first one."""
    given = make(USUAL["square"], "gaussian", device="cuda")
    wanted = Card().forward("tiles", given).double()
    side = torch.cuda.Stream()
    value = torch.zeros_like(given.value)
    changed = dataclasses.replace(given, value=value)
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(10_000_000)  # the copy comes late: another stream reads zeros
        value.copy_(given.value)
        found = Card().forward("tiles", changed)
    side.synchronize()
    off = distance(found, wanted)
    return {"ok": off < 1e-6, "off": off}
