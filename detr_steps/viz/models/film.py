"""A training to scrub through: maps, boxes and AP at the steps that were kept."""

from math import log

from ...analysis.film import Film, Shot
from ..engine.answers import Answers, Words
from ..engine.figure import InteractiveFigure
from ..engine.maps import attention_maps

SHARP_NOT_BETTER = (
    "One run, one picture, the last decoder layer. That maps grow sharper while AP "
    "rises does not show that sharpness is what makes it rise."
)
ALONG = (
    "Orange: sparsity of the map (bottom: all cells alike, top: one cell). ◆: another "
    "object, or none, since the kept step before. One run, one picture, last layer: "
    "what happens together need not be cause and effect."
)


def time_lapse(
    film: Film,
    image: int = 0,
    *,
    max_queries: int | None = None,
    query: int | None = None,
    title: str = "",
    sparsity: bool = False,
) -> InteractiveFigure:
    """Scrub through a training: a query's map, its box, and AP at that step.

    `film` from `zoo.film(name)`; `image` counts its pictures. The frames are the kept
    steps; AP, where the record has it, is drawn as the curve to scrub on. `max_queries`
    are shown, those matched most often first (by default all); it opens on `query`, by
    default the surest. `sparsity`: draw also the negative entropy of the map shown, and
    mark the steps at which the query's object changed. Raises: ValueError for a picture
    beyond the last, a query that is not shown. Built in chapters/02_detr.ipynb.
    """
    if not 0 <= image < len(film.shots):
        raise ValueError(
            f"picture {image} of a film of {len(film.shots)}: count from 0 to "
            f"{len(film.shots) - 1}"
        )
    if max_queries is not None and max_queries < 1:
        raise ValueError(f"max_queries={max_queries}: show at least one query")
    shot = film.shots[image]
    shot = shot if max_queries is None else shot.first(max_queries)
    start = _start(shot, query)
    answers = Answers(
        boxes=shot.boxes,
        scores=shot.scores,
        labels=shot.labels,
        matched=shot.matched,
        truth=shot.truth,
        truth_labels=shot.truth_labels,
        names=film.names,
        items=shot.queries.tolist(),
    )
    words = Words(
        title or f"Training, picture {film.scenes[image]}: what a query reads",
        _summary(film, shot, start) + _changes(film, shot, start) * sparsity,
        ALONG if sparsity else SHARP_NOT_BETTER,
        frame="step",
        frames=film.steps,
    )
    rgb, begin = shot.rgb.permute(1, 2, 0).numpy(), {"item": start}
    cells = shot.maps.shape[-2] * shot.maps.shape[-1]
    return attention_maps(
        shot.packed,
        rgb,
        answers,
        words,
        start=begin,
        curve=film.curve,
        flat=-log(cells) if sparsity else None,
    )


def _changes(film: Film, shot: Shot, start: int) -> str:
    """How sparse the map was and is, and when the object changed, in words."""
    had = shot.matched[:, start]
    at = [film.steps[i + 1] for i in (had[1:] != had[:-1]).nonzero().flatten().tolist()]
    first, last = (-float(shot.spread[i, start].float().log()) for i in (0, -1))
    when = f"changed at step {', '.join(map(str, at))}" if at else "never changed"
    return (
        f" Sparsity (negative entropy) {first:z.2f} and {last:z.2f}; its object {when}."
    )


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
