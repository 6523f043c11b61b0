"""A training to scrub through: maps, boxes and AP at the steps that were kept."""

from dataclasses import fields, replace

from ...analysis.attention import unpack
from ...analysis.film import Film, Shot, cast
from ..engine.figure import InteractiveFigure
from ..engine.maps import attention_maps

SHARP_NOT_BETTER = (
    "One run, one picture, the last decoder layer. That maps grow sharper while AP "
    "rises does not show that sharpness is what makes it rise."
)


def time_lapse(
    film: Film,
    image: int = 0,
    *,
    most: int | None = None,
    query: int | None = None,
    title: str = "",
) -> InteractiveFigure:
    """Scrub through a training: a query's map, its box, and AP at that step.

    `film` from `zoo.film(name)`; `image` counts its pictures. The frames are the kept
    steps; AP, where the record has it, is drawn as the curve to scrub on. `most` of its
    queries are shown, those matched most often first (by default all); it opens on
    `query`, by default the surest.
    Raises: ValueError for a picture beyond the last, a query that is not shown.
    Built in chapters/02_detr.ipynb.
    """
    if not 0 <= image < len(film.shots):
        raise ValueError(
            f"picture {image} of a film of {len(film.shots)}: count from 0 to "
            f"{len(film.shots) - 1}"
        )
    shot = _with_fewer(film.shots[image], most)
    start = _start(shot, query)
    return attention_maps(
        unpack(shot.maps, shot.peaks),
        shot.rgb.float() / 255,
        boxes=shot.boxes,
        scores=shot.scores,
        labels=shot.labels,
        matched=shot.matched,
        truth=shot.truth,
        truth_labels=shot.truth_labels,
        names=film.names,
        items=shot.queries.tolist(),
        frames=film.steps,
        frame_name="step",
        start={"item": start},
        curve=film.curve,
        frame_x=film.steps,
        spreads=(shot.spread, shot.spread_heads),
        title=title or f"Training, picture {film.scenes[image]}: what a query reads",
        summary=_summary(film, shot, start),
        caption=SHARP_NOT_BETTER,
    )


def _with_fewer(shot: Shot, most: int | None) -> Shot:
    """The same shot with at most so many queries."""
    if most is None:
        return shot
    if most < 1:
        raise ValueError(f"most={most}: show at least one query")
    chosen = cast(shot.matched, most)
    whole = ("rgb", "truth", "truth_labels", "queries")
    names = [part.name for part in fields(Shot) if part.name not in whole]
    parts = {name: getattr(shot, name)[:, chosen] for name in names}
    return replace(shot, queries=shot.queries[chosen], **parts)


def _start(shot: Shot, query: int | None) -> int:
    """Where a query stands among those shown; by default the surest matched one."""
    shown = shot.queries.tolist()
    if query is None:
        return int((shot.scores[-1] + (shot.matched[-1] >= 0)).argmax())
    if query not in shown:
        raise ValueError(f"query {query} is not in the film: it shows {shown}")
    return shown.index(query)


def _summary(film: Film, shot: Shot, start: int) -> str:
    first, last = film.steps[0], film.steps[-1]
    q, _, h, w = shot.maps.shape[1:]
    label, score = shot.labels[-1, start], shot.scores[-1, start]
    words = [
        f"{len(film.steps)} steps of a training, {first} to {last}; {q} queries of "
        f"decoder layer {film.layer}; {len(shot.truth)} objects.",
        f"Query {shot.queries[start]} ends as {film.names[label]}, {score:.2f}.",
        f"Its map, of {h * w} cells, is spread as over {shot.spread[0, start]:.0f} at "
        f"step {first} and over {shot.spread[-1, start]:.0f} at step {last}.",
    ]
    if film.curve is not None:
        (x0, y0), (x1, y1) = film.curve.T[0].tolist(), film.curve.T[-1].tolist()
        words.append(f"AP is {y0:.2f} at step {x0:.0f} and {y1:.2f} at step {x1:.0f}.")
    return " ".join(words)
