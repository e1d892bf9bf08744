"""Two workers of the engine as two real processes of one gloo group."""

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from bench.engine.worker import Worker
from tests.toy_engine import Tiny

Trained = dict[str, Any]


def on_two_workers(training_on: Callable[[Worker, Tiny], Trained], tiny: Tiny, folder: Path) -> list[Trained]:
    """What a function of a test's module gives on each of two workers; folder: for what they leave behind.

    Both are forked from a process that has imported the module once, and trained nothing.
    """
    multiprocessing.set_forkserver_preload([training_on.__module__])
    mp.start_processes(_process, args=(2, folder, tiny, training_on), nprocs=2, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _process(rank: int, world: int, folder: Path, tiny: Tiny, training_on: Callable[[Worker, Tiny], Trained]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=world)
    torch.save(training_on(Worker(rank, world), tiny), folder / f"{rank}.pt")
    dist.barrier()
    os._exit(0)  # everything is on disk; at an ordinary exit gloo's threads now and then abort the process
