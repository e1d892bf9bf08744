"""From a method and samples to a frame: predictions, maps, evidence and masks, and nothing that needs the model again."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bench.config import Job
from bench.engine.worker import Worker
from bench.metrics.frame import Frame, pack_masks, prediction_rows
from bench.metrics.maps import MapBuilder
from data.batch import Batch
from data.inputs import Inputs
from data.samples import Samples, batches
from data.tracks import TRACKS
from models.method import Evidence, Method, Prediction


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


def evaluate(job: Job, method: Method, samples: Samples, track: str, side: str, worker: Worker, settings: Any) -> Frame:
    """Everything that metrics and pages may ask of this run later: one row per sample and variant, maps of the true and
    of the predicted class, one per prototype of these classes, and the masks they are judged by."""
    method.eval()
    with _reading(worker, settings):
        return _read(job, method, samples, track, side, worker, settings)


def _read(job: Job, method: Method, samples: Samples, track: str, side: str, worker: Worker, settings: Any) -> Frame:
    inputs = method.inputs()
    rows: list[pd.DataFrame] = []
    maps, evidence_rows, order = MapBuilder(), [], []
    masks: dict[str, list[np.ndarray]] = {"lesion": [], "fine": [], "image": [], "has_lesion": [], "has_fine": []}
    for batch in _eval_batches(samples, inputs, worker, settings):
        prediction = method.predict(batch, track)
        table = samples.table.iloc[batch.index.cpu().numpy()]
        order.append(table)
        drawn = _add_maps(maps, method, batch, prediction, table, track)
        for variant in method.variants():
            changed = method.vary(prediction, drawn, variant)
            rows.append(_rows(samples, batch, changed, track, side, job.spec.seed, job.spec.fold, variant.name))
        if track == method.task.track.name:
            evidence = method.evidence(batch)
            if evidence is not None:
                evidence_rows.append(_evidence(maps, evidence, prediction, table, track))
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
        batch_size=settings.eval_batch,
    ):  # fmt: skip
        yield batch.to(worker.torch_device)


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
        rows["boxes"] = [box.float().cpu().numpy().round(3).ravel().tolist() for box in prediction.boxes]
    return rows


def _add_maps(
    maps: MapBuilder, method: Method, batch: Batch, prediction: Prediction, table: pd.DataFrame, track: str
) -> dict[str, Tensor]:
    """The method's own maps: of the true class where it is known, and of the predicted one. Gives the latter."""
    own = track == method.task.track.name  # a further track's classes are not those that the maps are made for
    seen = prediction if own else method.predict(batch, method.task.track.name)
    predicted = seen.probabilities.argmax(dim=1)
    truth = torch.tensor(table[TRACKS[track].column].to_numpy(np.int64), device=predicted.device)
    with torch.enable_grad():
        of_predicted = {name: value.detach() for name, value in method.maps(batch, predicted).items()}
        of_true = method.maps(batch, truth.clamp_min(0)) if own else {}
    everything = np.ones(len(table), dtype=bool)
    for name, value in of_predicted.items():
        _add(maps, name, value, table, everything, predicted.cpu().numpy(), "predicted", "")
    for name, value in of_true.items():
        _add(maps, name, value, table, (truth >= 0).cpu().numpy(), truth.cpu().numpy(), "true", "")
    return of_predicted


def _add(
    maps: MapBuilder,
    name: str,
    value: Tensor,
    table: pd.DataFrame,
    here: np.ndarray,
    classes: np.ndarray,
    of: str,
    source: str,
) -> None:
    if here.any():
        chosen = table[here]
        array = value.detach().float().cpu().numpy()[here]
        maps.add(
            name,
            array,
            list(chosen["record_id"]),
            list(chosen["finding_id"]),
            list(classes[here]),
            [of] * len(chosen),
            source,
        )


def _evidence(
    maps: MapBuilder, evidence: Evidence, prediction: Prediction, table: pd.DataFrame, track: str
) -> pd.DataFrame:
    """Maps of each source whose class is the true or the predicted one; contributions of all, and what sources are."""
    predicted = prediction.probabilities.argmax(dim=1).cpu().numpy()
    truth = table[TRACKS[track].column].to_numpy()
    for position, (name, kind) in enumerate(zip(evidence.names, evidence.classes, strict=True)):
        for of, classes in (("true", truth), ("predicted", predicted)):
            _add(maps, "evidence", evidence.maps[position], table, classes == kind, classes, of, name)
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
    return (value[:, 0].float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()


def _input(method: Method, track: str) -> str:
    """What the method saw of a test case; rows are ranked within equal input."""
    if TRACKS[track].unit == "image":
        return "whole image"
    return "oracle ROI, jittered" if method.inputs().roi.jittered else "oracle ROI"


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
        "input": _input(method, spec.track),
        "supervision": method.supervision,
        "variant_maps": {variant.name: variant.map for variant in method.variants() if variant.map is not None},
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
