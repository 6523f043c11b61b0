"""The claims ledger: every row of every chapter's table of claims, on one page."""

import html
from collections import Counter

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
    head = "".join(f"<th>{name}</th>" for name in HEAD)
    rows = "".join(row(chapter, claim) for chapter, claim in claims)
    return ABOUT.format(count=len(claims), **counts) + (
        '<div class="pst-scrollable-table-container"><table class="table claims">'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>\n"
    )


def row(chapter: Chapter, claim: Claim) -> str:
    """One claim as a row; each cell says its column's name for the cards."""
    verdict = html.escape(claim.verdict)
    address = f"chapters/{chapter.stem}.html#claims-{claim.cell}"
    cells = (
        html.escape(claim.said),
        html.escape(claim.measured),
        f'<span class="verdict {kind(claim.verdict)}">{verdict}</span>',
        f'<a href="{address}">{html.escape(chapter.label)}</a>',
    )
    parts = (f'<td data-head="{name}">{cell}</td>' for name, cell in zip(HEAD, cells))
    return f"<tr>{''.join(parts)}</tr>"


def kind(verdict: str) -> str:
    """holds, fails or partly: how a verdict is counted and coloured."""
    if verdict == "holds":
        return "holds"
    return "fails" if verdict.startswith(("not ", "does not ")) else "partly"
