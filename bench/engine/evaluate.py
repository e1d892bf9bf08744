"""From a method and samples to a frame: predictions, maps, evidence and masks, and nothing that needs the model again."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from bench.config import Job, RunSpec
from bench.engine.context import seed_torch
from bench.engine.worker import Worker
from bench.metrics.frame import Frame, pack_masks, prediction_rows
from bench.metrics.maps import UNTRAINED, MapBuilder, judged
from data.batch import Batch
from data.inputs import Inputs
from data.loading import batches
from data.roi import to_film
from data.samples import Samples
from data.tracks import TRACKS
from models.method import Evidence, Method, Prediction

EVIDENCE = "evidence"  # name of the maps of sources
AT_ONCE = 64 * 256 * 256  # pixels of a batch of evaluation
JUDGED = 512  # pixels of the longer side of what is kept of whole films; lesions are matched by boxes in input pixels


def predictions_frame(
    method: Method, samples: Samples, inputs: Inputs, track: str, worker: Worker, settings: Any
) -> Frame:
    """Scores and probabilities alone: what an epoch's validation needs."""
    with _reading(worker, settings):
        rows = [
            _rows(samples, batch, method.predict(batch, track), track, "validation", settings.seed, 0, "default")
            for batch in _eval_batches(samples, inputs, worker, settings)
        ]
    return Frame(pd.concat(rows, ignore_index=True), {"track": track, "classes": list(TRACKS[track].classes)})


def read_rows(
    method: Method, samples: Samples, track: str, side: str, spec: RunSpec, variant: str, worker: Worker, settings: Any
) -> pd.DataFrame:
    """Rows of Frame.predictions of one variant, and nothing else."""
    method.eval()
    with _reading(worker, settings):
        rows = [
            _rows(samples, batch, method.predict(batch, track), track, side, spec.seed, spec.fold, variant)
            for batch in _eval_batches(samples, method.inputs(), worker, settings)
        ]
    return pd.concat(rows, ignore_index=True)


def evaluate(job: Job, method: Method, samples: Samples, track: str, side: str, worker: Worker, settings: Any) -> Frame:
    """Everything that metrics and pages may ask of this run later: one row per sample and variant, maps of the true and
    of the predicted class, one per prototype of these classes, the masks they are judged by, and the maps that the same
    network makes with random weights."""
    method.eval()
    untrained = untrained_copy(method, job.spec.method, job.spec.seed, worker)
    with _reading(worker, settings):
        return _read(job, method, untrained, samples, track, side, worker, settings)


def untrained_copy(method: Method, name: str, seed: int, worker: Worker) -> Method:
    """The method with random weights that follow from the seed and the method's name alone, ready to predict."""
    with torch.random.fork_rng(devices=[]):
        seed_torch(seed, "untrained", name)
        copy = method.untrained()
    placed: Method = copy.to(worker.torch_device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed.eval()


def _read(
    job: Job, method: Method, untrained: Method,
    samples: Samples, track: str, side: str, worker: Worker, settings: Any,
) -> Frame:  # fmt: skip
    inputs = method.inputs()
    rows: list[pd.DataFrame] = []
    maps, evidence_rows, order = MapBuilder(), [], []
    masks: dict[str, list[np.ndarray]] = {"lesion": [], "fine": [], "image": [], "has_lesion": [], "has_fine": []}
    for batch in _eval_batches(samples, inputs, worker, settings):
        prediction = method.predict(batch, track)
        table = samples.table.iloc[batch.index.cpu().numpy()]
        order.append(table)
        asked = _asked(method, batch, prediction, table, track)
        drawn = _add_maps(maps, method, batch, asked)
        for variant in method.variants():
            changed = method.vary(prediction, drawn, variant)
            rows.append(_rows(samples, batch, changed, track, side, job.spec.seed, job.spec.fold, variant.name))
        evidence = method.evidence(batch) if asked.own_track else None
        if evidence is not None:
            evidence_rows.append(_evidence(maps, evidence, asked))
        _add_untrained(maps, untrained, batch, asked, _judged(method, drawn, evidence))
        masks["lesion"].append(_bytes(batch.mask))
        masks["fine"].append(_bytes(batch.fine_mask))
        masks["image"].append(_bytes(batch.image))
        masks["has_lesion"].append(batch.has_mask.cpu().numpy())
        masks["has_fine"].append(batch.has_fine.cpu().numpy())
    arrays = {name: np.concatenate(parts) for name, parts in masks.items()}
    return Frame(
        predictions=pd.concat(rows, ignore_index=True),
        meta=_meta(job, method, track, side),
        maps=maps.table(),
        masks=pack_masks(pd.concat(order, ignore_index=True), **arrays),
        evidence=pd.concat(evidence_rows, ignore_index=True) if evidence_rows else None,
    )


def _eval_batches(samples: Samples, inputs: Inputs, worker: Worker, settings: Any) -> Iterator[Batch]:
    """All samples in table order: the first stream of training may hold a part of them, evaluation reads every one."""
    for batch in batches(
        samples, inputs, (), seed=0, stage="evaluation", epoch=0, augment=False, shuffle=False,
        batch_size=_at_once(inputs, settings.eval_batch),
    ):  # fmt: skip
        yield batch.to(worker.torch_device)


def _at_once(inputs: Inputs, most: int) -> int:
    """Samples of a batch of evaluation: fewer of whole films, which hold as many pixels."""
    return max(1, min(most, AT_ONCE // (inputs.size[0] * inputs.size[1])))


@contextmanager
def _reading(worker: Worker, settings: Any) -> Iterator[None]:
    """No gradients, and the precision of training."""
    with torch.no_grad(), torch.autocast(worker.torch_device.type, torch.bfloat16, enabled=settings.bf16):
        yield


def _rows(
    samples: Samples, batch: Batch, prediction: Prediction, track: str, side: str, seed: int, fold: int, variant: str
) -> pd.DataFrame:
    table = samples.table.iloc[batch.index.cpu().numpy()]
    scores, probabilities = prediction.scores.double().cpu().numpy(), prediction.probabilities.double().cpu().numpy()
    flagged = None if prediction.flagged is None else prediction.flagged.cpu().numpy()
    rows = prediction_rows(table, track, scores, probabilities, side, seed, fold, variant, flagged)
    if prediction.boxes is not None:
        rows["boxes"] = _flat(prediction.boxes)
    if prediction.regions is not None:
        rows["regions"] = _flat(
            [_on_film(one, row, samples.size) for one, row in zip(prediction.regions, table.itertuples(), strict=True)]
        )
    if TRACKS[track].searched is not None:
        rows["truth"] = _flat(batch.boxes)
    return rows


def _on_film(regions: Tensor, row: Any, size: tuple[int, int]) -> Tensor:
    """(n, 5) regions in input pixels of a film's central window -> in film pixels, their weights beside."""
    found, where = regions.float().cpu().numpy(), (row.wx0, row.wy0, row.wx1, row.wy1)
    return torch.from_numpy(np.concatenate([to_film(found[:, :4], where, size, row.flipped), found[:, 4:]], axis=1))


def _flat(boxes: list[Tensor]) -> list[list[float]]:
    """Per sample its boxes one after the other."""
    return [box.float().cpu().numpy().round(3).ravel().tolist() for box in boxes]


@dataclass(frozen=True)
class _Asked:
    """Of which classes a batch's maps are asked for. truth, predicted (B): classes of the trained track; truth is -1 where
    it is unknown, and everywhere on a further track, whose classes are not those that the maps are made for."""

    table: pd.DataFrame
    own_track: bool
    truth: np.ndarray
    predicted: np.ndarray
    searched: int | None  # the class whose lesions are searched for in whole films

    def of(self) -> np.ndarray:
        """(B,) whose map that of the predicted class is: one that is also the true class is kept once."""
        return np.where(self.truth == self.predicted, "both", "predicted")


def _asked(method: Method, batch: Batch, prediction: Prediction, table: pd.DataFrame, track: str) -> _Asked:
    own = track == method.task.track.name
    seen = prediction if own else method.predict(batch, method.task.track.name)
    truth = table[TRACKS[track].column].to_numpy(np.int64) if own else np.full(len(table), -1)
    searched = TRACKS[track].searched if own else None
    return _Asked(table, own, truth, seen.probabilities.argmax(dim=1).cpu().numpy(), searched)


def _add_maps(maps: MapBuilder, method: Method, batch: Batch, asked: _Asked) -> dict[str, Tensor]:
    """The method's own maps: of the predicted class, of the true one where that is another, and of the class that is searched
    for where it is neither. Gives the first."""
    other = (asked.truth >= 0) & (asked.truth != asked.predicted)
    of_predicted = _draw(method, batch, asked.predicted)
    for name, value in of_predicted.items():
        _add(maps, name, value, asked.table, np.ones(len(other), dtype=bool), asked.predicted, asked.of())
    further = [("true", asked.truth, other)]
    if asked.searched is not None:
        here = np.full(len(other), asked.searched)
        further.append(("found", here, (asked.predicted != here) & (asked.truth != here)))
    for of, classes, where in further:
        if where.any():
            for name, value in _draw(method, batch, classes).items():
                _add(maps, name, value, asked.table, where, classes, np.full(len(where), of))
    return of_predicted


def _draw(method: Method, batch: Batch, classes: np.ndarray) -> dict[str, Tensor]:
    """Maps of these classes (B); of an unknown one (-1) whatever comes."""
    target = torch.from_numpy(np.maximum(classes, 0)).to(batch.image.device)
    with torch.enable_grad():
        return {name: value.detach() for name, value in method.maps(batch, target).items()}


def _judged(method: Method, drawn: Mapping[str, Tensor], evidence: Evidence | None) -> set[str]:
    """The maps that metrics read, one a variant."""
    sourced = evidence is not None and max(evidence.classes, default=-1) >= 0
    return {judged(list(drawn), EVIDENCE if sourced else None, variant.map) for variant in method.variants()}


def _add_untrained(maps: MapBuilder, untrained: Method, batch: Batch, asked: _Asked, names: set[str]) -> None:
    """What random weights make of the samples that have a mask: of the true class, on a further track of the predicted. Where
    lesions are searched for in whole films: of every film, of that class."""
    classes, of = (asked.truth, "true") if asked.own_track else (asked.predicted, "predicted")
    here = (batch.has_mask | batch.has_fine).cpu().numpy() & (classes >= 0)
    if asked.searched is not None:
        classes, of, here = np.full(len(here), asked.searched), "found", np.ones(len(here), dtype=bool)
    ofs = np.full(len(here), of)
    if not here.any():
        return
    if names - {EVIDENCE}:
        for name, value in _draw(untrained, batch, classes).items():
            if name in names:
                _add(maps, UNTRAINED + name, value, asked.table, here, classes, ofs)
    evidence = untrained.evidence(batch) if EVIDENCE in names else None
    if evidence is not None:
        for source, kind, value in zip(evidence.names, evidence.classes, evidence.maps, strict=True):
            _add(maps, UNTRAINED + EVIDENCE, value, asked.table, here & (classes == kind), classes, ofs, source)


def _add(
    maps: MapBuilder,
    name: str,
    value: Tensor,
    table: pd.DataFrame,
    here: np.ndarray,
    classes: np.ndarray,
    of: np.ndarray,
    source: str = "",
) -> None:
    if here.any():
        chosen = table[here]
        array = value.detach().float().cpu().numpy()[here]
        ids = list(chosen["record_id"]), list(chosen["finding_id"])
        maps.add(name, array, *ids, list(classes[here]), list(of[here]), source)


def _evidence(maps: MapBuilder, evidence: Evidence, asked: _Asked) -> pd.DataFrame:
    """Maps of each source whose class is the true or the predicted one; contributions of all, and what sources are."""
    table = asked.table
    for source, kind, value in zip(evidence.names, evidence.classes, evidence.maps, strict=True):
        if kind >= 0:
            predicted, true = asked.predicted == kind, asked.truth == kind
            of = np.where(predicted, asked.of(), "true")
            _add(maps, EVIDENCE, value, table, predicted | true, np.full(len(table), kind), of, source)
    contributions = evidence.contributions.detach().float().cpu().numpy()
    n, sources, k = contributions.shape
    return pd.DataFrame(
        {
            "record_id": np.repeat(table["record_id"].to_numpy(), sources * k),
            "finding_id": np.repeat(table["finding_id"].to_numpy(), sources * k),
            "source": np.tile(np.repeat(np.array(evidence.names, dtype=object), k), n),
            "source_class": np.tile(np.repeat(np.array(evidence.classes), k), n),
            "source_level": np.tile(np.repeat(np.array(evidence.levels or [0] * sources), k), n),
            "source_place": np.tile(np.repeat(np.array(evidence.places or [""] * sources, dtype=object), k), n),
            "class": np.tile(np.arange(k), n * sources),
            "contribution": contributions.reshape(-1),
        }
    )


def _bytes(value: Tensor) -> np.ndarray:
    longest = max(value.shape[2:])
    if longest > JUDGED:
        size = [max(1, round(side * JUDGED / longest)) for side in value.shape[2:]]
        value = F.interpolate(value.float(), size, mode="area")
    return (value[:, 0].float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def _input(method: Method, track: str) -> str:
    """What the method saw of a test case; rows are ranked within equal input."""
    if TRACKS[track].unit == "image":
        return "whole image"
    if method.inputs().picture == "mask":
        return "oracle mask"
    return "oracle ROI, jittered" if method.inputs().roi.jittered else "oracle ROI"


def _supervision(method: Method, options: dict[str, Any]) -> str:
    """What training saw: the method's own word, less the masks that it was not given."""
    kept, parts = options.get("masks_kept", 1), method.supervision.split(" + ")
    if kept == 0:
        parts = [part for part in parts if "mask" not in part]
    elif kept < 1:
        parts = [f"{part} ({100 * kept:g}% of patients)" if "mask" in part else part for part in parts]
    return " + ".join(parts)


def _meta(job: Job, method: Method, track: str, side: str) -> dict[str, Any]:
    spec = job.spec
    return {
        "method": spec.method,
        "dataset": spec.dataset,
        "track": track,
        "trained_on": spec.track,
        "classes": list(TRACKS[track].classes),
        "side": side,
        "seed": spec.seed,
        "fold": spec.fold,
        "protocol": spec.protocol,
        "data_hash": spec.data_hash,
        "split_hash": spec.split_hash,
        "identity": spec.identity,
        "versions": spec.versions,
        "size": list(method.inputs().size),
        "input": _input(method, spec.track),
        "supervision": _supervision(method, spec.options),
        "variant_maps": {variant.name: variant.map for variant in method.variants() if variant.map is not None},
        "coincide": [list(pair) for pair in method.coincide()],
        "map_titles": dict(method.map_titles),
        "ledger_entry": job.ledger_entry,
    }


def sample_batch(samples: Samples, inputs: Inputs, positions: list[int]) -> Batch:
    """These samples as one batch, as evaluation sees them."""
    chosen = samples.select(positions)
    [batch] = batches(
        chosen, inputs, (), seed=0, stage="evaluation", epoch=0, augment=False, shuffle=False,
        batch_size=max(1, len(positions)),
    )  # fmt: skip
    return batch
