"""Whether training waits for data: batches alone against training steps, in turns in one process (docs/performance.md).

.venv/bin/python -m perf.loading [--method vgg16] [--batch 8] [--rounds 5] [--loaders 0]

The published configuration but for the batch and for the initial weights, which change no time. The data are prepared
before: it is the speed of every epoch but for the first read of the disk.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from torch.nn.parameter import Parameter

import models
from bench.home import Home
from bench.prepare import cores, prepare_data
from data.loading import batches
from data.samples import TrainingData
from models.method import Method, Stage, Task

ENOUGH = 1000  # images of a round, where an epoch has more
OPTIONS = {"exams": {"train": 60, "validation": 8, "test": 8}, "size": 512}


def made(name: str, track: str, batch: int, home: Home) -> tuple[Method, TrainingData]:
    """The method at its published size, and the phantom prepared for it."""
    kind = models.load(name)
    task = Task.of(track, "phantom", frozenset({"margin", "malignant", "mask", "fine_mask", "box", "normal"}))
    method = kind(kind.Config(batch_size=batch, weights="none"), task)
    inputs = method.inputs()
    prepared = prepare_data(home, "phantom", OPTIONS, None, inputs=inputs)
    return method, prepared.training(prepared.split(), inputs)


def load(data: TrainingData, stage: Stage, loaders: int, epoch: int) -> float:
    """Images per second of (the beginning of) an epoch of batches, varied as in training, that nobody uses."""
    started, images = time.perf_counter(), 0
    source = batches(
        data.train, data.inputs, stage.streams, seed=1, epoch=epoch, augment=True, shuffle=True, workers=loaders
    )
    for batch in source:
        images += len(batch)
        if images >= ENOUGH:
            break
    return images / (time.perf_counter() - started)


def train(method: Method, data: TrainingData, stage: Stage, optimiser: torch.optim.Optimizer) -> float:
    """Images per second of one training step, its batch ready beforehand."""
    batch = next(batches(data.train, data.inputs, stage.streams, seed=1, augment=True, shuffle=True))
    started = time.perf_counter()
    loss = sum(one.value * one.weight for one in method(batch, stage).values())
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    optimiser.step()
    return len(batch) / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--method", default="vgg16")
    parser.add_argument("--track", default="margin")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--loaders", type=int, default=0, help="loader processes; 0: the training process itself")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        method, data = made(asked.method, asked.track, asked.batch, Home.at(Path(folder)))
        stage = method.stages()[0]
        method = method.to(memory_format=torch.channels_last)  # as the engine has it
        parameters: list[Parameter] = [one for group in stage.groups for one in group.parameters]
        optimiser = torch.optim.Adam(parameters, lr=1e-5)
        method.training_mode(stage)
        load(data, stage, asked.loaders, 0), train(method, data, stage, optimiser)
        loaded, trained = [], []
        for epoch in range(1, asked.rounds + 1):
            loaded.append(load(data, stage, asked.loaders, epoch))
            trained.append(train(method, data, stage, optimiser))
        size = data.inputs.size
    print(
        f"{asked.method}, {size[0]} x {size[1]} px, batch {asked.batch}, {cores()} cores, {torch.get_num_threads()} threads"
    )
    print(f"{'':24}{'median':>10}{'lowest':>10}{'highest':>10}   images/s")
    for name, rates in (("batches alone", loaded), ("training steps alone", trained)):
        print(f"{name:24}{statistics.median(rates):10.1f}{min(rates):10.1f}{max(rates):10.1f}")
    ratios = [a / b for a, b in zip(loaded, trained, strict=True)]
    print(f"{'ratio, round by round':24}{statistics.median(ratios):10.1f}{min(ratios):10.1f}{max(ratios):10.1f}")


if __name__ == "__main__":
    main()
