"""Training: one loop for every system (used from chapters/02_detr.ipynb on)."""

from .recipe import Recipe
from .trainer import train

__all__ = ["Recipe", "train"]
