"""Panoptic DETR: the same queries paint masks.

Carion et al. 2020, "End-to-End Object Detection with Transformers", section 4.4.
Built in chapters/03_panoptic.ipynb.
"""

from dataclasses import dataclass, fields

from torch import Tensor

from ..describable import describable
from ..detections import Instances, Panoptic
from ..images import ImageBatch
from ..nn.mask_head import MaskAttention, MaskHead, MaskHeadConfig, MaskSource
from ..objective.losses import count_objects
from ..objective.masks import (
    MaskLossWeights,
    check_masks,
    gather_masks,
    mask_losses,
    matched_pairs,
)
from . import segmentation
from .detr import DETR, DETRConfig
from .output import Output
from .scheme import Plain
from .segmentation import SMALLEST, THRESHOLD


@describable
@dataclass(frozen=True)
class PanopticDETRConfig(DETRConfig):
    """DETR's numbers and those of its mask head; presets as `DETRConfig` has.

    Labels below `things` can be counted, those from there on are stuff.
    """

    things: int = 0
    mask_head: MaskHeadConfig = MaskHeadConfig()
    mask_loss: MaskLossWeights = MaskLossWeights()
    freeze_detector: bool = False  # train the mask head alone, on finished boxes

    @classmethod
    def tiny(cls, **changes: object) -> "PanopticDETRConfig":
        """For Scenes and a laptop: 6 things and 4 kinds of stuff.

        Attention maps are scaled up, for its trainings are short: to a mean of 1 over 8
        heads and the 64 cells of a picture of 128 pixels.
        """
        settings = dict(classes=10, things=6, mask_head=MaskHeadConfig(map_scale=512.0))
        return super().tiny(**(settings | changes))

    @classmethod
    def coco_r50(cls, **changes: object) -> "PanopticDETRConfig":
        """The paper's model: 42,676,888 trainable weights, boxes and masks together.

        Category ids of COCO's panoptic files are the labels: things up to 90, stuff up
        to 200; the official code has room for 250.
        """
        return super().coco_r50(**(dict(classes=250, things=91) | changes))

    @property
    def detector(self) -> DETRConfig:
        """The DETR without its mask head."""
        return DETRConfig(**{f.name: getattr(self, f.name) for f in fields(DETRConfig)})

    def build(self) -> "PanopticDETR":
        """Make the module with fresh weights."""
        return PanopticDETR(self)


class PanopticDETR(DETR):
    """DETR whose queries also paint: attention maps, then a few convolutions.

    `panoptic` and `instances` answer with masks, `detect` with boxes as before.
    Source: Carion et al. 2020, section 4.4; official code.
    Built in chapters/03_panoptic.ipynb.
    """

    def __init__(self, config: PanopticDETRConfig) -> None:
        super().__init__(config)
        if config.scheme != Plain():
            raise ValueError(f"a mask head needs scheme Plain(), not {config.scheme}")
        if config.freeze_detector:
            self.requires_grad_(False)
        c, heads, head = config.channels, config.heads, config.mask_head
        finer = self.backbone.channels[-2::-1]  # all but the last, coarsest first
        if head.inputs != "features":
            self.mask_attention = MaskAttention(c, heads, head.softmax)
        self.mask_head = MaskHead(c, heads, finer, head)

    def forward(self, batch: ImageBatch, trace: bool = False) -> Output:
        """As DETR, with `masks`: what `masks` makes the masks of any queries of."""
        memory = self.encode(batch, trace)
        output = self.decode(memory, self.start(memory)[0], trace)
        maps = None
        if self.config.mask_head.inputs != "features":
            maps = self.mask_attention(
                self.decoder_norm(output.content), memory.tokens, memory.padding
            ).unflatten(-1, memory.sizes[0])  # [B, Q, M, h, w]
        source = MaskSource(
            maps,
            self.project(memory.features[-1]),  # before the encoder, as in the paper
            memory.features[-2::-1],
            tuple(batch.pixels.shape[-2:]),
        )
        return output._replace(masks=source)

    def masks(self, output: Output, image: Tensor, query: Tensor) -> Tensor:
        """Mask logits `[n, h, w]` of some queries: `image`, `query` numbers `[n]`."""
        return self.mask_head(output.masks, image, query)

    def loss(
        self, output: Output, targets: list[dict], matched: Tensor | None = None
    ) -> dict[str, Tensor]:
        """DETR's terms, and `mask` (focal) and `dice` of the last layer's masks.

        `targets` have `masks [n, H, W]` bool besides, as large as each image in the
        batch. Only queries whose boxes are matched get a mask, in the last layer; there
        `matched` counts as in DETR. A frozen detector has no terms.
        Raises: as DETR, and ValueError for bad masks.
        """
        padded = self.padded(output, targets)
        check_masks(targets, output.masks.pixels)
        terms = {}
        if not self.config.freeze_detector:
            terms = self.criterion(output, padded, matched)
        if matched is None:
            last = output.logits[-1:], output.boxes[-1:]
            matched = self.criterion.match(*last, padded)
        pairs = matched_pairs(matched[-1])
        image, query = pairs.image, pairs.query
        if not len(image):  # all weights need a gradient, be it 0
            image = query = image.new_zeros(1)
        logits = self.masks(output, image, query)[: len(pairs.image)]
        true = gather_masks(targets, pairs, output.masks.pixels)
        focal, dice = mask_losses(logits, true, count_objects(padded, logits))
        weights = self.config.mask_loss
        total = terms.get("total", 0) + weights.focal * focal + weights.dice * dice
        return terms | {"mask": focal, "dice": dice, "total": total}

    def panoptic(
        self,
        batch: ImageBatch,
        sizes: list[tuple[int, int]],
        threshold: float = THRESHOLD,
        smallest: int = SMALLEST,
    ) -> list[Panoptic]:
        """Put every pixel into a segment: one `Panoptic` per image.

        `sizes` (H, W) in pixels of each original image. Queries below `threshold` are
        left out, as are segments of at most `smallest` pixels. Without a kept query all
        is void. Raises: as `detect`.
        """
        output, frames = self.predict(batch, sizes), segmentation.frames(batch, sizes)
        return segmentation.panoptic(self, output, frames, threshold, smallest)

    def instances(
        self,
        batch: ImageBatch,
        sizes: list[tuple[int, int]],
        threshold: float = 0.5,
    ) -> list[Instances]:
        """Find things with their masks: one `Instances` per image, best first.

        `sizes` as in `detect`; masks are made of queries of at least `threshold` only.
        """
        output, frames = self.predict(batch, sizes), segmentation.frames(batch, sizes)
        return segmentation.instances(self, output, frames, threshold)
