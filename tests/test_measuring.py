"""What the benchmarks share, and the page that a record becomes."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import deformable_cpu, encoder_tokens, measuring
from detr_steps import zoo


def test_jobs_take_turns_and_the_first_turn_warms_up():
    order = []
    jobs = {name: lambda name=name: order.append(name) for name in "ab"}
    found = measuring.take_turns(jobs, 2)
    assert order == list("ababab") and list(found) == ["a", "b"]
    assert all(taken >= 0 for taken in found.values())


def test_memory_counts_what_is_held_at_once_and_what_is_kept():
    def work() -> torch.Tensor:
        both = torch.zeros(1000), torch.zeros(500)
        return both[1]

    kept, most, left = measuring.memory(work)
    assert len(kept) == 500 and 6000 <= most < 7000 and 2000 <= left < 3000


def test_numbers_and_page_are_written_side_by_side(tmp_path, capsys):
    measuring.save(tmp_path / "new" / "one.json", {"a": 1}, "# one\n")
    assert json.loads((tmp_path / "new" / "one.json").read_text()) == {"a": 1}
    assert (tmp_path / "new" / "one.md").read_text() == "# one\n"
    assert "# one" in capsys.readouterr().out


def test_the_page_has_a_line_for_each_row_of_the_record():
    record = zoo.measured("deformable_cpu")
    page = deformable_cpu.as_markdown(record)
    assert page.count("\n## Threads") == len({row["threads"] for row in record["rows"]})
    for row in record["rows"]:
        assert f"| {row['case']} | {row['way']} | {1e3 * row['torch']:,.1f} |" in page


def products(kind: str, sizes: tuple[tuple[int, int], ...]) -> int:
    """Multiplications of the benchmark's matrices in one forward pass."""
    with FlopCounterMode(display=False) as counter:
        encoder_tokens.passes(sizes)[kind]()
    return counter.get_total_flops() // 2 // 3  # backward: twice the forward pass


def test_points_are_counted_on_all_levels_as_chapter_06_does():
    sizes = encoder_tokens.pyramid((4, 6))
    s, c, lk = sum(h * w for h, w in sizes), 256, 4 * len(sizes)
    rest = 2 * s * c**2 + 3 * s * c * 8 * lk
    assert products("deformable, torch alone", sizes) == pytest.approx(rest, rel=0.01)
    dense = 4 * s * c**2 + 2 * s**2 * c
    assert products("dense, written out", sizes) == pytest.approx(dense, rel=0.01)


def test_the_clock_agrees_with_the_count():
    """Chapter 06: dense over points, by multiplications and as measured."""
    for row in zoo.measured("encoder_tokens")["rows"]:
        s, c, lk = row["tokens"], 256, 4 * len(row["sizes"])
        assert s == sum(h * w for h, w in row["sizes"]) and lk == 16
        points = 2 * s * c**2 + 3 * s * c * 8 * lk + 5 * s * lk * c  # and reading
        counted = (4 * s * c**2 + 2 * s**2 * c) / points
        measured = row["dense"]["seconds"] / row["deformable"]["seconds"]
        assert measured == pytest.approx(counted, rel=0.25)
