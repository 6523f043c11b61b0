"""Read checkpoints that somebody else made, without running what is inside them."""

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

OFFICIAL_FILE = "https://dl.fbaipublicfiles.com/detr/detr-r50-e632da11.pth"


class CheckpointError(ValueError):
    """A checkpoint that cannot be used: why, and what to do. Nothing was loaded."""


def weights_in(folder: Path) -> Path:
    """Find the weights in a folder from the Hugging Face hub."""
    for name in ("model.safetensors", "pytorch_model.bin"):
        if (folder / name).is_file():
            return folder / name
    found = sorted(x.name for x in folder.iterdir()) if folder.is_dir() else "nothing"
    raise CheckpointError(
        f"no model.safetensors and no pytorch_model.bin in {folder} (it has {found}): "
        "download them with: hf download facebook/detr-resnet-50 --local-dir FOLDER"
    )


def read(path: Path) -> dict[str, Tensor]:
    """Read the state dict of a `.pth`, `.bin` or safetensors file.

    Raises: CheckpointError for a missing, truncated or unsafe file.
    """
    if not path.is_file():
        raise CheckpointError(f"no file {path}: download it, e.g. {OFFICIAL_FILE}")
    damaged = CheckpointError(
        f"{path} ({path.stat().st_size:,} bytes) is truncated or no checkpoint at all: "
        "download it again and compare the size"
    )
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):
            # the official training script stores its options beside the weights
            state = torch.load(path, map_location="cpu", weights_only=True)
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
    return _inner_state(path, state)


def _inner_state(path: Path, state: object) -> dict[str, Tensor]:
    if isinstance(state, Mapping):
        for key in ("model", "state_dict"):
            state = state.get(key, state) if isinstance(state, Mapping) else state
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(
            f'{path} holds no state dict: expected {{"model": {{name: tensor}}}}'
        )
    return dict(state)
