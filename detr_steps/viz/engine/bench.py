"""The anchor bench in NumPy: where an anchor's code looks; what bench.mjs computes.

Scores of positions are separable, s_y(y) + s_x(x): a map is a column times a row. The
poster is drawn from these numbers, and the page is tested against them.
"""

from typing import NamedTuple

import numpy as np

QUERY_TEMPERATURE = 10_000.0  # of a query's code, whatever the keys' (official code)
IDENTITY, UNTRAINED, TRAINED = range(3)  # which projections, `weights` of a state
THINNEST = 1e-4  # as the model: a side of 0 would divide by it


class Profile(NamedTuple):
    """One axis of the positional map, and the Gaussian that the derivation predicts.

    `weights [n]` of the cells, mean of the heads; `width` their standard deviation
    within a head, `predicted` the Gaussian's, both shares of the map; `ratio` is a, the
    expected side by the anchor's; `centres`, `widths [M]` of each head's Gaussian.
    """

    weights: np.ndarray
    width: float
    predicted: float
    ratio: float
    centres: np.ndarray
    widths: np.ndarray

    def gaussian(self, at: np.ndarray) -> np.ndarray:
        """The prediction at evenly spaced places `[n]` all over the map.

        In the weight of a cell: over the map the mean is 1 / n, as the weights' is.
        """
        far = (at - self.centres[:, None]) / self.widths[:, None]
        bell = np.exp(-(far**2) / 2)  # [M, n]
        total = bell.mean(1, keepdims=True) * len(self.weights)
        return (bell / np.maximum(total, 1e-30)).mean(0)


class Look(NamedTuple):
    """What a state shows: maps `[3, h, w]` (position, content, sum), two profiles."""

    maps: np.ndarray
    x: Profile
    y: Profile


def look(arrays: dict[str, np.ndarray], state: dict) -> Look:
    """Compute what the bench shows, as `notes["start"]` describes a state."""
    head = state["head"]
    mine = slice(None) if head < 0 else slice(head, head + 1)
    scores = [each[mine] for each in axis_scores(arrays, state)]
    plain = [each[mine] for each in axis_scores(arrays, state | {"modulate": False})]
    content = arrays["content"][mine].astype(float)  # [M, h, w]
    position = scores[0][:, :, None] + scores[1][:, None, :]
    maps = [
        _softmax(m, (1, 2)).mean(0) for m in (position, content, position + content)
    ]
    laws = [_law(arrays, state, axis, each) for axis, each in enumerate(plain)]
    y, x = map(_profile, scores, _ratios(state), laws)
    return Look(np.stack(maps), x, y)


def axis_scores(arrays: dict[str, np.ndarray], state: dict) -> list[np.ndarray]:
    """Scores along y `[M, h]` and along x `[M, w]`, but for a constant.

    `IDENTITY` compares the codes as they are, in all heads alike, both of the state's
    temperature; of projected ones it is the keys' alone, and λ goes with the trained.
    """
    heads, *sides = arrays["content"].shape
    half, weights = len(arrays["scale"]) // 2, state["weights"]
    alike = weights == IDENTITY
    temperature = state["temperature"] if alike else QUERY_TEMPERATURE
    code = sines(np.array(state["anchor"][1::-1]), half, temperature)  # [2, C / 2]
    if weights == TRAINED and state["lam"]:
        code = (arrays["scale"] * code.ravel() + arrays["shift"]).reshape(2, half)
    code = (code * np.array(_ratios(state))[:, None]).ravel()
    keys = np.repeat(code[None], heads, 0)  # [M, C], what the keys' codes meet
    if not alike:
        sine, bias, key = (arrays[n][weights - 1] for n in ("sine", "sine_bias", "key"))
        query = sine.astype(float) @ code + bias
        parts = key.reshape(heads, -1, 2 * half).astype(float)
        keys = np.einsum("md,mdc->mc", query.reshape(heads, -1), parts)
    keys *= _scale(arrays)
    return [
        part @ sines(cells(count), half, state["temperature"]).T
        for part, count in zip((keys[:, :half], keys[:, half:]), sides)
    ]


def sines(shares: np.ndarray, channels: int, temperature: float) -> np.ndarray:
    """Sine codes of shares of the picture: `[n] -> [n, channels]`."""
    number = np.arange(channels)
    angle = 2 * np.pi * shares[:, None] / temperature ** (number // 2 * 2 / channels)
    return np.where(number % 2, np.cos(angle), np.sin(angle))


def cells(count: int) -> np.ndarray:
    """Where the codes of so many cells lie: they are counted from 1."""
    return (np.arange(count) + 1) / count


def _scale(arrays: dict) -> float:
    """Scores are divided by the root of a head's width, content and position."""
    return (2 * len(arrays["scale"]) / len(arrays["content"])) ** -0.5


def _ratios(state: dict) -> tuple[float, float]:
    """Expected by actual height, and width; 1 without modulation."""
    if not state["modulate"]:
        return 1.0, 1.0
    (_, _, w, h), (wide, high) = state["anchor"], state["expected"]
    return high / max(h, THINNEST), wide / max(w, THINNEST)


def _law(
    arrays: dict, state: dict, axis: int, plain: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Centres and widths of the heads' Gaussians for a ratio of 1."""
    if (
        state["weights"] != IDENTITY
    ):  # no curvature in closed form: the law scales what is there
        return _moments(_softmax(plain, 1))
    # a sum of cosines of the distance d is about n - d² c / 2 / scale
    half = len(arrays["scale"]) // 2
    waves = 2 * np.pi / state["temperature"] ** (np.arange(0, half, 2) / half)
    curvature = _scale(arrays) * (waves**2).sum()
    return np.array([state["anchor"][1 - axis]]), np.array([curvature**-0.5])


def _profile(scores: np.ndarray, ratio: float, law: tuple) -> Profile:
    weights, (centres, widths) = _softmax(scores, 1), law
    widths = np.maximum(widths, 1e-6) / ratio**0.5
    width, predicted = (
        float((x**2).mean() ** 0.5) for x in (_moments(weights)[1], widths)
    )
    return Profile(weights.mean(0), width, predicted, ratio, centres, widths)


def _moments(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    at = cells(weights.shape[1])
    mean = weights @ at
    return mean, np.maximum(weights @ at**2 - mean**2, 0) ** 0.5


def _softmax(scores: np.ndarray, axes: int | tuple[int, ...]) -> np.ndarray:
    weights = np.exp(scores - scores.max(axes, keepdims=True))
    return weights / weights.sum(axes, keepdims=True)
