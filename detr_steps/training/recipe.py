"""What a training run is: a frozen list of numbers, and the optimiser they make."""

import math
from dataclasses import dataclass, field, fields

import torch
from torch import nn

# setting -> least value
LEAST = {
    "steps": 1,
    "batch": 1,
    "lr": 0,
    "weight_decay": 0,
    "clip": 0,
    "warmup": 0,
    "ema": 0,
    "evaluate_every": 1,
    "evaluate_images": 1,
    "patience": 0,
    "save_every": 1,
    "log_every": 1,
}
FRACTIONS = ("lr", "weight_decay", "clip", "ema")  # all others are whole numbers


@dataclass(frozen=True)
class Recipe:
    """Settings of a run; with the model, the data and the seed they decide everything.

    The defaults are DETR's (Carion et al. 2020, appendix A.4), but for `steps`.
    Raises: ValueError for a setting that cannot be.
    """

    steps: int
    batch: int = 16  # images per step, over all processes together
    lr: float = 1e-4
    lr_factors: dict[str, float] = field(default_factory=lambda: {"backbone": 0.1})
    weight_decay: float = 1e-4
    clip: float = 0.1  # largest norm of the gradient; 0 for none
    warmup: int = 0  # steps over which the learning rate rises from 0
    drops: tuple[int, ...] = ()  # steps at which it is divided by 10
    ema: float = 0.0  # decay of the weights' moving average; 0 for none
    precision: str = "auto"  # auto: bfloat16 where the GPU has it, else float32
    seed: int = 0
    evaluate_every: int = 1000
    evaluate_images: int = 500
    patience: int = 0  # evaluations without a better AP that end the run; 0: never
    save_every: int = 500
    log_every: int = 50
    keep: tuple[int, ...] = ()  # steps whose weights are kept, 0 the untrained ones
    freeze: tuple[str, ...] = ()  # parts of the model that do not learn, by name

    def __post_init__(self) -> None:
        object.__setattr__(self, "drops", tuple(self.drops))
        object.__setattr__(self, "keep", tuple(self.keep))
        if isinstance(self.freeze, str):  # a tuple of it would be its letters
            raise ValueError(f"freeze {self.freeze!r}: give a list of names")
        object.__setattr__(self, "freeze", tuple(self.freeze))
        for part in self.freeze:
            if not isinstance(part, str) or not part:
                raise ValueError(f"freeze {part!r}: give names of parts")
        for name, least in LEAST.items():
            _check_number(name, getattr(self, name), least)
        for name in ("drops", "keep"):
            for step in getattr(self, name):
                _check_number(name, step, 0)
        if self.lr == 0:
            raise ValueError("lr 0: nothing would be learned")
        if not self.ema < 1:
            raise ValueError(f"ema {self.ema}: a decay below 1, or 0 for none")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise ValueError(f"precision {self.precision!r}: auto, float32 or bfloat16")

    @classmethod
    def from_dict(cls, settings: dict, source: object) -> "Recipe":
        """Make one of the settings in a `recipe.json`.

        Raises: ValueError that names the `source` and what is wrong with it.
        """
        known = [each.name for each in fields(cls)]
        unknown = sorted(settings.keys() - set(known))
        if unknown:
            raise ValueError(
                f"{source}: unknown setting {', '.join(unknown)} in its recipe; there "
                f"are {', '.join(known)}"
            )
        if "steps" not in settings:
            raise ValueError(f"{source}: its recipe has no steps")
        try:
            return cls(**settings)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{source}: {error}") from error

    def lr_at(self, step: int) -> float:
        """Learning rate as a share of `lr` at a step: warm-up, then drops by ten."""
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return rise * 0.1 ** sum(step >= drop for drop in self.drops)

    def factor(self, name: str) -> float:
        """Learning-rate factor of a parameter: the first part found in its name."""
        for part, factor in self.lr_factors.items():
            if part in name:
                return factor
        return 1.0

    def optimiser(self, model: nn.Module) -> torch.optim.AdamW:
        """AdamW with one group per learning-rate factor, frozen parameters left out."""
        groups: dict[float, list] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                groups.setdefault(self.factor(name), []).append(parameter)
        return torch.optim.AdamW(
            [{"params": p, "lr": self.lr * f, "factor": f} for f, p in groups.items()],
            weight_decay=self.weight_decay,
        )

    def set_lr(self, optimiser: torch.optim.Optimizer, step: int) -> None:
        """Put the learning rate of a step into every group."""
        for group in optimiser.param_groups:
            group["lr"] = self.lr * group["factor"] * self.lr_at(step)


def _check_number(name: str, value: object, least: int) -> None:
    kinds = (int, float) if name in FRACTIONS else (int,)
    if isinstance(value, bool) or not isinstance(value, kinds):
        what = "number" if name in FRACTIONS else "whole number"
        raise ValueError(f"{name} {value!r}: give a {what}")
    if not math.isfinite(value) or value < least:
        raise ValueError(f"{name} {value}: at least {least}")
