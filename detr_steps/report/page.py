"""The page of a run: one HTML file that needs no network, no script, no other file."""

import base64
import io
from html import escape
from importlib import resources
from pathlib import Path

from PIL import Image
from torch import Tensor

from .. import viz
from ..training.folder import score
from .curves import class_scores, next_evaluation, panels
from .figures import svg
from .pictures import Gallery, Shown
from .story import Story

MARK = "detr-steps report"  # of pages that this tool has made, and may replace
LONGEST = 480  # pixels of a picture's longer side in the page


def html(story: Story, gallery: Gallery | str, left_out: list[str] | str) -> str:
    """The whole page; a string in place of a part says why it is not there."""
    css = (resources.files(__package__) / "page.css").read_text(encoding="utf-8")
    parts = [
        f"<h1>{escape(story.name)}</h1>",
        f'<p class="lead">{escape(_lead(story))}</p>',
        _facts(story),
        "<h2>Curves</h2>",
        _plots(story),
        _table(story),
        "<h2>Validation pictures over time</h2>",
        _pictures(gallery),
        "<h2>Left out of the data</h2>",
        _left_out(left_out),
        "<h2>Commands</h2>",
        _commands(story),
    ]
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            f'<meta name="generator" content="{MARK}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(story.name)}: report of a run</title>",
            f"<style>{css}</style></head><body>",
            *(part for part in parts if part),
            "</body></html>\n",
        ]
    )


def facts(story: Story) -> dict[str, str]:
    """The numbers that one asks for first, by their names."""
    recipe, best = story.recipe, story.best()
    known = {"State": story.state()}
    model = story.description.get("model", {}).get("kind", "")
    known |= {"Model": model.removesuffix("Config")} if model else {}
    whole = f" of {recipe.steps:,}" if recipe else ""
    known["Step"] = f"{story.step():,}{whole}"
    known |= _times(story.lines)
    if best:
        key = "AP" if best.get("AP") is not None else "accuracy"
        known[f"Best {key}"] = f"{score(best):.3f} at step {best['step']:,}"
    if recipe:
        known["Batch"] = f"{recipe.batch} images"
        known["Learning rate"] = f"{recipe.lr:g}"
    if len(story.records) > 1:
        known["Seeds"] = ", ".join(map(str, story.records))
    return known


def _times(lines: list[dict]) -> dict[str, str]:
    if not lines or "seconds" not in lines[-1] or not lines[-1]["step"]:
        return {}
    seconds, step = lines[-1]["seconds"], lines[-1]["step"]
    hours, rest = divmod(round(seconds), 3600)
    spent = f"{hours} h {rest // 60} min" if hours else f"{seconds:.0f} s"
    if not hours and seconds >= 120:
        spent = f"{rest // 60} min {rest % 60} s"
    return {"Time": spent, "Time a step": f"{seconds / step:.3g} s"}


def _lead(story: Story) -> str:
    start = story.description.get("start") or {}
    if not story.description:
        return "A record without its recipe: the curves are all there is."
    sources = {key: value for key, value in start.items() if key != "parts"}
    sources |= start.get("parts", {})
    since = "; ".join(f"{part} {source}" for part, source in sources.items())
    begun = f"Started from {since}." if since else "Started from random weights."
    teacher = story.description.get("teacher")
    if not teacher:
        return begun
    until = f" for {teacher['steps']:,} steps" if teacher.get("steps") else ""
    return f"{begun} Matched by {teacher['weights']}{until}."


def _facts(story: Story) -> str:
    rows = (
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in facts(story).items()
    )
    return f'<dl class="facts">{"".join(rows)}</dl>'


def _plots(story: Story) -> str:
    made = [
        f'<figure aria-label="{escape(panel.title)}">{svg(panel, number)}'
        f"<figcaption>{escape(panel.note)}</figcaption></figure>"
        for number, panel in enumerate(panels(story))
    ]
    return f'{_about_curves(story)}<div class="plots">{"".join(made)}</div>'


def _about_curves(story: Story) -> str:
    said = []
    if not story.lines:
        said.append("There is no line in the record yet.")
    elif step := next_evaluation(story):
        said.append(f"No evaluation yet: the first comes at step {step:,}.")
    if len(story.records) > 1:
        said.append(
            f"Curves are means of {len(story.records)} seeds; the bands reach from the "
            "least to the largest of them."
        )
    return f'<p class="soft">{escape(" ".join(said))}</p>' if said else ""


def _table(story: Story) -> str:
    """The numbers of the last evaluation, for those who cannot see a plot."""
    scored = [line for line in story.lines if score(line) is not None]
    if not scored:
        return ""
    last, rows = scored[-1], {}
    for key in ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L", "AR_100", "accuracy"):
        rows |= {key: last[key]} if key in last else {}
    rows |= {name: values[-1] for name, values in class_scores([last]).items()}
    cells = "".join(
        f"<tr><th>{escape(name)}</th><td>{'–' if v is None else f'{v:.3f}'}</td></tr>"
        for name, v in rows.items()
    )
    title = f"All numbers of the last evaluation, at step {last['step']:,}"
    return (
        f'<details><summary>{title}</summary><div class="scroll"><table>{cells}'
        "</table></div></details>"
    )


def _left_out(left_out: list[str] | str) -> str:
    if isinstance(left_out, str):
        return f'<p class="soft">{escape(left_out)}</p>'
    if not left_out:
        return "<p>Nothing: all pictures and boxes are used as they are.</p>"
    return "".join(f"<pre>{escape(text)}</pre>" for text in left_out)


def _commands(story: Story) -> str:
    found = story.commands()
    if not found:
        return '<p class="soft">How it was made is not said: no model, no data.</p>'
    return "".join(
        f"<h3>{escape(what)}</h3><pre>{escape(command)}</pre>"
        for what, command in found.items()
    )


# --- pictures ------------------------------------------------------------------------


def _pictures(gallery: Gallery | str) -> str:
    if isinstance(gallery, str):
        return f'<p class="soft">{escape(gallery)}</p>'
    said = (
        f"Dashed: ground truth. Detections with a score of at least "
        f"{gallery.threshold:g}, in the colours of their classes."
    )
    shown = (_row(gallery, number) for number in range(len(gallery.pictures)))
    return f'<p class="soft">{said}</p>{"".join(shown)}'


def _row(gallery: Gallery, number: int) -> str:
    """One picture: stored once, shown with the truth and at every moment."""
    picture = gallery.pictures[number]
    height, width = picture.rgb.shape[-2:]
    image = (
        f'<svg viewBox="0 0 {width} {height}"><image id="picture{number}" '
        f'width="{width}" height="{height}" href="{_jpeg(picture.rgb)}"/>'
    )
    truth = _boxes(picture.truth, [gallery.name(int(n)) for n in picture.labels], width)
    count = len(picture.labels)
    cells = [_cell(image + truth, f"ground truth: {count} object{'s' * (count != 1)}")]
    for index, moment in enumerate(gallery.moments):
        start = f'<svg viewBox="0 0 {width} {height}"><use href="#picture{number}"/>'
        caption = f"step {moment.step:,} ({moment.what}): {said(picture, index)}"
        cells.append(_cell(start + _found(gallery, picture, index), caption))
    return f'<h3>Picture {number + 1}</h3><div class="moments">{"".join(cells)}</div>'


def said(picture: Shown, index: int) -> str:
    """How many detections of a picture are shown, or what the surest one had."""
    count = len(picture.found[index].scores)
    if count:
        return f"{count} detection{'s' * (count != 1)}"
    return f"none; the surest has {picture.surest[index]:.2f}"


def _cell(drawn: str, caption: str) -> str:
    return f"<figure>{drawn}</svg><figcaption>{escape(caption)}</figcaption></figure>"


def _found(gallery: Gallery, picture: Shown, index: int) -> str:
    boxes, scores, labels = picture.found[index]
    names = [f"{gallery.name(int(n))} {s:.2f}" for n, s in zip(labels, scores)]
    colours = [viz.COLOURS[int(n) % len(viz.COLOURS)] for n in labels]
    return _boxes(boxes, names, picture.rgb.shape[-1], colours)


def _boxes(
    boxes: Tensor, names: list[str], width: int, colours: list[str] | None = None
) -> str:
    made = []
    for index, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        at = (
            f'x="{x0:.1f}" y="{y0:.1f}" width="{max(x1 - x0, 0):.1f}" '
            f'height="{max(y1 - y0, 0):.1f}"'
        )
        look = f'style="stroke:{colours[index]}"' if colours else 'class="truth"'
        made.append(f'<rect class="rim" {at}/><rect {look} {at}/>')
        made.append(_name(names[index], (x0, y0, x1), width))
    return "".join(made)


def _name(name: str, place: tuple[float, float, float], width: int) -> str:
    """Above the box, or inside where there is no room; to the left near the edge."""
    (x0, y0, x1), size = place, width / 17
    x, anchor = (x1, "end") if x0 > 0.6 * width else (max(x0, 0), "start")
    y = y0 - size * 0.3 if y0 > size * 1.2 else max(y0, 0) + size
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size:.1f}" '
        f'text-anchor="{anchor}">{escape(name)}</text>'
    )


def _jpeg(rgb: Tensor) -> str:
    pixels = (rgb.permute(1, 2, 0) * 255).round().byte().numpy()
    image, file = Image.fromarray(pixels), io.BytesIO()
    image.thumbnail((LONGEST, LONGEST))
    image.save(file, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def is_ours(path: Path) -> bool:
    """Has this tool made a page?"""
    with open(path, "rb") as file:
        return f'content="{MARK}"'.encode() in file.read(400)
