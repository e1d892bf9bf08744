"""One job from its folder to its folder: build, start or resume, train, and leave frames behind.

The folder of a run holds `checkpoint.pt` while it trains, then `final.pt` (the state), `lineage.json` (whom it has seen),
`last.json` (the last report), `reports.jsonl` (every report), `frames/<side>-<track>/` and, written last, `DONE`.
"""

import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import models
from bench.config import Job, config_hash
from bench.engine import checkpoint
from bench.engine.cells import add_cells
from bench.engine.context import seed_torch
from bench.engine.counterfactual import counterfactual_table
from bench.engine.evaluate import evaluate
from bench.engine.loop import Settings, fit
from bench.engine.report import EpochReport
from bench.engine.worker import Worker, best_device
from bench.ledger import Ledger
from bench.metrics import METRICS, Estimate, Frame, compute, unavailable, values
from bench.metrics.cells import ASKED
from bench.metrics.operating import operating_points
from data import reader
from data.cache import Opening, Prepared
from data.errors import DataError, LeakError
from data.samples import Samples, TrainingData
from data.split import Split
from data.tracks import TRACKS
from models.method import Method, Task, Variant

DONE, FINAL, LAST, LINEAGE, REPORTS = "DONE", "final.pt", "last.json", "lineage.json", "reports.jsonl"


class Finished(EpochReport):
    """The last report of a run that had ended before; carries the payload that was written then."""

    def __init__(self, payload: dict[str, Any]) -> None:
        super().__init__(
            stage=payload["stage"],
            epoch=payload["epoch"],
            number=payload["number"],
            total=payload["total"],
            selectable=False,
            terms={},
            metrics={},
            images_per_second=0.0,
            seconds=0.0,
            final=True,
        )
        self._payload = payload

    def payload(self) -> dict[str, Any]:
        return self._payload


def is_done(folder: Path) -> bool:
    return (folder / DONE).is_file()


def train_run(job: Job | dict[str, Any], worker: Worker | None = None) -> Iterator[EpochReport]:
    """Train a job and yield a report an epoch; each is checkpointed in the job's folder before it is yielded.

    A folder with a checkpoint is resumed; a finished one gives its last report at once. Frames of validation, and of
    the test side where the job holds a ledger entry, are written before the report with final=True.
    Raises Diverged, LeakError, DataError.
    """
    job = Job.model_validate(job)
    folder = Path(job.folder)
    if is_done(folder):
        if worker is None or worker.rank == 0:
            _add_frames(job, folder, worker or Worker(device=best_device()))
        yield Finished(json.loads((folder / LAST).read_text()))
        return
    worker = worker or Worker(device=best_device())
    spec = job.spec
    started = time.monotonic()
    prepared = open_data(job)
    split = prepared.split(spec.protocol, spec.split_seed, spec.fold)
    if (prepared.data_hash, split.hash) != (spec.data_hash, spec.split_hash):
        raise LeakError("the prepared data are not those that this run was planned on", spec.dataset, "run it again")
    before = ancestors(job.requirements, split)
    method = build(job, prepared)
    data = prepared.training(split, method.inputs(), seed=spec.seed)
    lineage = _lineage(before, data)
    settings = Settings(seed=spec.seed, select=job.select, bf16=spec.bf16, loader_workers=job.loader_workers)
    resume = folder if (folder / checkpoint.NAME).is_file() else None
    spent = _spent(folder)
    for report in fit(method, data, settings, worker, resume):
        report.system["cost/machine_seconds"] = spent + (time.monotonic() - started) * worker.world_size
        if worker.rank == 0:
            if report.final:
                _finish(job, folder, method, prepared, split, lineage, settings, worker)
                _judge(job, method, folder, report)
                report.system |= {f"network/{name}": value for name, value in method.facts().items()}
                report.system |= {f"training_data/{name}": value for name, value in data.facts().items()}
                report.system["cost/machine_seconds"] = spent + (time.monotonic() - started) * worker.world_size
                _append_report(folder, report.payload())
                _write_json(folder / LAST, report.payload())
                (folder / DONE).write_text("")
                (folder / checkpoint.NAME).unlink(missing_ok=True)
            else:
                _append_report(folder, report.payload())  # before the checkpoint, so that no epoch behind it is unknown
                report.save(folder)
                _write_json(folder / LAST, report.payload())
        yield report


def open_data(job: Job) -> Prepared:
    """The prepared data of a job."""
    options = reader(job.spec.dataset).Options.model_validate(job.spec.options)
    return Prepared(job.spec.dataset, Path(job.prepared), Path(job.data_root) if job.data_root else None, options)


def build(job: Job, prepared: Prepared) -> Method:
    """The method of a job with its initial weights, having started from its requirements."""
    spec = job.spec
    kind = models.load(spec.method)
    config = kind.Config.model_validate(spec.config)
    task = Task.of(spec.track, prepared.card.name, prepared.card.provides)
    # A run and the one that it starts from may share a seed: with the same draws a new head would be the very one that
    # the trunk was trained under, and no other seed would do as well.
    seed_torch(spec.seed, "init", *sorted(spec.requirements))
    method: Method = kind(config, task)
    for name, folder in job.requirements.items():
        method.start_from(name, final_state(Path(folder)))
    return method


def final_state(folder: Path) -> dict[str, Tensor]:
    """The state of a finished run."""
    return checkpoint.load(folder / FINAL)


def trained(job: Job, prepared: Prepared, device: str = "cpu") -> Method:
    """The method of a finished job, with its final state, ready to predict."""
    method = build(job.model_copy(update={"requirements": {}}), prepared)
    method.load_state_dict(final_state(Path(job.folder)))
    return method.to(torch.device(device)).eval()


def _finish(
    job: Job, folder: Path, method: Method, prepared: Prepared, split: Split,
    lineage: dict[str, list[str]], settings: Settings, worker: Worker,
) -> None:  # fmt: skip
    """State, lineage and frames: everything that outlives the training."""
    method.eval()
    checkpoint.replace(folder / FINAL, {k: v.detach().cpu() for k, v in method.state_dict().items()})
    _write_json(folder / LINEAGE, lineage)
    _write_json(folder / "job.json", json.loads(job.model_dump_json()))
    inputs = method.inputs()
    operating: dict[str, Any] = {}
    for side, track in _wanted_frames(job):  # validation before test, whose thresholds it chooses
        if side == "test":
            refuse_seen(split, lineage, ("test",), job.spec.method)
            samples = prepared.sealed(split, inputs, track, opening_of(job))
        else:
            samples = prepared.training(split, inputs).validation_for(track)
        frame = evaluate(job, method, samples, track, side, worker, settings)
        if side == "validation":
            operating = operating_points(frame)
        else:
            frame.meta["operating"] = operating
        if side == "test" and prepared.has_copies(split, side):
            edits = prepared.sealed(split, inputs, track, opening_of(job), counterfactuals=True)
            name, size = job.spec.method, settings.eval_batch
            frame.counterfactual = counterfactual_table(method, name, samples, edits, track, worker, size)
        if side == "test" and job.cells:
            _ask_cells(job, frame, method, prepared, samples, split, worker)
        frame.save(folder / "frames" / f"{side}-{track}")


def _ask_cells(
    job: Job, frame: Frame, method: Method, prepared: Prepared, samples: Samples, split: Split, worker: Worker
) -> None:
    """Lesion and Background of test lesions; where a confounder lies is asked of the data set's reader, if it knows."""
    known = getattr(reader(job.spec.dataset), "confounders", None)
    confounders = partial(known, prepared.options) if known else None
    add_cells(frame, method, samples, job.cells, split.hash, worker, confounders)


def lacks_cells(job: Job) -> list[str]:
    """Tracks of a finished run whose test frame was not asked for the cells that the job wants, or cannot be read."""
    if not job.cells or not is_done(Path(job.folder)):
        return []
    frames = {track: Path(job.folder) / "frames" / f"test-{track}" for track in job.tracks or (job.spec.track,)}
    return [track for track, frame in frames.items() if _asked_cells(frame) != job.cells]


def _asked_cells(frame: Path) -> int | None:
    try:
        return int(Frame.load_meta(frame).get(ASKED, {}).get("asked", 0))
    except DataError:
        return None


def _judge(job: Job, method: Method, folder: Path, report: EpochReport) -> None:
    """Adds to the last report what the validation frame of the trained track says of `job.objectives`, why one has no value
    standing in its note; and, of a method with several test-time settings, which of them it says is best."""
    variants = method.variants()
    if not job.objectives and len(variants) == 1:
        return
    frame = Frame.load(folder / "frames" / f"validation-{job.spec.track}")
    best = max(
        variants, key=partial(_worth, frame, (*job.objectives, TRACKS[job.spec.track].primary))
    )  # of equals the first
    if len(variants) > 1:
        report.chosen = {"variant": best.name, "settings": dict(best.settings)}
        frame = frame.of_variant(best.name)
    found, why = compute(frame, job.objectives), unavailable(frame, job.objectives)
    none = {name: Estimate(None, None, None, 0, "none", reason) for name, reason in why.items()}
    report.metrics |= {f"validation/{name}": (found | none)[name] for name in job.objectives}


def _worth(frame: Frame, names: Sequence[str], variant: Variant) -> tuple[float, ...]:
    """What a test-time setting is chosen by: the metrics in order, more being better; -inf where one cannot be computed."""
    found = values(frame.of_variant(variant.name), names)
    signs = {name: -1.0 if METRICS[name].direction == "min" else 1.0 for name in names}
    return tuple(
        sign * found[name] if math.isfinite(found.get(name, math.nan)) else -math.inf for name, sign in signs.items()
    )


def opening_of(job: Job) -> Opening:
    """What the ledger holds under the job's entry. Raises LeakError where that is nothing, or was for another run."""
    entries = Ledger(Path(job.ledger)).find(id=job.ledger_entry) if job.ledger and job.ledger_entry else []
    spec = job.spec
    if not entries or entries[0]["settings"] != config_hash(spec.model_dump(mode="json")):
        raise LeakError(
            "the test side is sealed: no ledger entry was written for these settings",
            f"{spec.method} on {spec.dataset}, entry {job.ledger_entry}",
            "`final` writes the entry that opens it",
        )
    entry = entries[0]
    return Opening(str(entry["id"]), entry["data_hash"], entry["split_hash"], tuple(entry["tracks"]))


def _wanted_frames(job: Job) -> list[tuple[str, str]]:
    """(side, track) of the frames that a job leaves: of the test side where it holds a ledger entry."""
    sides = ("validation", "test") if job.ledger_entry is not None else ("validation",)
    return [(side, track) for track in job.tracks or (job.spec.track,) for side in sides]


def _add_frames(job: Job, folder: Path, worker: Worker) -> None:
    """What a finished run was not asked for when it ran: frames, as a requirement it had no ledger entry; cells; and what is
    damaged. Frames that are whole keep their predictions."""
    whole = all(_is_whole(folder / "frames" / f"{side}-{track}") for side, track in _wanted_frames(job))
    lacking = lacks_cells(job) if job.ledger_entry is not None else []
    if whole and not lacking:
        return
    prepared = open_data(job)
    split = prepared.split(job.spec.protocol, job.spec.split_seed, job.spec.fold)
    lineage = json.loads((folder / LINEAGE).read_text())
    method = trained(job, prepared, worker.device)
    if not whole:
        settings = Settings(seed=job.spec.seed, select=job.select, bf16=job.spec.bf16)
        _finish(job, folder, method, prepared, split, lineage, settings, worker)
        return
    refuse_seen(split, lineage, ("test",), job.spec.method)
    for track in lacking:
        frame = Frame.load(folder / "frames" / f"test-{track}")
        samples = prepared.sealed(split, method.inputs(), track, opening_of(job))
        _ask_cells(job, frame, method, prepared, samples, split, worker)
        frame.save(folder / "frames" / f"test-{track}")


def _is_whole(frame: Path) -> bool:
    try:
        Frame.load(frame)
    except DataError:
        return False
    return True


def ancestors(requirements: Mapping[str, str], split: Split) -> list[dict[str, list[str]]]:
    """Lineages of the runs that one starts from (name -> folder); LeakError where one has seen a side that judges it."""
    found = []
    for name, folder in requirements.items():
        path = Path(folder) / LINEAGE
        if not path.is_file():
            raise DataError(
                "the run that this one starts from is not finished", f"{name}, {path.parent.name}", "run it first"
            )
        found.append(json.loads(path.read_text()))
        refuse_seen(split, found[-1], ("validation", "test"), name)
        refuse_seen(split, found[-1], ("test",), name, "chosen_")
    return found


def _lineage(ancestors: list[dict[str, list[str]]], data: TrainingData) -> dict[str, list[str]]:
    """Hashes of every patient and image that this state will have learnt from, and of those by which its epoch was chosen
    (`chosen_`), its ancestors' included; and the files among its ancestors that came without a lineage (`unknown`)."""
    trained, chosen = data.train.table, data.validation.table
    own = {
        "patients": set(trained["patient"]), "images": set(trained["image_hash"]),
        "chosen_patients": set(chosen["patient"]), "chosen_images": set(chosen["image_hash"]), "unknown": set[str](),
    }  # fmt: skip
    return {kind: sorted(seen.union(*(ancestor.get(kind, []) for ancestor in ancestors))) for kind, seen in own.items()}


def refuse_seen(split: Split, lineage: dict[str, list[str]], sides: tuple[str, ...], name: str, how: str = "") -> None:
    """LeakError when the lineage meets these sides. how: chosen_, by whom an epoch was chosen in place of who trained."""
    rows = split.table[split.table["side"].isin(sides)]
    for kind, column in (("patients", "patient"), ("images", "image_hash")):
        if kind == "patients" and split.patient_scope != "global":
            continue  # this split has patients on two sides on request, and its rows say so (MB020)
        common = set(rows[column]) & set(lineage.get(how + kind, []))
        if common:
            raise LeakError(
                f"{len(common)} {kind} of {' and '.join(sides)} were in the {'choice' if how else 'training'} of this state "
                "or its ancestors",
                name,
                "train the ancestor on this split's training side",
            )


def _spent(folder: Path) -> float:
    """Machine seconds of the attempts before this one."""
    return float(last_payload(folder).get("system", {}).get("cost/machine_seconds", 0.0))


def last_payload(folder: Path) -> dict[str, Any]:
    """The last report of a run; nothing where it has made none."""
    path = folder / LAST
    found: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {}
    return found


def read_reports(folder: Path) -> dict[int, dict[str, Any]]:
    """number -> payload of each report that a run has made; of an epoch that was trained again, the later one."""
    path, found = folder / REPORTS, {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            payload = json.loads(line) if line else None
        except ValueError:  # cut off by a kill: its epoch was trained again, and stands below
            continue
        if payload:
            found[int(payload["number"])] = payload
    return found


def _append_report(folder: Path, payload: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / REPORTS).open("a", encoding="utf-8") as stream:
        stream.write("\n" + json.dumps(payload))  # the line break first: a line that a kill cut stays a line of its own


def _write_json(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value, indent=1))
    temporary.replace(path)
