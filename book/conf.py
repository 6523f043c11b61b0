"""How Sphinx makes the site. `python3 course.py book` writes the pages it reads."""

import importlib.metadata
import shutil
import sys
from pathlib import Path

BOOK = Path(__file__).resolve().parent
sys.path.insert(0, str(BOOK.parent))

from tools.book import dark, fonts, search  # noqa: E402
from tools.book.chapters import every_chapter  # noqa: E402
from tools.book.docstrings import Docstrings, sign, skip  # noqa: E402
from tools.book.library import Library  # noqa: E402

project = "detr_steps"
author = "the detr_steps authors"
copyright = "the detr_steps authors. Text: CC BY 4.0. Code: Apache-2.0"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.viewcode",
    "sphinx.ext.mathjax",
    "sphinx_copybutton",
]
templates_path = ["_templates"]
exclude_patterns = ["extra"]
nitpicky = False  # Tensor, Path and other people's classes have no page here

# --- notebooks: kept outputs are shown, nothing is run ---
nb_execution_mode = "off"
nb_render_markdown_format = "myst"
nb_merge_streams = True
nb_ipywidgets_js = {}
myst_enable_extensions = ["attrs_inline", "dollarmath"]
myst_heading_anchors = 3
copybutton_exclude = ".linenos, .gp"

# --- the library ---
add_module_names = False
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
python_maximum_signature_line_length = 72
python_use_unqualified_type_names = True
viewcode_line_numbers = False
toc_object_entries_show_parents = "hide"  # forward() under DETR, not DETR.forward()

# --- looks ---
html_theme = "sphinx_book_theme"
html_title = "detr_steps"
html_static_path = ["_static"]
html_extra_path = []
html_css_files = ["fonts.css", "book.css"]
html_js_files = [(name, {"defer": "defer"}) for name in ("book.js", "search.js")]
html_favicon = "_static/favicon.svg"
html_copy_source = False
html_show_sourcelink = False
html_show_search_summary = False  # it would fetch pages, which file:// forbids
html_domain_indices = False
html_use_index = False
pygments_style = "default"
html_sidebars = {
    "index": [],
    "**": ["brand.html", "search-button-field.html", "sbt-sidebar-nav.html"],
}
html_context = {"default_mode": "auto"}
html_theme_options = {
    "navbar_persistent": [],
    "article_header_start": ["toggle-primary-sidebar.html", "brand.html"],
    "footer_content_items": ["licence.html"],
    "collapse_navbar": True,
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "pygments_light_style": "github-light-colorblind",
    "pygments_dark_style": "github-dark-colorblind",
}

# Formulas: one file, no fonts, no network.
mathjax_path = "mathjax/tex-svg.js"
mathjax4_config = None


def copy_mathjax(app, error) -> None:
    """The one file of MathJax that is needed, from its package to the site."""
    if error is None:
        package = importlib.metadata.distribution("sphinx-mathjax-offline")
        inside = "sphinx-mathjax-offline/static/mathjax/tex-svg.js"
        folder = Path(app.outdir) / "_static" / "mathjax"
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(package.locate_file(inside), folder)


def keep_text(app, pagename, templatename, context, doctree) -> None:
    """Sphinx's html-page-context: what the search looks through (search.js)."""
    if doctree is not None:
        app.env.book_text[pagename] = search.text_of(doctree)
    if pagename == "search":
        app.add_js_file("book-text.js")


def write_text(app, error) -> None:
    """The text of all pages, as a script: files may not be fetched."""
    if error is None:
        search.write(app.env.book_text, Path(app.outdir) / "_static")


def drop_templates(app, error) -> None:
    """The themes' templates, which Sphinx copies among their styles: not pages."""
    if error is None:
        for path in (Path(app.outdir) / "_static").rglob("*.html"):
            path.unlink()


def darken_plots(app, error) -> None:
    """Plots have a twin for the dark theme."""
    if error is None:
        dark.add_to(sorted(Path(app.outdir).glob("chapters/*.html")))


def write_fonts(app, error) -> None:
    """The letters of the pages, as a style sheet."""
    if error is None:
        fonts.write(BOOK / "fonts", Path(app.outdir) / "_static")


def copy_notebooks(app, error) -> None:
    """The notebooks as they are, for the download buttons."""
    if error is None:
        shutil.copytree(Path(app.srcdir) / "extra", app.outdir, dirs_exist_ok=True)


def setup(app) -> None:
    labels = {chapter.stem: chapter.label for chapter in every_chapter()}
    names = {}
    for public in Library().public:
        names |= {public.full: public.full, public.called: public.full}
        names.setdefault(public.name, public.full)
    app.connect("autodoc-process-docstring", Docstrings(labels, names).process)
    app.connect("autodoc-process-signature", sign)
    app.connect("autodoc-skip-member", skip)
    app.connect("builder-inited", lambda app: setattr(app.env, "book_text", {}))
    app.connect("html-page-context", keep_text)
    app.connect("build-finished", write_text)
    app.connect("build-finished", copy_mathjax)
    app.connect("build-finished", darken_plots)
    app.connect("build-finished", write_fonts)
    app.connect("build-finished", drop_templates)
    app.connect("build-finished", copy_notebooks)
