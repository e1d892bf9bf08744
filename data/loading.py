"""Batches of the samples of one side, the same on any number of workers.

Shapes: B samples, H W input pixels, h w cached pixels (larger than the input where a recipe cuts random windows).
"""

import multiprocessing
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from data._canvas import Canvases
from data._negatives import KIND as NEGATIVE
from data.augment import Variation, centre, draw, pose_of, vary_boxes
from data.batch import Batch
from data.errors import ConfigError
from data.inputs import Augment, Inputs, Stream
from data.roi import overlap_corners
from data.samples import Samples

_BATCH = 64  # samples per batch of evaluation where neither stream nor caller says


class _Item(NamedTuple):
    """One sample of a step."""

    row: int  # of Samples.table
    stream: int  # position in Inputs.streams
    position: int  # in the epoch, over all streams and ranks: seeds the sample's randomness


class _Seeds(NamedTuple):
    """What an epoch's randomness depends on."""

    seed: int
    stage: int
    epoch: int

    def generator(self, *purpose: int) -> np.random.Generator:
        return np.random.Generator(np.random.PCG64(np.random.SeedSequence(list(self), spawn_key=purpose)))


_ORDER, _DRAW, _VARY = 0, 1, 2  # purposes


def batches(
    samples: Samples,
    inputs: Inputs,
    streams: Sequence[str] = (),
    *,
    seed: int = 0,
    stage: str = "",
    epoch: int = 0,
    rank: int = 0,
    world: int = 1,
    augment: bool = False,
    shuffle: bool = False,
    workers: int = 0,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
) -> Iterator[Batch]:
    """One epoch of batches for one of `world` workers.

    shuffle (training): the first stream is walked through once, shuffled, in steps of its `per_step` (or holds
    `samples_per_class` draws of each class); every other stream adds `per_step` samples drawn afresh, without
    replacement. A step's samples are dealt out to the ranks in turn, so every rank has the same number of steps and
    the union over ranks is the same for any `world`. Nothing is dropped: see `step_sizes`.

    Without shuffle (evaluation, projection): the samples of the first stream named (all lesions or films, if none is) in table order,
    in batches of `batch_size` (default: the stream's per_step, else 64), the last one as large as it comes; a rank
    takes every `world`-th sample. No other stream is drawn.

    augment: vary by inputs.augment, else the central window. A sample's variation depends on (seed, stage, epoch,
    position in the epoch) alone. workers: loader processes; with `device` they hand over cached pixels and what was
    drawn, and the variation is applied on that device. Raises DataError for a stream without samples.
    """
    seeds = _Seeds(seed, zlib.crc32(stage.encode()), epoch)
    chosen = [_stream(inputs, name) for name in streams]
    if shuffle:
        steps = _training_steps(samples, chosen, seeds, rank, world, batch_size)
    else:
        steps = _table_steps(samples, chosen, rank, world, batch_size)
    recipe = inputs.augment if augment else None
    dataset = _Dataset(samples, recipe, seeds, late=device is not None)
    loader: DataLoader[Batch | Canvases] = DataLoader(
        dataset,
        batch_sampler=steps,
        num_workers=min(workers, len(steps)),
        collate_fn=_as_it_is,
        multiprocessing_context=_context() if workers and steps else None,
        generator=torch.Generator().manual_seed(seed),  # keeps the global generator of torch untouched
    )
    for made in loader:
        batch = made.batch(samples.size, device or "cpu") if isinstance(made, Canvases) else made
        yield replace(batch, image=batch.mask) if inputs.picture == "mask" else batch


def step_sizes(count: int, per_step: int) -> list[int]:
    """Samples of the first stream in each step of an epoch of `count` samples; they add up to `count`.

    Full steps, then the remainder as a step of its own if it holds at least half as many; a smaller one shares evenly
    with the step before it. So no step is larger than `per_step` and none is too small for batch norm or for a rank.
    """
    full, rest = divmod(count, per_step)
    if not rest:
        return [per_step] * full
    if not full or 2 * rest >= per_step:
        return [per_step] * full + [rest]
    both = per_step + rest
    return [per_step] * (full - 1) + [(both + 1) // 2, both // 2]


def steps_per_epoch(samples: Samples, inputs: Inputs, streams: Sequence[str], batch_size: int | None = None) -> int:
    """How many steps `batches(..., shuffle=True)` has."""
    first = _stream(inputs, streams[0])[1]
    return len(step_sizes(samples.epoch_length(first), batch_size or first.per_step))


def _stream(inputs: Inputs, name: str) -> tuple[int, Stream]:
    for number, stream in enumerate(inputs.streams):
        if stream.name == name:
            return number, stream
    known = ", ".join(stream.name for stream in inputs.streams)
    raise ConfigError(f"no stream {name!r}", "streams of the stage", f"choose of: {known}")


def _epoch_order(samples: Samples, stream: Stream, rng: np.random.Generator) -> np.ndarray:
    """The first stream's samples of one epoch, shuffled."""
    members = samples.members(stream)
    if stream.samples_per_class is not None:
        labels = samples.columns["label"].numpy()[members]
        draws = [rng.choice(members[labels == label], stream.samples_per_class) for label in np.unique(labels)]
        members = np.concatenate(draws)
    return rng.permutation(members)


def _training_steps(
    samples: Samples,
    streams: Sequence[tuple[int, Stream]],
    seeds: _Seeds,
    rank: int,
    world: int,
    batch_size: int | None,
) -> list[list[_Item]]:
    """This rank's samples of each step of the epoch."""
    if not streams:
        raise ConfigError("a stage that trains names at least one stream", "streams of the stage", "name one")
    (number, first), others = streams[0], streams[1:]
    pools = [(index, stream, samples.members(stream)) for index, stream in others]
    order = _epoch_order(samples, first, seeds.generator(_ORDER))
    sizes = step_sizes(len(order), batch_size or first.per_step)
    steps, position = [], 0
    for step, chunk in enumerate(np.split(order, np.cumsum(sizes)[:-1])):
        picked = [(int(index), number) for index in chunk]
        for index, stream, pool in pools:
            count = min(stream.per_step, len(pool))
            draw = seeds.generator(_DRAW, index, step).choice(pool, count, replace=False)
            picked += [(int(sample), index) for sample in draw]
        if len(picked) < world:
            raise ConfigError(
                f"a step of {len(picked)} samples cannot be divided among {world} workers",
                "batch_size",
                "use fewer workers or larger batches",
            )
        items = [_Item(index, stream, position + i) for i, (index, stream) in enumerate(picked)]
        steps.append(items[rank::world])
        position += len(items)
    return steps


def _table_steps(
    samples: Samples, streams: Sequence[tuple[int, Stream]], rank: int, world: int, batch_size: int | None
) -> list[list[_Item]]:
    """This rank's samples in table order."""
    number, members, size = 0, np.flatnonzero(samples.table["kind"] != NEGATIVE), batch_size or _BATCH
    if streams:
        number, stream = streams[0]
        members, size = samples.members(stream), batch_size or stream.per_step
    own = [_Item(int(index), number, position) for position, index in enumerate(members)][rank::world]
    return [own[start : start + size] for start in range(0, len(own), size)]


class _Dataset(Dataset[Batch | Canvases]):
    """Whole batches: the loader asks for a step's items at once. late: the variation is left to who gets them."""

    def __init__(self, samples: Samples, recipe: Augment | None, seeds: _Seeds, *, late: bool = False) -> None:
        self.samples, self.recipe, self.seeds, self.late = samples, recipe, seeds, late
        _ = samples.columns  # made once, before worker processes copy it

    def __getitems__(self, items: list[_Item]) -> Batch | Canvases:
        """The batch of these items, or what it is made of."""
        made = self._canvases(items)
        return made if self.late else made.batch(self.samples.size)

    def _canvases(self, items: list[_Item]) -> Canvases:
        samples, size = self.samples, self.samples.size
        image = np.stack([samples.image[item.row][None] for item in items])
        masks = np.stack([np.stack([samples.mask[item.row], samples.fine[item.row]]) for item in items])
        drawn = [self._drawn(item, pixels) for item, pixels in zip(items, image, strict=True)]
        of_items = [torch.from_numpy(samples.boxes[item.row]) for item in items]
        boxes = [vary_boxes(own, how, size) for own, how in zip(of_items, drawn, strict=True)]
        index = torch.tensor([item.row for item in items])
        of_table = {name: column[index] for name, column in samples.columns.items()}
        no_pixels = torch.empty((len(items), 1, 0, 0))
        rest = Batch(
            image=no_pixels,
            mask=no_pixels,
            fine_mask=no_pixels,
            has_mask=of_table["has_mask"],
            has_fine=of_table["has_fine"],
            label=of_table["label"],
            margin=of_table["margin"],
            malignant=of_table["malignant"],
            stream=torch.tensor([item.stream for item in items]),
            index=index,
            pose=torch.tensor(
                [pose_of(how, (one.shape[1], one.shape[2]), size) for how, one in zip(drawn, image, strict=True)]
            ),
            boxes=[box[(box[:, 2] > box[:, 0]) & (box[:, 3] > box[:, 1])] for box in boxes],
        )
        return Canvases(torch.from_numpy(image.view(np.int16)), torch.from_numpy(masks), drawn, rest)

    def _drawn(self, item: _Item, pixels: np.ndarray) -> Variation:
        """The sample's own variation; without a recipe the central window."""
        size, canvas, corners = self.samples.size, (pixels.shape[1], pixels.shape[2]), None
        if self.recipe is None:
            return centre(canvas, size)
        if self.samples.overlap_n:
            finding = str(self.samples.table["finding_id"].iat[item.row])
            boxes = self.samples.boxes[item.row]
            if not len(boxes):  # a lesion-free region is cut as if it were a box
                top, left, height, width = centre(canvas, size).window
                boxes = np.array([[left, top, left + width, top + height]])
            x0, y0, x1, y1 = boxes[0].tolist()
            corners = overlap_corners(finding, self.samples.overlap_n, size, canvas, (x0, y0, x1, y1))
        return draw(self.recipe, pixels, size, self.seeds.generator(_VARY, item.position), corners)


def _as_it_is(batch: Any) -> Any:
    return batch


def _context() -> str | None:
    """Loader processes are forked where that exists: a spawned one would import torch anew every epoch."""
    return "fork" if "fork" in multiprocessing.get_all_start_methods() else None
