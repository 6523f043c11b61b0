"""Read checkpoints that somebody else made, without running what is inside them."""

import argparse
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..files import read_json
from .unwrapping import CheckpointError, unwrap

OFFICIAL_FILE = "https://dl.fbaipublicfiles.com/detr/detr-r50-e632da11.pth"
INDEX = ".index.json"  # of a checkpoint in several files
WEIGHTS = "model.safetensors", "pytorch_model.bin"  # in a Hugging Face folder
OTHER_TOOLS = {
    ".onnx": "ONNX",
    ".h5": "TensorFlow",
    ".msgpack": "Flax",
    ".tflite": "TensorFlow Lite",
    ".engine": "TensorRT",
    ".gguf": "llama.cpp",
}
LFS_POINTER = b"version https://git-lfs"
# a name inside a zip -> what the zip is; what torch.save writes has neither
ARCHIVES = {
    "/constants.pkl": (
        "is a TorchScript file, code with weights inside: save the weights alone, with "
        'torch.save({"model": torch.jit.load(PATH).state_dict()}, OTHER)'
    ),
    "/archive_format": (
        "is an exported program (torch.export), code with weights inside: save the "
        'weights alone, with torch.save({"model": model.state_dict()}, OTHER)'
    ),
}


class Contents(NamedTuple):
    """What a checkpoint holds: weights under the names of whoever made it.

    `notes` how they were found, a sentence each; `options` of the training script,
    where the file has them.
    """

    state: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    options: Mapping[str, object] = {}


def weights_in(folder: Path) -> Path:
    """Find the weights in a folder from the Hugging Face hub, in one file or several.

    Of several files it is their index. Raises: CheckpointError where there are none.
    """
    for name in (*WEIGHTS, *(name + INDEX for name in WEIGHTS)):
        if (folder / name).is_file():
            return folder / name
    found = sorted(x.name for x in folder.iterdir()) if folder.is_dir() else "nothing"
    raise CheckpointError(
        f"no model.safetensors and no pytorch_model.bin in {folder} (it has {found}): "
        "download them with: hf download facebook/detr-resnet-50 --local-dir FOLDER"
    )


def read(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a `.pth`, `.bin` or safetensors file, or of an index.

    Raises: CheckpointError for a missing, truncated or unsafe file.
    """
    return read_contents(path).state


def read_contents(path: Path) -> Contents:
    """Read a checkpoint, and say where in the file its weights were.

    Raises: as `read`.
    """
    if path.name.endswith(INDEX):
        return _read_shards(path)
    raw = _read_file(path)
    state, notes = unwrap(raw, path)
    options = raw.get("args") if isinstance(raw, Mapping) else None
    known = vars(options) if isinstance(options, argparse.Namespace) else {}
    return Contents(state, notes, known)


def _read_shards(index: Path) -> Contents:
    if not index.is_file():
        raise CheckpointError(f"no file {index}")
    places = read_json(index, "download it again").get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(f"{index} has no weight_map: download it again")
    files = sorted({str(name) for name in places.values()})
    outside = [name for name in files if Path(name).name != name]
    absent = [name for name in files if not (index.parent / name).is_file()]
    if outside or absent:
        raise CheckpointError(
            f"{index} names files that are not beside it: "
            f"{', '.join(outside or absent)}; download all {len(files)}"
        )
    raw: dict[str, Tensor] = {}
    for name in files:
        raw |= _read_file(index.parent / name)
    lost = [name for name in places if name not in raw]
    if lost:
        raise CheckpointError(
            f"{len(lost)} weights that {index} names are in none of its files "
            f"({', '.join(lost[:3])}): download it again"
        )
    state, notes = unwrap(raw, index)
    return Contents(state, (f"read from {len(files)} files", *notes))


def _read_file(path: Path) -> object:
    if not path.is_file():
        raise CheckpointError(f"no file {path}: download it, e.g. {OFFICIAL_FILE}")
    _refuse_other_kinds(path)
    damaged = CheckpointError(
        f"{path} ({path.stat().st_size:,} bytes) is truncated or no checkpoint at all: "
        "download it again and compare the size"
    )
    try:
        if path.suffix == ".safetensors" or _starts_as_safetensors(path):
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            # the official training script stores its options beside the weights
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        with path.open("rb") as file:
            pickled = file.read(1) in (b"P", b"\x80")  # a zip or a pickle
        if not pickled:
            raise damaged from error
        raise CheckpointError(
            f"{path} holds Python objects besides weights; opening it could run any "
            "code, so it was not opened. Ask for the weights alone, as safetensors or "
            'torch.save({"model": model.state_dict()}, path)'
        ) from error
    except OSError:
        raise  # the file may be fine, the disk or the permissions are not
    except Exception as error:  # a damaged file can break its reader anywhere
        raise damaged from error


def _starts_as_safetensors(path: Path) -> bool:
    """Whatever its name: eight bytes of a length, then JSON of that length."""
    with path.open("rb") as file:
        start = file.read(9)
    length = int.from_bytes(start[:8], "little")
    return start[8:] == b"{" and length < path.stat().st_size


def _refuse_other_kinds(path: Path) -> None:
    """Name what is no list of weights by what it is."""
    if path.suffix.lower() in OTHER_TOOLS:
        raise CheckpointError(
            f"{path} is a file of {OTHER_TOOLS[path.suffix.lower()]}: give the PyTorch "
            "weights that it was made of"
        )
    with path.open("rb") as file:
        start = file.read(len(LFS_POINTER))
    if start == LFS_POINTER:
        raise CheckpointError(
            f"{path} is a pointer of Git LFS, not the file itself: run git lfs pull in "
            "that clone, or hf download"
        )
    try:
        names = zipfile.ZipFile(path).namelist() if start[:2] == b"PK" else ()
    except (zipfile.BadZipFile, ValueError):  # damaged: its reader will say so
        return
    for end, what in ARCHIVES.items():
        if any(name.endswith(end) for name in names):
            raise CheckpointError(f"{path} {what}")
