"""TSP-FCOS: choice, matching and loss against loops over points; sizes; bad input."""

import math

import pytest
import torch
from small import small_tsp_config, unequal_batch
from torch.nn import functional

from detr_steps import TSPFCOSConfig
from detr_steps.boxes import cxcywh_to_xyxy
from detr_steps.data.scenes import Scenes
from detr_steps.images import ImageBatch
from detr_steps.objective.classification import Softmax
from detr_steps.objective.losses import LossWeights
from detr_steps.objective.matching import CostWeights, NonFiniteCost, pad_targets

TARGETS = [
    {
        "boxes": torch.tensor(
            [[0.5, 0.5, 0.2, 0.4], [0.3, 0.6, 0.4, 0.2], [0.6, 0.4, 0.7, 0.8]]
        ),
        "labels": torch.tensor([2, 0, 5]),
    },
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
]
EMPTY = [TARGETS[1], TARGETS[1]]
CONFIG = small_tsp_config()


def model_of(seed=0, **changes):
    torch.manual_seed(seed)
    model = small_tsp_config(**changes).build()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("weight") and value.dim() > 1:
                value.mul_(3)  # else all points say nearly the same
        model.box_head.bias.fill_(1.5)
    return model


def said(model, batch, targets=None):
    return model(batch, targets=targets)


# --- what is chosen -------------------------------------------------------------


def test_the_best_real_points_are_chosen_and_may_answer_ones_rather():
    model, batch = model_of(least_kept=1.0).train(), unequal_batch()
    with torch.no_grad():
        features, dense, padding, sizes = model.look(batch)
        alone, helped = said(model, batch), said(model, batch, TARGETS)
    points = model.points(sizes, "cpu")
    extents = torch.tensor([[48.0, 32.0], [24.0, 40.0]])  # width, height
    assert torch.equal(alone.chosen.extents, extents)
    owners = model.owners(points, extents, TARGETS)
    for output, boost in ((alone, False), (helped, True)):
        for image in range(2):
            scores = []
            for s in range(dense.shape[1]):
                p = float(dense[image, s].sigmoid().max())
                if boost and owners[image, s] >= 0:
                    p = 0.5 * (p + 1)
                scores.append(-1 if padding[image, s] else p)
            order = sorted(range(len(scores)), key=lambda s: -scores[s])
            wanted = set(order[: CONFIG.features])
            assert set(output.chosen.at[image].tolist()) == wanted
    taken = owners[0, helped.chosen.at[0]] >= 0
    assert taken.sum() == (owners[0] >= 0).sum() > 0


def test_training_leaves_out_a_share_and_inference_none():
    model, batch = model_of(least_kept=0.5), unequal_batch()
    counts = set()
    for seed in range(12):
        torch.manual_seed(seed)
        at = said(model.train(), batch).chosen.at
        assert len(set(at[0].tolist())) == at.shape[1]
        counts.add(at.shape[1])
    assert min(counts) >= CONFIG.features // 2 and len(counts) > 3
    assert said(model.eval(), batch).chosen.at.shape[1] == CONFIG.features


def test_padding_answers_for_nothing_and_changes_nothing():
    model = model_of(features=150).eval()  # more than the second image has
    alone = ImageBatch.from_list([unequal_batch().pixels[1, :, :40, :24]])
    with torch.no_grad():
        padded, single = said(model, unequal_batch()), said(model, alone)
        # rows of 8, 4 and (rounded up) 3; of 10, 5, 3 cells: 6, 3 and 2 columns
        assert padded.real.sum(1).tolist() == [8 * 12 + 4 * 6 + 3 * 3, 60 + 15 + 6]
        assert single.real is None
        features, _, padding, sizes = model.look(unequal_batch())
        spoiled = features + 9 * padding[..., None]
        at, real = padded.chosen.at, padded.real
        one, other = (
            model.attend(unequal_batch(), x, at, real, sizes, False).tokens
            for x in (features, spoiled)
        )
    assert torch.equal(one[real], other[real])
    assert not torch.allclose(one[~real], other[~real])
    assert not model.config.classification.probabilities(
        padded.logits[0][~padded.real]
    ).any()
    with pytest.raises(ValueError, match="1 targets for 2 images"):
        model.loss(padded, TARGETS[:1])


# --- matching and loss ----------------------------------------------------------


def slow_judgement(model, output, targets):
    """Owners, true distances, centerness and the match of each object, in loops."""
    chosen, config = output.chosen, model.config
    points = model.points(chosen.sizes, "cpu")
    every = []
    for image, target in enumerate(targets):
        w, h = chosen.extents[image].tolist()
        corners = cxcywh_to_xyxy(target["boxes"]) * torch.tensor([w, h, w, h])
        found, best = [], {}
        for q, s in enumerate(chosen.at[image].tolist()):
            (x, y), stride = points.at[s].tolist(), float(points.stride[s])
            owner, area = -1, math.inf
            for n, (x0, y0, x1, y1) in enumerate(corners.tolist()):
                sides = (x - x0, y - y0, x1 - x, y1 - y)
                near = config.radius * stride
                fits = points.least[s] <= max(sides) <= points.most[s]
                middle = (x0 + x1) / 2, (y0 + y1) / 2
                close = abs(x - middle[0]) < near and abs(y - middle[1]) < near
                mine = (x1 - x0) * (y1 - y0)
                if min(sides) > 0 and fits and close and mine < area:
                    owner, area = n, mine
                    true = [side / stride for side in sides]
            if owner < 0:
                found.append(None)
                continue
            ratio = [min(a, b) / max(a, b) for a, b in
                     ((true[0], true[2]), (true[1], true[3]))]  # fmt: skip
            centre = math.sqrt(ratio[0] * ratio[1])
            overlap = slow_giou(chosen.distances[image, q].tolist(), true)
            p = float(output.logits[0, image, q, target["labels"][owner]].sigmoid())
            cost = -config.cost.classification * p * (centre + 1e-6)
            cost += config.cost.giou * (1 - overlap)
            found.append((owner, true, centre, overlap))
            if owner not in best or cost < best[owner][0]:
                best[owner] = (cost, q)
        every.append((found, {n: q for n, (_, q) in best.items()}))
    return every


def slow_giou(a, b):
    def area(s):
        return (s[0] + s[2]) * (s[1] + s[3])

    shared = area([min(x, y) for x, y in zip(a, b)])
    hull = area([max(x, y) for x, y in zip(a, b)])
    union = area(a) + area(b) - shared
    return (shared + 1) / (union + 1) - (hull - union) / hull


def slow_focal(logit, yes, alpha=0.25, gamma=2.0):
    p = 1 / (1 + math.exp(-logit))
    if yes:
        return alpha * (1 - p) ** gamma * -math.log(p)
    return (1 - alpha) * p**gamma * -math.log(1 - p)


@pytest.mark.parametrize("seed", range(4))
def test_matching_is_the_loops_and_within_the_rule(seed):
    model = model_of(seed, least_kept=1.0).train()
    with torch.no_grad():
        output = said(model, unequal_batch(), TARGETS)
    found = model.match(output, pad_targets(TARGETS, 6, "cpu"))
    assert found.shape == (1, 2, 3)
    slow = slow_judgement(model, output, TARGETS)
    for image in range(2):
        wanted = [slow[image][1].get(n, -1) for n in range(3)]
        assert found[0, image].tolist() == wanted
    assert (found >= 0).any()


@pytest.mark.parametrize("seed", range(4))
def test_the_loss_is_the_sum_over_single_numbers(seed):
    model = model_of(seed, least_kept=1.0).train()
    with torch.no_grad():
        output = said(model, unequal_batch(), TARGETS)
        terms = model.loss(output, TARGETS)
        features, dense, padding, sizes = model.look(unequal_batch())
    slow = slow_judgement(model, output, TARGETS)
    allowed = sum(each is not None for found, _ in slow for each in found)
    matched = sum(len(best) for _, best in slow)
    classes = giou = weights = middle = 0.0
    for image, (found, best) in enumerate(slow):
        for q, each in enumerate(found):
            for c in range(6):
                own = each and int(TARGETS[image]["labels"][each[0]]) == c
                yes = bool(own) and best[each[0]] == q
                weight = 0.1 if own and not yes else 1.0
                logit = float(output.logits[0, image, q, c])
                classes += weight * slow_focal(max(logit, -700.0), yes)
            if each:
                giou += each[2] * (1 - each[3])
                weights += each[2]
                logit = float(output.chosen.centerness[image, q])
                p = 1 / (1 + math.exp(-logit))
                middle -= each[2] * math.log(p) + (1 - each[2]) * math.log(1 - p)
    assert float(terms["class"]) == pytest.approx(
        classes / (2 * (matched + 0.1 * allowed)), rel=1e-4
    )
    assert float(terms["giou"]) == pytest.approx(giou / weights, rel=1e-4)
    assert float(terms["centerness"]) == pytest.approx(middle / allowed, rel=1e-4)
    points = model.points(sizes, "cpu")
    owners = model.owners(points, output.chosen.extents, TARGETS)
    whole = 0.0
    for image in range(2):
        for s in range(dense.shape[1]):
            for c in range(6):
                own = int(owners[image, s])
                yes = own >= 0 and int(TARGETS[image]["labels"][own]) == c
                whole += slow_focal(float(dense[image, s, c]), yes)
    assert float(terms["class_points"]) == pytest.approx(
        whole / int((owners >= 0).sum()), rel=1e-4
    )
    total = terms["class"] + terms["class_points"] + terms["giou"]
    assert terms["total"] == total + terms["centerness"]


@pytest.mark.parametrize("targets", [TARGETS, EMPTY], ids=["objects", "none"])
def test_every_weight_has_a_finite_gradient(targets):
    model = model_of().train()
    model.loss(said(model, unequal_batch(), targets), targets)["total"].backward()
    for name, value in model.named_parameters():
        assert value.grad is not None and value.grad.isfinite().all(), name


def test_objects_that_fall_on_no_level_cost_nothing_but_negatives():
    model = model_of().train()
    tiny = {
        "boxes": torch.tensor([[0.5, 0.5, 1e-3, 1e-3]]),
        "labels": torch.tensor([1]),
    }
    targets = [tiny, tiny]
    output = said(model, unequal_batch(), targets)
    found = model.match(output, pad_targets(targets, 6, "cpu"))
    assert (found == -1).all()
    terms = model.loss(output, targets)
    assert terms["giou"] == 0 == terms["centerness"]
    assert terms["total"].isfinite() and terms["class"] > 0


def test_it_learns_a_picture():
    torch.manual_seed(0)
    model = small_tsp_config(features=24).build().train()
    scene = Scenes("train", size=64).draw([3])
    optimiser = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(40):
        output = model(scene.images, targets=scene.targets)
        loss = model.loss(output, scene.targets)["total"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


# --- sizes and bad input --------------------------------------------------------


def test_the_papers_model_has_the_official_weights():
    model = TSPFCOSConfig.coco_r50(classes=80).build()
    behind = {
        name: value.numel()
        for name, value in model.named_parameters()
        if not name.startswith(("backbone.", "pyramid."))
    }
    assert sum(behind.values()) == 24_134_314
    pyramid = sum(p.numel() for p in model.pyramid.parameters())
    lateral = (512 + 1024 + 2048 + 3) * 256
    assert pyramid == lateral + 5 * (256 * 256 * 9 + 256)
    assert model.strides == [8, 16, 32, 64, 128]


def test_tokens_are_counted_as_they_are():
    model = model_of()
    with torch.no_grad():
        sizes = model.look(ImageBatch.from_list([torch.randn(3, 64, 96)]))[3]
    assert model.tokens(64, 96) == sum(h * w for h, w in sizes)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"classification": Softmax()}, "yes or no to each class"),
        ({"cost": CostWeights()}, "no L1 term"),
        ({"loss": LossWeights()}, "no L1 term"),
        ({"features": 0}, "at least one feature"),
        ({"levels": 1}, "no more maps than levels"),
        ({"least_kept": 0.0}, "a share above 0"),
    ],
)
def test_impossible_numbers_are_named(changes, says):
    with pytest.raises(ValueError, match=says):
        small_tsp_config(**changes)


def test_an_assignment_from_elsewhere_is_refused():
    model = model_of().eval()
    output = said(model, unequal_batch())
    with pytest.raises(ValueError, match="no numbers that others know"):
        model.loss(output, TARGETS, torch.zeros(1, 2, 3, dtype=torch.int64))


def test_predictions_that_have_diverged_are_named():
    model = model_of().eval()
    output = said(model, unequal_batch())
    bad = output.chosen._replace(distances=output.chosen.distances * math.nan)
    with pytest.raises(NonFiniteCost, match="diverged"):
        model.loss(output._replace(chosen=bad), TARGETS)


def test_a_picture_smaller_than_a_stride_and_one_of_padding_only():
    model = model_of().eval()
    small = ImageBatch.from_list([torch.randn(3, 5, 7)])
    with torch.no_grad():
        assert said(model, small).boxes.isfinite().all()
        blank = unequal_batch()
        padding = blank.padding.clone()
        padding[1] = True
        output = said(model, ImageBatch(blank.pixels, padding))
    assert output.logits.isfinite().all() and output.boxes.isfinite().all()
    assert functional.sigmoid(output.logits).isfinite().all()
