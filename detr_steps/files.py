"""Files that are whole or absent: write beside, then rename."""

import contextlib
import glob
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

PART = ".part"  # and the writer's process id, behind the name of what is written


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file, then put it in place of `path` at once.

    Raises: OSError that says what was kept, when the disk is full or not writable.
    """
    part = path.with_name(f"{path.name}{PART}{os.getpid()}")
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


def remove_parts(path: Path) -> None:
    """Remove what killed processes left of `path` half written.

    For somebody who alone may write `path` now: what bears the number of a process
    that is alive is left alone, but for our own, which a dead one may have had before.
    """
    for part in path.parent.glob(glob.escape(path.name) + PART + "*"):
        number = part.name[len(path.name + PART) :]
        if not number.isdecimal() or not part.is_file():
            continue
        if int(number) == os.getpid() or not process_alive(int(number)):
            with contextlib.suppress(PermissionError):  # Windows: it is being written
                part.unlink(missing_ok=True)


def process_alive(number: int) -> bool:
    """Is there a process of that number on this host? On Windows always False.

    There is no harmless signal there, and no open file can be removed.
    """
    if os.name == "nt":
        return False
    try:
        os.kill(number, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def write_json(path: Path, value: Any) -> None:
    """Write JSON whole, one indent level, ending with a newline."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def read_json(path: Path, cure: str) -> dict:
    """Read a JSON object.

    Raises: FileNotFoundError; ValueError that names file and line, and the `cure`.
    """
    content = Path(path).read_bytes()
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        line, what = _json_fault(error, content)
        raise ValueError(f"{path}, line {line}: not JSON ({what}): {cure}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{path} holds no JSON object {{...}}: {cure}")
    return value


def _json_fault(error: Exception, content: bytes) -> tuple[int, str]:
    if isinstance(error, json.JSONDecodeError):
        return error.lineno, error.msg
    if isinstance(error, UnicodeDecodeError):
        return content.count(b"\n", 0, error.start) + 1, "not UTF-8"
    return 1, str(error)


def write_tensors(path: Path, tensors: dict[str, Tensor], notes: dict) -> None:
    """Write tensors as safetensors, whole; `notes` travel along as JSON."""
    from safetensors.torch import save

    tensors = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    # bytes first: safetensors' own errors would hide that the disk is full
    content = save(tensors, metadata={"notes": json.dumps(notes)})
    write_whole(path, lambda part: part.write_bytes(content))


def read_tensors(path: Path, prefix: str = "") -> tuple[dict[str, Tensor], dict]:
    """Read what `write_tensors` wrote: tensors whose name starts so, and all notes.

    Raises: FileNotFoundError; ValueError for a truncated file or another format.
    """
    return _read_safetensors(path, lambda name: name.startswith(prefix))


def read_notes(path: Path) -> dict:
    """Read only the notes of what `write_tensors` wrote. Raises: as `read_tensors`."""
    return _read_safetensors(path, lambda name: False)[1]


def _read_safetensors(
    path: Path, wanted: Callable[[str], bool]
) -> tuple[dict[str, Tensor], dict]:
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if wanted(name)]
            tensors = {name: file.get_tensor(name) for name in names}
            notes = json.loads((file.metadata() or {}).get("notes", "{}"))
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"{path} is no complete safetensors file ({error}): copy it again"
        ) from error
    return tensors, notes
