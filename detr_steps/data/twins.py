"""Find the twin: a game that needs asking (chapters/01_attention.ipynb).

Objects lie on a small board, two of each colour. Every object has to say something
about the other one of its colour, wherever it lies.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Boards:
    """Dealt boards; cells S lie row by row, -1 stands where there is no object.

    `tokens [B, S, colours + shapes]` ones where an object has that colour and shape;
    `colour`, `shape [B, S]`; `twin [B, S]` the cell of the other one of that colour;
    `size` rows and columns.
    """

    tokens: Tensor
    colour: Tensor
    shape: Tensor
    twin: Tensor
    size: tuple[int, int]

    @property
    def twin_shape(self) -> Tensor:
        """Shape of each object's twin `[B, S]`."""
        found = self.shape.gather(1, self.twin.clamp(min=0))
        return found.where(self.twin >= 0, -1)

    @property
    def twin_column(self) -> Tensor:
        """Column of each object's twin `[B, S]`."""
        return (self.twin % self.size[1]).where(self.twin >= 0, -1)

    @property
    def distance(self) -> Tensor:
        """King's moves from each object to its twin `[B, S]`."""
        columns = self.size[1]
        own = torch.arange(self.twin.shape[1])
        down = (own // columns - self.twin // columns).abs()
        along = (own % columns - self.twin % columns).abs()
        return torch.maximum(down, along).where(self.twin >= 0, -1)


@dataclass(frozen=True)
class TwinGame:
    """Two objects of each colour, of random shapes, on random cells of a board.

    Raises: ValueError when the board has fewer cells than there are objects.
    """

    rows: int = 6
    columns: int = 8
    colours: int = 8
    shapes: int = 4

    def __post_init__(self) -> None:
        if 2 * self.colours > self.rows * self.columns:
            raise ValueError(
                f"{2 * self.colours} objects do not fit on "
                f"{self.rows} x {self.columns} cells: take fewer colours"
            )

    def deal(self, boards: int, generator: torch.Generator) -> Boards:
        """Deal that many boards."""
        cells, objects = self.rows * self.columns, 2 * self.colours
        order = torch.rand(boards, cells, generator=generator).argsort(1)
        place = order[:, :objects]  # [B, 2 * colours] distinct cells
        colours = torch.arange(self.colours).repeat(boards, 2)
        shapes = torch.randint(self.shapes, (boards, objects), generator=generator)
        empty = torch.full((boards, cells), -1)
        row = torch.arange(boards)[:, None]
        tokens = torch.zeros(boards, cells, self.colours + self.shapes)
        tokens[row, place, colours] = 1
        tokens[row, place, self.colours + shapes] = 1
        return Boards(
            tokens,
            empty.scatter(1, place, colours),
            empty.scatter(1, place, shapes),
            empty.scatter(1, place, place.roll(self.colours, 1)),
            (self.rows, self.columns),
        )
