"""The contract that every method keeps: one file in `models/` is a method (docs/adding_a_method.md).

Shapes: B samples, H W input pixels, h w cells of a map at the method's own resolution, K classes, S sources of evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from pydantic import Field as _PydanticField
from torch import Tensor, nn

from data.batch import Batch
from data.inputs import Augment, Inputs, Picture, Roi, Stream
from data.tracks import TRACKS, Track
from models._chart import Chart
from models._readings import Evidence, Panel, Prediction, Variant, scale01

Kind = Literal["science", "budget"]
Rows = Literal["train", "all"]


def Field(default: Any, *, kind: Kind = "science", description: str, **limits: Any) -> Any:
    """A config field. science: decides what the method is; budget: how much is spent (a suite overlays it).

    description: what it is, with its equation or table, and whether the value is the paper's or ours.
    limits: pydantic's (ge, gt, le, lt, multiple_of...).
    """
    return _PydanticField(default, description=description, json_schema_extra={"kind": kind}, **limits)


@dataclass(frozen=True)
class Source:
    """Other data that a requirement is trained on. rows: `train`, the training side of that data set's own split; `all`,
    of its test side, too, which such a network then cannot be judged on."""

    dataset: str
    options: Mapping[str, Any] = field(default_factory=dict)  # of its reader
    rows: Rows = "train"


class MethodConfig(BaseModel):
    """Fields that every method has; its own Config adds to them. Frozen; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    size: int = Field(224, kind="budget", ge=16, description="side of the square input, pixels")
    width: float = Field(
        1.0, kind="budget", gt=0, le=4, description="multiplier of the trunk's channel counts; 1 = published"
    )
    batch_size: int = Field(
        32, kind="budget", ge=1, description="samples of the first stream per optimiser step, all workers"
    )
    samples_per_class: int | None = Field(
        None, kind="budget", ge=1, description="draws of each class an epoch; null: each training sample once"
    )
    picture: Picture = Field(
        "image", description="image: the film; mask: the lesion's mask in its place (teachers of paper 003, oracles)"
    )
    roi: Roi = Field(Roi(), description="how the region is cut around the finding")
    augment: Augment = Field(Augment(), description="variation of training samples")

    @property
    def sources(self) -> tuple[Source, ...]:
        """Other data that a run below is trained on, through the same regions and size."""
        return ()

    @property
    def start_file(self) -> str | None:
        """What `weights` says where that is a file: its path or, of a planned run, the name of its content (bench/starts.py).
        The engine hands its tensors to `start_from("weights", state)`. None: it is no file."""
        return None


@dataclass(frozen=True)
class Card:
    """What a method is, as data: shown by `list methods`, checked before a run.

    tracks: track served -> track whose labels it trains on (a margin network serves malignancy by its head).
    needs: what the data must provide (of DataCard.provides). supervision: what training saw.
    """

    name: str
    title: str
    year: int
    tracks: Mapping[str, str]
    explains: str
    paper: str = ""
    reference: str = ""  # reference code and its licence
    needs: frozenset[str] = frozenset()
    supervision: str = "label"  # label | + box | + mask | + fine mask
    deviations: tuple[str, ...] = ()
    refuses: Mapping[str, str] = field(default_factory=dict)  # track -> why it is not applicable


@dataclass(frozen=True)
class Task:
    """What a method is built for: the trained track, and facts of the data set that shape it."""

    track: Track
    dataset: str = "phantom"
    provides: frozenset[str] = frozenset()

    @property
    def classes(self) -> tuple[str, ...]:
        return self.track.classes

    @classmethod
    def of(cls, track: str, dataset: str = "phantom", provides: Iterable[str] = ()) -> Task:
        return cls(TRACKS[track], dataset, frozenset(provides))


@dataclass
class Term:
    """One term of a loss: a 0-dim tensor; how it was reduced over the batch; its weight in the total."""

    value: Tensor
    reduction: Literal["mean", "sum"]
    weight: float = 1.0


def term(value: Tensor, reduction: Literal["mean", "sum"] = "mean", weight: float = 1.0) -> Term:
    return Term(value, reduction, weight)


class Loss(dict[str, Term]):
    """Named terms. The engine adds weight x value, scaling `sum` terms by world size, so workers never change a loss."""

    def __init__(self, **terms: Term) -> None:
        super().__init__(**terms)


@dataclass(frozen=True)
class Requirement:
    """A run that this one starts from. The engine hands its final state to `start_from(name, state)`.

    Made once per fold and final seed on the same training side, or once per seed on other data (`source`); its cost is
    counted; its ancestry is inherited. Tuning trials share one, so it must not depend on a field that the search space
    suggests.
    """

    name: str  # the consumer's name for it, e.g. "trunk"
    method: str
    config: Mapping[str, Any]  # overrides of that method's Config
    track: str
    source: Source | None = None  # None: the data of the run that asks


class Context(Protocol):
    """What `Stage.after` and `Stage.cache` may use. The same on every worker; `gather` is a collective call."""

    rank: int
    world_size: int
    device: torch.device

    def batches(self, stream: str = "train", *, augment: bool = False, all_samples: bool = False) -> Iterator[Batch]:
        """The training samples of a stream in table order, not shuffled; this worker's share unless all_samples."""

    def gather(self, value: Any) -> list[Any]:
        """`value` of every worker, in order of rank."""

    def generator(self, name: str) -> np.random.Generator:
        """A generator that depends on the run's seed and the name alone, the same on every worker."""


@dataclass(frozen=True)
class Group:
    """Parameters that share an optimiser's settings. lr per step, before the stage's schedule."""

    name: str
    parameters: tuple[nn.Parameter, ...]
    lr: float
    weight_decay: float = 0.0  # coupled, as torch.optim.Adam


@dataclass(frozen=True)
class Stage:
    """A stretch of training. Parameters outside its groups are frozen while it runs.

    epochs: 0 = only `after`. optimiser: key; stages of one key share one Adam, moments included.
    schedule: factor of the rates at e, the epochs (a fraction within an epoch) already spent under this key.
    streams: names of Inputs.streams, the first one sets the steps. selectable: its epochs may be chosen by validation.
    start: "current", or "best" = begin from the best selectable state so far.
    cache: makes tensors (B, ...) of each training sample once; its batches then carry them as Batch.cached.
    after: changes the model once the epochs are over (projection, pruning, a head) and resets the choice of the best
    state: a state from before it is no longer this model.
    warmup_steps, clip_norm: linear warm-up of the rates over the key's first steps; gradient norm clipping; 0 = off.
    """

    name: str
    groups: Sequence[Group] = ()
    epochs: int = 1
    optimiser: str | None = None  # None: a fresh one of its own
    schedule: Callable[[float], float] | None = None
    streams: tuple[str, ...] = ("train",)
    selectable: bool = True
    start: Literal["current", "best"] = "current"
    cache: Callable[[Batch], Mapping[str, Tensor]] | None = None
    after: Callable[[Context], None] | None = None
    warmup_steps: int = 0
    clip_norm: float = 0.0


class Method(nn.Module):
    """Base of all methods. A small paper writes `stages`, `forward`, `predict` and `maps`; the rest has a default."""

    card: ClassVar[Card]  # set by the registry from the module's CARD
    version: ClassVar[int] = 1
    Config: ClassVar[type[MethodConfig]] = MethodConfig
    map_titles: ClassVar[Mapping[str, str]] = {}  # what pictures call a map of `maps`; without one its own name
    maps_of_no_class: ClassVar[frozenset[str]] = frozenset()  # those of `maps` that are the same whatever the target

    def __init__(self, config: MethodConfig, task: Task) -> None:
        super().__init__()
        self.config: Any = config
        self.task = task

    # ---- what it is fed with, and starts from -------------------------------------------------------------------
    def inputs(self) -> Inputs:
        """Size, region, augmentation and streams of training; default: one stream of all labelled samples."""
        c = self.config
        return Inputs(
            size=(c.size, c.size),
            target=self.task.track.name,
            streams=(Stream("train", c.batch_size, "mask" if c.picture == "mask" else "all", c.samples_per_class),),
            roi=c.roi,
            augment=c.augment,
            picture=c.picture,
        )

    @classmethod
    def requires(cls, config: Any, task: Task) -> list[Requirement]:
        """Runs that this one starts from."""
        return []

    def facts(self) -> dict[str, float]:
        """Numbers of the trained network that its readers ask for, by name: coefficients, counts. Kept with the run."""
        return {}

    def start_from(self, name: str, state: Mapping[str, Tensor]) -> None:
        """Take over the final state of the requirement `name`, or of the file that `weights` names. Called once, before the first
        stage."""
        raise ValueError(f"{self.card.name} has no requirement {name!r}")

    @property
    def supervision(self) -> str:
        """What training saw under this config: label | + box | + mask | + fine mask; default: as the card says."""
        return self.card.supervision

    @property
    def accumulate(self) -> int:
        """Parts of a step that run one after the other for less memory, their gradients added; batch norm then sees a part alone.
        For methods whose terms are means over the samples of one stream."""
        return 1

    # ---- training -----------------------------------------------------------------------------------------------
    def stages(self) -> list[Stage]:
        raise NotImplementedError

    def forward(self, batch: Batch, stage: Stage) -> Loss:
        raise NotImplementedError

    def training_mode(self, stage: Stage) -> None:
        """Set train / eval of submodules before an epoch of `stage`; default: all in train mode."""
        self.train()

    # ---- reading ------------------------------------------------------------------------------------------------
    def predict(self, batch: Batch, track: str) -> Prediction:
        raise NotImplementedError

    def maps(self, batch: Batch, target: Tensor) -> dict[str, Tensor]:
        """name -> (B, h, w): what the decision for class `target` (B) looked at, at the method's own resolution."""
        raise NotImplementedError

    def activations(self, image_B1HW: Tensor) -> dict[int, Tensor]:
        """Group -> its spatial activations (B, C, h, w), early to late; the last is what the head reads. {}: has none."""
        return {}

    def evidence(self, batch: Batch) -> Evidence | None:
        """What the trained track's scores are made of; None where a method has no such sum."""
        return None

    def untrained(self) -> Method:
        """A copy that has learnt nothing, which the maps are judged beside: built anew, with `weights` (if the config has
        that field) set to none. Override where a constructor loads weights by another field."""
        config = self.config
        if "weights" in type(config).model_fields:
            config = config.model_copy(update={"weights": "none"})
        return type(self)(config, self.task)

    def variants(self) -> list[Variant]:
        return [Variant("default")]

    def coincide(self) -> list[tuple[str, str, str]]:
        """Pairs of variants that are equal by algebra under this config, and why: (variant, variant, one clause)."""
        return []

    def vary(self, prediction: Prediction, maps: Mapping[str, Tensor], variant: Variant) -> Prediction:
        """The prediction under a test-time setting, from the same activations."""
        return prediction

    def explain(self, batch: Batch) -> list[list[Panel]]:
        """Per sample the paper's own figure; default: the image with the lesion, and the map of the predicted class."""
        prediction = self.predict(batch, self.task.track.name)
        predicted = prediction.probabilities.argmax(dim=1)
        maps = self.maps(batch, predicted)
        rows: list[list[Panel]] = []
        for i in range(len(batch)):
            image = batch.image[i, 0].float().cpu().numpy()
            outline = batch.mask[i, 0].float().cpu().numpy() if bool(batch.has_mask[i]) else None
            name = self.task.classes[int(predicted[i])]
            row = [Panel("image", image)]  # nothing drawn over what a reader is to judge
            for key, value in maps.items():
                title = self.map_titles.get(key, key) + ("" if key in self.maps_of_no_class else f": {name}")
                row.append(Panel(title, image, map=scale01(value[i]).float().cpu().numpy(), outline=outline))
            rows.append(row)
        return rows

    def artifacts(self) -> dict[str, list[Panel]]:
        """Pictures of the trained model itself (a prototypes gallery): page name -> panels."""
        return {}

    def charts(self) -> dict[str, Chart]:
        """Figures of numbers that the trained model keeps of itself: file name -> figure."""
        return {}

    def notes(self) -> dict[str, str]:
        """What the head of such a page says of all its pictures together: page name -> a paragraph."""
        return {}

    # ---- helpers ------------------------------------------------------------------------------------------------
    def group(self, name: str, *parts: nn.Module | nn.Parameter, lr: float, weight_decay: float = 0.0) -> Group:
        parameters: list[nn.Parameter] = []
        for part in parts:
            parameters.extend([part] if isinstance(part, nn.Parameter) else part.parameters())
        return Group(name, tuple(parameters), lr, weight_decay)


def not_applicable(card: Card, track: str, provides: frozenset[str]) -> str | None:
    """Why this method cannot serve this track on data that provide this, in words; None if it can."""
    if track in card.refuses:
        return card.refuses[track]
    if track not in card.tracks:
        return f"{card.name} does not serve the track {track}"
    missing = sorted((card.needs | ({card.tracks[track]} & {"margin"})) - provides)
    return f"needs {', '.join(missing)}, which the data set does not provide" if missing else None
