"""Goals, and the record as a page."""

from dataclasses import dataclass

from ..measuring import markdown_table

Found = dict[str, dict]  # rows of the table by their key


@dataclass(frozen=True)
class Goal:
    """At most so many microseconds, or so many times faster than the official kernel.

    Over the row `case direction points fp32 step` of the table. Set for an H200.
    """

    text: str
    row: str
    at_most: float | None = None
    times: float | None = None

    def judge(self, table: Found) -> dict:
        """What was found, and whether that is enough; None where it is not known."""
        mine = _us(table, self.row)
        if self.at_most is not None:
            return self._with(mine, None if mine is None else mine <= self.at_most)
        theirs = _us(table, self.row.rsplit(" ", 1)[0] + " official")
        ratio = theirs / mine if mine and theirs else None
        return self._with(ratio, None if ratio is None else ratio >= self.times)

    def _with(self, found: float | None, met: bool | None) -> dict:
        limit = self.at_most if self.at_most is not None else self.times
        return {"goal": self.text, "limit": limit, "found": found, "met": met}


GOALS = (
    Goal("encoder forward, trained points: µs",
         "encoder forward trained fp32 tiles", 130),
    Goal("encoder forward, trained points: times the official kernel",
         "encoder forward trained fp32 tiles", times=5),
    Goal("encoder forward, uniform points: times the official kernel",
         "encoder forward uniform fp32 tiles", times=1.6),
    Goal("encoder backward, trained points: µs",
         "encoder backward trained fp32 sorted", 500),
    Goal("encoder backward, trained points: times the official kernel",
         "encoder backward trained fp32 sorted", times=5),
    Goal("encoder backward, vector reductions only: times the official kernel",
         "encoder backward trained fp32 vectors", times=2),
    Goal("decoder forward: µs", "decoder forward trained fp32 tiles", 6),
    Goal("decoder backward: µs", "decoder backward trained fp32 vectors", 20),
)  # fmt: skip


def judge(about: dict, rows: dict) -> list[dict]:
    """All goals against the record's table; a dry run meets and misses none."""
    table = {} if about["dry"] else rows["table"]
    return [goal.judge(table) for goal in GOALS]


def _us(table: Found, key: str) -> float | None:
    return table.get(key, {}).get("us")


def page(about: dict, rows: dict) -> str:
    """The record as Markdown."""
    lines = ["# The kernels on a card", ""]
    lines += [_heading(about), ""]
    lines += _goals(about, rows) + _checks(rows) + _ceilings(rows) + _table(rows)
    lines += _training(rows)
    return "\n".join(lines).rstrip() + "\n"


def _heading(about: dict) -> str:
    if about["dry"]:
        return "A dry run without a card: the times mean nothing."
    card = about["card"]
    return (
        f"{card['name']} ({card['processors']} processors), driver "
        f"{card['nvidia-smi'].get('driver_version', '?')}, torch {about['torch']}, "
        f"{about['date']}, sources {about['kernels']}. Medians of graph replays with "
        "inputs that rotate, microseconds."
    )


def _goals(about: dict, rows: dict) -> list[str]:
    cells = []
    for goal in judge(about, rows):
        found = "" if goal["found"] is None else f"{goal['found']:.4g}"
        met = {True: "yes", False: "no", None: "not measured"}[goal["met"]]
        cells.append([goal["goal"], goal["limit"], found, met])
    head = ["goal", "limit", "found", "met"]
    return _section("Goals (set for an H200)", head, "lrrl", cells)


def _section(title: str, head: list[str], align: str, rows: list[list]) -> list[str]:
    return [f"## {title}", "", *markdown_table(head, align, rows), ""]


def _checks(rows: dict) -> list[str]:
    found = rows["check"] | {f"sanitizer {k}": v for k, v in rows["sanitizer"].items()}
    good = sum(check["ok"] is True for check in found.values())
    lines = ["## Checks", "", f"{good} of {len(found)} are right.", ""]
    for name, check in found.items():
        if check["ok"] is not True:
            why = (
                check.get("skipped") or check.get("raised") or f"off {check.get('off')}"
            )
            lines.append(f"- {name}: {why}")
    return [*lines, ""]


def _ceilings(rows: dict) -> list[str]:
    found = rows["ceilings"].items()
    cells = [[name, f"{row['bytes per second'] / 1e9:,.0f}"] for name, row in found]
    return _section("Ceilings", ["", "GB/s"], "lr", cells)


def _table(rows: dict) -> list[str]:
    spreads = list(dict.fromkeys(row["points"] for row in rows["table"].values()))
    groups: dict[tuple, dict] = {}
    for row in rows["table"].values():
        where = (row["case"], row["direction"], row["dtype"])
        groups.setdefault(where, {}).setdefault(row["step"], {})[row["points"]] = row[
            "us"
        ]
    lines = ["## Microseconds", ""]
    for (case, direction, dtype), steps in groups.items():
        cells = [
            [step, *(_cell(found.get(spread)) for spread in spreads)]
            for step, found in steps.items()
        ]
        title, align = f"# {case}, {direction}, {dtype}", "l" + "r" * len(spreads)
        lines += _section(title, ["step", *spreads], align, cells)
    return lines + [f"- {key}: {why}" for key, why in rows["failed"].items()]


def _cell(us: float | None) -> str:
    return "" if us is None else f"{us:,.1f}"


def _training(rows: dict) -> list[str]:
    if not rows["training"]:
        return []
    cells = [[name, f"{row['ms']:.1f}"] for name, row in rows["training"].items()]
    title = "A training step of deformable-tiny"
    return _section(title, ["backend", "ms"], "lr", cells)
