"""Systems and schemes that want the objects of a batch, in two processes."""

from runs import two_processes

CODE = """
from small import small_config, small_dab_config, small_encoder_only_config
from small import small_tsp_config
from detr_steps import Denoise
from detr_steps.training import Teacher

class Some(Scenes):
    def batches(self, *args, rank=0, **kwargs):
        for batch, targets in super().batches(*args, rank=rank, **kwargs):
            if rank == 0:
                targets = [{k: t[k][:0] for k in ("boxes", "labels")} for t in targets]
            yield batch, targets

CONFIGS = {
    "tsp": small_tsp_config(),
    "encoder only": small_encoder_only_config(),
    "denoise": small_config(scheme=Denoise()),
    "denoise dab": small_dab_config(scheme=Denoise()),
}
data = Some("train", size=64)
for name, config in CONFIGS.items():
    torch.manual_seed(0)
    model = config.build()
    teacher = Teacher(small_detr(5), 1) if name == "denoise" else None
    train(model, data, recipe(steps=3), out / name, device="cpu", progress=False,
          teacher=teacher)
    mine = torch.cat([p.detach().flatten() for p in model.parameters()])
    both = [torch.empty_like(mine) for _ in range(2)]
    torch.distributed.all_gather(both, mine)
    assert mine.isfinite().all() and torch.equal(*both), name
"""


def test_one_process_without_objects_learns_with_the_other(tmp_path):
    """Every weight has a gradient in both, or torch would stop them."""
    two_processes(CODE, tmp_path)
