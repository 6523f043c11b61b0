"""From a run to files: what cannot be shown is said on the page, and stops nothing."""

from pathlib import Path

from ..files import write_whole
from . import page, sheet
from .pictures import Gallery, gallery
from .story import Story, read_story

GONE = OSError, ValueError  # data that are not there any more, weights that are damaged


def write(
    run: str | Path,
    out: str | Path | None = None,
    *,
    pictures: int = 4,
    threshold: float = 0.5,
    device: str = "cpu",
) -> list[Path]:
    """Write the page of a run and the same as a PNG beside it; returns both files.

    `run` a run's folder, the name of an entry of the zoo, or a `record.jsonl`; `out`
    the page, by default `report.html` in the run's folder, else `NAME-report.html`
    here. `pictures` of the validation data, 0 for none; `threshold` the least score of
    a detection that is shown.
    Raises: KeyError for a name that the zoo has not; ValueError for damaged files;
    FileExistsError where a file lies that no report is.
    """
    story = read_story(run)
    file = Path(out) if out else _place(story)
    if file.suffix.lower() not in (".html", ".htm"):
        raise ValueError(f"{file}: a report is a page, name it {file.stem}.html")
    drawing = file.with_suffix(".png")
    for path, is_ours in ((file, page.is_ours), (drawing, sheet.is_ours)):
        _check_free(path, is_ours)
    pictured = shown(story, pictures, threshold, device)
    text = page.html(story, pictured, left_out(story))
    write_whole(file, lambda part: part.write_text(text, encoding="utf-8"))
    write_whole(drawing, lambda part: sheet.save(part, story, pictured))
    return [file, drawing]


def _place(story: Story) -> Path:
    if story.place is None or story.in_zoo:
        return Path(f"{story.name}-report.html")
    return story.place / "report.html"


def _check_free(path: Path, is_ours) -> None:
    if path.is_dir() or (path.exists() and not is_ours(path)):
        raise FileExistsError(
            f"{path} is there already and no report: name another file with --out"
        )


def shown(story: Story, count: int, threshold: float, device: str) -> Gallery | str:
    """Pictures through the training, or why there are none."""
    if not count:
        return "None were asked for."
    if not story.description:
        return "A record alone has no weights to look through."
    try:
        return gallery(story, count, threshold, device)
    except GONE as error:
        return f"There are none: {error}."


def left_out(story: Story) -> list[str] | str:
    """What of the data was not used, or why nobody can say."""
    if not story.description:
        return "A record alone does not say."
    try:
        return story.left_out()
    except GONE as error:
        return f"That cannot be said any more: {error}."
