"""One interactive figure of each view, from made-up numbers; the same every time."""

import numpy as np
import torch

from detr_steps.viz.engine.answers import Answers, Words
from detr_steps.viz.engine.figure import InteractiveFigure
from detr_steps.viz.engine.ranking import Column, Entry, ranking_of
from detr_steps.viz.engine.segments import Painted, segments_of_queries
from detr_steps.viz.engine.sets import sets_of_queries

NAMES = ["disc", "box", "ring"]
# In a figure's frame: for so many seconds the pointer goes round over the stage, and
# takes along what it can drag there (an anchor: by its middle, then by its corner).
ROUND = """async (seconds) => {
  const figure = document.getElementById("figure").detrFigure;
  const root = document.getElementById("figure").shadowRoot;
  const stage = root.querySelector(".stack"), box = stage.getBoundingClientRect();
  const before = detrFigure.stats(), start = performance.now(), frames = [];
  let last = start;
  await new Promise((done) => requestAnimationFrame(function next(now) {
    frames.push(now - last);
    last = now;
    const t = (now - start) / 1000;
    const x = 0.5 + 0.45 * Math.sin(5 * t), y = 0.5 + 0.45 * Math.sin(7 * t);
    if (figure.state.anchor) {
      const pulls = t > seconds / 2;
      figure.held = { side: pulls, end: pulls, from: [0, 0] };
      figure.drag(x, y);
    } else stage.dispatchEvent(new PointerEvent("pointermove", {
      clientX: box.left + box.width * x, clientY: box.top + box.height * y }));
    if (t < seconds) requestAnimationFrame(next); else done();
  }));
  const after = detrFigure.stats(), draws = after.draws - before.draws;
  frames.sort((a, b) => a - b);
  return { frame_p50_ms: frames[Math.floor(0.5 * frames.length)],
    frame_p95_ms: frames[Math.floor(0.95 * frames.length)], draws,
    draw_ms: (after.total - before.total) / draws };
}"""
CAPTION = "A map shows where was read, not what was found there."


def picture(height: int = 96, width: int = 128) -> np.ndarray:
    """Coloured stripes and noise, uint8 `[H, W, 3]`."""
    random = np.random.default_rng(5)
    y, x = np.mgrid[:height, :width]
    stripes = np.stack([x * 2, 255 - x - y, (x // 8 + y // 8) % 2 * 160], -1)
    noise = random.integers(0, 30, stripes.shape)
    return np.clip(stripes + noise, 0, 255).astype(np.uint8)


def sparse_maps(*shape: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Maps `[..., h, w]` with one to three bright places each, and their peaks.

    As spread out as detr-tiny's: the median is like a tenth of the map, read evenly.
    """
    random = np.random.default_rng(seed)
    *outer, h, w = shape
    y, x = np.mgrid[:h, :w]
    maps = np.full(shape, 1e-4)
    for _ in range(3):
        cy, cx = random.uniform(0, h, outer), random.uniform(0, w, outer)
        size = random.uniform(0.3, 1, outer) * (max(h, w) / 8) ** 0.5
        far = (y - cy[..., None, None]) ** 2 + (x - cx[..., None, None]) ** 2
        strength = random.exponential(1, outer)[..., None, None]
        maps += strength * np.exp(-far / 2 / size[..., None, None] ** 2)
    maps *= random.lognormal(0, 0.3, shape)  # real maps are never smooth
    maps /= maps.sum((-2, -1), keepdims=True)
    peaks = maps.max((-2, -1))
    small = np.round(maps / peaks[..., None, None] * 255).astype(np.uint8)
    return small, peaks.astype(np.float32)


def answers(frames: int, queries: int) -> dict[str, np.ndarray]:
    """Boxes, scores, labels and matches; query 2 lies inside query 1."""
    random = np.random.default_rng(1)
    boxes = random.uniform(0.25, 0.75, (frames, queries, 4)) * [1, 1, 0.5, 0.5]
    boxes[:, 0] = 0.2, 0.2, 0.2, 0.25
    boxes[:, 1] = 0.7, 0.6, 0.5, 0.6
    boxes[:, 2] = 0.7, 0.65, 0.15, 0.2
    scores = np.full((frames, queries), 0.1)
    scores[:, :3] = 0.6, 0.9, 0.8
    matched = np.full((frames, queries), -1)
    matched[-1, :2] = 0, 1
    return {
        "boxes": boxes.astype(np.float16),
        "scores": scores.astype(np.float16),
        "labels": (np.arange(frames * queries).reshape(frames, -1) % 3).astype("int16"),
        "matched": matched.astype(np.int16),
        "truth": np.array([[0.2, 0.2, 0.2, 0.2], [0.7, 0.6, 0.45, 0.6]], np.float16),
        "truth_labels": np.array([0, 1], np.int16),
    }


def attention(view: str = "attention", **changes: object) -> InteractiveFigure:
    """Three layers, six queries, four heads, a map of 6 x 8 cells."""
    maps, peaks = sparse_maps(3, 6, 4, 6, 8)
    notes = {"names": NAMES, "pick": "box", "start": {"frame": 2, "item": 1}}
    spread = np.full((3, 6), 12.3, np.float16)
    settings = {
        "picture": picture(),
        "title": "Where queries look",
        "summary": "Six queries over stripes, three layers.",
        "caption": CAPTION,
        "notes": notes,
        "arrays": {"maps": maps, "peaks": peaks, "spread": spread, **answers(3, 6)},
    }
    return InteractiveFigure(view, **(settings | changes))


def layers() -> InteractiveFigure:
    """The same numbers, all layers side by side."""
    return attention("layers")


def encoder() -> InteractiveFigure:
    """Cells that look at cells; the map sticks out of the picture."""
    maps, peaks = sparse_maps(2, 48, 2, 6, 8)
    notes = {"pick": "cell", "item_name": "cell", "cover": [1.06, 1.1]}
    arrays = {"maps": maps, "peaks": peaks}
    return attention(arrays=arrays, notes=notes, title="What cells read")


def lapse() -> InteractiveFigure:
    """Twelve steps of a training and a curve."""
    maps, peaks = sparse_maps(12, 6, 4, 6, 8)
    steps = [100 * 2**i for i in range(12)]
    x = np.linspace(0, steps[-1], 40)
    curve = np.stack([x, 0.4 * x / steps[-1]]).astype(np.float32)
    notes = {"names": NAMES, "frame_name": "step", "frame_x": steps}
    notes |= {"frames": [f"{s:,}" for s in steps], "curve": {"x": "step", "y": "AP"}}
    arrays = {"maps": maps, "peaks": peaks, "curve": curve, **answers(12, 6)}
    return attention(arrays=arrays, notes=notes, title="A training")


def sharpening() -> InteractiveFigure:
    """The same training with sparsity, and an object that changes hands."""
    made = lapse()
    random = np.random.default_rng(6)
    fewer = np.linspace(48, 9, 12)[:, None]
    made.arrays["matched"][4:6, 1] = 1
    made.arrays |= {
        "spread": (fewer * random.uniform(0.7, 1, (12, 6))).astype(np.float16),
        "spread_heads": random.uniform(2, 48, (12, 6, 4)).astype(np.float16),
    }
    notes = made.notes | {"flat": -np.log(48), "start": {"frame": 11, "item": 1}}
    title = "A training whose maps sharpen"
    return attention(arrays=made.arrays, notes=notes, title=title)


def points() -> InteractiveFigure:
    """Two layers, six queries, four heads, two levels, three points."""
    random = np.random.default_rng(2)
    arrays = answers(2, 6)
    references = np.repeat(arrays["boxes"][:, :, None, :2], 2, 2)
    shape = (2, 6, 4, 2, 3)
    places = references[:, :, None, :, None] + random.normal(0, 0.08, (*shape, 2))
    weights = random.dirichlet(np.ones(6), shape[:3]).reshape(shape)
    arrays |= {
        "references": references.astype(np.float16),
        "locations": places.astype(np.float16),
        "weights": weights.astype(np.float16),
    }
    notes = {"levels": [[12, 16], [6, 8]], "names": NAMES, "start": {"item": 1}}
    return attention("points", arrays=arrays, notes=notes, title="Where it reads")


def matching(queries: int = 9, objects: int = 4) -> InteractiveFigure:
    """A cost of three parts; the weights decide who is paired."""
    random = np.random.default_rng(3)
    boxes = random.uniform(0.2, 0.8, (queries, 4)) * [1, 1, 0.4, 0.4]
    truth = random.uniform(0.2, 0.8, (objects, 4)) * [1, 1, 0.4, 0.4]
    arrays = {
        "parts": random.normal(0, 1, (3, queries, objects)).astype(np.float32),
        "boxes": boxes.astype(np.float32),
        "truth": truth.astype(np.float32),
    }
    notes = {
        "parts": ["class", "L1", "GIoU"],
        "weights": [1, 5, 2],
        "limits": [[0, 4], [0, 10], [0, 4]],
    }
    return attention("matching", arrays=arrays, notes=notes, title="Who gets whom")


def bench() -> InteractiveFigure:
    """An anchor over 6 x 8 cells, four heads, 16 channels; made-up projections."""
    random = np.random.default_rng(4)
    arrays = {
        "content": random.normal(0, 1, (4, 6, 8)),
        "scale": random.uniform(0.5, 1.5, 16),
        "shift": np.zeros(16),
        "sine": random.normal(0, 0.5, (2, 16, 16)).astype(np.float16),
        "sine_bias": random.normal(0, 0.1, (2, 16)),
        "key": random.normal(0, 0.5, (2, 16, 16)).astype(np.float16),
    }
    for name in arrays.keys() - {"sine", "key"}:
        arrays[name] = arrays[name].astype(np.float32)
    start = {
        "anchor": [0.5, 0.4, 0.25, 0.25],
        "expected": [0.3, 0.2],
        "temperature": 20.0,
        "modulate": True,
        "lam": True,
        "weights": 2,
        "head": -1,
    }
    notes = {"query": "query 3: disc 0.90, layer 2", "lam": True, "cover": [1.06, 1.1]}
    notes |= {"start": start}
    return attention("bench", arrays=arrays, notes=notes, title="Where would it look?")


def sets() -> InteractiveFigure:
    """Three layers that refine one, two and three sets."""
    paths = [[(1,)], [(1, 2), (2,)], [(1, 2, 3), (2, 3), (1, 3)]]
    return sets_of_queries(paths)


def ranking() -> InteractiveFigure:
    """Five models, two costs; the last is beaten in all."""
    rows = {
        "DETR": ((0.17, 0.18, 0.2), (1.0, 310.0)),
        "DETR, 3 groups": ((0.24, 0.26, 0.23), (1.4, 420.0)),
        "Conditional": ((0.28, 0.27, 0.3), (1.1, 330.0)),
        "DAB, SQR 13": ((0.33,), (1.9, 510.0)),
        "DAB, SQR 32": ((0.31, 0.32), (2.4, 640.0)),
    }
    entries = [
        Entry(title, *numbers, (f"detr-steps zoo train row-{i}", f"model.groups: {i}"))
        for i, (title, numbers) in enumerate(rows.items())
    ]
    columns = (Column("AP", 3, "high"), Column("step, times"), Column("memory, MB", 0))
    return ranking_of(entries, columns)


def segments() -> InteractiveFigure:
    """Three things and a sky at ten thresholds, which the queries leave one by one."""
    random = torch.Generator().manual_seed(6)
    scores = torch.tensor([0.95, 0.15, 0.75, 0.45])
    thresholds = [i / 10 for i in range(10)]
    owner = np.full((10, 24, 32), 4, np.uint8)  # the sky, query 3
    owner[:, 3:9, 4:12], owner[:, 5:20, 20:24], owner[:, 14:22, 2:6] = 1, 2, 3
    true = owner[0].copy()
    owner[:, 3:9, 10:12] = 4  # less than the truth
    for frame, least in enumerate(thresholds):
        for query, score in enumerate(scores.tolist()):
            if score <= least:
                owner[frame][owner[frame] == query + 1] = 0
    painted = Painted(
        thresholds,
        owner,
        np.where(scores.numpy() > np.array(thresholds)[:, None], [0.75, 1, 1, 0.4], 0),
        torch.rand(4, 8, 6, 8, generator=random),
        torch.rand(4, 4, 12, 16, generator=random),
        ["stride 16", "stride 8", "stride 4", "mask"],
        true,
        [0.9 - 0.09 * i for i in range(10)],
    )
    answers = Answers(
        scores=scores.expand(10, -1),
        labels=torch.tensor([0, 1, 2, 3]).expand(10, -1),
        names=[*NAMES, "sky"],
    )
    words = Words("Who paints what", "Three things before a sky.", CAPTION)
    start = {"frame": 3, "item": 0}
    return segments_of_queries(painted, picture(), answers, 3, words, start=start)


ALL = {
    make.__name__: make
    for make in (
        attention,
        encoder,
        lapse,
        sharpening,
        layers,
        points,
        matching,
        bench,
        sets,
        ranking,
        segments,
    )
}
