"""Names in any script: what is drawn has a glyph, and what is not is said."""

import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from matplotlib.ft2font import FT2Font
from PIL import Image, ImageDraw, features

from detr_steps.cli import lettering as letters
from detr_steps.cli.lettering import DEJAVU, lettering, said_once

CACHES = letters.lettering, letters._system_font, letters._system_fonts


def forget():
    for cache in CACHES:
        cache.cache_clear()


@pytest.fixture
def system(monkeypatch):
    """Sets the font files that the system has."""

    def have(*files):
        monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [*map(str, files)])
        forget()

    have()
    yield have
    monkeypatch.undo()
    forget()


def font(file, text, drawn=True):
    """A font with these letters: filled squares, or glyphs without outline."""
    names = [".notdef", *(f"u{ord(c):04X}" for c in text)]
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder(names)
    builder.setupCharacterMap({ord(c): f"u{ord(c):04X}" for c in text})
    builder.setupGlyf({name: square() if drawn else empty() for name in names})
    builder.setupHorizontalMetrics({name: (1000, 0) for name in names})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": file.stem, "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, usWinAscent=800, usWinDescent=200)
    builder.setupPost()
    builder.save(file)
    return file


def square():
    pen = TTGlyphPen(None)
    pen.moveTo((50, 0))
    for point in ((50, 700), (950, 700), (950, 0)):
        pen.lineTo(point)
    pen.closePath()
    return pen.glyph()


def empty():
    return TTGlyphPen(None).glyph()


def assert_every_letter_has_a_glyph(drawn):
    for text, file in drawn.pieces:
        face = FT2Font(str(file))
        assert all(face.get_char_index(ord(c)) for c in text), (text, file)


@pytest.mark.parametrize(
    "name",
    ["screw M8", "naïve café", "Шуруп", "βίδα", "螺丝", "한글", "हिन्दी", "😀👍️", "a\nb"]
    + ["x\u200dy", "\ud83d", "ＡＢ中", "ไทย", "\U0010fffd", "עברית", "عربي", ""],
)
def test_nothing_is_drawn_as_an_empty_box(system, name):
    """With the fonts of matplotlib alone."""
    drawn = lettering(name)
    assert_every_letter_has_a_glyph(drawn)
    assert {piece.font for piece in drawn.pieces} <= {DEJAVU}
    assert bool(list(said_once([name]))) == bool(drawn.lacking)


@pytest.mark.parametrize("name", ["screw M8 0.93", "naïve café", "Шуруп", "βίδα"])
def test_what_dejavu_has_is_drawn_as_it_is(system, name):
    assert lettering(name).text == name and lettering(name).lacking == ""


def test_without_a_font_letters_become_plain_ones_or_codes_and_it_is_said(system):
    assert lettering("螺丝 5").text == "\\u87ba\\u4e1d 5"
    assert lettering("ＡＢ").text == "AB"  # wide letters
    (line,) = said_once(["螺丝", "nut", "螺丝"])
    assert "螺丝" in line and "\\u87ba\\u4e1d" in line and "font" in line
    assert list(said_once(["nut", "Шуруп"])) == []


def test_a_font_of_the_system_is_found(system, tmp_path):
    file = font(tmp_path / "Han.ttf", "螺丝")
    system(font(tmp_path / "Other.ttf", "x"), file)
    drawn = lettering("螺丝 0.93")
    assert [(text, used) for text, used in drawn.pieces] == [
        ("螺丝", file),
        (" 0.93", DEJAVU),
    ]
    assert drawn.lacking == "" and list(said_once(["螺丝"])) == []


def test_one_font_for_the_whole_name_before_one_for_each_letter(system, tmp_path):
    some = font(tmp_path / "A.ttf", "螺")
    all_of_them = font(tmp_path / "Mono Bold Serif.ttf", "螺丝")
    system(some, all_of_them)
    assert [piece.font for piece in lettering("螺丝").pieces] == [all_of_them]
    other = font(tmp_path / "B.ttf", "丝")
    system(some, other)
    assert [piece.font for piece in lettering("螺丝").pieces] == [some, other]


def test_plain_fonts_come_before_bold_ones(system, tmp_path):
    bold = font(tmp_path / "A-Bold.ttf", "螺")
    plain = font(tmp_path / "B-Regular.ttf", "螺")
    system(bold, plain)
    assert [piece.font for piece in lettering("螺").pieces] == [plain]


def test_fonts_that_draw_nothing_or_boxes_are_not_taken(system, tmp_path):
    broken = tmp_path / "broken.ttf"
    broken.write_bytes(b"no font")
    blank = font(tmp_path / "Colour.ttf", "螺", drawn=False)
    boxes = font(tmp_path / "LastResort.otf", "螺")
    system(broken, blank, boxes, tmp_path / "gone.ttf")
    assert lettering("螺").text == "\\u87ba"


def test_without_raqm_arabic_is_not_drawn_the_wrong_way_round(system, monkeypatch):
    monkeypatch.setattr(features, "check", lambda name: False)
    assert lettering("عر").text == "\\u0639\\u0631"
    (line,) = said_once(["عر"])
    assert "FriBiDi" in line


def test_it_is_as_wide_as_it_says(system):
    image = Image.new("L", (400, 60))
    drawn = lettering("screw M8 \u4e1d")
    drawn.draw(ImageDraw.Draw(image), (10, 5), 24, "white")
    left, top, right, bottom = image.getbbox()
    assert abs(right - left - drawn.width(24)) < 6
    assert 5 <= top and bottom <= 5 + 1.25 * 24 + 1
