"""What figures are given beside their own numbers: answers, words, a picture."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

MOST_BYTES = 1_000_000  # of maps or points in one figure, before they are deflated


KINDS = {  # what a page keeps of each
    "boxes": np.float16,
    "scores": np.float16,
    "labels": np.int16,
    "matched": np.int16,
    "truth": np.float32,
    "truth_labels": np.int16,
}


@dataclass(frozen=True)
class Answers:
    """What Q items answer in each of F frames, and the ground truth; all optional.

    `boxes [F, Q, 4]` cxcywh in [0, 1], best class `labels` and its `scores [F, Q]`,
    `matched [F, Q]` the object of each or -1; `truth [N, 4]` with `truth_labels [N]`;
    class `names`; `items [Q]` the numbers of the items, where some were left out.
    """

    boxes: Tensor | None = None
    scores: Tensor | None = None
    labels: Tensor | None = None
    matched: Tensor | None = None
    truth: Tensor | None = None
    truth_labels: Tensor | None = None
    names: Sequence[str] | None = None
    items: Sequence[int] | None = None

    def of(self, index: object) -> "Answers":
        """The same with boxes, scores, labels and matched indexed: `[None]` adds F."""
        parts = {name: getattr(self, name) for name in list(KINDS)[:4]}
        parts = {name: None if x is None else x[index] for name, x in parts.items()}
        return replace(self, **parts)

    def select(self, items: Sequence[int]) -> "Answers":
        """Those of some items only, which keep their numbers."""
        numbers = items if self.items is None else [self.items[i] for i in items]
        return replace(self.of((slice(None), list(items))), items=numbers)

    def only_truth(self, **known: object) -> "Answers":
        """The ground truth without any answers, and what else is `known`."""
        return replace(self, **dict.fromkeys(list(KINDS)[:4]), **known)

    def choose(
        self, size: int, max_queries: int | None = None, query: int | None = None
    ) -> list[int]:
        """Pick the items to show, in their order: the matched and the surest first.

        As many as fit where each takes `size` bytes, or `max_queries`; `query` is
        always among them. Raises: ValueError if there is no such query.
        """
        if max_queries is None:
            max_queries = max(1, MOST_BYTES // size)
        elif max_queries < 1:
            raise ValueError(f"max_queries={max_queries}: show at least one query")
        worth = self.scores[-1].clone()  # [Q]
        if self.matched is not None:
            worth += (self.matched >= 0).any(0)
        if query is not None:
            if not 0 <= query < len(worth):
                last = len(worth) - 1
                raise ValueError(f"query {query} of {len(worth)}: 0 to {last}")
            worth[query] += 2  # above all others
        best = worth.argsort(descending=True, stable=True)[:max_queries]
        return sorted(best.tolist())

    @property
    def surest(self) -> int:
        """The item with the highest score in the last frame; the first without."""
        return 0 if self.scores is None else int(self.scores[-1].argmax())

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What is known, packed; a picture without objects has no truth."""
        parts = {name: getattr(self, name) for name in KINDS}
        if self.truth is not None and len(self.truth) == 0:
            parts["truth"] = parts["truth_labels"] = None
        return {
            name: torch.as_tensor(x).detach().cpu().float().numpy().astype(KINDS[name])
            for name, x in parts.items()
            if x is not None
        }

    def notes(self, count: int) -> dict:
        """What figure.mjs is told of `count` items: class names, and their numbers.

        Raises: ValueError for another number of items, a label without a name.
        """
        told = {"names": self.class_names}
        numbers = [int(i) for i in self.items or range(count)]
        if len(numbers) != count:
            raise ValueError(f"{len(numbers)} numbers of items for {count} items")
        return told | ({} if numbers == list(range(count)) else {"items": numbers})

    @property
    def class_names(self) -> list[str]:
        """Names for all labels, numbered where none are given.

        Raises: ValueError for a label without a name.
        """
        labels = (self.labels, self.truth_labels)
        known = [torch.as_tensor(x) for x in labels if x is not None and len(x)]
        highest = max((int(x.max()) for x in known), default=-1)
        names = self.names or [f"class {i}" for i in range(highest + 1)]
        if highest >= len(names):
            raise ValueError(f"label {highest}, but {len(names)} class names")
        return [str(name) for name in names]


@dataclass(frozen=True)
class Words:
    """What a figure says: its texts, and what its parts are called.

    `title`, `summary` for who cannot see it, `caption`: what it is no evidence of.
    `item`, `frame`, `head`, `point`: one of each; `frames` their names, 1 to F if not
    given. A figure fills in what is left empty.
    """

    title: str = ""
    summary: str = ""
    caption: str = ""
    item: str = "query"
    frame: str = "layer"
    head: str = "head"
    point: str = "point"
    frames: Sequence[object] = ()

    def texts(self, **otherwise: str) -> dict[str, str]:
        """Title, summary and caption; `otherwise` where one is empty."""
        keys = ("title", "summary", "caption")
        return {key: getattr(self, key) or otherwise.get(key, "") for key in keys}

    def notes(self, frames: int) -> dict:
        """What figure.mjs is told of a figure of so many frames.

        Raises: ValueError for another number of names.
        """
        names = [str(name) for name in self.frames or range(1, frames + 1)]
        if len(names) != frames:
            raise ValueError(f"{len(names)} names of frames for {frames} frames")
        return {"frame_name": self.frame, "frames": names, "item_name": self.item}


def as_picture(rgb: Tensor | np.ndarray | None) -> np.ndarray | None:
    """Turn `[3, H, W]` in [0, 1] into uint8 `[H, W, 3]`; such an array stays.

    Raises: ValueError for another shape.
    """
    picture = rgb
    if rgb is not None and not (isinstance(rgb, np.ndarray) and rgb.dtype == np.uint8):
        rgb = torch.as_tensor(rgb).detach().float().cpu()
        picture = rgb.clamp(0, 1).mul(255).round().to(torch.uint8)
        if picture.dim() == 3 and picture.shape[0] == 3:
            picture = picture.permute(1, 2, 0)
        picture = picture.contiguous().numpy()
    if picture is not None and (picture.ndim != 3 or picture.shape[2] != 3):
        raise ValueError(
            f"a picture of shape {list(rgb.shape)}: give [3, H, W] in [0, 1]"
        )
    return picture
