"""Training in several processes: `torchrun --nproc-per-node 8 -m nesf train …`.

Each rank computes a share of every batch. Batch statistics, gradients and losses are summed over
the ranks (`torch.distributed`; NCCL on GPUs, gloo on CPUs): the steps of one process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


def n_processes() -> int:
    """Return the number of processes that train together; 1 outside of `processes`."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return the rank of this process among them; rank 0 writes files."""
    return dist.get_rank() if n_processes() > 1 else 0


def launched() -> tuple[int, int]:
    """Return rank and number of processes that torchrun or another launcher set, else (0, 1)."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def processes(device: str = "auto") -> Iterator[str]:
    """Join the processes that a launcher started, if it did, and yield the device of this one."""
    if launched()[1] == 1:
        yield device
        return
    cuda = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    if cuda:
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def sum_over_ranks(x: Tensor) -> Tensor:
    """Sum a tensor over all ranks; without gradient."""
    if n_processes() == 1:
        return x
    x = x.contiguous().clone()
    dist.all_reduce(x)
    return x


def from_first_rank(value: float, device: torch.device) -> float:
    """Return the value of rank 0, on every rank."""
    return float(
        sum_over_ranks(
            torch.tensor(value if rank() == 0 else 0.0, dtype=torch.float64, device=device)
        )
    )


class _SumOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # type: ignore[override]
        return sum_over_ranks(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:  # type: ignore[override]
        return sum_over_ranks(g)


class BatchNorm(torch.nn.BatchNorm1d):
    """Batch normalisation over the rows of all ranks; torch's SyncBatchNorm has no CPU form."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x [M, width] normalised."""
        if not self.training or n_processes() == 1:
            return super().forward(x)
        sums = _SumOverRanks.apply(
            torch.cat([x.sum(0), x.square().sum(0), x.new_full((1,), len(x))])
        )
        n = sums[-1].detach()
        mean, square = sums[: x.shape[1]] / n, sums[x.shape[1] : -1] / n
        variance = (square - mean.square()).clamp(min=0)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)  # type: ignore[union-attr, arg-type]
            self.running_var.lerp_(variance * (n / (n - 1).clamp(min=1)), self.momentum)  # type: ignore[union-attr, arg-type]
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        return (x - mean) * (torch.rsqrt(variance + self.eps) * self.weight) + self.bias
