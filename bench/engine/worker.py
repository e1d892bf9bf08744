"""Which of how many workers this process is, and on which device it computes."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class Worker:
    """One of world_size processes. A process group must exist if world_size > 1."""

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"

    @property
    def torch_device(self) -> torch.device:
        return torch.device(self.device)

    def gather(self, value: Any) -> list[Any]:
        """`value` of every worker in order of rank; a collective call."""
        if self.world_size == 1:
            return [value]
        values: list[Any] = [None] * self.world_size
        dist.all_gather_object(values, value)
        return values


def best_device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"
