"""Training: one loop for every system (used from chapters/02_detr.ipynb on)."""

from .kept import kept_weights
from .recipe import Recipe
from .teacher import Teacher
from .trainer import train

__all__ = ["Recipe", "Teacher", "kept_weights", "train"]
