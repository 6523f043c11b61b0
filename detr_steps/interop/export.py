"""A detector as a file that runs without this library: ONNX, TorchScript, PT2.

All three hold `detector.for_export()`: `pixels [B, 3, H, W]`, `padding [B, H, W]` in,
`boxes`, `scores`, `labels` out. What is written is read again and compared with the
model before it gets its name. TorchScript and PT2 compute on the device on which they
were made; ONNX wherever its runtime does.
"""

import importlib.util
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..data.scenes import Scenes
from ..files import write_whole
from ..images import MEAN, STD, normalise
from ..systems.detector import Detector, for_inference

SUFFIXES = {"onnx": ".onnx", "torchscript": ".torchscript", "pt2": ".pt2"}
NEEDED = ("onnx", "onnxscript", "onnxruntime")  # by ONNX alone
NOTES = "detr_steps.json"  # the extra file; in ONNX the metadata "detr_steps"
INPUTS, OUTPUTS = ("pixels", "padding"), ("boxes", "scores", "labels")
CLOSE = 1e-3  # of scores and of boxes as shares: rounding is far below, faults above
TIE = 1e-5  # scores nearer than this to the last one kept may change places with it

Given = tuple[Tensor, Tensor]  # pixels and padding
Run = Callable[[Tensor, Tensor], Sequence[Tensor]]


class ExportError(ValueError):
    """A model that cannot be exported, or a file that computes something else."""


@dataclass(frozen=True)
class ExportOptions:
    """What a file is to hold: its format, and which pictures it takes.

    `size` (H, W) in pixels. Without `dynamic` the file takes one picture of exactly
    this size; with it any number of any size.
    """

    to: str
    size: tuple[int, int]
    dynamic: bool = False

    def __post_init__(self) -> None:
        if self.to not in SUFFIXES:
            raise ExportError(f"no format {self.to!r}: one of {', '.join(SUFFIXES)}")
        if min(self.size) < 1:
            raise ExportError(f"size {self.size}: give height and width in pixels")


@dataclass(frozen=True)
class Differences:
    """The largest ones between a file and its model: boxes in shares, scores."""

    boxes: float = 0.0
    scores: float = 0.0

    def __str__(self) -> str:
        return f"boxes {self.boxes:.1e} (shares of the image), scores {self.scores:.1e}"

    @property
    def small(self) -> bool:
        """Whether rounding explains them; NaN is never small."""
        return self.boxes <= CLOSE and self.scores <= CLOSE


def export(
    model: Detector,
    path: str | Path,
    options: ExportOptions,
    class_names: Sequence[str] = (),
) -> Differences:
    """Write a model to a new file and compare that with the model, on several batches.

    Class names, size, and how colours are normalised travel in the file as JSON:
    `metadata_props["detr_steps"]` of ONNX, the extra file `detr_steps.json` of others.
    Raises: ExportError for a model or size that cannot be exported, a missing package,
    or a file that computes something else, of which nothing is kept; FileExistsError.
    """
    path = Path(path)
    if path.exists():
        raise FileExistsError(f"{path} exists: remove it, or choose another with --out")
    _check(model, options)
    whole = for_inference(model).for_export()
    found: list[Differences] = []

    def write(part: Path) -> None:
        with torch.no_grad(), _quiet():
            _record(whole, part, options, notes(options, class_names))
            run = READERS[options.to](part)
            found.extend(_differences(whole, run, options))

    write_whole(path, write)
    return Differences(*map(_largest, zip(*(asdict(x).values() for x in found))))


def _record(model: nn.Module, part: Path, options: ExportOptions, notes: dict) -> None:
    try:
        WRITERS[options.to](model, part, options, notes)
    except OSError:
        raise  # a full disk, say: write_whole tells
    except Exception as error:  # exporters raise whatever their parts raise
        line = next(iter(str(error).splitlines()), "")
        raise ExportError(
            f"torch {torch.__version__} cannot record this model as {options.to}: "
            f"{type(error).__name__}: {line}"
        ) from error


def limits(model: Detector, options: ExportOptions) -> str:
    """One sentence on the pictures that a file does not take; empty for none."""
    height, width = options.size
    if not options.dynamic:
        return (
            f"it takes one picture of {height} x {width} pixels at a time: --dynamic "
            "frees both"
        )
    if getattr(model.config, "two_stage", False):
        return (
            f"every batch needs at least {model.config.queries} tokens, for as many "
            f"proposals: {height} x {width} pixels have "
            f"{model.tokens(height, width):,}"
        )
    return ""


def notes(options: ExportOptions, class_names: Sequence[str]) -> dict:
    """What travels in a file, as plain values."""
    return {
        "class_names": list(class_names),
        "size": list(options.size),
        "dynamic": options.dynamic,
        "pixels": "[B, 3, H, W] RGB in [0, 1], minus mean, divided by std",
        "mean": list(MEAN),
        "std": list(STD),
        "padding": "[B, H, W] bool, true right of and below a picture",
        "boxes": "[B, n, 4] x0, y0, x1, y1 as shares of the un-padded picture",
        "scores": "[B, n], best first",
        "labels": "[B, n], index into class_names",
    }


def example(images: int, size: tuple[int, int], padded: bool = True) -> Given:
    """Drawn pictures of a size in pixels; each after the first has more padding."""
    rgb = Scenes("val").draw(range(images)).rgb  # [B, 3, 128, 128]
    pixels = normalise(functional.interpolate(rgb, size, mode="bilinear"))
    padding = torch.zeros(images, *size, dtype=torch.bool)
    for index in range(images if padded else 0):
        height, width = (side - side * (index + 1) // (3 * images) for side in size)
        padding[index, height:] = True
        padding[index, :, width:] = True
    return pixels.masked_fill(padding[:, None], 0.0), padding


def _check(model: nn.Module, options: ExportOptions) -> None:
    if not isinstance(model, Detector):
        raise ExportError(
            f"a {type(model).__name__} is no detector: only these can be exported"
        )
    tokens = model.tokens(*options.size)
    if tokens > model.max_tokens:
        raise ExportError(
            f"size {options.size} makes {tokens:,} tokens, more than the "
            f"{model.max_tokens:,} allowed: give a smaller --size"
        )
    if getattr(model.config, "two_stage", False) and tokens < model.config.queries:
        raise ExportError(
            f"size {options.size} makes {tokens} tokens, fewer than the "
            f"{model.config.queries} queries they are to propose: give a larger --size"
        )
    if options.to == "onnx":
        missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
        if missing:
            raise ExportError(
                f"ONNX needs {', '.join(missing)}: pip install {' '.join(missing)}"
            )


def _example(model: nn.Module, options: ExportOptions) -> Given:
    """What a graph is recorded with: two images where their number is free.

    One image would be taken for a special case, whatever is said about it.
    """
    return _on_device(model, example(1 + options.dynamic, options.size))


def _on_device(model: nn.Module, given: Given) -> Given:
    weight = next(model.parameters())
    return given[0].to(weight), given[1].to(weight.device)


def _exported(model: nn.Module, options: ExportOptions) -> torch.export.ExportedProgram:
    free = torch.export.Dim.DYNAMIC
    axes = ({0: free, 2: free, 3: free}, {0: free, 1: free, 2: free})
    shapes = axes if options.dynamic else None
    given = _example(model, options)
    return torch.export.export(model, given, dynamic_shapes=shapes, strict=False)


def _write_onnx(
    model: nn.Module, part: Path, options: ExportOptions, notes: dict
) -> None:
    program = torch.onnx.export(
        _exported(model, options),
        dynamo=True,
        verbose=False,
        input_names=INPUTS,
        output_names=OUTPUTS,
        custom_translation_table={torch.ops.aten.sort.stable: _stable_sort()},
    )
    program.model.metadata_props["detr_steps"] = json.dumps(notes)
    program.save(str(part), external_data=False)


def _stable_sort() -> Callable:
    """`aten::sort.stable`, which exporters do not know, as ONNX's TopK of everything.

    That is stable by its specification: of equal values the lower index comes first.
    """
    from onnxscript import FLOAT, INT64
    from onnxscript import opset18 as op

    def sort(
        x: FLOAT, *, stable: bool = True, dim: int = -1, descending: bool = False
    ) -> tuple[FLOAT, INT64]:
        count = op.Gather(op.Shape(x), op.Constant(value_ints=[dim]))
        return op.TopK(x, count, axis=dim, largest=descending, sorted=True)

    return sort


def _read_onnx(part: Path) -> Run:
    import onnxruntime

    providers = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(part.read_bytes(), providers=providers)

    def run(*given: Tensor) -> list[Tensor]:
        named = {name: each.cpu().numpy() for name, each in zip(INPUTS, given)}
        return [torch.from_numpy(x) for x in session.run(list(OUTPUTS), named)]

    return run


def _write_torchscript(
    model: nn.Module, part: Path, options: ExportOptions, notes: dict
) -> None:
    # its own check would run on the same example only
    graph = torch.jit.trace(model, _example(model, options), check_trace=False)
    torch.jit.save(graph, str(part), _extra_files={NOTES: json.dumps(notes)})


def _read_torchscript(part: Path) -> Run:
    return torch.jit.load(str(part))


def _write_pt2(
    model: nn.Module, part: Path, options: ExportOptions, notes: dict
) -> None:
    program = _exported(model, options)
    with open(part, "wb") as file:  # by name it would insist on its own suffix
        torch.export.save(program, file, extra_files={NOTES: json.dumps(notes)})


def _read_pt2(part: Path) -> Run:
    with open(part, "rb") as file:
        return torch.export.load(file).module()


WRITERS = {"onnx": _write_onnx, "torchscript": _write_torchscript, "pt2": _write_pt2}
READERS = {"onnx": _read_onnx, "torchscript": _read_torchscript, "pt2": _read_pt2}


def _differences(
    model: nn.Module, run: Run, options: ExportOptions
) -> Iterator[Differences]:
    """On pictures with and without padding, and on other shapes where they are free.

    Raises: ExportError that says for which shape, and how large they are.
    """
    height, width = options.size
    shapes = [(1, options.size)]
    if options.dynamic:
        larger = (height + height // 3 + 1, width + width // 5 + 2)
        shapes += [(2, options.size), (3, larger), (1, larger[::-1])]
    for (images, size), padded in [(s, p) for s in shapes for p in (False, True)]:
        given = _on_device(model, example(images, size, padded))
        ours, theirs = model(*given), run(*given)
        found = compare(ours, theirs)
        if not found.small:
            raise ExportError(
                f"the {options.to} file computes something else than the model, for "
                f"{images} pictures of {size[0]} x {size[1]} pixels: {found}; nothing "
                "was kept"
            )
        yield found


def compare(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Differences:
    """The largest differences of two answers `boxes, scores, labels` of one batch.

    Scores are compared rank by rank; a box with the nearest of the same label and
    score, because rounding may exchange neighbours. What is as good as the last score
    may be missing on the other side, where another was kept in its place.
    """
    ours, theirs = ([part.cpu() for part in side] for side in (ours, theirs))
    if [x.shape for x in ours] != [x.shape for x in theirs]:
        return Differences(float("inf"), float("inf"))
    scores = _largest((ours[1] - theirs[1]).abs().flatten().tolist())
    images = list(zip(zip(*ours), zip(*theirs)))
    boxes = [_furthest(*pair) for one, other in images
             for pair in ((one, other), (other, one))]  # fmt: skip
    return Differences(_largest(boxes), scores)


def _furthest(one: Sequence[Tensor], other: Sequence[Tensor]) -> float:
    """How far the box of `one` is that fits `other` least; one image."""
    (boxes, scores, labels), (b, s, l) = one, other  # noqa: E741
    apart = (boxes[:, None] - b).abs().amax(-1)  # [n, n]
    same = (labels[:, None] == l) & ((scores[:, None] - s).abs() <= CLOSE)
    nearest = apart.masked_fill(~same, float("inf")).amin(1)  # [n]
    counts = scores > scores[-1] + TIE
    return _largest(nearest[counts].tolist())


def _largest(values: Sequence[float]) -> float:
    """The maximum, 0 of nothing; NaN where there is one, which `max` may overlook."""
    return float(torch.tensor([0.0, *values], dtype=torch.float64).max())


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporters say about code that the comparison judges."""
    loud = logging.getLogger("torch.onnx")
    level = loud.level
    loud.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        loud.setLevel(level)
