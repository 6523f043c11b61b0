"""Steps of training deformable-tiny, with torch's operators and with the kernels."""

from detr_steps import experiment, zoo
from detr_steps.data.scenes import Scenes
from detr_steps.ops import backend

from .record import Record
from .timing import on_card, seconds_eager

BATCH = 16


def run(record: Record, dry: bool) -> None:
    """Milliseconds of forward, loss and backward; the first call is not timed."""
    device = "cuda" if on_card() else "cpu"
    names = ("torch", "auto") if device == "cpu" else ("torch", "cuda")
    for name in names:
        if not record.late and not record.has("training", name):
            record.put("training", name, _step(name, device, 2 if dry else BATCH))


def _step(name: str, device: str, batch: int) -> dict:
    model = experiment.build(zoo.recipe("deformable-tiny")).to(device).train()
    pictures, targets = next(Scenes("train").batches(batch, device=device))

    def step() -> None:
        model.zero_grad()
        with backend.use(name):
            model.loss(model(pictures), targets)["total"].backward()

    step()
    return {"ms": 1e3 * seconds_eager([step], rounds=20), "batch": batch}
