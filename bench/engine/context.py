"""What a method's `Stage.after` and `Stage.cache` may use: training samples, the other workers, named randomness."""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from bench.engine.worker import Worker
from data.batch import Batch
from data.loading import batches
from data.samples import TrainingData


def seed_of(seed: int, *names: str | int) -> int:
    """A 63-bit seed that depends on the run's seed and the names alone."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


class EngineContext:
    """models.method.Context, over the training side of one run."""

    def __init__(self, data: TrainingData, seed: int, worker: Worker, batch_size: int) -> None:
        self.rank, self.world_size, self.device = worker.rank, worker.world_size, worker.torch_device
        self._data, self._seed, self._worker, self._batch_size = data, seed, worker, batch_size

    def batches(self, stream: str = "train", *, augment: bool = False, all_samples: bool = False) -> Iterator[Batch]:
        """A stream's training samples in table order; this worker's share unless all_samples."""
        share = (0, 1) if all_samples else (self.rank, self.world_size)
        for batch in batches(
            self._data.train,
            self._data.inputs,
            (stream,),
            seed=self._seed,
            stage="context",
            epoch=0,
            rank=share[0],
            world=share[1],
            augment=augment,
            shuffle=False,
            batch_size=self._batch_size,
        ):
            yield batch.to(self.device)

    def gather(self, value: Any) -> list[Any]:
        return self._worker.gather(value)

    def generator(self, name: str) -> np.random.Generator:
        return np.random.default_rng(seed_of(self._seed, "context", name))


def seed_torch(seed: int, *names: str | int) -> None:
    """Every draw that torch makes until the next call (dropout, initial weights) follows from the seed and the names."""
    torch.manual_seed(seed_of(seed, *names))
