"""Interactive figures without a browser: what is packed, said, drawn and written."""

import base64
import html
import io
import json
import zlib
from html.parser import HTMLParser

import numpy as np
import pytest
import sample_figures as figures
import torch
from matplotlib import colormaps
from PIL import Image
from scipy.optimize import linear_sum_assignment

from detr_steps.viz.engine import still
from detr_steps.viz.engine.figure import InteractiveFigure, module
from detr_steps.viz.engine.readout import State

everyone = pytest.mark.parametrize("make", figures.ALL.values(), ids=figures.ALL)


class Reader(HTMLParser):
    """Collects the tags of a page and the text of its scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags, self.scripts, self._inside = [], [], False
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag == "script":
            self.scripts.append("")
            self._inside = True

    def handle_data(self, data):
        if self._inside:
            self.scripts[-1] += data

    def handle_endtag(self, tag):
        self._inside = False


def inside(figure: InteractiveFigure) -> tuple[dict, dict, Reader]:
    """Attributes of the poster and of the frame, and the page in the frame."""
    (_, box), (image, poster), (iframe, frame) = Reader(figure.html()).tags
    assert (image, iframe) == ("img", "iframe")
    return poster, frame, Reader(frame["srcdoc"])


@everyone
def test_the_same_numbers_make_the_same_bytes(make):
    assert make().html() == make().html()
    assert "0x" not in repr(make())


@everyone
def test_a_poster_lies_under_a_frame_that_may_only_run_scripts(make):
    figure = make()
    poster, frame, page = inside(figure)
    assert figure.summary in poster["alt"]
    assert poster["src"].startswith("data:image/")
    assert frame["sandbox"] == "allow-scripts" and frame["title"] == figure.title
    assert html.unescape(html.escape(figure.page())) == frame["srcdoc"]
    assert json.loads(page.scripts[0]) == json.loads(json.dumps(figure.bundle))


@everyone
def test_the_bundle_gives_back_the_arrays(make):
    figure = make()
    packed = zlib.decompress(base64.b64decode(figure.bundle["data"]))
    for name, told in figure.bundle["arrays"].items():
        kind = np.dtype("<" + told["dtype"])
        count = int(np.prod(told["shape"]))
        found = np.frombuffer(packed[: count * kind.itemsize], kind)
        packed = packed[count * kind.itemsize :]
        assert np.array_equal(found.reshape(told["shape"]), figure.arrays[name])
    assert packed == b""


def test_words_cannot_leave_their_place():
    evil = "</script><script>alert('&quot;')</script>\" onload=\"<!--"
    figure = figures.attention(title=evil, summary=evil, caption=evil)
    poster, frame, page = inside(figure)
    assert poster["alt"] == f"{evil}. {evil}" and frame["title"] == evil
    assert [tag for tag, _ in page.tags].count("script") == 2
    assert json.loads(page.scripts[0])["caption"] == evil


@everyone
def test_the_page_asks_nobody(make):
    text = make().page()
    assert "http://" not in text and "https://" not in text and "import(" not in text


def test_the_module_is_one_piece():
    whole = module()
    assert "import " not in whole and "</script" not in whole.lower()
    assert whole.count("export default") == 1
    for view in ("attention", "layers", "points", "matching"):
        assert f"VIEWS.{view} =" in whole and f"VIEWS.{view} =" in module(view)
    assert "VIEWS.points" not in module("layers")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"view": "heat"}, "unknown view 'heat': one of attention"),
        ({"maps": None}, "needs the array 'maps'"),
        ({"colour": np.zeros(3, np.uint8)}, "draws no 'colour'"),
        ({"maps": np.zeros((3, 6, 4, 6, 8))}, "maps is float64: make it one of uint8"),
        ({"peaks": np.zeros((3, 6), np.float32)}, r"\(3, 6\), not \[F, Q, M\]"),
        ({"peaks": np.zeros((3, 5, 4), np.float32)}, "has 5 along Q where 6"),
        ({"boxes": np.zeros((3, 6, 5), np.float16)}, "has 5 along 4 where 4"),
        ({"scores": np.full((3, 6), np.nan, np.float16)}, "scores holds NaN"),
        ({"picture": np.zeros((3, 8, 8), np.uint8)}, "give uint8"),
        ({"picture": np.zeros((8, 8, 3))}, "picture is float64"),
    ],
)
def test_what_cannot_be_drawn_is_refused_with_the_cure(changes, words):
    base = figures.attention()
    view = changes.pop("view", "attention")
    picture = changes.pop("picture", base.picture)
    arrays = {k: v for k, v in (base.arrays | changes).items() if v is not None}
    with pytest.raises(ValueError, match=words):
        InteractiveFigure(view, arrays, {}, picture=picture, title="t", summary="s")


def test_a_large_picture_is_made_smaller():
    large = np.repeat(np.repeat(figures.picture(), 8, 0), 8, 1)  # 768 x 1024
    figure = figures.attention(picture=large)
    height, width = figure.picture.shape[:2]
    assert height * width <= 76_800
    assert width / height == pytest.approx(4 / 3, rel=0.01)
    assert (figure.bundle["height"], figure.bundle["width"]) == (height, width)


def test_files_are_whole_or_refused(tmp_path):
    figure = figures.attention()
    figure.save_html(tmp_path / "figure.html")
    figure.save_png(str(tmp_path / "figure.png"))
    assert figure.html() in (tmp_path / "figure.html").read_text(encoding="utf-8")
    assert (tmp_path / "figure.png").read_bytes() == figure.poster()
    with pytest.raises(ValueError, match="does not end in .html"):
        figure.save_html(tmp_path / "figure.png")
    with pytest.raises(FileNotFoundError, match="no folder .*: make it first"):
        figure.save_png(tmp_path / "nowhere" / "figure.png")
    assert len(list(tmp_path.iterdir())) == 2


def test_it_shows_itself_and_says_what_it_is():
    figure = figures.attention()
    shown = figure._repr_mimebundle_()
    assert shown["text/html"] == figure.html()
    assert shown["text/plain"] == repr(figure)
    assert repr(figure).startswith("<interactive figure: Where queries look>. Six")


# --- posters -------------------------------------------------------------------------


def pixels(figure: InteractiveFigure) -> np.ndarray:
    with Image.open(io.BytesIO(figure.poster())) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


@everyone
def test_a_still_figure_says_how_to_wake_it_and_a_saved_poster_does_not(make):
    figure = make()
    shown = base64.b64decode(inside(figure)[0]["src"].partition(",")[2])
    darkest = []
    for content in (shown, figure.poster()):
        with Image.open(io.BytesIO(content)) as image:
            darkest.append(
                np.asarray(image.convert("L").crop((540, 22, 806, 42))).min()
            )
    assert darkest[0] < 180 and darkest[1] > 240


@everyone
def test_a_poster_has_words_and_a_picture(make):
    shown = pixels(make())
    assert shown.shape == (560, 820, 3)
    assert (shown[20:42, 15:300].min(-1) < 90).sum() > 50  # the title
    stage = shown[60:300, 30:280]
    assert len(np.unique(stage.reshape(-1, 3), axis=0)) > 300  # an empty one: 1
    assert (shown[-3:, 100:-100].max(-1) > 200).all()  # nothing runs over the edge
    assert (shown[50:-15, -10:-2].min(-1) > 240).all()


def test_a_poster_shows_the_state_it_starts_with():
    start = {"frame": 2, "item": 1, "head": -1}
    notes = figures.attention().notes
    states = ({}, {"frame": 0}, {"item": 3}, {"head": 2})
    posters = {
        figures.attention(notes=notes | {"start": start | state}).poster()
        for state in states
    }
    assert len(posters) == len(states)


def test_a_poster_without_picture_boxes_or_frames():
    maps, peaks = figures.sparse_maps(1, 12, 1, 3, 4)
    figure = figures.attention(
        picture=None, arrays={"maps": maps, "peaks": peaks}, notes={"pick": "cell"}
    )
    assert pixels(figure).std() > 10
    assert (figure.bundle["height"], figure.bundle["width"]) == (192, 256)


# --- the reference that the canvas is compared with ----------------------------------


@pytest.mark.parametrize(("h", "w"), [(6, 8), (1, 1), (25, 34), (1, 5)])
def test_cells_are_spread_as_torch_does_it(h, w):
    values = np.random.default_rng(h).uniform(0, 255, (h, w))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(values)[None, None], size=(60, 80), mode="bilinear"
    )[0, 0].numpy()
    assert np.allclose(still.spread_out(values, (60, 80)), expected)


def test_cells_that_stick_out_are_cut():
    values = np.random.default_rng(0).uniform(0, 255, (6, 8))
    whole = still.spread_out(values, (66, 88))
    cut = still.spread_out(values, (60, 80), cover=(1.1, 1.1))
    assert np.allclose(cut, whole[:60, :80])


def test_the_mean_weighs_heads_by_their_peaks():
    maps, peaks = figures.sparse_maps(4, 6, 8)
    weights = maps / 255 * peaks[:, None, None]  # [M, h, w]
    mean = weights.mean(0)
    assert np.allclose(still.head_map(maps, peaks, -1), mean / mean.max() * 255)
    assert still.peak_of(maps, peaks, -1) == pytest.approx(mean.max())
    assert np.array_equal(still.head_map(maps, peaks, 2), maps[2])


def test_the_glow_is_the_still_plots_one():
    grey = np.random.default_rng(0).integers(0, 256, (60, 80)).astype(np.uint8)
    values = np.full((3, 4), 200.0)
    *colour, _ = colormaps["inferno"](200 / 255)
    alpha = 0.35 + 0.45 * 200 / 255
    expected = grey[..., None] * (1 - alpha) + np.array(colour) * 255 * alpha
    assert np.abs(still.glow(grey, values) - expected).max() <= 1


def test_a_poster_of_cells_shows_all_of_few_frames():
    figure = figures.encoder()
    maps, peaks = (figure.arrays[name] for name in ("maps", "peaks"))
    for frame in (0, 1):  # of two: what changes in either is seen, whichever is first
        changed = maps.copy()
        changed[frame] = changed[frame, ::-1]
        for first in (0, 1):
            notes = figure.notes | {"start": {"frame": first, "item": 5}}
            before, after = (
                pixels(
                    figures.attention(arrays={"maps": m, "peaks": peaks}, notes=notes)
                )
                for m in (maps, changed)
            )
            halves = (before != after).any((0, 2))[17:803].reshape(2, -1).any(1)
            assert halves.tolist() == [frame == 0, frame == 1]


def test_the_words_of_a_head_give_its_own_spread():
    figure = figures.attention()
    heads = np.arange(72, dtype=np.float16).reshape(3, 6, 4)
    figure.arrays["spread_heads"] = heads
    said = {head: State(figure, 2, 1, head).lines[-1][0] for head in (-1, 3)}
    assert said[-1].endswith("spread over 12.3 cells")
    assert said[3].endswith(f"spread over {heads[2, 1, 3]:.1f} cells")


def test_no_cost_of_a_poster_is_minus_zero(monkeypatch):
    written = []
    monkeypatch.setattr(
        "detr_steps.viz.engine.posters.Sheet.text",
        lambda self, x, y, words, *more, **look: written.append(words) or 0,
    )
    figure = figures.matching(2, 1)
    figure.arrays["parts"] = np.full((3, 2, 1), -0.004, np.float32)
    figure.poster()
    assert written.count("0.0") == 2


def test_a_matching_poster_frames_the_cheapest_pairs():
    figure = figures.matching()
    cost = still.total_cost(figure.arrays["parts"], figure.notes["weights"])
    expected = np.tensordot([1, 5, 2], figure.arrays["parts"].astype(float), 1)
    assert np.allclose(cost, expected)
    other = figures.attention(
        "matching", arrays=figure.arrays, notes=figure.notes | {"rule": "none"}
    )
    assert len(linear_sum_assignment(cost)[0]) == 4
    assert (pixels(figure) != pixels(other)).any()


# --- size ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("h", "w", "most"), [(8, 8, 400_000), (25, 34, 1_500_000)], ids=["tiny", "R50"]
)
def test_a_hundred_queries_fit(h, w, most):
    maps, peaks = figures.sparse_maps(6, 100, 8, h, w)
    arrays = {"maps": maps, "peaks": peaks, **figures.answers(6, 100)}
    shape = (480, 640) if h != w else (128, 128)
    figure = figures.attention(picture=figures.picture(*shape), arrays=arrays)
    weights = maps[-1, :, 0] / maps[-1, :, 0].sum((-2, -1), keepdims=True, dtype=float)
    logs = np.log(weights, where=weights > 0, out=np.zeros_like(weights))
    spread = np.exp(-(weights * logs).sum((-2, -1)))  # cells, as if read evenly
    assert np.median(spread) / h / w > 0.07  # as hard to pack as a real model's maps
    assert figure.size <= most
