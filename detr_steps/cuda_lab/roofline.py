"""How fast can it be? Bytes and operations of one call, and what a card can do.

Each resource of a card gives a time below which a kernel cannot get: it has so many
bytes to move, so many instructions to issue. The largest of these times is the floor.
Nothing is said about waiting: a real kernel is slower than its floor, never faster.
Built in chapters/07_cuda_kernel.ipynb.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ..ops.read_points import Sizes

WARP = 32  # threads
FLOAT = 4  # bytes; locations, weights and all sums are float32, whatever values are
CORNERS = 4  # pixels that one sample reads


@dataclass(frozen=True)
class Card:
    """What one GPU can do at most.

    `clock` in Hz, `sms` its processors; `dram`, `l2` (reading) and `reductions` (adding
    to memory, in the L2 cache) in bytes per second of the whole card; `l1` in bytes and
    `issue` in warp instructions per clock of one processor. `sources` says where each
    number comes from; those that start with "assumed" nobody has measured here.
    """

    name: str
    arch: str
    clock: float
    sms: int
    dram: float
    l2: float
    reductions: float
    l1: int
    issue: int
    sources: dict[str, str] = field(repr=False)

    def rates(self) -> dict[str, float]:
        """What each resource does in a second: bytes, for `issue` warp instructions."""
        clocks = self.clock * self.sms
        return {
            "dram": self.dram,
            "l2": self.l2,
            "l1": self.l1 * clocks,
            "issue": self.issue * clocks,
            "reductions": self.reductions,
        }


_SCHEDULERS = "CUDA programming guide: four schedulers, one instruction each per clock"
_SHEET = "NVIDIA's data sheet"
H200 = Card("H200", "sm_90", 1.98e9, 132, 4.3e12, 5.5e12, 2.5e12, 128, 4, {
    "clock": f"{_SHEET} of the H100 SXM: boost",
    "sms": _SHEET,
    "dram": f"assumed: nine tenths of the 4.8e12 of {_SHEET}",
    "l2": "assumed",
    "reductions": "assumed: between 1.5e12 and 3.5e12",
    "l1": "assumed: as on V100 and A100",
    "issue": _SCHEDULERS,
})  # fmt: skip
A100 = Card("A100", "sm_80", 1.41e9, 108, 1.8e12, 3.6e12, 1e12, 128, 4, {
    "clock": f"{_SHEET}: boost",
    "sms": _SHEET,
    "dram": f"assumed: nine tenths of the 2.04e12 of {_SHEET} (80 GB)",
    "l2": "assumed: half of the 5,120 bytes per clock of NVIDIA's white paper",
    "reductions": "assumed",
    "l1": "NVIDIA's white paper",
    "issue": _SCHEDULERS,
})  # fmt: skip
T4 = Card("T4", "sm_75", 1.59e9, 40, 0.24e12, 1e12, 0.3e12, 64, 4, {
    "clock": f"{_SHEET}: boost, which 70 W do not sustain",
    "sms": _SHEET,
    "dram": f"assumed: three quarters of the 0.32e12 of {_SHEET}",
    "l2": "assumed",
    "reductions": "assumed",
    "l1": "assumed: half of the A100's",
    "issue": _SCHEDULERS,
})  # fmt: skip
CARDS = {card.name: card for card in (H200, A100, T4)}


@dataclass(frozen=True)
class Case:
    """One call: B images, Q queries (None: every token asks), M heads of D channels.

    `points` K on each level of `sizes` (h, w); `bytes` of one value, 4 or 2.
    """

    images: int
    queries: int | None
    heads: int
    width: int
    sizes: Sizes
    points: int = 4
    bytes: int = FLOAT

    @property
    def tokens(self) -> int:
        """S: pixels of all levels."""
        return sum(h * w for h, w in self.sizes)

    @property
    def asked(self) -> int:
        """Q."""
        return self.tokens if self.queries is None else self.queries

    @property
    def samples(self) -> int:
        """Points that are read: each has four corner pixels of D channels."""
        return self.images * self.asked * self.heads * self.points * len(self.sizes)

    @property
    def touched(self) -> float:
        """Share of the value's pixels that some corner reads.

        All where every token asks around itself. Otherwise as expected of points that
        lie anywhere: a point reaches the pixels whose centre is less than one away.
        """
        if self.queries is None:
            return 1.0
        points = self.queries * self.points
        return sum(_read(size, points) for size in self.sizes) / self.tokens

    @property
    def numbers(self) -> dict[str, int]:
        """How many numbers the arrays of a call hold."""
        channels = self.images * self.heads * self.width
        return {
            "value": channels * self.tokens,
            "locations": 2 * self.samples,
            "weights": self.samples,
            "result": channels * self.asked,
        }

    @property
    def gathered(self) -> int:
        """Bytes of all corners: what a kernel loads if it keeps nothing."""
        return CORNERS * self.samples * self.width * self.bytes

    @property
    def added(self) -> int:
        """Bytes that the backward pass adds to the value's gradient, always float32."""
        return CORNERS * self.samples * self.width * FLOAT


def _read(size: tuple[int, int], points: int) -> float:
    """How many pixels of a map are read by so many points anywhere, on average."""
    down, across = (
        [(min(i + 1.5, side) - max(i - 0.5, 0)) / side for i in range(side)]
        for side in size
    )
    return sum(1 - (1 - a * b) ** points for a in down for b in across)


# A photo of 1,066 x 800 pixels in deformable DETR, two at a time.
PHOTO = ((100, 134), (50, 67), (25, 34), (13, 17))
ENCODER = Case(images=2, queries=None, heads=8, width=32, sizes=PHOTO)
DECODER = Case(images=2, queries=300, heads=8, width=32, sizes=PHOTO)


def operations(case: Case, direction: str) -> int:
    """Floating-point operations of one call, without those that find the corners.

    Forward: a product and a sum for each corner's channel. Backward: the same for the
    dot product of each corner's row with the upstream gradient; a product for what the
    row gets of it, and its sum.
    """
    each = {"forward": 2, "backward": 4}[direction]
    return each * CORNERS * case.samples * case.width


def compulsory(case: Case, direction: str) -> dict[str, int]:
    """Bytes between memory and chip if what is needed of each array goes through once.

    Of the value these are the pixels that a corner reads. Backward, its whole gradient
    is set to zero, then written; in half precision it is added up in float32, and
    converted at the end.
    """
    n = case.numbers
    read = {
        "value": round(n["value"] * case.touched) * case.bytes,
        "locations": n["locations"] * FLOAT,
        "weights": n["weights"] * FLOAT,
    }
    if direction == "forward":
        return read | {"result": n["result"] * case.bytes}
    convert = n["value"] * (FLOAT + case.bytes) if case.bytes != FLOAT else 0
    return read | {
        "grad": n["result"] * case.bytes,
        "value gradient": 2 * n["value"] * FLOAT + convert,
        "locations gradient": n["locations"] * FLOAT,
        "weights gradient": n["weights"] * FLOAT,
    }


def work(
    case: Case,
    direction: str,
    per_sample: float,
    hits: float = 0.0,
    adds: float = 1.0,
) -> dict[str, float]:
    """What a kernel asks of each resource: bytes, for `issue` warp instructions.

    `per_sample`: warp instructions issued for one sample (instructions.py); `hits`: the
    share of its loads that the L1 cache has; `adds`: how many additions to one pixel a
    block sums up before it adds to memory (1: none). `l1` counts the rows of the value,
    not the accesses to shared memory, which take the same way.
    """
    asked = {
        "dram": float(sum(compulsory(case, direction).values())),
        "l2": case.gathered * (1 - hits),
        "l1": float(case.gathered),
        "issue": per_sample * case.samples,
    }
    if direction == "backward":
        asked["reductions"] = case.added / adds
    return asked


def floors(card: Card, asked: dict[str, float]) -> dict[str, float]:
    """Seconds that each resource of a card needs for this work, were it alone."""
    rates = card.rates()
    return {name: amount / rates[name] for name, amount in asked.items()}


# What a simulated cache holds: the share of loads found in the L1s, which forget what
# was used longest ago (H200: 200 KB in each of 132 processors, T4: 64 KB in each of
# 40); ENCODER in float32. "rows": a block takes four neighbouring queries with all
# heads, as the released kernel's do (our steps without tiles have smaller blocks, and
# are given the same); "tiles": 8 x 8 queries of one head. "trained" is an invented
# spread, offsets of two pixels that differ by half a pixel between queries: those of
# zoo's deformable-tiny differ less. What is missing nobody has simulated.
HITS = {
    "H200": {
        "rows": {"uniform": 0.076, "gaussian": 0.44, "initial": 0.72, "trained": 0.56},
        "tiles": {"uniform": 0.26, "gaussian": 0.67, "initial": 0.82, "trained": 0.80},
    },
    "T4": {"rows": {"trained": 0.49}},
}
# Additions to one pixel that meet in a tile of 8 x 8 queries, also simulated.
ADDS = {"uniform": 1.5, "gaussian": 6.1, "initial": 10.8, "trained": 7.9}
# Simulated, too: the share of a warp's steps through the list of the step "sorted" at
# which the pixel changes for one of its four groups, so that the whole warp adds a row.
CHANGES = {"gaussian": 0.44, "initial": 0.24, "trained": 0.34}


def step_work(
    case: Case,
    direction: str,
    step: str,
    per_sample: float,
    points: str = "trained",
    card: Card = H200,
) -> dict[str, float]:
    """The work of one of our steps, for points spread as in HITS and ADDS.

    Those are simulations of the encoder; the decoder's queries share nothing, and find
    about a tenth in the cache.
    Raises: KeyError for a card or spread whose cache nobody has simulated.
    """
    tiled = step in ("tiles", "sorted", "fixed", "fused")
    encoder, order = case.queries is None, "tiles" if tiled else "rows"
    hits = HITS[card.name][order][points] if encoder else 0.1
    grouped = direction == "backward" and tiled and encoder
    adds = ADDS[points] if grouped else 1.0
    if step == "fixed":
        adds /= 2  # its sums are whole numbers of 8 bytes
    return work(case, direction, per_sample, hits, adds)


# Kernels of the encoder by pass: the one released with the paper, then our steps.
STEPS = {
    "forward": ("released", "naive", "points", "vectors", "tiles"),
    "backward": ("released", "naive", "vectors", "sorted"),
}


def step_floors(
    counted: Mapping[str, Mapping], points: str = "trained", card: Card = H200
) -> dict[str, dict[str, dict[str, float]]]:
    """Seconds that each resource needs, by pass, kernel and resource, in the encoder.

    `counted`: instructions of the kernels, of data/measured/kernel_instructions.json.
    Of a walk's `if` both sides are counted there; here it is taken as often as a
    simulation found for such points (CHANGES).
    Raises: KeyError for a card or spread that nobody has simulated.
    Built in chapters/07_cuda_kernel.ipynb.
    """
    taken, found = CHANGES[points], {}
    for way, names in STEPS.items():
        codes = {"released": counted["official"][way]} | dict(counted[way])
        steps = found[f"encoder, {way}"] = {}
        for name in names:
            most = codes[name][card.arch]["per_sample"]
            least = codes[name][card.arch].get("at_least", most)
            issued = least + taken * (most - least)
            asked = step_work(ENCODER, way, name, issued, points, card)
            steps[name] = floors(card, asked)
    return found


def step_times(
    rows: Iterable[Mapping], points: str = "trained"
) -> dict[tuple[str, str], float]:
    """Measured seconds by (pass, kernel), named as `step_floors` names them.

    `rows`: the table of data/measured/kernel_times.json; float32 in the encoder.
    Built in chapters/07_cuda_kernel.ipynb.
    """
    wanted, own = ("encoder", points, "fp32"), {"official": "released"}
    return {
        (f"encoder, {row['direction']}", own.get(row["step"], row["step"])): 1e-6
        * row["us"]
        for row in rows
        if (row["case"], row["points"], row["dtype"]) == wanted
    }
