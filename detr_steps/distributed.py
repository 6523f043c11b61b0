"""The few facts about other processes that a loss or an evaluation must know."""

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> tuple[int, int]:
    """Rank of this process and number of processes; (0, 1) without `torchrun`."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


@torch.no_grad()
def mean_over_processes(value: Tensor) -> Tensor:
    """Average a tensor over all processes; the tensor itself when there is only one.

    Dividing local sums by averaged counts makes the averaged gradient equal to that of
    one process on the whole batch.
    """
    _, size = world()
    if size == 1:
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value / size


def any_process(flags: list[bool], device: torch.device | str) -> list[bool]:
    """Which flags are set in at least one process: all of them must do the same."""
    if world()[1] == 1:
        return flags
    value = torch.tensor(flags, dtype=torch.int32, device=device)  # NCCL has no bool
    dist.all_reduce(value, dist.ReduceOp.MAX)
    return value.bool().tolist()
