"""compute-sanitizer and the profiler, where they are installed."""

import csv
import io
import os
import re
import shutil
import subprocess
import sys

from .record import ROOT, Record

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
METRICS = (
    "gpu__time_duration.sum",
    "smsp__inst_executed.sum",
    "sm__inst_issued.avg.pct_of_peak_sustained_active",
    "l1tex__t_sector_hit_rate.pct",
    "lts__t_sectors_op_red.sum",
    "lts__t_bytes.sum.per_second",
    "dram__bytes.sum",
)
LONGEST = 9 * 60  # seconds
ONCE = [sys.executable, "-m", "benchmarks.gpu.once"]


def sanitize(record: Record, dry: bool) -> None:
    """Every step under each tool of compute-sanitizer; says why where there is none."""
    for tool in TOOLS:
        if not record.late and not record.has("sanitizer", tool):
            record.put("sanitizer", tool, _sanitized(tool, dry))


def _sanitized(tool: str, dry: bool) -> dict:
    program = shutil.which("compute-sanitizer")
    if dry or not program:
        why = "a dry run" if dry else "no compute-sanitizer here (part of the toolkit)"
        return {"ok": None, "skipped": why}
    return found_errors(_run([program, "--tool", tool, *ONCE, "small"]))


def found_errors(output: str) -> dict:
    """What the last line of compute-sanitizer says, and the first errors."""
    summary = re.findall(r"=+ (?:ERROR|RACECHECK) SUMMARY: (\d+)", output)
    faults = re.findall(r"=+ (?:Error: .*|Invalid .*|Race .*|Uninitialized .*)", output)
    if not summary:
        return {"ok": False, "raised": output[-400:]}
    return {"ok": summary[-1] == "0", "errors": int(summary[-1]), "first": faults[:5]}


def profile(record: Record, dry: bool) -> None:
    """What the card's own counters say of each kernel of the standard shapes."""
    for case in ("encoder", "decoder"):
        if not record.late and not record.has("profile", case):
            record.put("profile", case, _profiled(case, dry))


def _profiled(case: str, dry: bool) -> dict:
    program = shutil.which("ncu")
    if dry or not program:
        return {"skipped": "a dry run" if dry else "no ncu here (Nsight Compute)"}
    command = [program, "--csv", "--clock-control", "none", "--metrics"]
    return by_kernel(_run([*command, ",".join(METRICS), *ONCE, case]))


def by_kernel(output: str) -> dict:
    """`{kernel: {metric: value}}` of what ncu prints; the last launch counts."""
    start = output.find('"ID"')
    if start < 0:
        return {"skipped": output.strip()[-400:]}
    found: dict[str, dict] = {}
    for line in csv.DictReader(io.StringIO(output[start:])):
        if "detr_steps" in line["Kernel Name"]:
            values = found.setdefault(line["Kernel Name"], {})
            number = line["Metric Value"].replace(",", "")
            values[f"{line['Metric Name']} ({line['Metric Unit']})"] = float(number)
    return found


def _run(command: list[str]) -> str:
    # torch keeps memory in large pieces, inside which nothing is out of bounds
    env = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, env=env, timeout=LONGEST
        )
    except subprocess.TimeoutExpired:
        return f"took more than {LONGEST} seconds"
    return done.stdout + done.stderr
