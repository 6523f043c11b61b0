"""detr_steps: the DETR family, one idea at a time."""

__version__ = "0.1.0"
