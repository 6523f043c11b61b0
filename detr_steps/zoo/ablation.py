"""What a change did to a run, and whether its seeds can tell."""

from dataclasses import dataclass

from .reading import record, scores

ENOUGH = 3  # seeds on both sides before anything is more or less


@dataclass(frozen=True)
class Comparison:
    """Scores of a run before and after a change, one for each seed; `key` their name.

    Built in chapters/10_conditional_attention.ipynb.
    """

    before: list[float]
    after: list[float]
    key: str = "AP"

    @property
    def seeds(self) -> int:
        """How many seeds both sides have."""
        return min(len(self.before), len(self.after))

    @property
    def gain(self) -> float | None:
        """Difference of the means, in points (hundredths); None without a run."""
        if not self.seeds:
            return None
        return 100 * (_mean(self.after) - _mean(self.before))

    @property
    def verdict(self) -> str:
        """More or less, where three seeds on both sides do not overlap; else open."""
        if self.seeds < ENOUGH:
            return f"open: {self.seeds} seed{'s' * (self.seeds != 1)}"
        if max(self.before) < min(self.after):
            return "more"
        return "less" if max(self.after) < min(self.before) else "open: seeds overlap"

    @property
    def reach(self) -> tuple[float, float] | None:
        """Least and most that any two seeds differ, in points; None without a run."""
        if not self.seeds:
            return None
        low = min(self.after) - max(self.before)
        high = max(self.after) - min(self.before)
        return 100 * low, 100 * high

    @property
    def detail(self) -> str:
        """The gain, and from where to where any two seeds reach; the verdict is apart.

        "-1.0 (-1.8 to +0.1)"; "no runs" without any.
        """
        if self.reach is None:
            return "no runs"
        low, high = self.reach
        return f"{self.gain:+.1f} ({low:+.1f} to {high:+.1f})"

    def alike(self, margin: float = 1.0) -> bool | str:
        """Whether no two seeds differ by more than `margin` points, for `viz.claims`.

        False where they do and do not overlap either; where they overlap, that no
        difference is seen. With fewer than three seeds it is open.
        """
        if self.seeds < ENOUGH:
            return self.verdict
        if max(map(abs, self.reach)) <= margin:
            return True
        return "no difference seen" if self.verdict.startswith("open") else False

    @property
    def name(self) -> str:
        """The score's name as one reads it: `mask_AP` is mask AP."""
        return self.key.replace("_", " ")

    def holds(self, expected: str) -> bool | str:
        """Whether the verdict is `expected`, for `viz.claims`; open stays open."""
        said = self.verdict
        return said == expected if said in ("more", "less") else said

    def __str__(self) -> str:
        gain = (
            "no runs" if self.gain is None else f"{self.gain:+.1f} {self.name} points"
        )
        return f"{gain} ({self.verdict})"


def compare(before: str, after: str, key: str = "AP") -> Comparison:
    """Compare the last scores of two recipes' seeds, by the names of the recipes.

    Raises: KeyError for an unknown name.
    """
    return Comparison(scores(before, key), scores(after, key), key)


def steps_to(name: str, goal: float, key: str = "AP") -> int | None:
    """The first evaluated step of a run at which a score reaches `goal`, or None.

    Raises: KeyError for an unknown name.
    """
    lines = record(name)
    return next((line["step"] for line in lines if line.get(key, -1) >= goal), None)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
