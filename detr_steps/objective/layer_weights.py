"""How much each decoder layer's own loss counts: auxiliary losses, weighed.

Built in chapters/11_sqr.ipynb.
"""

from collections.abc import Callable
from dataclasses import dataclass

from ..describable import describable


def _fibonacci(layers: int) -> list[float]:
    numbers = [1, 2]
    while len(numbers) < layers:
        numbers.append(numbers[-1] + numbers[-2])
    return [number / numbers[layers - 1] for number in numbers[:layers]]


# name -> the weights of so many layers; the last layer always has 1
SCHEDULES: dict[str, Callable[[int], list[float]]] = {
    "uniform": lambda layers: [1.0] * layers,
    "none": lambda layers: [0.0] * (layers - 1) + [1.0],
    "first off": lambda layers: ([0.0] + [1.0] * layers)[: layers - 1] + [1.0],
    "linear": lambda layers: [(y + 1) / layers for y in range(layers)],
    "fibonacci": _fibonacci,
}


@describable
@dataclass(frozen=True)
class LayerWeights:
    """Weights of the decoder layers' losses, by the name of a schedule.

    "uniform": every layer as if it were the last (Al-Rfou et al. 2019, by way of Carion
    et al. 2020, section 3.2); "none": the last alone, without auxiliary losses; "first
    off": all but the first; "linear": 1/Y, 2/Y, …, 1; "fibonacci": 1, 2, 3, 5, 8, 13 of
    13, the shares that SQR's sets give the layers (Chen et al. 2023), at no cost.
    Raises: ValueError for another name.
    """

    schedule: str = "uniform"

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            names = ", ".join(map(repr, SCHEDULES))
            raise ValueError(f"no schedule {self.schedule!r} of layers: {names}")

    def of(self, layers: int) -> tuple[float, ...]:
        """The weight of each of so many layers, in [0, 1]; the last one's is 1."""
        return tuple(SCHEDULES[self.schedule](layers))
