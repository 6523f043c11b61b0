"""Checks of the exercises of chapters/12_more_queries.ipynb."""

import torch
from scipy.optimize import linear_sum_assignment
from torch.nn import functional

from .trying import exercise, numbers


def _as_first(sizes):
    """All groups of the first one's size, as far as there are queries."""
    first, left = sizes[0], sum(sizes) % sizes[0]
    return [first] * (sum(sizes) // first) + [left] * (left > 0)


def _mask(sizes, see=True, back=True, onward=False):
    """`[Q, Q]` bool, right unless told to make a mistake."""
    group = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    mine, other = group[:, None], group
    seen = mine == other
    if onward:  # groups before are seen as well
        seen = mine >= other
    if not back:
        seen = seen & torch.ones(len(group), len(group)).tril().bool()
    return seen if see else ~seen


mask = exercise(__name__, "mask", """
    Check exercise 1, `mine(sizes)` -> who may see whom, `[Q, Q]` bool.

    `sizes` of the groups; row: who looks; True: may see. Source: Jia et al. 2023,
    section 3.2.""",
    praise="a block for each group, whatever its size",
    cases=[([3, 3],), ([2, 4],), ([1, 3, 2],), ([5],)],
    answer=_mask,
    mistakes={
        "turned round: True is for those who may see each other": {"see": False},
        "a query sees itself, too: all of its group":
            lambda sizes: _mask(sizes) & ~torch.eye(sum(sizes)).bool(),
        "only itself: a query sees all of its group":
            lambda sizes: torch.eye(sum(sizes)).bool(),
        "both ways: the first group must not be seen by the others either":
            {"onward": True},
        "within a group everybody sees everybody, also those after it":
            {"back": False},
        "groups may differ in size: the first one's size is not that of all":
            lambda sizes: _mask(_as_first(sizes)),
        "a row for each query, not for each group":
            lambda sizes: torch.eye(len(sizes)).bool(),
        "everybody sees everybody: then groups are one":
            lambda sizes: torch.ones(sum(sizes), sum(sizes)).bool(),
        "0 and -inf are what is added to scores: bool is wanted, True where seen":
            lambda sizes: torch.zeros(sum(sizes), sum(sizes)).masked_fill(
                ~_mask(sizes), -torch.inf),
    },
    shape="one row and one column for each query, {}", unit="pair of queries",
)  # fmt: skip

# The cheapest queries differ between groups, both objects want the same one in a group
# and the greedy choice is dearer.
COST = torch.tensor([
    [0.2, 0.1], [0.9, 0.15], [0.5, 0.6], [0.7, 0.8], [0.3, 0.05], [0.35, 0.9],
])  # fmt: skip
MORE = numbers(9, 2)
FIRST = torch.tensor([  # the first group is better throughout
    [0.1, 0.9], [0.2, 0.7], [0.8, 0.1], [0.9, 0.95], [0.5, 0.8], [0.7, 0.6],
])  # fmt: skip


def _cheapest(cost):
    """The query of each object, one to one."""
    queries, objects = linear_sum_assignment(cost)
    return queries[objects.argsort()]


def _rounds(cost, groups, best=_cheapest, own=False, parts=None):
    """`[G, N]`, right unless told to make a mistake."""
    size = len(cost) // groups
    index = torch.arange(len(cost))
    parts = index.view(groups, size) if parts is None else parts(index, groups)
    rows = [torch.as_tensor(best(cost[part])) for part in parts]
    rows = rows if own else [part[row] for part, row in zip(parts, rows)]
    return torch.stack(rows)


def _greedy(cost):
    taken, cost = [], cost.clone()
    for number in range(cost.shape[1]):
        taken.append(int(cost[:, number].argmin()))
        cost[taken[-1]] = torch.inf
    return taken


def _at_once(cost, groups):
    """All groups as one: each object so many times; which copy is which is chance."""
    rows = torch.as_tensor(_cheapest(cost.repeat_interleave(groups, 1)))
    return rows.view(-1, groups).sort(1).values.T


rounds = exercise(__name__, "rounds", """
    Check exercise 2, `mine(cost [Q, N], groups)` -> a query for each object `[G, N]`.

    Each group has its own one-to-one matching; queries are numbered 0 … Q − 1. Source:
    Chen et al. 2022, section 3.2.""",
    praise="an object has a query in every group, and only one in each",
    cases=[(COST, 2), (FIRST, 2), (MORE, 3), (COST[:, [1, 0]], 2), (COST, 1)],
    answer=_rounds,
    mistakes={
        "number queries from the start: group 1 begins with query Q / G, not with 0":
            {"own": True},
        "match every group by itself: all at once, groups may get an object twice":
            _at_once,
        "the cheapest for each object gives two objects one query: match one to one":
            {"best": lambda cost: cost.argmin(0).tolist()},
        "object by object is greedy: the best pairs together, `linear_sum_assignment`":
            {"best": _greedy},
        "groups are neighbours, 0 … Q/G − 1 first: not every G-th query":
            {"parts": lambda index, groups: index.view(-1, groups).T},
        "a row for each group, a column for each object: turn it round":
            lambda cost, groups: _rounds(cost, groups).T,
        "only the first group is matched: all of them learn":
            lambda cost, groups: _rounds(cost, groups)[:1],
        "a low cost is good: minimise":
            lambda cost, groups: _rounds(-cost, groups),
        "linear_sum_assignment sorts by query: a column is an object, sort by objects":
            lambda cost, groups: _rounds(cost, groups).sort(1).values,
    },
    shape="a row for each group, a column for each object, {}", unit="object",
)  # fmt: skip

STRIDES = [4, 8, 16]
PLACES = torch.tensor([2.0, 2.5, 4.0, 6.0, 0.5])


def _levels(z, strides, log=torch.log2, power=2, soft=2.0, dim=0, sign=-1):
    """`[L, P]`, right unless told to make a mistake."""
    places = log(torch.tensor(strides, dtype=z.dtype))
    apart = z - places[:, None]
    return (sign * apart.abs() ** power / soft).softmax(dim)


levels = exercise(__name__, "levels", """
    Check exercise 3, `mine(z [P], strides)` -> how much each level counts `[L, P]`.

    softmax over levels of −(z − log2 stride)² / 2. Source: Gao et al. 2022, equation
    5.""",
    praise="a point between two levels is read on both",
    cases=[(PLACES, STRIDES), (PLACES[:2], [4, 8, 16, 32])],
    answer=_levels,
    mistakes={
        "z is in octaves: compare it with log2 of the stride": {"log": lambda s: s},
        "log2, not the natural logarithm: a level is a doubling": {"log": torch.log},
        "the sign: the nearest level counts most": {"sign": 1},
        "the square of the distance": {"power": 1},
        "over levels, not over points: axis 0 adds up to 1": {"dim": 1},
        "divided by 2": {"soft": 1.0},
        "divided by 2, not by 4": {"soft": 4.0},
        "before the softmax these are no shares yet": lambda z, strides:
            -((z - torch.tensor(strides).log2()[:, None]) ** 2) / 2,
        "that is one level for each point: the others count as well":
            lambda z, strides: functional.one_hot(
                _levels(z, strides).argmax(0), len(strides)).T,
        "levels are rows, points are columns":
            lambda z, strides: _levels(z, strides).T,
    },
    shape="a row for each level, a column for each point, {}", unit="point",
)  # fmt: skip

X = 9 * (numbers(4, 3) - 0.4)
M = 9 * (numbers(3, 3) - 0.5)
S = 9 * (numbers(5, 4) - 0.5)


def _normed(x, dims=(-2, -1)):
    mean, spread = x.mean(dims, keepdim=True), x.var(dims, correction=0, keepdim=True)
    return (x - mean) * (spread + 1e-5).rsqrt()


def _mix(x, channel, spatial, norm=_normed, relu=torch.relu, first=True, last=True):
    """`[O, D]`, right unless told to make a mistake."""
    x = x @ channel
    x = relu(norm(x)) if first else x
    x = spatial @ x
    return relu(norm(x)) if last else x


mix = exercise(__name__, "mix", """
    Check exercise 4, `mine(x [P, D], channel [D, D], spatial [O, P])` -> `[O, D]`.

    Both mixings of one group, each followed by a norm over points and channels together
    and by ReLU. Source: Gao et al. 2022, equations 6 to 10.""",
    praise="two matrices made for this query, and nothing else",
    cases=[(X, M, S), (2 * X[:, [2, 0, 1]], M.T + 0.1, S.flip(0))],
    answer=_mix,
    mistakes={
        "the norm is over points and channels together, not over channels":
            {"norm": lambda x: _normed(x, (-1,))},
        "the norm is over points and channels together, not over points":
            {"norm": lambda x: _normed(x, (-2,))},
        "each mixing is followed by a norm": {"norm": lambda x: x},
        "each norm is followed by ReLU": {"relu": lambda x: x},
        "the spatial mixing is followed by norm and ReLU, too": {"last": False},
        "the channel mixing is followed by norm and ReLU, too": {"first": False},
        "a row of x is a point: x @ channel, not channel @ x":
            {"channel": lambda channel: channel.T},
        "channels are mixed first, then points":
            lambda x, channel, spatial: _normed(
                _normed(spatial @ x).relu() @ channel).relu(),
        "ReLU comes after the norm": lambda x, channel, spatial: _normed(
            (spatial @ _normed((x @ channel).relu())).relu()),
        "the variance is the mean of squares, without Bessel's correction":
            {"norm": lambda x: (x - x.mean()) * (x.var() + 1e-5).rsqrt()},
        "no second x is added: the residual comes after the output layer":
            lambda x, channel, spatial: _normed(
                spatial @ (x + _normed(x @ channel).relu())).relu(),
    },
    shape="a row for each mixed point, a column for each channel, {}", unit="number",
)  # fmt: skip
