"""Figures with sliders, and the same figure as a still where there is no kernel."""

import base64
import sys
from collections.abc import Callable

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from .inline import small_png

# what a parameter may be: (low, high, step, start), a list of choices, or a switch
Slider = tuple | list | bool
VIEW = "application/vnd.jupyter.widget-view+json"


def play(draw: Callable[..., Figure | None], **sliders: Slider) -> None:
    """Show a figure and a slider for each of its parameters.

    `draw(**values)` makes a figure with pyplot; the first line of its docstring is
    the figure's text for readers who cannot see it. A slider is `(low, high, step,
    start)`, a list of choices (the first is the start), or True/False. Without a
    running notebook the figure stays as it starts.
    Built in chapters/00_start_here.ipynb.
    """
    values = {name: start_of(slider) for name, slider in sliders.items()}
    shell = _shell()
    if shell is None:
        draw(**values)
        plt.show()
        return
    controls = _controls(sliders)
    if controls and "google.colab" in sys.modules:
        _show_widgets([*_as_widget(draw, values, controls), *controls.values()])
    else:
        _as_output(draw, values, controls)
        if controls:
            _show_widgets(list(controls.values()))


def start_of(slider: Slider) -> object:
    """Find the value that a slider starts with."""
    if isinstance(slider, tuple):
        return slider[3]
    return slider[0] if isinstance(slider, list) else slider


def _shell() -> object | None:
    """The running notebook, if this is one."""
    try:
        from IPython import get_ipython
    except ImportError:
        return None
    shell = get_ipython()
    return shell if getattr(shell, "kernel", None) else None


def _picture(draw: Callable, values: dict) -> bytes:
    with plt.ioff():
        figure = draw(**values) or plt.gcf()
        png = small_png(figure)
        plt.close(figure)
    return png


def _controls(sliders: dict[str, Slider]) -> dict:
    """One widget for each parameter; none where ipywidgets is not installed."""
    try:
        import ipywidgets
    except ImportError:
        return {}
    made = {}
    for name, slider in sliders.items():
        look = {"description": name.replace("_", " ")}
        look["style"] = {"description_width": "9em"}
        if isinstance(slider, tuple):
            whole = all(isinstance(number, int) for number in slider)
            kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
            look |= dict(zip(("min", "max", "step", "value"), slider))
            made[name] = kind(layout={"width": "30em"}, **look)
        elif isinstance(slider, list):
            made[name] = ipywidgets.Dropdown(options=slider, value=slider[0], **look)
        else:
            made[name] = ipywidgets.Checkbox(value=slider, **look)
    return made


def _as_output(draw: Callable, values: dict, controls: dict) -> None:
    """The still is an ordinary output, which the sliders replace in place."""
    from IPython.display import display

    words = (draw.__doc__ or "a figure").strip().splitlines()[0]

    def bundle() -> dict:
        png = base64.b64encode(_picture(draw, values)).decode()
        return {"image/png": png, "text/plain": words}

    still = display(bundle(), raw=True, display_id=True)

    def moved(name: str, value: object) -> None:
        values[name] = value
        still.update(bundle(), raw=True)

    _listen(controls, moved)


def _as_widget(draw: Callable, values: dict, controls: dict) -> list:
    """Colab does not replace outputs from a slider: there the figure is a widget."""
    import ipywidgets

    image = ipywidgets.Image(value=_picture(draw, values), format="png")
    image.layout.object_fit = "none"

    def moved(name: str, value: object) -> None:
        values[name] = value
        image.value = _picture(draw, values)

    _listen(controls, moved)
    return [image]


def _listen(controls: dict, moved: Callable[[str, object], None]) -> None:
    for name, control in controls.items():
        control.observe(lambda change, name=name: moved(name, change["new"]), "value")


def _show_widgets(widgets: list) -> None:
    import ipywidgets
    from IPython.display import display

    # only the view: a text beside it would differ between versions of ipywidgets
    model = ipywidgets.VBox(widgets).model_id
    view = {"version_major": 2, "version_minor": 0, "model_id": model}
    display({VIEW: view}, raw=True)
