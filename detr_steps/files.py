"""Files that are whole or absent: write beside, then rename."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file, then put it in place of `path` at once.

    Raises: OSError that says what was kept, when the disk is full or not writable.
    """
    part = path.with_name(f"{path.name}.part{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError):
            kept = "the previous file is untouched" if path.exists() else "nothing"
            raise OSError(
                f"could not write {path}: {error.strerror or error}. Kept: {kept}. "
                "Free some space or choose another folder"
            ) from error
        raise


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole, one indent level, ending with a newline."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def write_tensors(path: Path, tensors: dict[str, Tensor], notes: dict) -> None:
    """Write tensors as safetensors, whole; `notes` travel along as JSON."""
    from safetensors.torch import save

    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    # bytes first: safetensors' own errors would hide that the disk is full
    content = save(tensors, metadata={"notes": json.dumps(notes)})
    write_whole(path, lambda part: part.write_bytes(content))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Read what `write_tensors` wrote: tensors and notes.

    Raises: FileNotFoundError; ValueError for a truncated file or another format.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
            notes = json.loads((file.metadata() or {}).get("notes", "{}"))
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"{path} is no complete safetensors file ({error}): copy it again"
        ) from error
    return tensors, notes
