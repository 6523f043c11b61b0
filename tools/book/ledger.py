"""The claims ledger: every row of every chapter's table of claims, on one page."""

import html
from collections import Counter
from collections.abc import Sequence

from .chapters import Chapter, Claim

ABOUT = """\
# Claims

What the papers say, and what this course measured with its own models, data and budget.
The last column leads to the table in its chapter.

{count} claims. Held: {holds}. Held in part, or under other conditions: {partly}. Did
not hold here: {fails}.

"""
HEAD = ("the paper says", "we measured", "verdict", "chapter")


def page(chapters: list[Chapter]) -> str:
    """The ledger in Markdown, its table in HTML: a phone shows its rows as cards."""
    claims = [(chapter, claim) for chapter in chapters for claim in chapter.claims]
    counts = Counter(kind(claim.verdict) for _, claim in claims)
    counts = {name: counts[name] for name in ("holds", "partly", "fails")}
    rows = [[*parts(claim), link(chapter, claim)] for chapter, claim in claims]
    return ABOUT.format(count=len(claims), **counts) + table(HEAD, rows)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of claims; each cell says its column's name for the cards."""
    names = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    lines = "".join(
        "<tr>"
        + "".join(
            f'<td data-head="{html.escape(name)}">{cell}</td>'
            for name, cell in zip(head, row)
        )
        + "</tr>"
        for row in rows
    )
    return (
        '<div class="pst-scrollable-table-container"><table class="table claims">'
        f"<thead><tr>{names}</tr></thead><tbody>{lines}</tbody></table></div>\n"
    )


def parts(claim: Claim) -> tuple[str, str, str]:
    """What was said, what was measured, and the verdict: a pill of its colour."""
    verdict = html.escape(claim.verdict)
    return (
        html.escape(claim.said),
        html.escape(claim.measured),
        f'<span class="verdict {kind(claim.verdict)}">{verdict}</span>',
    )


def link(chapter: Chapter, claim: Claim) -> str:
    """A link to the table in the chapter."""
    address = f"chapters/{chapter.stem}.html#claims-{claim.cell}"
    return f'<a href="{address}">{html.escape(chapter.label)}</a>'


def kind(verdict: str) -> str:
    """holds, fails or partly: how a verdict is counted and coloured."""
    if verdict == "holds":
        return "holds"
    return "fails" if verdict.startswith(("not ", "does not ")) else "partly"
