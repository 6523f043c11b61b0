"""A fixed matching: a trained model says which query answers for which object.

Sun et al. 2021, "Rethinking Transformer-based Set Prediction for Object Detection",
section 3.1 (matching distillation). Built in chapters/04_why_slow.ipynb.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..images import ImageBatch
from ..objective.matching import pad_targets


@dataclass(frozen=True)
class Teacher:
    """A trained model whose assignments another one learns by, in place of its own.

    They are those of the `model`'s last layer on the very batch, so augmented as it is.
    `steps`: for the first so many of a training; None throughout.
    Raises: ValueError for fewer steps than one, or a model that matches nothing.
    """

    model: nn.Module
    steps: int | None = None

    def __post_init__(self) -> None:
        if self.steps is not None and (type(self.steps) is not int or self.steps < 1):
            raise ValueError(
                f"a teacher for {self.steps!r} steps: one at least, or none given for "
                "the whole training"
            )
        if not hasattr(self.model, "match"):
            raise ValueError(
                f"a {type(self.model).__name__} matches no queries with objects: it "
                "cannot teach a matching"
            )

    def check(self, student: nn.Module) -> None:
        """Raise ValueError unless a model can learn by this one's assignments."""
        for what in ("classes", "queries"):
            mine, theirs = (
                getattr(getattr(each, "config", None), what, 0)
                for each in (self.model, student)
            )
            if mine != theirs or not mine:
                raise ValueError(
                    f"the teacher has {mine or 'no'} {what} and the model "
                    f"{theirs or 'none'}: an assignment names them by number, so both "
                    "need the same"
                )
        for who, each in (("teacher", self.model), ("model", student)):
            if not getattr(each, "fixed_queries", True):
                raise ValueError(
                    f"the {who}'s queries are others in each image and step: an "
                    "assignment names them by number, so none can be taught"
                )

    def teaches(self, step: int) -> bool:
        """Whether it does at a step, counted from 0."""
        return self.steps is None or step < self.steps

    @torch.no_grad()
    def match(self, batch: ImageBatch, targets: list[dict]) -> Tensor:
        """The query of each object, as it ends up with the teacher: `[1, B, N]`."""
        output = self.model(batch)
        boxes = output.boxes[-1:]
        padded = pad_targets(targets, self.model.config.classes, boxes.device)
        last = output._replace(logits=output.logits[-1:], boxes=boxes)
        return self.model.match(last, padded)

    def on(self, device: torch.device) -> "Teacher":
        """Moved to a device, without dropout; the same object."""
        self.model.to(device).eval()
        return self
