"""The exercises' checks: right answers pass, each known mistake gets its diagnosis."""

import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch.nn import functional

from detr_steps.check import ch12
from detr_steps.nn.adaptive_mixing import AdaptiveMixing, Mixing


def blocks(sizes):
    return torch.block_diag(*(torch.ones(n, n) for n in sizes)).bool()


MASKS = {
    "turned round": lambda sizes: ~blocks(sizes),
    "itself, too": lambda sizes: blocks(sizes).fill_diagonal_(False),
    "only itself": lambda sizes: torch.eye(sum(sizes)).bool(),
    "both ways": lambda sizes: (
        blocks(sizes) | torch.ones(sum(sizes), sum(sizes)).bool().tril()
    ),
    "also those after it": lambda sizes: blocks(sizes).tril(),
    "is not that of all": lambda sizes: blocks(
        [sizes[0]] * (sum(sizes) // sizes[0])
        + ([sum(sizes) % sizes[0]] if sum(sizes) % sizes[0] else [])
    ),
    "not for each group": lambda sizes: torch.eye(len(sizes)).bool(),
    "then groups are one": lambda sizes: torch.ones(sum(sizes), sum(sizes)).bool(),
    "added to scores": lambda sizes: torch.where(blocks(sizes), 0.0, -torch.inf),
}


@pytest.mark.parametrize("says", MASKS)
def test_wrong_mask(says):
    verdict = ch12.mask(MASKS[says])
    assert not verdict and says in verdict.message, verdict


def test_right_mask():
    assert ch12.mask(blocks)


def one_to_one(cost):
    queries, objects = linear_sum_assignment(cost)
    return queries[objects.argsort()]


def each(cost, groups, match=one_to_one, number=True):
    size = len(cost) // groups
    rows = [
        torch.as_tensor(match(part)) + number * size * g
        for g, part in enumerate(cost.split(size))
    ]
    return torch.stack(rows)


def greedy(cost):
    left, chosen = cost.clone(), []
    for column in range(cost.shape[1]):
        chosen.append(int(left[:, column].argmin()))
        left[chosen[-1]] = 9.0
    return chosen


def every_gth(cost, groups):
    rows = [g + groups * torch.as_tensor(one_to_one(cost[g::groups]))
            for g in range(groups)]  # fmt: skip
    return torch.stack(rows)


ROUNDS = {
    "number queries from the start": lambda c, g: each(c, g, number=False),
    "all at once": lambda c, g: torch.as_tensor(
        one_to_one(c.repeat_interleave(g, 1))
    ).view(-1, g).sort(1).values.T,
    "gives two objects one query": lambda c, g: each(c, g, lambda x: x.argmin(0)),
    "greedy": lambda c, g: each(c, g, greedy),
    "not every G-th": every_gth,
    "turn it round": lambda c, g: each(c, g).T,
    "only the first group": lambda c, g: each(c, g)[:1],
    "minimise": lambda c, g: each(-c, g),
    "sorts by query": lambda c, g: each(c, g, lambda x: linear_sum_assignment(x)[0]),
}  # fmt: skip


@pytest.mark.parametrize("says", ROUNDS)
def test_wrong_rounds(says):
    verdict = ch12.rounds(ROUNDS[says])
    assert not verdict and says in verdict.message, verdict


def test_right_rounds():
    assert ch12.rounds(each)


def shares(z, strides, log=torch.log2, end=lambda x: (-(x**2) / 2).softmax(0)):
    return end(z[None] - log(torch.tensor(strides).float())[:, None])


LEVELS = {
    "in octaves": lambda z, s: shares(z, s, log=lambda x: x),
    "natural": lambda z, s: shares(z, s, log=torch.log),
    "the sign": lambda z, s: shares(z, s, end=lambda x: (x**2 / 2).softmax(0)),
    "square": lambda z, s: shares(z, s, end=lambda x: (-x.abs() / 2).softmax(0)),
    "over levels": lambda z, s: shares(z, s, end=lambda x: (-(x**2) / 2).softmax(1)),
    "divided by 2": lambda z, s: shares(z, s, end=lambda x: (-(x**2)).softmax(0)),
    "not by 4": lambda z, s: shares(z, s, end=lambda x: (-(x**2) / 4).softmax(0)),
    "no shares yet": lambda z, s: shares(z, s, end=lambda x: -(x**2) / 2),
    "others count": lambda z, s: functional.one_hot(shares(z, s).argmax(0), len(s)).T,
    "points are columns": lambda z, s: shares(z, s).T,
}


@pytest.mark.parametrize("says", LEVELS)
def test_wrong_levels(says):
    verdict = ch12.levels(LEVELS[says])
    assert not verdict and says in verdict.message, verdict


def test_right_levels():
    assert ch12.levels(shares)


def norm(x):
    return functional.layer_norm(x, x.shape)


def over(axis):
    def one(x):
        x = x.movedim(axis, -1)
        return functional.layer_norm(x, x.shape[-1:]).movedim(-1, axis)

    return lambda x, m, s: one(s @ one(x @ m).relu()).relu()


MIXES = {
    "not over channels": over(-1),
    "not over points": over(0),
    "followed by a norm": lambda x, m, s: (s @ (x @ m).relu()).relu(),
    "followed by ReLU": lambda x, m, s: norm(s @ norm(x @ m)),
    "the spatial mixing is": lambda x, m, s: s @ norm(x @ m).relu(),
    "the channel mixing is": lambda x, m, s: norm(s @ x @ m).relu(),
    "not channel @ x": lambda x, m, s: norm(s @ norm((m @ x.T).T).relu()).relu(),
    "channels are mixed first": lambda x, m, s: norm(norm(s @ x).relu() @ m).relu(),
    "ReLU comes after": lambda x, m, s: norm((s @ norm((x @ m).relu())).relu()),
    "Bessel": lambda x, m, s: (
        lambda y: ((y - y.mean()) / y.std()).relu()
    )(s @ ((x @ m - (x @ m).mean()) / (x @ m).std()).relu()),
    "no second x": lambda x, m, s: norm(s @ (x + norm(x @ m).relu())).relu(),
}  # fmt: skip


@pytest.mark.parametrize("says", MIXES)
def test_wrong_mix(says):
    verdict = ch12.mix(MIXES[says])
    assert not verdict and says in verdict.message, verdict


def test_right_mix():
    assert ch12.mix(lambda x, m, s: norm(s @ norm(x @ m).relu()).relu())


def test_the_right_mix_is_the_librarys():
    """With an output layer that hands all of it on."""
    torch.manual_seed(0)
    sizes = Mixing(groups=1, points=4, out_points=5)
    module = AdaptiveMixing(3, [4, 8], sizes)
    x, m, s = ch12.X, ch12.M, ch12.S
    kernels = torch.cat((m.flatten(), s.flatten()))
    module.output.weight.data[:] = torch.rand(3, 15)
    mine = module.output(ch12.mix.trials[0].answer(x, m, s).flatten())
    theirs = module.mix(x[None, None, None], kernels[None, None])
    assert torch.allclose(mine, theirs[0, 0], atol=1e-5)
