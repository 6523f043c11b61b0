"""Builds the op as a torch with CUDA does, by cpp_extension, with or without a GPU.

    python -m benchmarks.extension_build [--gpus 75 90]

For an environment of its own, whose torch has CUDA, with ninja and nvcc (a toolkit of
torch's version): compiles, links and loads the part for GPUs, for each kind of GPU in a
process and a folder of its own, cold and after an edit of one kernel and of what all
include; says which operators the library has registered, and what a stale lock and a
kernel that does not compile lead to. Results: benchmarks/results/extension_build.json.
"""

import argparse
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch

from detr_steps.ops import compiled, compiled_cuda, compiled_extension
from detr_steps.ops.building import NotCompiled

from .measuring import RESULTS, save, seconds

EDITS = "cuda/forward_tiles.cuh", "cuda/backward_sorted.cuh", "cuda/points.cuh"


def build(folder: Path, gpu: int) -> tuple[float, list[str]]:
    """Seconds of a build, and the operators that its library has for GPUs."""
    part, found = compiled.PARTS["cuda"], []
    units = compiled_cuda.units(part)

    def run() -> None:
        found.append(
            compiled_extension.build_extension(part, units, folder, [divmod(gpu, 10)])
        )

    taken = seconds(run)
    names = torch._C._dispatch_get_registrations_for_dispatch_key("CUDA")
    return taken, sorted(name for name in names if name.startswith("detr_steps::"))


def fault(folder: Path, gpu: int) -> str:
    """What is said of a build that fails."""
    try:
        build(folder, gpu)
    except NotCompiled as error:
        return str(error)
    return "nothing"


def fresh(function: Callable, *arguments) -> object:
    """Call it in a new process: a library is loaded once."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measure(gpu: int) -> dict:
    """All rows of one kind of GPU, with sources and a cache of their own."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(shutil.copytree(compiled.sources(), Path(root, "kernels")))
        os.environ["TORCH_EXTENSIONS_DIR"] = str(Path(root, "shelf"))
        cold, names = fresh(build, folder, gpu)
        row = {"cold": round(cold, 1), "operators": names}
        for name in EDITS:
            file = folder / name
            file.write_text(file.read_text("utf-8") + "// edited\n", "utf-8")
            row[f"edit of {name}"] = round(fresh(build, folder, gpu)[0], 1)
        row["nothing changed"] = round(fresh(build, folder, gpu)[0], 1)
        part = compiled.PARTS["cuda"]
        place = compiled_extension.build_folder(part, folder, [divmod(gpu, 10)])
        (place / "lock").touch()
        os.utime(place / "lock", (0, 0))
        said = fresh(fault, folder, gpu).replace(str(place), "…")
        row["stale lock"] = said
        (place / "lock").unlink()
        (folder / EDITS[0]).write_text("this is no kernel\n", "utf-8")
        row["no kernel"] = fresh(fault, folder, gpu).replace(str(root), "…")
        del os.environ["TORCH_EXTENSIONS_DIR"]
        return row


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gpus", type=int, nargs="+", default=[75, 90])
    gpus = parser.parse_args().gpus
    if torch.version.cuda is None:
        raise SystemExit(f"torch {torch.__version__} has no CUDA: take one that has")
    found = {"torch": torch.__version__, "nvcc": compiled_cuda.toolkit()}
    found["gpus seen"] = torch.cuda.device_count()
    for gpu in gpus:
        found[f"sm_{gpu}"] = measure(gpu)
        for name, value in found[f"sm_{gpu}"].items():
            print(f"sm_{gpu}, {name}: {value}", flush=True)
    save(RESULTS / "extension_build.json", found)


if __name__ == "__main__":
    main()
