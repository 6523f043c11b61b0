"""A picture as a model takes it, whether it finds boxes or paints."""

import numpy as np
from PIL import Image
from torch import nn

from ..data.pictures import picture_tensor
from ..data.transforms import Augment, Sample
from ..images import ImageBatch, normalise


def to_batch(
    model: nn.Module, picture: Image.Image, rule: tuple[int, int]
) -> ImageBatch:
    """One image, scaled by `rule` (see `predict.predict`), on the model's device."""
    sample = Sample.start(picture, np.zeros((0, 4)))
    sample = Augment.none(*rule)(sample, np.random.default_rng(0))
    device = next(model.parameters()).device
    pixels = normalise(picture_tensor(sample.picture))
    return ImageBatch.from_list([pixels]).to(device)
