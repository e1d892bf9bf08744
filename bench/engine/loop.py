"""THE training loop: stages, optimisers, precision, choice of the best epoch. One for all methods.

Every draw of an epoch follows from (seed, stage, epoch), so a run resumed from a checkpoint goes on bit for bit (one CPU
worker), and no generator state has to be kept.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from bench.engine.cache import CachedStreams
from bench.engine.checkpoint import Progress, read, write
from bench.engine.context import EngineContext, seed_torch
from bench.engine.evaluate import predictions_frame
from bench.engine.report import Diverged, EpochReport, system_figures
from bench.engine.worker import Worker
from bench.metrics import quick
from bench.metrics.estimate import Estimate
from data.batch import Batch
from data.loading import batches, steps_per_epoch
from data.samples import TrainingData
from models.method import Group, Loss, Method, Stage


@dataclass(frozen=True)
class Settings:
    """How a run is trained, apart from the method's own config."""

    seed: int = 0
    select: str = "validation/auroc_mean"  # higher is better
    bf16: bool = False
    loader_workers: int = 0
    eval_batch: int = 64


def fit(
    method: Method, data: TrainingData, settings: Settings, worker: Worker | None = None, resume: Path | None = None
) -> Iterator[EpochReport]:
    """Train `method` through its stages; one report an epoch, one per `after`, the last one with final=True.

    resume: a folder that a report's `save` wrote. Raises Diverged when a loss is not finite.
    When the generator ends, `method` holds its final state: the best selectable one, if no `after` came later.
    """
    yield from _Run(method, data, settings, worker or Worker(), resume).reports()


class _Run:
    def __init__(
        self, method: Method, data: TrainingData, settings: Settings, worker: Worker, resume: Path | None
    ) -> None:
        self.data, self.settings, self.worker = data, settings, worker
        self.method = method.to(worker.torch_device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.stages = method.stages()
        self.progress = Progress()
        self.optimisers: dict[str, torch.optim.Adam] = {}
        self.context = EngineContext(data, settings.seed, worker, settings.eval_batch)
        self.total = sum(stage.epochs + (stage.after is not None) for stage in self.stages) + 1
        if resume is not None:
            self.progress = read(resume, self.method, worker.torch_device)

    # ---- the run ------------------------------------------------------------------------------------------------
    def reports(self) -> Iterator[EpochReport]:
        progress = self.progress
        for position in range(progress.stage, len(self.stages)):
            stage = self.stages[position]
            if stage.start == "best" and progress.epoch == 0:
                self._restore_best()
            if progress.epoch < stage.epochs:
                yield from self._epochs(stage, position)
            if stage.after is not None:
                started = time.monotonic()
                seed_torch(self.settings.seed, stage.name, position, "after")
                self.method.eval()
                with self._precision():
                    stage.after(self.context)
                progress.best_value, progress.best_state = None, None
                progress.stage, progress.epoch = position + 1, 0
                yield self._report(stage, 0, {}, 0.0, started)
            progress.stage, progress.epoch = position + 1, 0
        self._restore_best()
        yield self._report(self.stages[-1], 0, {}, 0.0, time.monotonic(), final=True)

    def _epochs(self, stage: Stage, position: int) -> Iterator[EpochReport]:
        progress = self.progress
        key = stage.optimiser or f"{stage.name}@{position}"
        self._freeze(stage)
        optimiser = self._optimiser(stage, key)
        model: nn.Module = self.method
        if self.worker.world_size > 1:
            model = DistributedDataParallel(self.method, find_unused_parameters=True)
        cached = None
        if stage.cache:
            with self._precision():
                cached = CachedStreams.make(self.method, stage, self.data, self.settings.seed, self.worker)
        for epoch in range(progress.epoch, stage.epochs):
            started = time.monotonic()
            seed_torch(self.settings.seed, stage.name, position, epoch, self.worker.rank)
            source = (
                cached.epoch(self.settings.seed, position, epoch)
                if cached
                else batches(
                    self.data.train,
                    self.data.inputs,
                    stage.streams,
                    seed=self.settings.seed,
                    stage=f"{stage.name}@{position}",
                    epoch=epoch,
                    rank=self.worker.rank,
                    world=self.worker.world_size,
                    augment=True,
                    shuffle=True,
                    workers=self.settings.loader_workers,
                    device=self.worker.torch_device if self.worker.torch_device.type == "cuda" else None,
                )
            )
            terms, images = self._train_epoch(model, stage, key, epoch, optimiser, source)
            self._agree()
            progress.epoch = epoch + 1
            progress.epochs[key] = progress.epochs.get(key, 0) + 1
            yield self._report(stage, epoch + 1, terms, images, started)
        if stage.optimiser is None:  # nobody else will use it
            self.optimisers.pop(key, None)
            progress.optimisers.pop(key, None)

    def _train_epoch(
        self, model: nn.Module, stage: Stage, key: str, epoch: int, optimiser: torch.optim.Adam, source: Iterator[Batch]
    ) -> tuple[dict[str, float], float]:
        progress, device = self.progress, self.worker.torch_device
        self.method.training_mode(stage)
        steps = list(source) if stage.cache else source
        sums: dict[str, Tensor] = {}
        images = count = 0
        summed: set[str] = set()
        expected = len(steps) if isinstance(steps, list) else self._steps_per_epoch(stage)
        for batch in steps:
            batch = batch.to(device)
            self._set_rates(optimiser, stage, key, progress.epochs.get(key, 0) + count / expected)
            optimiser.zero_grad(set_to_none=True)
            where = f"stage {stage.name}, epoch {epoch + 1}, step {count + 1}"
            for name, value, reduction in self._gradients(model, stage, batch, where):
                sums[name] = sums.get(name, torch.zeros((), device=device)) + value
                summed |= {name} if reduction == "sum" else set()
            if stage.clip_norm > 0:
                nn.utils.clip_grad_norm_([p for group in stage.groups for p in group.parameters], stage.clip_norm)
            optimiser.step()
            progress.steps[key] = progress.steps.get(key, 0) + 1
            images += len(batch)
            count += 1
        means = self.worker.gather({name: (value / max(count, 1)).item() for name, value in sums.items()})
        world = self.worker.world_size
        terms = {name: sum(m[name] for m in means) / (1 if name in summed else world) for name in sums}
        return terms, float(sum(self.worker.gather(images)))

    def _gradients(self, model: nn.Module, stage: Stage, batch: Batch, where: str) -> Iterator[tuple[str, Tensor, str]]:
        """Adds the gradients of one step, of several parts of it one after the other where the method asks for that. Gives each
        term's name, its value (a mean counts by its share of all workers' samples) and how it was reduced.

        Raises Diverged on every worker when a loss is not finite on one of them.
        """
        world, everyone = self.worker.world_size, self._everyones(len(batch))
        parts = max(1, min(self.method.accumulate, int(everyone // world)))  # as many on each worker
        for number in range(parts):
            part = batch.every(parts, number) if parts > 1 else batch
            with self._precision():
                loss: Loss = model(part, stage)
            self._check(loss, where)
            share = len(part) * world / everyone
            self._total(loss, share).backward()
            for name, one in loss.items():
                yield name, one.value.detach().float() * (1 if one.reduction == "sum" else share), one.reduction

    def _everyones(self, samples: int) -> float:
        """All workers' samples of this step: a worker's mean counts by its share of them."""
        if self.worker.world_size == 1:
            return float(samples)
        told = torch.tensor(float(samples), device=self.worker.torch_device)
        dist.all_reduce(told)
        return told.item()

    def _check(self, loss: Loss, where: str) -> None:
        total = self._total(loss, 1.0).item()
        values = "" if math.isfinite(total) else ", ".join(f"{name} {t.value.item():.4g}" for name, t in loss.items())
        if self.worker.world_size == 1:
            if values:
                raise Diverged(f"{where}: {values}")
            return
        told = torch.tensor(float(bool(values)), device=self.worker.torch_device)
        dist.all_reduce(told)
        if told.item():
            raise Diverged(f"{where}: {next(one for one in self.worker.gather(values) if one)}")

    def _total(self, loss: Loss, share: float) -> Tensor:
        """weight x value of all terms. Workers' gradients are averaged, so a term summed over samples counts N times."""
        parts = [
            one.value * one.weight * (self.worker.world_size if one.reduction == "sum" else share)
            for one in loss.values()
        ]
        return torch.stack([part.float() if part.dtype == torch.bfloat16 else part for part in parts]).sum()

    def _agree(self) -> None:
        """Buffers (running statistics of batch norm) of rank 0 on every worker, so that all judge the same model."""
        if self.worker.world_size > 1:
            for buffer in self.method.buffers():
                dist.broadcast(buffer, 0)

    def _precision(self) -> torch.autocast:
        """The precision of everything that reads the network: a prototype projected in one and read in another would not
        be at distance 0 from its own patch."""
        return torch.autocast(self.worker.torch_device.type, torch.bfloat16, enabled=self.settings.bf16)

    # ---- optimisers ---------------------------------------------------------------------------------------------
    def _freeze(self, stage: Stage) -> None:
        wanted = {id(p) for group in stage.groups for p in group.parameters}
        for parameter in self.method.parameters():
            parameter.requires_grad_(id(parameter) in wanted)
            parameter.grad = None

    def _optimiser(self, stage: Stage, key: str) -> torch.optim.Adam:
        """The Adam of this key, with the groups of every stage that shares it; what a stage does not train is frozen."""
        if key not in self.optimisers:
            groups: list[dict[str, object]] = []
            seen: set[int] = set()
            for one in [stage] if stage.optimiser is None else [s for s in self.stages if s.optimiser == key]:
                for group in one.groups:
                    new = [p for p in group.parameters if id(p) not in seen]
                    seen |= {id(p) for p in new}
                    if new:
                        groups.append({"params": new, "lr": group.lr, "weight_decay": group.weight_decay})
            self.optimisers[key] = torch.optim.Adam(groups)
            if key in self.progress.optimisers:
                self.optimisers[key].load_state_dict(self.progress.optimisers[key])
        return self.optimisers[key]

    def _set_rates(self, optimiser: torch.optim.Adam, stage: Stage, key: str, epochs: float) -> None:
        factor = stage.schedule(epochs) if stage.schedule else 1.0
        if stage.warmup_steps:
            factor *= min(1.0, (self.progress.steps.get(key, 0) + 1) / stage.warmup_steps)
        owner: dict[int, Group] = {id(p): group for group in stage.groups for p in group.parameters}
        for settings in optimiser.param_groups:
            group = owner.get(id(settings["params"][0]))
            if group is not None:
                settings["lr"], settings["weight_decay"] = group.lr * factor, group.weight_decay

    def _steps_per_epoch(self, stage: Stage) -> int:
        return max(1, steps_per_epoch(self.data.train, self.data.inputs, stage.streams))

    # ---- reading ------------------------------------------------------------------------------------------------
    def _validate(self, where: str) -> dict[str, Estimate]:
        track = self.data.inputs.target
        self.method.eval()
        frame = predictions_frame(
            self.method, self.data.validation, self.data.inputs, track, self.worker, self.settings
        )
        if not np.isfinite(frame.scores).all():
            raise Diverged(f"{where}: a validation score is not finite")
        return {f"validation/{name}": estimate for name, estimate in quick(frame).items()}

    def _report(
        self, stage: Stage, epoch: int, terms: dict[str, float], images: float, started: float, final: bool = False
    ) -> EpochReport:
        spent = time.monotonic() - started
        metrics = self._validate(f"stage {stage.name}, epoch {epoch}")
        value = metrics[self.settings.select].value if self.settings.select in metrics else None
        progress = self.progress
        best = -math.inf if progress.best_value is None else progress.best_value
        if epoch and stage.selectable and value is not None and value > best:
            progress.best_value = value
            progress.best_state = {k: v.detach().cpu().clone() for k, v in self.method.state_dict().items()}
        progress.number += 1
        number = progress.number
        return EpochReport(
            stage=stage.name,
            epoch=epoch,
            number=number,
            total=self.total,
            selectable=bool(epoch) and stage.selectable,
            terms=terms,
            metrics=metrics,
            images_per_second=images / spent if images and spent > 0 else 0.0,
            seconds=time.monotonic() - started,
            system=system_figures(self.worker.device),
            final=final,
            save=self._save,
        )

    def _restore_best(self) -> None:
        if self.progress.best_state is not None:
            self.method.load_state_dict(self.progress.best_state)

    def _save(self, folder: Path) -> None:
        self.progress.optimisers.update({key: o.state_dict() for key, o in self.optimisers.items()})
        write(folder, self.method, self.progress)
