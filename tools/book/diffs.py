"""Two pieces of Python as one readable, highlighted diff in HTML."""

import difflib
import html
import re

from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import PythonLexer

AROUND = 3  # unchanged lines shown around a change


def diff(old: list[str], new: list[str]) -> str:
    """Two texts as one highlighted table of lines, in HTML.

    Long unchanged runs are folded. No line is empty: HTML in Markdown would end there.
    """
    before, after = coloured(old), coloured(new)
    rows = []
    for tag, a0, a1, b0, b1 in blocks(old, new):
        if tag == "equal":
            rows += folded([row("same", " ", line) for line in after[b0:b1]])
        rows += [row("gone", "−", line) for line in before[a0:a1] if tag != "equal"]
        rows += [row("new", "+", line) for line in after[b0:b1] if tag != "equal"]
    body = f'<span class="body">{"".join(rows)}</span>'
    return f'<div class="highlight diff"><pre>{body}</pre></div>'


def blocks(old: list[str], new: list[str]) -> list[tuple[str, int, int, int, int]]:
    """difflib's blocks, with equal runs that say nothing taken as changed.

    A lone bracket or an empty line that happens to be the same would tear a new method
    into stripes.
    """
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    found: list[tuple[str, int, int, int, int]] = []
    for tag, a0, a1, b0, b1 in matcher.get_opcodes():
        telling = sum(len(line.strip()) > 4 for line in old[a0:a1])
        if tag == "equal" and not telling:
            tag = "replace"
        elif tag != "equal":
            tag = "replace"
        if found and found[-1][0] == tag:
            tag, a0, _, b0, _ = found.pop()
        found.append((tag, a0, a1, b0, b1))
    return found


def coloured(lines: list[str]) -> list[str]:
    """Lines of Python, each highlighted as HTML by itself."""
    formatter = HtmlFormatter(nowrap=True)
    text = "\n".join(lines)
    made = highlight(text, PythonLexer(stripnl=False), formatter)
    return closed(made.split("\n")[: len(lines)])


def closed(lines: list[str]) -> list[str]:
    """Spans that run over several lines, as of a docstring, closed on each line."""
    done, open_spans = [], []
    for line in lines:
        begin = "".join(open_spans)
        for tag in re.findall(r"<span[^>]*>|</span>", line):
            open_spans.pop() if tag == "</span>" else open_spans.append(tag)
        done.append(begin + line + "</span>" * len(open_spans))
    return done


def row(kind: str, sign: str, line: str) -> str:
    return f'<span class="line {kind}"><i>{html.escape(sign)}</i>{line or " "}\n</span>'


def folded(rows: list[str]) -> list[str]:
    """The middle of a long run of unchanged lines as a fold."""
    if len(rows) <= 3 * AROUND:
        return rows
    middle = rows[AROUND:-AROUND]
    fold = f'<details class="run"><summary>{len(middle)} unchanged lines</summary>'
    return [*rows[:AROUND], fold, *middle, "</details>", *rows[-AROUND:]]
