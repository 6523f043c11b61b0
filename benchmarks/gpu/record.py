"""The record: what was found, on which card, by which command; kept after each piece.

Rows have a key; a run that goes on where another one stopped finds what is there.
"""

import json
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from detr_steps.files import write_json
from detr_steps.ops.building import digest

ROOT = Path(__file__).resolve().parents[2]
FAILED = "failed"  # rows of the table that raised
PARTS = ("check", "sanitizer", "ceilings", "table", "training", "profile")
QUERY = "name,driver_version,memory.total,clocks.max.sm,clocks.max.mem,power.limit"


class Record:
    """What a run has found so far; every `put` writes the file.

    `minutes`: `late` turns true after so many, and whoever measures stops there.
    """

    def __init__(self, path: Path, minutes: float, again: bool, dry: bool) -> None:
        self.path, self.started, self.minutes = path, time.monotonic(), minutes
        self.about = describe(dry)
        self.rows: dict[str, dict] = {part: {} for part in (*PARTS, FAILED)}
        if path.is_file() and not again:
            self._take_over(json.loads(path.read_text("utf-8")))

    def _take_over(self, before: dict) -> None:
        """Go on with an earlier record of the same card, sources and versions."""
        same = ("card", "torch", "kernels", "dry")
        if any(before["about"].get(key) != self.about[key] for key in same):
            raise SystemExit(
                f"{self.path} is of another card, torch or state of kernels/: "
                "--again starts over, --out writes elsewhere"
            )
        before["about"]["commands"] += self.about["commands"]
        self.about = before["about"]
        for part in self.rows:
            kept = before[part]
            if part == "table":
                kept = {row_key(row): row for row in kept}
            self.rows[part] = kept

    @property
    def late(self) -> bool:
        """Whether the time is up."""
        return time.monotonic() - self.started > 60 * self.minutes

    def has(self, part: str, key: str) -> bool:
        """Whether this is known already."""
        return key in self.rows[part]

    def put(self, part: str, key: str, found: Any) -> None:
        """Keep what was found, and say it."""
        self.rows[part][key] = found
        print(f"{part:10} {key:52} {brief(found)}", flush=True)
        self.save()

    def save(self, **more: Any) -> None:
        """Write the file: the table as a list of rows, all else by name."""
        table = list(self.rows["table"].values())
        content = {"about": self.about, **self.rows, "table": table, **more}
        write_json(self.path, content)


def row_key(row: dict) -> str:
    """The name of a row of the table."""
    return " ".join(row[x] for x in ("case", "direction", "points", "dtype", "step"))


def brief(found: Any) -> str:
    """One line of what was found."""
    if isinstance(found, dict):
        return ", ".join(f"{key} {brief(value)}" for key, value in found.items())
    return f"{found:.4g}" if isinstance(found, float) else str(found)


def describe(dry: bool) -> dict:
    """Card, versions and state of the sources."""
    on_card = torch.cuda.is_available() and not dry
    return {
        "dry": dry,
        "card": card() if on_card else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "nvcc": said(["nvcc", "--version"]).splitlines()[-1:],
        "python": platform.python_version(),
        "commit": said(["git", "-C", str(ROOT), "rev-parse", "HEAD"]),
        "kernels": fingerprint(),
        "commands": [" ".join(["benchmarks/gpu.sh", *sys.argv[1:]])],
        "date": time.strftime("%Y-%m-%d"),
    }


def card() -> dict:
    """What the driver says of the first card."""
    about = torch.cuda.get_device_properties(0)
    told = said(
        ["nvidia-smi", "-i", "0", f"--query-gpu={QUERY}", "--format=csv,noheader"]
    )
    return {
        "name": about.name,
        "arch": f"sm_{about.major}{about.minor}",
        "processors": about.multi_processor_count,
        "L2 bytes": about.L2_cache_size,
        "nvidia-smi": dict(zip(QUERY.split(","), told.split(", "))),
    }


def fingerprint() -> str:
    """A name for the state of kernels/, committed or not."""
    return digest(
        path for path in sorted((ROOT / "kernels").rglob("*")) if path.is_file()
    )


def said(command: list[str]) -> str:
    """What a tool prints; nothing where it is missing."""
    if not shutil.which(command[0]):
        return ""
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()
