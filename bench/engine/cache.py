"""A stage that trains on tensors made once: heads on cached similarities, students on cached teacher maps."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bench.engine.context import seed_of
from bench.engine.worker import Worker
from data.batch import Batch
from data.loading import batches, step_sizes
from data.samples import TrainingData
from models.method import Method, Stage

LONGEST_STEP = 2**32
FIELDS = ("has_mask", "has_fine", "label", "margin", "malignant", "stream", "index", "pose")


@dataclass
class CachedStreams:
    """One epoch's draws of the stage's streams, with what `Stage.cache` made of them in place of the pixels."""

    cached: dict[str, Tensor]
    fields: dict[str, Tensor]
    per_step: dict[int, int]  # position of a stream -> its samples in a step, the one that is walked through first
    worker: Worker

    @classmethod
    def make(cls, method: Method, stage: Stage, data: TrainingData, seed: int, worker: Worker) -> "CachedStreams":
        """Runs the cache over one epoch of the streams, augmented as it is; every worker ends with all of it."""
        assert stage.cache is not None
        method.eval()
        parts: list[dict[str, Tensor]] = []
        with torch.no_grad():
            drawn = batches(
                data.train,
                data.inputs,
                stage.streams,
                seed=seed,
                stage=f"{stage.name}/cache",
                epoch=0,
                rank=worker.rank,
                world=worker.world_size,
                augment=True,
                shuffle=True,
            )
            for step, batch in enumerate(drawn):
                made = stage.cache(batch.to(worker.torch_device))
                part = {f"cached/{name}": value.cpu() for name, value in made.items()}
                place = torch.arange(len(batch)) * worker.world_size + worker.rank  # a step is dealt out in turn
                part["place"] = place + step * LONGEST_STEP
                parts.append(part | {name: getattr(batch, name).cpu() for name in FIELDS})
        shares = worker.gather({name: torch.cat([part[name] for part in parts]) for name in parts[0]})
        whole = {name: torch.cat([share[name] for share in shares]) for name in shares[0]}
        order = torch.argsort(whole["place"])
        whole = {name: value[order] for name, value in whole.items()}
        places = {stream.name: (i, stream.per_step) for i, stream in enumerate(data.inputs.streams)}
        return cls(
            {name[7:]: value for name, value in whole.items() if name.startswith("cached/")},
            {name: whole[name] for name in FIELDS},
            dict(places[name] for name in stage.streams),
            worker,
        )

    def epoch(self, seed: int, position: int, epoch: int) -> Iterator[Batch]:
        """This worker's batches of one epoch: the first stream shuffled, of the others a fresh draw in each step."""
        (first, count), *others = self.per_step.items()
        of_stream = {stream: np.flatnonzero(self.fields["stream"].numpy() == stream) for stream in self.per_step}
        rng = np.random.default_rng(seed_of(seed, "cached", position, epoch))
        order = rng.permutation(of_stream[first])
        for walked in np.split(order, np.cumsum(step_sizes(len(order), count))[:-1]):
            drawn = [rng.choice(of_stream[s], min(n, len(of_stream[s])), replace=False) for s, n in others]
            step = np.concatenate([walked, *drawn])
            if len(step) < self.worker.world_size:
                return  # fewer samples than workers: no step that all could take part in
            mine = torch.from_numpy(step[self.worker.rank :: self.worker.world_size])
            empty = torch.empty(len(mine), 1, 0, 0)
            yield Batch(
                image=empty,
                mask=empty,
                fine_mask=empty,
                cached={name: value[mine] for name, value in self.cached.items()},
                **{name: self.fields[name][mine] for name in FIELDS},  # type: ignore[arg-type]  # FIELDS are tensors
            )
