"""Checks of the exercises of chapters/04_why_slow.ipynb."""

import torch

from .trying import exercise, numbers

# One row reads a single cell, one all alike, one some cells: zeros are in all of them.
ROWS = torch.tensor([
    [[0.0, 1.0, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25], [0.7, 0.1, 0.2, 0.0]],
    [[0.5, 0.5, 0.0, 0.0], [0.4, 0.3, 0.2, 0.1], [0.0, 0.0, 0.05, 0.95]],
])  # fmt: skip


def _spread(weights, log=torch.log, sign=-1, join=torch.sum, last=torch.exp, dim=-1):
    """`[M, Q]`, right unless told to make a mistake."""
    terms = torch.where(weights > 0, weights * log(weights.clamp(min=1e-30)), 0.0)
    return last(sign * join(terms, dim))


spread = exercise(__name__, "spread", """
    Check exercise 1, `mine(weights [M, Q, S])` -> over how many cells `[M, Q]`.""",
    praise="1 for a single cell, as many as there are for all alike",
    cases=[(ROWS,), ((5 * numbers(2, 3, 5)).softmax(-1),)],
    answer=_spread,
    mistakes={
        "that is the entropy: as many cells as it stands for are its exponential":
            {"last": lambda x: x},
        "that is the negative entropy: take away its sign, then the exponential":
            {"last": lambda x: -x},
        "the sign: the entropy is minus the sum, so exp of the plain sum is 1 / cells":
            {"sign": 1},
        "sum over the keys: their average calls flat attention over many keys sparse":
            {"join": torch.mean},
        "log2 and exp do not belong together: log, or 2 to the power":
            {"log": torch.log2},
        "average over heads later, if at all: one number for each head and query": [
            lambda weights: _spread(weights).mean(0),
            lambda weights: _spread(weights.mean(0)),
        ],
        "rows are along the last axis: sum over S, not over the queries":
            lambda weights: _spread(weights, dim=1),
        "the weights have had their softmax":
            lambda weights: _spread(weights.softmax(-1)),
        "that counts cells that have any weight; a cell of 0.01 is not a whole one":
            lambda weights: (weights > 0).sum(-1),
        "1 / Σ p² is another measure of spread: it is wanted from the entropy":
            lambda weights: 1 / weights.square().sum(-1),
    },
    nan="0 · log 0 is NaN: `torch.xlogy(p, p)` makes it 0.",
    shape="one for each head and query, {}", unit="head and query",
)  # fmt: skip

# The query of each object: one object moved; two swapped; one lost; one found; all as
# before; one moved to the query that another had left; chains.
LOOKS = [
    ([3, 5], [4, 5]),
    ([1, 2], [2, 1]),
    ([0, 7], [0, -1]),
    ([-1, 7], [2, 7]),
    ([4, 6, -1], [4, 6, -1]),
    ([3, 5, -1], [5, -1, 2]),
    ([0, 1, 2], [1, 2, 0]),
]


def _changes(before, after, lost=True, found=True, least=0):
    """How many queries have another object, right unless told to make a mistake."""
    a = {int(q): n for n, q in enumerate(before) if q >= least}
    b = {int(q): n for n, q in enumerate(after) if q >= least}
    some = [q for q in a | b if (lost or q in b) and (found or q in a)]
    return sum(a.get(q) != b.get(q) for q in some)


changes = exercise(__name__, "changes", """
    Check exercise 2, `mine(before [N], after [N])` -> how many queries have changed.

    Each says which query an object has, -1 for none.""",
    praise="an object that moves changes two queries, a swap of two objects also two",
    cases=[(torch.tensor(a), torch.tensor(b)) for a, b in LOOKS],
    answer=_changes,
    mistakes={
        "those are objects: where one moves, two queries change":
            lambda before, after: (before != after).sum(),
        "twice the objects is too many: in a swap two objects share two queries":
            lambda before, after: 2 * (before != after).sum(),
        "-1 is no query: an object that is lost, or found, changes one only":
            {"least": -1},
        "a query that changes from one object to another counts once, not twice":
            lambda before, after: len(
                {(int(q), n) for n, q in enumerate(before) if q >= 0}
                ^ {(int(q), n) for n, q in enumerate(after) if q >= 0}),
        "a query that has lost its object has changed, too": {"lost": False},
        "a query that has an object at last has changed, too": {"found": False},
        "only whether a query has an object is compared: which one counts as well":
            lambda before, after: len(
                {*before.tolist()} - {-1} ^ {*after.tolist()} - {-1}),
    },
    convert=int, kind="return one whole number of queries",
    otherwise=lambda value, truth, before, after:
        f"from {before.tolist()} to {after.tolist()} {truth} queries change, yours: "
        f"{value}",
)  # fmt: skip

COST = torch.tensor([[0.5, 0.1, 0.9], [0.2, 0.3, 0.2], [0.1, 0.8, 0.6], [0.4, 0.05, 0]])
MINE = torch.tensor([[1, 0, 0], [1, 0, 0], [0, 1, 0], [0, 1, 0]]).bool()
BELOW = COST - 1.0


def _choice(cost, allowed, none=-1, forbidden=torch.inf, dim=0):
    """`[N]`, right unless told to make a mistake."""
    best, query = cost.where(allowed, forbidden).min(dim)
    return query.where(allowed.any(dim), none)


choice = exercise(__name__, "choice", """
    Check exercise 3, `mine(cost [Q, N], allowed [Q, N])` -> a query per object `[N]`.

    The cheapest that is allowed, -1 where none is. Source: Sun et al. 2021, section
    4.""",
    praise="one choice for each object is the best matching of all",
    cases=[(COST, MINE), (BELOW, MINE), (COST, MINE[:, [2, 0, 1]])],
    answer=_choice,
    mistakes={
        "a cost that is not allowed must count as infinite: 0 is cheap":
            [{"forbidden": 0.0}, lambda cost, allowed: (cost * allowed).argmin(0)],
        "`allowed` is forgotten": lambda cost, allowed: cost.argmin(0),
        "-1 where no query is allowed: min over infinite costs says 0": {"none": 0},
        "a query for each object, not an object for each query: min over axis 0":
            {"dim": 1},
        "the cheapest, not the dearest":
            lambda cost, allowed: _choice(-cost, allowed),
        "the first allowed query is not always the cheapest":
            lambda cost, allowed: allowed.long().argmax(0).where(allowed.any(0), -1),
        "that is the cost: which query has it?":
            lambda cost, allowed: cost.where(allowed, torch.inf).amin(0),
    },
    shape="one query for each object, {}", unit="object",
)  # fmt: skip
