"""detr_steps: the DETR family, one idea at a time."""

from . import evaluation, interop, training, zoo
from .detections import Detections, Instances, Panoptic
from .images import ImageBatch
from .systems.adamixer import AdaMixer, AdaMixerConfig
from .systems.conditional_detr import ConditionalDETR, ConditionalDETRConfig
from .systems.dab_detr import DABDETR, DABDETRConfig
from .systems.deformable_detr import DeformableDETR, DeformableDETRConfig
from .systems.denoising import Denoise
from .systems.detr import DETR, DETRConfig
from .systems.encoder_only import EncoderOnly, EncoderOnlyConfig
from .systems.group_detr import Groups
from .systems.h_detr import Hybrid, Repeated
from .systems.output import Output
from .systems.panoptic import PanopticDETR, PanopticDETRConfig
from .systems.sqr import LoopLast, Recollect
from .systems.tsp import TSPFCOS, TSPFCOSConfig

__version__ = "0.1.0"
__all__ = [
    "DABDETR",
    "DETR",
    "TSPFCOS",
    "AdaMixer",
    "AdaMixerConfig",
    "ConditionalDETR",
    "ConditionalDETRConfig",
    "DABDETRConfig",
    "DETRConfig",
    "DeformableDETR",
    "DeformableDETRConfig",
    "Denoise",
    "Detections",
    "EncoderOnly",
    "EncoderOnlyConfig",
    "Groups",
    "Hybrid",
    "ImageBatch",
    "Instances",
    "LoopLast",
    "Output",
    "Panoptic",
    "PanopticDETR",
    "PanopticDETRConfig",
    "Recollect",
    "Repeated",
    "TSPFCOSConfig",
    "evaluation",
    "interop",
    "training",
    "zoo",
]
