"""Interactive figures: frames kept, time of a drawing, size on disk.

    python -m benchmarks.figures [--seconds 3] [--tries 3]

Every view in headless Chromium (no GPU), the pointer going round over the stage (and
taking an anchor along); of several tries the calmest. Figures of `detr-tiny` on a
scene, an anchor bench of the tiny preset, and two made-up figures of a hundred queries
and eight heads: at the size of the tiny preset's map, and of R50's.
Results: benchmarks/results/figures.json and .md.
"""

import argparse
import platform
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from playwright.sync_api import Browser, sync_playwright

from detr_steps import DABDETRConfig, viz, zoo
from detr_steps.data.scenes import Scenes
from detr_steps.viz.engine.figure import InteractiveFigure
from tools.chromium import find_chromium

from .measuring import RESULTS, markdown_table, save

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
import sample_figures  # noqa: E402

BUDGET = {"frame_p95_ms": 18, "draw_ms": 1}
SIZES = {
    "anchor bench": 350_000,
    "100 queries, 8 x 8": 400_000,
    "100 queries, 25 x 34": 1_500_000,
}
READY = "() => globalThis.detrFigure?.ready.then(() => true)"


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--tries", type=int, default=3)
    options = parser.parse_args()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=find_chromium(), args=["--no-sandbox", "--disable-gpu"]
        )
        rows = {
            name: measure(browser, figure, options.seconds, options.tries)
            for name, figure in examples().items()
        }
        version = browser.version
        browser.close()
    machine = f"{platform.machine()}, Chromium {version}, no GPU"
    result = {"machine": machine, "budget": BUDGET, "sizes": SIZES, "figures": rows}
    save(RESULTS / "figures.json", result, as_markdown(result))


def examples() -> dict[str, InteractiveFigure]:
    """The figures to measure, by name."""
    model, scene = zoo.load("detr-tiny"), Scenes("val").draw([277])
    figures = {
        "decoder attention": viz.decoder_attention(model, scene),
        "encoder attention": viz.encoder_attention(model, scene),
        "layers": viz.layers(model, scene),
        "matching": viz.matching_of(model, scene),
        "sampling points": sample_figures.points(),
        "anchor bench": viz.anchor_bench(DABDETRConfig.tiny(classes=6).build(), scene),
    }
    for name, (h, w) in {"8 x 8": (8, 8), "25 x 34": (25, 34)}.items():
        maps, peaks = sample_figures.sparse_maps(6, 100, 8, h, w)
        arrays = {"maps": maps, "peaks": peaks, **sample_figures.answers(6, 100)}
        side = (128, 128) if h == w else (480, 640)
        figures[f"100 queries, {name}"] = sample_figures.attention(
            arrays=arrays, picture=sample_figures.picture(*side)
        )
    return figures


def measure(
    browser: Browser, figure: InteractiveFigure, seconds: float, tries: int
) -> dict:
    """Frames, drawings and bytes of one figure."""
    page = browser.new_page(viewport={"width": 860, "height": 620})
    with TemporaryDirectory() as folder:
        path = Path(folder) / "figure.html"
        figure.save_html(path)
        page.goto(path.as_uri())
        page.locator("iframe").scroll_into_view_if_needed()
        frame = page.locator("iframe").element_handle().content_frame()
        frame.wait_for_function(READY)
        frame.evaluate(sample_figures.ROUND, 1)  # warms up
        rounds = [frame.evaluate(sample_figures.ROUND, seconds) for _ in range(tries)]
    page.close()
    best = {name: min(each[name] for each in rounds) for name in BUDGET}
    return {
        **{name: round(value, 2) for name, value in best.items()},
        "draws": max(each["draws"] for each in rounds),
        "html_bytes": figure.size,
        "page_bytes": len(figure.page().encode()),
    }


def as_markdown(result: dict) -> str:
    """The results as a table, with what is over its budget in bold."""
    about = (
        f"{result['machine']}. The pointer moves over the stage for seconds; best of "
        "several tries. Budget: 95 % of frames within "
        f"{BUDGET['frame_p95_ms']} ms, {BUDGET['draw_ms']} ms for a drawing (mean)."
    )
    head = ["figure", "frame, p95 (ms)", "drawing, mean (ms)", "HTML (KB)",
            "budget (KB)"]  # fmt: skip
    rows = []
    for name, row in result["figures"].items():
        most = SIZES.get(name)
        cells = [
            name,
            _cell(row["frame_p95_ms"], BUDGET["frame_p95_ms"], 1),
            _cell(row["draw_ms"], BUDGET["draw_ms"], 2),
            _cell(row["html_bytes"] / 1000, most and most / 1000, 0),
            f"{most / 1000:.0f}" if most else "",
        ]
        rows.append(cells)
    table = markdown_table(head, "lrrrr", rows)
    return "\n".join(["# Interactive figures", "", about, "", *table, ""])


def _cell(value: float, most: float | None, digits: int) -> str:
    text = f"{value:.{digits}f}"
    return text if most is None or value <= most else f"**{text}**"


if __name__ == "__main__":
    main()
