"""What the prototype networks cost beside their bare trunk, side by side in one process (docs/performance.md).

.venv/bin/python -m perf.prototypes [--threads 1] [--clock cpu] [--device cpu] [--quick]

Published size: 224 px, VGG-16 of width 1, random weights (which change no time), 15 prototypes x 512; pyramid of 256
channels, 20 prototypes. Only samples are few. What is compared runs in turns in one process, so that other work on the
machine meets all of it; a ratio is of two neighbours in time. cpu: seconds of this process; wall: elapsed ones.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import models
from bench.engine.loop import Settings, fit
from bench.engine.worker import Worker
from bench.home import Home
from bench.prepare import cores, prepare_data
from data.batch import Batch
from data.loading import batches
from data.samples import TrainingData
from models._prototype_base import PrototypeMethod
from models.fpn_iaia_bl import FocalSeen, FpnIaiaBl
from models.method import Stage, Task
from perf._turns import HEADER, Clock, Work, arguments, in_turns, show

OPTIONS = {"exams": {"train": 12, "validation": 4, "test": 2}, "size": 512}
PROVIDES = frozenset(
    {"margin", "mask", "fine_mask", "box", "normal"}
)  # not malignancy, so that no head is fitted to it
FEW: dict[str, dict[str, Any]] = {  # a step of eight samples, one of them at least of every stream
    "iaia_bl": {"batch_size": 7, "fine_batch_size": 1},
    "fpn_iaia_bl": {"batch_size": 6, "fine_batch_size": 1, "negative_batch_size": 1},
}
STEP_BOUND = {"iaia_bl": 1.05, "fpn_iaia_bl": 1.25}
FINE_BOUND, PROJECTION_BOUND = 0.05, 1.15


# ---- methods and data --------------------------------------------------------------------------------------------
@dataclass
class Made:
    """A method, and the phantom prepared for it."""

    method: PrototypeMethod
    data: TrainingData
    device: str

    @classmethod
    def of(cls, name: str, home: Home, device: str, **overrides: Any) -> "Made":
        """At its published size but for the overrides."""
        kind: Any = models.load(name)
        own = {"start": "weights", "negatives": 6} if kind is FpnIaiaBl else {}
        torch.manual_seed(0)
        method = kind(kind.Config(weights="none", **own, **overrides), Task.of("margin", "phantom", PROVIDES))
        prepared = prepare_data(home, "phantom", OPTIONS, None, inputs=method.inputs())
        data = prepared.training(prepared.split(), method.inputs())
        return cls(method.to(device, memory_format=torch.channels_last), data, device)

    def step(self) -> Batch:
        """The samples of one step, of all streams."""
        inputs = self.data.inputs
        streams = tuple(stream.name for stream in inputs.streams)
        return next(batches(self.data.train, inputs, streams, seed=1, augment=True, shuffle=True)).to(self.device)

    def joint(self) -> Stage:
        """The stage that trains everything but, with IAIA-BL, the last layer; what it does not train is frozen."""
        stage = next(one for one in self.method.stages() if one.name.startswith("joint"))
        wanted = {id(p) for group in stage.groups for p in group.parameters}
        for parameter in self.method.parameters():
            parameter.requires_grad_(id(parameter) in wanted)
        self.method.training_mode(stage)
        return stage


@dataclass
class InMemory:
    """models.method.Context over batches that are there already."""

    streams: dict[str, list[Batch]]
    device: torch.device
    rank: int = 0
    world_size: int = 1

    @classmethod
    def of(cls, made: Made, samples: int) -> "InMemory":
        """The first training samples of each stream that projection reads."""
        streams: dict[str, list[Batch]] = {}
        for name in made.method.projection_streams:
            wanted = samples if name == "train" else samples // 4
            read = batches(made.data.train, made.data.inputs, (name,), batch_size=max(2, wanted // 2))
            streams[name] = [batch.to(made.device) for batch, _ in zip(read, range(2), strict=False)]
        return cls(streams, torch.device(made.device))

    def batches(self, stream: str = "train", *, augment: bool = False, all_samples: bool = False) -> Iterator[Batch]:
        yield from self.streams[stream]

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def generator(self, name: str) -> np.random.Generator:
        return np.random.default_rng(list(name.encode()))


# ---- what is compared --------------------------------------------------------------------------------------------
def training_step(made: Made, batch: Batch) -> Work:
    """Forward, all losses, backward."""
    stage = made.joint()

    def run() -> None:
        made.method.zero_grad(set_to_none=True)
        torch.stack([one.value * one.weight for one in made.method(batch, stage).values()]).sum().backward()

    return run


def trunk_step(made: Made, batch: Batch) -> Work:
    """Forward and backward of the bare trunk, the mean of its features for a loss."""

    def run() -> None:
        made.method.zero_grad(set_to_none=True)
        made.method.trunk(batch.image).mean().backward()

    return run


def fine_step(made: Made, batch: Batch) -> Work:
    """Forward and backward of the fine term alone, on given maps: random ones, whose values change no time."""
    method: Any = made.method
    members = method.standing
    sides = [method.sides[int(level[0])] for level in members]
    shapes = [(len(batch), len(level), side, side) for level, side in zip(members, sides, strict=True)]
    maps = [torch.rand(shape, device=made.device, requires_grad=True) for shape in shapes]

    def term() -> Tensor:
        if not isinstance(method, FpnIaiaBl):
            return method.fine_term(maps[0], batch).value
        none = torch.zeros(len(batch), len(method.classes), device=made.device)
        seen = FocalSeen(none, none, list(zip(maps, members, strict=True)), none, none)
        return method.fine_term(seen, batch, method.labels(batch)).value

    return lambda: torch.autograd.grad(term(), maps)


def compare_steps(name: str, home: Home, device: str, rounds: int, clock: Clock) -> None:
    few, published = Made.of(name, home, device, **FEW[name]), Made.of(name, home, device)
    batch, full = few.step(), published.step()
    works = {
        "step": training_step(few, batch),
        "trunk": trunk_step(few, batch),
        "fine": fine_step(published, full),
    }
    taken = in_turns(works, rounds, clock)
    show(f"{name}: training step of {len(batch)}", taken["step"], taken["trunk"], STEP_BOUND[name])
    extrapolated = [seconds * len(full) / len(batch) for seconds in taken["trunk"]]
    show(f"{name}: fine loss alone, {len(full)} samples *", taken["fine"], extrapolated, FINE_BOUND)


def compare_projection(name: str, home: Home, device: str, rounds: int, clock: Clock, samples: int) -> None:
    made = Made.of(name, home, device, **FEW[name])
    made.method.eval()
    context = InMemory.of(made, samples)
    read = [batch for stream in context.streams.values() for batch in stream]
    start = made.method.prototypes.detach().clone()

    def project() -> None:
        with torch.no_grad():
            made.method.prototypes.copy_(start)
        made.method.project(context)

    works = {"projection": project, "predict": lambda: [made.method.predict(batch, "margin") for batch in read]}
    taken = in_turns(works, rounds, clock)
    what = f"{name}: projection over {sum(map(len, read))} samples"
    show(what, taken["projection"], taken["predict"], PROJECTION_BOUND)


def count_last_layer(name: str, home: Home, device: str) -> None:
    """A short run by the engine: what epochs of the last layer send through the trunk, and what they take."""
    schedule = {"warm_epochs": 0, "joint_epochs": 1, "h1_epochs": 3, "samples_per_class": 4, "prune": {"rule": "none"}}
    made = Made.of(name, home, device, **FEW[name], **schedule)
    through = {"to train": 0, "to read": 0}

    def count(module: torch.nn.Module, arguments: tuple[Tensor, ...]) -> None:
        through["to train" if torch.is_grad_enabled() else "to read"] += len(arguments[0])

    made.method.trunk.features[0].register_forward_pre_hook(count)
    rates = {}
    for report in fit(made.method, made.data, Settings(eval_batch=16), Worker(device=device)):
        if report.epoch:
            sent = ", ".join(f"{samples} {what}" for what, samples in through.items())
            rates[report.stage] = report.images_per_second
            print(f"{name}: {report.stage}, epoch {report.epoch}: samples through the trunk: {sent}")
        through.update(dict.fromkeys(through, 0))
    joint, last = (next(rate for stage, rate in rates.items() if stage.startswith(kind)) for kind in ("joint", "h1"))
    size = len(made.data.validation)
    print(f"{name}: an epoch of the last layer: {joint / last:.5f} of a joint one (wall), without validation's {size}")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--quick", action="store_true", help="two rounds, the steps and projection alone")
    asked = parser.parse_args()
    clock, rounds = Clock.asked(parser, asked), 2 if asked.quick else asked.rounds
    print(f"{asked.device}, {cores()} cores, {asked.threads} threads, {asked.clock} seconds, {rounds} rounds")
    print(HEADER)
    with tempfile.TemporaryDirectory() as folder:
        home = Home.at(Path(folder))
        for name in STEP_BOUND:
            compare_steps(name, home, asked.device, rounds, clock)
        for name in STEP_BOUND:
            compare_projection(name, home, asked.device, rounds, clock, 8 if asked.quick else 16)
        for name in () if asked.quick else STEP_BOUND:
            count_last_layer(name, home, asked.device)
    print("* beside the trunk's step on few samples, times the samples: linear")


if __name__ == "__main__":
    main()
