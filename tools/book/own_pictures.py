"""The page "Your own pictures": two measured curves are drawn into its text."""

import re
from pathlib import Path

from matplotlib.axes import Axes

from detr_steps import zoo
from detr_steps.report.curves import Panel
from detr_steps.report.figures import svg

STYLE = re.compile(r"<defs>\s*<style.*?</style>\s*</defs>", re.DOTALL)


def page(path: Path) -> str:
    """The page with its curves and their last values filled in."""
    measured = zoo.measured("own_pictures")
    curves, settings = measured["curves"], measured["settings"]
    filled = {name: str(value) for name, value in settings.items()}
    filled["curves"] = _drawn(curves)
    for name, points in curves.items():
        filled[name] = f"{points[-1]['AP']:.2f}"
    text = path.read_text(encoding="utf-8")
    for name, value in filled.items():
        text = text.replace("{{" + name + "}}", value)
    return text


def _drawn(curves: dict[str, list[dict]]) -> str:
    """AP over steps, in the colours of the page; one line, as Markdown needs it."""

    def draw(ax: Axes) -> None:
        for name, points in curves.items():
            steps = [point["step"] for point in points]
            ax.plot(steps, [point["AP"] for point in points], marker="o", label=name)
        ax.set(xlabel="step", ylabel="AP", ylim=(0, None))
        ax.legend()

    drawn = STYLE.sub("", svg(Panel("AP", "", draw), 0))
    colours = "--c0:var(--book-blue);--c1:var(--book-orange)"
    named = "AP over training steps, fine-tuned and from the backbone alone"
    plain = " ".join(drawn.split())
    return (
        f'<div role="img" aria-label="{named}" style="max-width:30rem;{colours}">'
        f"{plain}</div>"
    )
