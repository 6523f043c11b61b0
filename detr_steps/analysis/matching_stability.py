"""Does a query keep its object from one look to the next? Instability of the matching.

Li et al. 2022, "DN-DETR: Accelerate DETR Training by Introducing Query DeNoising",
section 3. Built in chapters/04_why_slow.ipynb.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..data.dataset import Dataset
from ..images import ImageBatch
from .attention import by_query, matched_objects, run_with_trace, without_crowds
from .states import models_at


class MatchCurve(NamedTuple):
    """Who answered for which object at F steps, after each of Y layers, in B images.

    `matches [F, Y, B, N]` the query of each object, -1 for none; `counts [B]` objects
    of each image; `queries` Q.
    """

    steps: list[int]
    matches: Tensor
    counts: Tensor
    queries: int

    def instability(self) -> Tensor:
        """Queries per image whose object changed since the look before: `[F - 1, Y]`.

        Raises: ValueError for a single step.
        """
        layers = self.matches.unbind(1)
        return torch.stack([instability(each, self.queries) for each in layers], 1)

    @property
    def highest(self) -> float:
        """The most that `instability` can be on these images."""
        return highest_instability(self.counts, self.queries)


def instability(matches: Tensor, queries: int) -> Tensor:
    """How many queries change their partner between two looks: `[epochs - 1]`.

    `matches [epochs, B, N]` the query of each object, -1 for none or no object; a
    query's partner is its object, or nothing. Counted per image and averaged over the
    images; one swap counts 2, an object that changes to an idle query as well. Raises:
    ValueError for fewer than two epochs, no images, and what is no matching. Source: Li
    et al. 2022, equation 2. Built in chapters/04_why_slow.ipynb.
    """
    _check(matches, queries)
    partner = by_query(matches.cpu(), queries)  # [epochs, B, Q]
    changed = partner[1:] != partner[:-1]
    return changed.sum(-1).double().mean(-1).float()


def highest_instability(counts: Tensor | Sequence[int], queries: int) -> float:
    """The most that `instability` can be: every object gets another query each time.

    `counts [B]` objects of each image. Twice their mean, as the paper has it (14.72 for
    7.36 objects), where there are queries enough; never more than all queries, and one
    query cannot change its only object. Raises: ValueError for no images.
    Source: Li et al. 2022, section 3.
    """
    counts = torch.as_tensor(counts)
    if not counts.numel():
        raise ValueError("no images, so nothing can change: give at least one")
    most = (2 * counts).clamp(max=queries).double()
    if queries == 1:
        most = most.where(counts > 1, 0.0)
    return float(most.mean())


def matches_along(
    model: nn.Module,
    weights: Iterable[tuple[int, dict[str, Tensor]]],
    data: Dataset,
    images: Sequence[int],
) -> MatchCurve:
    """Match the same pictures at the steps whose weights a training kept.

    `weights` pairs of a step and the state it had then, in order, as
    `training.kept_weights(run)` reads them; `data[index]` gives normalised pixels and a
    target, without augmentation: the pictures must not change. Crowds are no objects.
    `model` stays as it is. Raises: ValueError for no images, no weights, or weights of
    another model, e.g. with other queries. For chapters/04_why_slow.ipynb.
    """
    if not len(images):
        raise ValueError("no images, so nothing is matched: give at least one")
    if not getattr(model, "fixed_queries", True):
        raise ValueError(
            f"the queries of this {type(model).__name__} are others in each image and "
            "step: there is no query n whose object could change"
        )
    items = [(pixels, without_crowds(t)) for pixels, t in (data[i] for i in images)]
    counts = torch.tensor([len(target["labels"]) for _, target in items])
    steps, found = [], []
    for step, actor in models_at(model, weights):
        steps.append(step)
        partners = torch.stack([_partners(actor, *item) for item in items])  # [B, Y, Q]
        found.append(_by_object(partners.transpose(0, 1), int(counts.max())))
    return MatchCurve(steps, torch.stack(found), counts, partners.shape[-1])


def _partners(model: nn.Module, pixels: Tensor, target: dict) -> Tensor:
    """The object of each query in one picture, after each layer: `[Y, Q]`."""
    seen = run_with_trace(model, ImageBatch.from_pixels(pixels[None]))
    return matched_objects(model, seen, target)


def _by_object(partners: Tensor, objects: int) -> Tensor:
    """Turn the object of each query `[..., Q]` into the query of each object."""
    same = partners[..., None] == torch.arange(objects)  # [..., Q, N]
    query = same.long().argmax(-2)
    return query.where(same.any(-2), -1)


def _check(matches: Tensor, queries: int) -> None:
    if matches.dim() != 3 or matches.is_floating_point():
        raise ValueError(
            f"matches {list(matches.shape)} {matches.dtype}: give the query of each "
            "object, whole numbers [epochs, B, N]"
        )
    epochs, images, _ = matches.shape
    if epochs < 2 or not images:
        raise ValueError(
            f"{epochs} epochs of {images} images: give two epochs of one image at "
            "least, for a change is counted between them"
        )
    if not matches.numel():
        return
    low, high = (int(x) for x in matches.aminmax())
    if low < -1 or high >= queries:
        raise ValueError(
            f"matches name queries {low} to {high}, and there are {queries}: give -1 "
            f"for none, or 0 … {queries - 1}, the same number in all epochs"
        )
    ordered = matches.sort(-1).values
    twice = (ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)
    if twice.any():
        epoch, image, at = twice.nonzero()[0].tolist()
        raise ValueError(
            f"epoch {epoch}, image {image}: query {int(ordered[epoch, image, at])} has "
            "two objects: a matching is one to one"
        )
