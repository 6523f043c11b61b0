"""What an interactive figure says in words, as its poster says it."""

from . import still
from .plots import COLOURS

SCALE = "scale"  # in place of a colour: the whole colour map


def start_of(figure) -> tuple[int, int, int]:
    """Frame, item and head (-1: mean of all) that a figure begins with."""
    notes = figure.notes.get("start", {})
    frames, items = next(iter(figure.arrays.values())).shape[:2]
    frame = min(notes.get("frame", frames - 1), frames - 1)
    return frame, min(notes.get("item", 0), items - 1), notes.get("head", -1)


def get(figure, name: str, *index: int) -> float | None:
    """An entry of an array, or None where the figure has no such array."""
    return figure.arrays[name][index] if name in figure.arrays else None


def colour_of(label: int) -> str:
    """The colour of a class, the same in all pictures of the course."""
    return COLOURS[int(label) % len(COLOURS)]


def item_name(figure, item: int) -> str:
    """Name of a query or cell; some may have been left out."""
    ids = figure.notes.get("items")
    return f"{figure.notes.get('item_name', 'query')} {ids[item] if ids else item}"


def frame_name(figure, frame: int) -> str:
    """Name of a layer or training step."""
    names = figure.notes.get("frames")
    kind = figure.notes.get("frame_name", "layer")
    return f"{kind} {names[frame] if names else frame + 1}"


def class_name(figure, label: int) -> str:
    """Name of a class, or its number."""
    names = figure.notes.get("names")
    return names[int(label)] if names else f"class {int(label)}"


def answer_of(figure, frame: int, item: int) -> str:
    """The class a query answers with, and its probability."""
    label, score = (get(figure, name, frame, item) for name in ("labels", "scores"))
    if label is None:
        return ""
    return class_name(figure, label) + ("" if score is None else f" {score:.2f}")


def match_of(figure, frame: int, item: int) -> str:
    """Which object a query was matched with, and how well its box fits."""
    n = get(figure, "matched", frame, item)
    if n is None:
        return ""
    if n < 0:
        return "matched to no object"
    words, label = f"object {int(n)}", get(figure, "truth_labels", int(n))
    if label is not None:
        words += f" ({class_name(figure, label)})"
    if "truth" in figure.arrays:
        box, truth = figure.arrays["boxes"][frame, item], figure.arrays["truth"][int(n)]
        words += f", IoU {still.overlap(box, truth):.2f}"
    return words


def lines_of(figure, frame: int, item: int, head: int) -> list[tuple[str, str | None]]:
    """The lines beside the stage, each with its colour, or SCALE, or None."""
    heads, columns = figure.arrays["maps"].shape[2], figure.arrays["maps"].shape[4]
    maps, peaks = (figure.arrays[name][frame, item] for name in ("maps", "peaks"))
    peak = still.peak_of(maps, peaks, head)
    who = f"head {head + 1}: " if head >= 0 else "mean of heads: "
    weight = f"{who if heads > 1 else ''}heaviest cell {peak:.2f}"
    spread = get(figure, "spread", frame, item)
    if spread is not None and head < 0:
        weight += f", spread over {spread:.1f} cells"
    if figure.notes.get("pick") == "cell":
        ids = figure.notes.get("items")
        row, column = divmod(ids[item] if ids else item, columns)
        return [(f"cell in row {row + 1}, column {column + 1}", None), (weight, SCALE)]
    label = get(figure, "labels", frame, item)
    lines = [
        (item_name(figure, item), None),
        (answer_of(figure, frame, item), None if label is None else colour_of(label)),
        (match_of(figure, frame, item), None),
        (weight, SCALE),
    ]
    return [line for line in lines if line[0]]
