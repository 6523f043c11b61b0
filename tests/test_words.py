"""The field's words in code: what a practitioner would search for can be found.

Chapters have a voice of their own and give each plain word its term at first use.
"""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# private words of the first edition -> what the field says
WORDS = {
    r"slopes?": "gradient",
    r"way back": "backward pass",
    r"doubting\w*|still_box\w*": "focal prior, zero init",
    r"ask_points|asks_at_once": "fused_read_points, has_fused_kernel",
    r"revive|revives": "from_json",
    r"most_tokens": "max_tokens",
    r"LevelMemory|DeformableTrace|DenseReading": "Memory, Trace, Dense",
    r"workbench": "cuda_lab",
}
SUFFIXES = (".py", ".cu", ".cuh", ".h", ".cpp", ".inc", ".mjs", ".css", ".sh", ".toml")
EXEMPT = {"tests/test_words.py", "tools/rewrite_recipes.py"}


def sources() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.splitlines()
    return [
        ROOT / name
        for name in listed
        if name.endswith(SUFFIXES) and name not in EXEMPT and (ROOT / name).is_file()
    ]


@pytest.mark.parametrize("word", WORDS)
def test_private_words_stay_in_the_chapters(word):
    files = sources()
    if not files:
        pytest.skip("no git here: the list of sources comes from it")
    pattern = re.compile(rf"\b({word})\b", re.IGNORECASE)
    found = {}
    for path in files:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        hits = [i + 1 for i, line in enumerate(lines) if pattern.search(line)]
        if hits:
            found[path.relative_to(ROOT).as_posix()] = hits
    assert not found, f"say {WORDS[word]!r} in {found}"
