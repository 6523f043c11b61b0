"""Interactive figures: one page with data, picture and figure.mjs, over a still.

A figure shows itself in a notebook as a still picture (the poster) with a sandboxed
frame on top; the frame needs no kernel and no network. Where a host drops frames
(GitHub, an untrusted notebook) the poster stays, and a line says how to wake it.
"""

import base64
import html
import io
import json
import re
import zlib
from functools import cached_property
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ...files import write_whole
from . import posters, still
from .plots import COLOURS

TYPES = {"uint8": "u1", "int16": "i2", "float16": "f2", "float32": "f4"}
TOLD = ("view", "title", "summary", "caption", "notes")
WIDE, HIGH = 820, 560  # CSS pixels; narrower places are served by the same height
# On the picture itself: a notebook that is not trusted loses most styles.
HINT = "Still picture: run the cell to bring it to life."


class View(NamedTuple):
    """One way to draw: the module beside this file, its picture and its arrays.

    The module may have looks of its own, in a .css of its name. `shapes`: a letter per
    axis, the same length for the same letter; "?" may be absent.
    """

    file: str
    max_pixels: int  # of the picture
    shapes: dict[str, str]


ANSWERS = " boxes?:FQ4 scores?:FQ labels?:FQ matched?:FQ truth?:N4 truth_labels?:N"
MAPS = "maps:FQMhw peaks:FQM spread?:FQ spread_heads?:FQM curve?:2n" + ANSWERS
POINTS = "references:FQL2 locations:FQMLK2 weights:FQMLK" + ANSWERS
BENCH = "content:Mhw scale:C shift:C sine:2CC sine_bias:2C key:2CC"
SEGMENTS = "scores:FQ labels:FQ owner:FHW overlap:FQ maps?:QMhw shares?:QM stages:QSab"
COSTS = "parts:PQN boxes:Q4 truth:N4 scores?:Q labels?:Q truth_labels?:N"
VIEWS = {
    name: View(file, max_pixels, dict(pair.split(":") for pair in shapes.split()))
    for name, file, max_pixels, shapes in (
        # under a map every pixel is looked up anew in every drawing: fewer of them
        ("attention", "attention", 76_800, MAPS),
        ("layers", "attention", 76_800, MAPS),
        ("points", "points", 300_000, POINTS),
        ("matching", "matching", 300_000, COSTS),
        ("bench", "bench", 300_000, BENCH),
        ("sets", "sets", 300_000, "sets:N2"),
        ("ranking", "ranking", 300_000, "values:NK spread:N2 seeds:N"),
        ("segments", "segments", 20_000, SEGMENTS + " true?:HW curve?:2n"),
    )
}


class InteractiveFigure:
    """A picture to hover over that shows itself as the last value of a cell.

    `view` one of those in `VIEWS` (attention, sets, …); `arrays` what it draws
    (uint8, int16, float16, float32; shapes in `VIEWS`); `notes` names and start, JSON;
    `picture` uint8 `[H, W, 3]` or None; `summary` what a reader who cannot see it
    should know; `caption` what the figure is no evidence of.
    Raises: ValueError for an unknown view, a missing array, or shapes that disagree.
    """

    def __init__(
        self,
        view: str,
        arrays: dict[str, np.ndarray],
        notes: dict,
        *,
        picture: np.ndarray | None = None,
        title: str,
        summary: str = "",
        caption: str = "",
    ) -> None:
        check_arrays(view, arrays)
        self.view, self.notes, self.title = view, notes, title
        self.summary, self.caption = summary or title, caption
        self.arrays = {name: np.ascontiguousarray(a) for name, a in arrays.items()}
        self._coded = None
        if picture is not None:
            self._coded = _code_picture(picture, VIEWS[view].max_pixels)
        # what a browser will see: after the losses of the picture's coding
        self.picture = None if self._coded is None else _decode_picture(self._coded[1])

    @property
    def shown(self) -> np.ndarray:
        """The picture as a browser sees it, or plain grey: uint8 `[H, W, 3]`."""
        if self.picture is not None:
            return self.picture
        return np.full((*still.size_of(self), 3), 128, np.uint8)

    @cached_property
    def bundle(self) -> dict:
        """Everything figure.mjs draws from, as JSON values."""
        height, width = still.size_of(self)
        packed = b"".join(array.tobytes() for array in self.arrays.values())
        return {
            "version": 1,
            **{name: getattr(self, name) for name in TOLD},
            "picture": self._coded and _data_uri(*self._coded),
            "width": width,
            "height": height,
            "lut": _base64(still.LUT.tobytes()),
            "colours": list(COLOURS),
            "style": _style(self.view),
            "arrays": {
                name: {"dtype": TYPES[array.dtype.name], "shape": list(array.shape)}
                for name, array in self.arrays.items()
            },
            "data": _base64(zlib.compress(packed, 9)),
        }

    def page(self) -> str:
        """The self-contained document inside the frame."""
        # inside <script> only "<" is dangerous: it could close the element
        data = _json(self.bundle).replace("<", "\\u003c")
        return PAGE.format(
            title=html.escape(self.title), data=data, module=module(self.view)
        )

    def html(self) -> str:
        """The fragment for any page: poster, and the live frame on top of it."""
        return FRAGMENT.format(
            wide=WIDE,
            high=HIGH,
            poster=_data_uri("webp", posters.poster(self, (WIDE, HIGH), "webp", HINT)),
            summary=html.escape(f"{self.title}. {self.summary}"),
            title=html.escape(self.title),
            page=html.escape(self.page()),
        )

    @property
    def size(self) -> int:
        """Bytes that the figure adds to a notebook or page."""
        return len(self.html().encode())

    def poster(self) -> bytes:
        """The first state as a PNG, drawn in Python from the same arrays."""
        return posters.poster(self, (WIDE, HIGH))

    def save_html(self, path: Path | str) -> None:
        """Write one page that needs nothing else.

        Raises: ValueError for another suffix, FileNotFoundError for a missing folder.
        """
        path = _checked(path, ".html")
        document = DOCUMENT.format(title=html.escape(self.title), figure=self.html())
        write_whole(path, lambda part: part.write_text(document, encoding="utf-8"))

    def save_png(self, path: Path | str) -> None:
        """Write the poster.

        Raises: ValueError for another suffix, FileNotFoundError for a missing folder.
        """
        path, content = _checked(path, ".png"), self.poster()
        write_whole(path, lambda part: part.write_bytes(content))

    def __repr__(self) -> str:
        return f"<interactive figure: {self.title}>. {self.summary}"

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return {"text/html": self.html(), "text/plain": repr(self)}


def check_arrays(view: str, arrays: dict[str, np.ndarray]) -> None:
    """Raise ValueError, with the cure, unless a view can draw these arrays."""
    if view not in VIEWS:
        raise ValueError(f"unknown view {view!r}: one of {', '.join(sorted(VIEWS))}")
    wanted, lengths = VIEWS[view].shapes, {}
    known = {name.rstrip("?") for name in wanted}
    if unknown := sorted(set(arrays) - known):
        raise ValueError(f"view {view!r} draws no {unknown[0]!r}: {sorted(known)}")
    for name, axes in wanted.items():
        array = arrays.get(name.rstrip("?"))
        if array is not None:
            _check_array(name.rstrip("?"), array, axes, lengths)
        elif not name.endswith("?"):
            raise ValueError(f"view {view!r} needs the array {name!r} [{axes}]")


def _check_array(name: str, array: np.ndarray, axes: str, lengths: dict) -> None:
    if array.dtype.name not in TYPES:
        raise ValueError(f"{name} is {array.dtype}: make it one of {', '.join(TYPES)}")
    if array.ndim != len(axes) or 0 in array.shape:
        raise ValueError(
            f"{name} has shape {array.shape}, not [{', '.join(axes)}], none of them 0"
        )
    for axis, length in zip(axes, array.shape):
        known = int(axis) if axis.isdigit() else lengths.setdefault(axis, length)
        if length != known:
            raise ValueError(
                f"{name} {array.shape} has {length} along {axis} where {known} is "
                f"expected: all arrays of [{', '.join(axes)}] must agree"
            )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"{name} holds NaN or infinity: draw a healthy model's values")


def module(*views: str) -> str:
    """Text of one ES module: what all views share and those asked for, or all.

    The files are joined as they are; only imports of one another, comment lines and
    indentation are left out.
    """
    files = dict.fromkeys(VIEWS[view].file for view in views or VIEWS)
    text = "\n".join(
        _read(f"{name}.mjs") for name in ("stage", "controls", "figure", *files)
    )
    text = re.sub(r"^import [^;]*;", "", text, flags=re.MULTILINE)
    return re.sub(r"^(\s*//.*)?\n|^\s+", "", text, flags=re.MULTILINE)


def _style(view: str) -> str:
    own = f"{VIEWS[view].file}.css"
    there = (resources.files(__package__) / own).is_file()
    return _read("figure.css") + (_read(own) if there else "")


def _read(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _code_picture(picture: np.ndarray, max_pixels: int) -> tuple[str, bytes]:
    """Shrink if need be, then WebP or PNG, whichever is smaller."""
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise ValueError(
            f"the picture is {picture.dtype} {picture.shape}: give uint8 [H, W, 3]"
        )
    image = Image.fromarray(np.ascontiguousarray(picture))
    scale = min(1.0, (max_pixels / (image.width * image.height)) ** 0.5)
    if scale < 1:
        size = int(image.width * scale), int(image.height * scale)
        image = image.resize(size, Image.Resampling.LANCZOS)
    codings = {}
    for kind, options in {"webp": {"quality": 88, "method": 6}, "png": {}}.items():
        file = io.BytesIO()
        image.save(file, kind, optimize=True, **options)
        codings[kind] = file.getvalue()
    return min(codings.items(), key=lambda coding: len(coding[1]))


def _decode_picture(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{_base64(content)}"


def _json(value: dict) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _checked(path: Path | str, suffix: str) -> Path:
    path = Path(path)
    if path.suffix != suffix:
        raise ValueError(f"{path} does not end in {suffix}: that is what is written")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"no folder {path.parent}: make it first")
    return path


# No colour scheme here: until the script has drawn, the frame stays clear and the
# poster behind it is seen. Then the background hides its corners behind the card's.
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>html,body{{margin:0;height:100%;overflow:hidden}}
#figure{{height:100%;background:var(--paper)}}</style>
<div id="figure"></div>
<script type="application/json" id="bundle">{data}</script>
<script type="module">{module}
start(document.getElementById("figure"), document.getElementById("bundle"));
</script></html>
"""

# Whole pixels: a frame that is rounded up would lose its right border.
FRAGMENT = """\
<div style="position:relative;width:100%;\
width:round(down,100%,1px);max-width:{wide}px;height:{high}px;\
border-radius:10px;overflow:hidden">\
<img src="{poster}" alt="{summary}" width="{wide}" height="{high}" \
style="width:100%;height:100%;margin:0;object-fit:contain">\
<iframe srcdoc="{page}" sandbox="allow-scripts" title="{title}" loading="lazy" \
style="position:absolute;inset:0;width:100%;height:100%;border:0"></iframe></div>"""

DOCUMENT = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width">
<style>:root{{color-scheme:light dark}}body{{margin:1rem}}</style>
{figure}
</html>
"""
