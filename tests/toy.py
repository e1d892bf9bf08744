"""Batches made by hand and a few steps of training without the engine: what tests of methods stand on."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

import models
from data.batch import Batch
from models.method import Loss, Method, MethodConfig, Stage, Task

PROVIDES = frozenset({"margin", "malignant", "mask", "fine_mask", "box", "normal"})


def toy_batch(n: int = 12, size: int = 32, classes: int = 3, seed: int = 0, first_row: int = 0) -> Batch:
    """n images of a bright disc on noise; the class is how its rim looks. Every second sample has a fine mask (the rim).

    Classes come in turn; malignancy goes with the class, margin is the class where there are three.
    """
    rng = np.random.default_rng(seed)
    ys, xs = np.mgrid[:size, :size].astype(float)
    image, mask, fine, boxes = (
        np.empty((n, 1, size, size)),
        np.empty((n, 1, size, size)),
        np.empty((n, 1, size, size)),
        [],
    )
    labels = np.arange(first_row, first_row + n) % classes
    for i, label in enumerate(labels):
        radius = size * rng.uniform(0.16, 0.22)
        cx, cy = rng.uniform(0.35 * size, 0.65 * size, 2)
        distance = np.hypot(xs - cx, ys - cy)
        angle = np.arctan2(ys - cy, xs - cx)
        rim = (0.04, 0.5, 0.15)[label % 3] * radius
        disc = 1 / (1 + np.exp((distance - radius) / rim))
        if label % 3 == 2:
            disc += 0.9 * (np.cos(7 * angle) > 0.6) * (distance > radius) * (distance < 1.8 * radius)
        image[i, 0] = np.clip(0.3 + 0.05 * rng.standard_normal((size, size)) + 0.5 * disc, 0, 1)
        mask[i, 0] = np.clip(radius + 1 - distance, 0, 1)
        fine[i, 0] = np.abs(distance - radius) <= 0.25 * radius
        boxes.append(torch.tensor([[cx - radius, cy - radius, cx + radius, cy + radius]], dtype=torch.float32))
    label = torch.from_numpy(labels)
    return Batch(
        image=torch.from_numpy(image).float(),
        mask=torch.from_numpy(mask).float(),
        fine_mask=torch.from_numpy(fine).float(),
        has_mask=torch.ones(n, dtype=torch.bool),
        has_fine=torch.arange(n) % 2 == 0,
        label=label,
        margin=label.clone() if classes == 3 else torch.from_numpy(np.arange(n) % 3),
        malignant=(label > 0).long() if classes == 3 else label.clone(),
        stream=torch.zeros(n, dtype=torch.int64),
        index=torch.arange(first_row, first_row + n),
        pose=torch.zeros(n, dtype=torch.int64),
        boxes=boxes,
    )


def subset(batch: Batch, rows: Sequence[int] | Tensor) -> Batch:
    """Some samples of a batch."""
    index = torch.as_tensor(rows)
    values = {
        name: value[index] if isinstance(value, Tensor) else [value[int(i)] for i in index]
        for name, value in vars(batch).items()
        if name != "cached"
    }
    return Batch(**values)


def as_double(batch: Batch) -> Batch:
    """The same batch with float64 images and masks."""
    return Batch(
        **{k: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in vars(batch).items()}
    )


def lesion_free(n: int = 4, size: int = 32, seed: int = 0, first_row: int = 1000) -> Batch:
    """n regions of noise as a stream of negatives gives them: no label, no mask."""
    batch = toy_batch(n, size, seed=seed, first_row=first_row)
    rng = np.random.default_rng([seed, 1])
    batch.image = torch.from_numpy(np.clip(0.3 + 0.05 * rng.standard_normal((n, 1, size, size)), 0, 1)).float()
    for name in ("mask", "fine_mask", "has_mask", "has_fine"):
        getattr(batch, name).zero_()
    for name in ("label", "margin", "malignant"):
        getattr(batch, name).fill_(-1)
    return batch


class ToyContext:
    """models.method.Context over batches in memory, of one worker among several that share a list for `gather`."""

    def __init__(self, batches: Sequence[Batch], seed: int = 0) -> None:
        self.rank, self.world_size, self.device = 0, 1, torch.device("cpu")
        self._batches, self._seed = list(batches), seed

    def batches(self, stream: str = "train", *, augment: bool = False, all_samples: bool = False) -> Iterator[Batch]:
        if stream == "negative":
            yield lesion_free(size=self._batches[0].image.shape[2])
            return
        for batch in self._batches:
            yield subset(batch, batch.has_fine.nonzero()[:, 0]) if stream == "fine" else batch

    def gather(self, value: Any) -> list[Any]:
        return [value]

    def generator(self, name: str) -> np.random.Generator:
        return np.random.default_rng([self._seed, *name.encode()])


def toy_config(name: str, **overrides: Any) -> MethodConfig:
    """The published config with its budget shrunk: whatever the method, by the kinds and names of its fields."""
    config = models.load(name).Config
    fields = config.model_fields
    small: dict[str, Any] = {"size": 32, "width": 0.0625, "batch_size": 6, "samples_per_class": None}
    small |= {"weights": "none"} if "weights" in fields else {}
    for key, field in fields.items():
        extra = field.json_schema_extra
        if isinstance(extra, dict) and extra.get("kind") == "budget" and key.endswith("epochs"):
            small[key] = 1
    if "trunk_blocks" in fields:
        small["trunk_blocks"] = 4
    if "cell" in fields:
        small["cell"] = 8
    if "stages" in fields:
        small["stages"] = 3
    if "trainable" in fields:  # nothing of a random trunk may stay frozen
        small["trainable"] = "all"
    return config.model_validate({**small, **overrides})


def toy_method(name: str, track: str = "margin", seed: int = 0, **overrides: Any) -> Method:
    """A method at toy size with its initial weights."""
    torch.manual_seed(seed)
    method: Method = models.load(name)(toy_config(name, **overrides), Task.of(track, "toy", PROVIDES))
    return method


def total(loss: Loss) -> Tensor:
    return torch.stack([one.value * one.weight for one in loss.values()]).sum()


def freeze(method: Method, stage: Stage) -> list[torch.nn.Parameter]:
    """As the engine does: everything outside the stage's groups is frozen. Gives what is trained."""
    wanted = [p for group in stage.groups for p in group.parameters]
    for parameter in method.parameters():
        parameter.requires_grad_(any(parameter is p for p in wanted))
        parameter.grad = None
    return wanted


def train(
    method: Method, stage: Stage, batches: Sequence[Batch], steps: int, plain_lr: float = 0.0
) -> list[Mapping[str, float]]:
    """A few steps of one stage; the terms of each step. plain_lr: at least this rate everywhere, and no weight decay."""
    freeze(method, stage)
    optimiser = torch.optim.Adam(
        [
            {
                "params": list(g.parameters),
                "lr": max(g.lr, plain_lr),
                "weight_decay": 0.0 if plain_lr else g.weight_decay,
            }
            for g in stage.groups
        ]
    )
    batches = list(batches)
    if stage.cache is not None:
        method.eval()
        batches = [cached(method, stage, batch) for batch in batches]
    method.training_mode(stage)
    history = []
    for step in range(steps):
        loss = method(batches[step % len(batches)], stage)
        optimiser.zero_grad()
        total(loss).backward()
        optimiser.step()
        history.append({name: float(one.value.detach()) for name, one in loss.items()})
    return history


def cached(method: Method, stage: Stage, batch: Batch) -> Batch:
    """The batch as the engine hands it over in a stage with a cache: no pixels."""
    assert stage.cache is not None
    empty = torch.empty(len(batch), 1, 0, 0)
    return Batch(**{**vars(batch), "image": empty, "mask": empty, "fine_mask": empty, "cached": stage.cache(batch)})


def train_all(method: Method, batches: Sequence[Batch], steps: int = 2, seed: int = 0) -> None:
    """All stages of a method, a few steps each, with their `after`."""
    context = ToyContext(batches, seed)
    for stage in method.stages():
        if stage.epochs:
            train(method, stage, batches, steps)
        if stage.after is not None:
            method.eval()
            stage.after(context)
    method.eval()
