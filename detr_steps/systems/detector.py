"""What all detectors share, and the decoder loop of those with object queries.

A system of the family says how an image is encoded, where its queries come from, and
what one decoder layer does (`step`); everything else is here (chapters/02_detr.ipynb).
"""

from contextlib import nullcontext
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor, nn

from ..detections import Detections
from ..images import ImageBatch
from ..nn.backbone import BackboneConfig
from ..nn.memory import Memory
from ..nn.queries import Queries
from ..nn.trace import LayerTrace
from ..objective.classification import Classification
from ..objective.criterion import PredictionSets, SetCriterion
from ..objective.layer_weights import LayerWeights
from ..objective.losses import LossWeights
from ..objective.matching import CostWeights, PaddedTargets, pad_targets
from ..ops import backend
from .output import Output, Prediction
from .scheme import PLAIN, check_scheme


class DetectorConfig(Protocol):
    """What every detector's config says; a frozen dataclass with `build()`."""

    classes: int  # without "no object"
    backbone: BackboneConfig
    classification: Classification
    cost: CostWeights
    loss: LossWeights
    layer_weights: LayerWeights


class Detector(nn.Module):
    """A module with a set loss and detections; `config` says how classes are told."""

    max_tokens = 20_000  # dense attention takes their square in time, traced in memory
    wants_targets = False  # does `forward` take them in training?
    matches_any_pair = True  # or are only some queries allowed for each object?
    fixed_queries = True  # is query n the same one in every image and step?

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__()
        self.config = config
        self.criterion = SetCriterion(
            config.classification, config.cost, config.loss, config.layer_weights
        )
        self.backbone = config.backbone.build()

    def tokens(self, height: int, width: int) -> int:
        """How many tokens an image of so many pixels makes, over all levels."""
        raise NotImplementedError

    def match(self, output: Output, targets: PaddedTargets) -> Tensor:
        """Assign queries to objects in every layer: `[Y, B, N]`, -1 for none."""
        real = output.real
        allowed = None if real is None else real[None, :, :, None]  # [1, B, Q, 1]
        return self.criterion.match(output.logits, output.boxes, targets, allowed)

    def loss(
        self, output: Output, targets: list[dict], matched: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Set loss: terms `class`, `box`, `giou` of every layer, and their `total`.

        `targets` one dict per image: `boxes [n, 4]` cxcywh in [0, 1], `labels [n]`;
        `matched [Y or 1, B, N]` an assignment of the layers' queries from elsewhere, in
        place of their own matching (chapter 04).
        Raises: ValueError for a bad target, NonFiniteCost for diverged predictions.
        Source: Carion et al. 2020, equation 2.
        """
        padded = self.padded(output, targets)
        if matched is None and output.real is not None:
            matched = self.match(output, padded)
        return self.criterion(output, padded, matched)

    def padded(self, output: Output, targets: list[dict]) -> PaddedTargets:
        """Checked targets in tensors; ValueError for another number of images."""
        images = output.logits.shape[1]
        if len(targets) != images:
            raise ValueError(
                f"{len(targets)} targets for {images} images: give one per image"
            )
        return pad_targets(targets, self.config.classes, output.boxes.device)

    @torch.no_grad()
    def detect(
        self, batch: ImageBatch, sizes: list[tuple[int, int]]
    ) -> list[Detections]:
        """Find objects: one `Detections` per image, best first.

        `sizes` (H, W) in pixels of each original image: boxes come back in its pixels.
        Raises: TypeError, ValueError for something that is no usable batch.
        """
        return self.detections(self.predict(batch, sizes), sizes)

    @torch.no_grad()
    def predict(self, batch: ImageBatch, sizes: list[tuple[int, int]]) -> Output:
        """What `detect` chooses from. Raises: as it does."""
        check_images(self, batch, len(sizes))
        training = self.training
        self.eval()  # no dropout, also in the middle of a training
        try:
            return self(batch)
        finally:
            self.train(training)

    def detections(
        self, output: Output, sizes: list[tuple[int, int]]
    ) -> list[Detections]:
        """The objects of the last layer's predictions, as `detect` returns them."""
        last = output.logits[-1], output.boxes[-1]
        return self.config.classification.detections(*last, sizes)

    def for_export(self) -> "TensorDetector":
        """The same detector with tensors in and out, to be traced or exported.

        It shares this model's weights and is in eval mode; `interop.export` writes
        files. Chapters do not build it.
        """
        return TensorDetector(self)


class TensorDetector(nn.Module):
    """A detector between tensors, for `torch.jit.trace`, `torch.export` and ONNX.

    `detect` answers in lists and pixels of the original images, which are no part of
    a graph; this gives what it gives, as one batch.
    """

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector
        self.eval()

    def forward(self, pixels: Tensor, padding: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """`pixels [B, 3, H, W]` normalised, `padding [B, H, W]` True where padded.

        Returns boxes `[B, n, 4]` xyxy as shares of the un-padded image (times its
        original width and height they are what `detect` returns, up to rounding),
        scores `[B, n]` in [0, 1], best first, and labels `[B, n]`. n is that of
        `detect`: the number of queries (softmax), or at most 100 (focal loss).
        While it is traced or exported, deformable attention is made of torch's own
        operators, which every runtime has.
        """
        with backend.use("torch") if backend.recording() else nullcontext():
            output = self.detector(ImageBatch(pixels, padding))
        last = output.logits[-1], output.boxes[-1]
        return tuple(self.detector.config.classification.rank(*last))


class QueryDetector(Detector):
    """A detector whose decoder layers refine object queries, step by step.

    A system gives `encode`, `start` and `step`. The config's `scheme` runs the steps:
    in training perhaps with more queries and more sets to supervise, at inference every
    layer once, as `decode` does, unless the scheme loops one.
    """

    decoder: nn.ModuleList

    def __init__(self, config: DetectorConfig) -> None:
        super().__init__(config)
        check_scheme(config.scheme)
        config.scheme.check(config.decoder_layers, config.queries)
        # what a scheme adds must not change what all else starts from
        with torch.random.fork_rng(devices=[]):
            self.scheme_parts = config.scheme.parts(config.channels, config.classes)

    def encode(self, batch: ImageBatch, trace: bool = False) -> Memory:
        """Turn images into tokens that know about each other."""
        raise NotImplementedError

    def start(self, memory: Memory) -> tuple[Queries, tuple[PredictionSets, ...]]:
        """The queries before the first layer, and predictions made on the way."""
        raise NotImplementedError

    def step(
        self, index: int, queries: Queries, memory: Memory, trace: bool = False
    ) -> tuple[Queries, Prediction, LayerTrace]:
        """Let decoder layer `index` refine queries and predict.

        Whether gradients flow into the next layer's references is decided here.
        """
        raise NotImplementedError

    @property
    def wants_targets(self) -> bool:
        """Whether the scheme prepares for the objects of a batch in training."""
        return self.config.scheme.wants_targets

    def forward(
        self, batch: ImageBatch, trace: bool = False, targets: list[dict] | None = None
    ) -> Output:
        """Predict from every decoder layer; `trace` also returns what was attended.

        `targets`, in training, for a scheme that wants them.
        """
        memory = self.encode(batch, trace)
        queries, proposals = self.start(memory)
        scheme = self.config.scheme
        if targets is not None:
            objects = pad_targets(targets, self.config.classes, memory.tokens.device)
            scheme = scheme.given(objects)
        run = scheme.run if self.training else scheme.infer
        output = run(self, memory, queries, trace)
        return output._replace(extra=proposals + output.extra)

    def decode(self, memory: Memory, queries: Queries, trace: bool = False) -> Output:
        """The plain loop: every layer once, each predicts (chapter 02 writes it)."""
        return PLAIN.run(self, memory, queries, trace)

    @property
    def query_count(self) -> int:
        """Queries that start now: the scheme's in training, else the config's."""
        count = self.config.queries
        return self.config.scheme.training_queries(count) if self.training else count


def for_inference(model: Detector) -> Detector:
    """The model with nothing in it that only training needs; itself if that is all.

    Queries beyond those that the config counts, and parts of a scheme, are left out of
    the copy; its answers are the same, bit for bit. Its mode is that of the model.
    """
    scheme = getattr(model.config, "scheme", PLAIN)
    if scheme == scheme.inference():
        return model
    small = replace(model.config, scheme=scheme.inference()).build()
    state = model.state_dict()
    # a scheme's queries come after the model's own: the rows in front are those
    kept = {k: state[k][: len(v)] if v.dim() else state[k]
            for k, v in small.state_dict().items()}  # fmt: skip
    small.load_state_dict(kept)
    weight = next(model.parameters())
    return small.to(weight.device, weight.dtype).train(model.training)


def check_images(model: Detector, batch: ImageBatch, sizes: int) -> None:
    """Raise TypeError or ValueError, with the cure, unless a model can take a batch."""
    if not isinstance(batch, ImageBatch):
        raise TypeError(
            f"expected an ImageBatch, got {type(batch).__name__}: use "
            "ImageBatch.from_list([normalise(rgb)]) with rgb [3, H, W] in [0, 1]"
        )
    if batch.pixels.shape[1] != 3:
        raise ValueError(
            f"images of {batch.pixels.shape[1]} channels, the model needs 3: convert "
            "to RGB, or repeat gray with image.expand(3, -1, -1)"
        )
    if sizes != len(batch):
        raise ValueError(f"{sizes} sizes for {len(batch)} images: give one (H, W) each")
    height, width = batch.pixels.shape[-2:]
    tokens = model.tokens(height, width)
    if tokens > model.max_tokens:
        raise ValueError(
            f"{height} x {width} pixels make {tokens:,} tokens, more than the "
            f"{model.max_tokens:,} allowed: shrink the image first, as "
            "detr-steps predict does (short side 800, long side 1333)"
        )
    if not batch.pixels.isfinite().all():
        raise ValueError("the pixels hold NaN or infinity: check how they were read")
