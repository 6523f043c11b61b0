"""Weights from elsewhere: the checkpoints of the authors and Hugging Face's.

A checkpoint is read without running anything inside it, its names are translated by the
tables of layouts.py, every weight is checked, and only then is the model changed. They
are those of facebookresearch/detr, fundamentalvision/Deformable-DETR, Atten4Vis/
ConditionalDETR, IDEA-Research/DAB-DETR, HDETR/H-Deformable-DETR and MCG-NJU/AdaMixer on
GitHub, and of transformers 5.23.0.
"""

from .loading import Report, load_hf, load_official
from .names import to_official
from .opening import Opened, load, open_checkpoint
from .recognising import presets
from .unwrapping import CheckpointError

__all__ = [
    "CheckpointError",
    "Opened",
    "Report",
    "load",
    "load_hf",
    "load_official",
    "open_checkpoint",
    "presets",
    "to_official",
]
