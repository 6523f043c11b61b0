"""The front page's path: all chapters as a map and as a list, finished or planned."""

import html
import tomllib
from pathlib import Path

from detr_steps.viz.chapters.family import CHAPTERS, ROADS, Stop

from .chapters import NOBODY, Chapter, Fault

STEP, ROW = 124, 76  # pixels between columns and rows of the map
WIDE, HIGH = 106, 52  # pixels of a stop
LEFT = min(stop.column for stop in CHAPTERS.values())
TOP = max(stop.row for stop in CHAPTERS.values())


def questions(path: Path) -> dict[str, str]:
    """What each chapter asks, by its number; for those that are not there yet.

    Raises Fault where the file and the map of the course differ.
    """
    found = tomllib.loads(path.read_text(encoding="utf-8"))["questions"]
    if set(found) != set(CHAPTERS):
        raise Fault(f"{path.name} and the map differ: {set(found) ^ set(CHAPTERS)}")
    return found


def needs(repo: str, written: int, planned: int) -> str:
    """What a reader brings, how much of the course is there, and where it opens."""
    there = f"{written} of {planned} chapters are written so far"
    opens = "" if repo.startswith(f"{NOBODY}/") else ", and each opens in Colab"
    return (
        "You bring Python, tensors and a training loop in PyTorch; no GPU. "
        f"{there}{opens}."
    )


def copy(repo: str) -> str:
    """How to get the repository; its address once there is one."""
    if repo.startswith(f"{NOBODY}/"):
        return "First get a copy of the repository: clone or download it."
    line = f"git clone https://github.com/{repo}"
    return (
        f"First get a copy of the repository: <code>{line}</code>, or download it "
        f'from <a href="https://github.com/{repo}">its page</a>.'
    )


def figure() -> str:
    """The course's own model at work, to be hovered: the first thing to see."""
    from detr_steps import viz, zoo
    from detr_steps.data.scenes import Scenes

    scene = Scenes("val").draw([277])
    model = zoo.load("detr-tiny")
    title = "Hover a box: where does its query look?"
    shown = viz.decoder_attention(model, scene, title=title)
    return shown.html().replace("\n", "&#10;")  # an empty line would end the HTML block


def name_of(stop: Stop) -> str:
    """A stop's name in one line."""
    return stop.name.replace("\n", " ")


def path_list(chapters: list[Chapter], asked: dict[str, str]) -> str:
    """The chapters as a list of cards, in HTML without empty lines."""
    there = {chapter.number: chapter for chapter in chapters}
    items = []
    for number, stop in CHAPTERS.items():
        chapter = there.get(number)
        question = chapter.question if chapter and chapter.question else asked[number]
        name = chapter.title if chapter else name_of(stop)
        name = html.escape(name[:1].upper() + name[1:])
        inside = (
            f'<span class="number">{number}</span><span class="name">{name}</span>'
            f'<span class="asks">{html.escape(question)}</span>'
        )
        if chapter:
            minutes = chapter.minutes
            time = f"read {minutes[0]} min, do {minutes[1]} min" if minutes else ""
            inside += f'<span class="state">{time}</span>'
            inside = f'<a href="chapters/{chapter.stem}.html">{inside}</a>'
        else:
            inside = f'<div>{inside}<span class="state">planned</span></div>'
        items.append(f'<li class="{"there" if chapter else "planned"}">{inside}</li>')
    return f'<ol class="path">{"".join(items)}</ol>'


def path_map(chapters: list[Chapter]) -> str:
    """The chapters as a map that follows the page's theme, in SVG."""
    there = {chapter.number: chapter.stem for chapter in chapters}
    parts = [
        f'<text class="road" x="{place(3, row)[0] - WIDE / 2}" '
        f'y="{place(3, row)[1] - HIGH / 2 - 7}">{words}</text>'
        for row, words in ROADS
    ]
    for stop in CHAPTERS.values():
        parts += [line(CHAPTERS[before], stop) for before in stop.after]
    parts += [box(number, stop, there) for number, stop in CHAPTERS.items()]
    columns = max(stop.column for stop in CHAPTERS.values()) - LEFT
    rows = TOP - min(stop.row for stop in CHAPTERS.values())
    width, height = columns * STEP + WIDE + 4, rows * ROW + HIGH + 4
    return (
        f'<svg class="course-map" viewBox="0 0 {width:g} {height:g}" role="img" '
        'aria-label="Map of the course: which chapter stands on which">'
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z"/></marker></defs>'
        f"{''.join(parts)}</svg>"
    )


def place(column: float, row: float) -> tuple[float, float]:
    """The middle of a stop, in pixels."""
    return (column - LEFT) * STEP + WIDE / 2 + 2, (TOP - row) * ROW + HIGH / 2 + 2


def line(start: Stop, end: Stop) -> str:
    """An arrow from one stop to the next."""
    (x0, y0), (x1, y1) = place(*start[1:3]), place(*end[1:3])
    if start.column == end.column:
        side = HIGH / 2 * (1 if y1 > y0 else -1)
        way = f"M{x0} {y0 + side}V{y1 - side}"
    else:
        x0, x1 = x0 + WIDE / 2, x1 - WIDE / 2
        way = f"M{x0} {y0}C{x1} {y0} {x0} {y1} {x1} {y1}"
    return f'<path class="way" d="{way}" marker-end="url(#tip)"/>'


def box(number: str, stop: Stop, there: dict[str, str]) -> str:
    """A stop with its number and name, a link where the chapter exists."""
    x, y = place(stop.column, stop.row)
    words = stop.name.split("\n")
    first = y + 4 - 6.5 * (len(words) - 1)
    name = "".join(
        f'<tspan x="{x + 12}" y="{first + 13 * i}">{html.escape(word)}</tspan>'
        for i, word in enumerate(words)
    )
    frame = f'x="{x - WIDE / 2}" y="{y - HIGH / 2}" width="{WIDE}" height="{HIGH}"'
    inside = (
        f'<rect {frame} rx="9"/><text class="name">{name}</text>'
        f'<text class="number" x="{x - WIDE / 2 + 9}" y="{y + 4}">{number}</text>'
    )
    if number not in there:
        return f'<g class="stop">{inside}</g>'
    return f'<a class="stop" href="chapters/{there[number]}.html">{inside}</a>'
