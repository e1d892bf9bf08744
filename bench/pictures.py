"""Pictures of a finished run: curves with the tables behind them, explanation panels chosen by rule, galleries."""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from pydantic import ValidationError

import data
from bench.config import Job
from bench.engine import nearest
from bench.engine.evaluate import sample_batch
from bench.engine.run import open_data, opening_of, trained
from bench.explain.charts import draw_chart
from bench.explain.choose import choose
from bench.explain.gallery import write_gallery
from bench.explain.panels import SIDES, Words, draw_gallery, draw_panels
from bench.explain.plots import save_plots
from bench.home import Home
from bench.leaderboard.collect import PICTURES
from bench.metrics import Frame
from bench.provenance import driver_is_alive
from bench.tracking import RunInfo, Tracker
from data.batch import Batch
from data.errors import ConfigError, DataError
from data.samples import Samples
from models import _lesion_background as lesion_background
from models.method import Panel

PANELS = 6
RULE = "Cases chosen by rule: seeded, stratified by class and by right or wrong, so that errors are more frequent than on the whole side."
NAMED = "Cases chosen by hand: their records were named."
UNFINISHED = "name a finished train, trial or final; the command that began one goes on with it"


def has_pictures(info: RunInfo, *, panels: bool) -> bool:
    """Whether a run's pictures are drawn; on a server, where that is not seen from here, they are taken to be."""
    if info.artifacts is None:
        return True
    return (info.artifacts / "plots").is_dir() and ((info.artifacts / PICTURES).is_dir() or not panels)


def draw_run(tracker: Tracker, run_id: str, job: Job, *, pictures: bool) -> None:
    """ROC and confusion of each track's test frame; with `pictures` also those of its further test-time variants, in folders of their
    own, panels and galleries, into the run's artifacts.

    Does nothing where they are there already.
    """
    if has_pictures(tracker.run(run_id), panels=pictures):
        return
    folder = Path(job.folder) / "pictures"
    for track in job.tracks:
        frame = Frame.load(Path(job.folder) / "frames" / f"test-{track}")
        first, *others = frame.variants
        save_plots(frame.of_variant(first) if others else frame, folder / "plots" / track)
        for variant in others if pictures else ():
            save_plots(frame.of_variant(variant), folder / "plots" / track / variant)
    tracker.artifact(run_id, folder / "plots", "plots")
    if pictures:
        prepared = open_data(job)
        split = prepared.split(job.spec.protocol, job.spec.split_seed, job.spec.fold)
        method = trained(job, prepared)
        samples = prepared.sealed(split, method.inputs(), job.spec.track, opening_of(job))
        frame = Frame.load(Path(job.folder) / "frames" / f"test-{job.spec.track}")
        _panels(job, method, samples, frame, folder / PICTURES, choose(frame.predictions, PANELS, seed=0))
        tracker.artifact(run_id, folder / PICTURES, PICTURES)


def explain_run(
    home: Home, tracker: Tracker, run: str, records: Sequence[str]
) -> tuple[list[Path], list[dict[str, Any]]]:
    """Panels of a run's validation side: of these records, or chosen by rule. The test side is not touched."""
    info = tracker.resolve(run)
    stored = job_file(home, info.identity)
    if stored is None:
        raise ConfigError(f"run {info.run_id[:8]} ({info.kind}) {_unfinished(info)}", "RUN", UNFINISHED)
    job = Job.model_validate_json(stored.read_text())
    here = home.cache / Path(job.prepared).name  # of a folder that was moved or copied, what lies in it now
    job = job.model_copy(update={"folder": str(stored.parent), "prepared": str(here)})
    prepared = open_data(job)
    split = prepared.split(job.spec.protocol, job.spec.split_seed, job.spec.fold)
    method = trained(job, prepared)
    samples = prepared.training(split, method.inputs()).validation_for(job.spec.track)
    frame = Frame.load(Path(job.folder) / "frames" / f"validation-{job.spec.track}")
    ids = list(frame.predictions["record_id"])
    unknown = [record for record in records if record not in ids]
    if unknown:
        raise ConfigError(f"no record {unknown[0]!r} on the validation side", "--record", f"for example {ids[0]}")
    if records:
        rows = [position for position, record in enumerate(ids) if record in records]
    else:
        rows = choose(frame.predictions, PANELS, seed=0)
    folder = home.out / "explanations" / info.run_id[:12]
    files = _panels(job, method, samples, frame, folder, rows, NAMED if records else RULE)
    shown = frame.predictions.iloc[rows]
    return files, json.loads(shown.to_json(orient="records"))


def _unfinished(info: RunInfo) -> str:
    """Why a run has no network to ask: the words for its state."""
    if info.state == "running" and driver_is_alive(info.tags.get("driver", "")) is False:
        return "was cut off: its command is gone"
    if info.state == "failed":
        return f"failed: {info.tags.get('failure', '')}: {info.tags.get('reason', '')}"
    words = {"running": "is still running", "interrupted": "was cut off", "pruned": "was stopped early by the search"}
    return words.get(info.state, "left no finished state here")


def _panels(
    job: Job, method: Any, samples: Samples, frame: Frame, folder: Path, rows: Sequence[int], chosen: str = RULE
) -> list[Path]:
    """The chosen rows of the frame, and the method's own galleries: a picture of each, and a page. chosen: by whom."""
    where = {key: i for i, key in enumerate(zip(samples.table["record_id"], samples.table["finding_id"], strict=True))}
    keys = [(r.record_id, r.finding_id) for r in frame.predictions.iloc[list(rows)].itertuples()]
    batch = sample_batch(samples, method.inputs(), [where[key] for key in keys])
    # the run's own precision, so that a panel shows the numbers of its frame
    with torch.enable_grad(), torch.autocast("cpu", torch.bfloat16, enabled=job.spec.bf16):
        drawn = method.explain(batch)
    pages, notes = method.artifacts(), method.notes()
    sources = _Sources(job, method)
    patients = [str(samples.table["patient"].iat[where[key]]) for key in keys]
    drawn, left_out = _with_lines_of_any(method, batch, drawn, patients, sources)
    words = [
        replace(
            Words.of(frame.predictions.iloc[row], frame.classes),
            place=_place(samples.table.iloc[where[key]], method.inputs().size),
        )
        for row, key in zip(rows, keys, strict=True)
    ]
    stated = set(samples.table["attr_grade"]) if "attr_grade" in samples.table.columns else set()
    made = " (generated films)" if "synthetic" in {data.reader(job.spec.dataset).CARD.grade, *stated} else ""
    what = f"{job.spec.method}, {job.spec.track} on {job.spec.dataset}{made}"
    title = f"{what}: {frame.meta['side']} side, seed {job.spec.seed}"
    header, note = _given(frame), " ".join(part for part in (chosen, _verdicts(frame), left_out) if part)
    cases = [sources.named(case) for case in drawn]
    files = _draw_cases(cases, folder, job.spec.track, words, title=title, header=header, note=note)
    for name, chart in method.charts().items():
        files += draw_chart(chart, folder / f"{name}.png", title=f"{what}, seed {job.spec.seed}")
    for name, panels in pages.items():
        title, named = f"{what}: {name}, seed {job.spec.seed}", sources.named(panels)
        said = [part for part in (notes.get(name), sources.note) if part]
        page = write_gallery(named, folder / f"{name}.html", title=title, notes=[header, *said, *_facts(method)])
        note = " ".join([*said, f"{page.name} beside this picture says more of each."])
        files += [draw_gallery(named, folder / f"{name}.png", title=title, header=header, note=note), page]
    return files


def _with_lines_of_any(
    method: Any, batch: Batch, cases: Sequence[Sequence[Panel]], patients: Sequence[str], sources: "_Sources"
) -> tuple[list[list[Panel]], str]:
    """The cases with the lines that every method with spatial activations gets below its own: Lesion and Background, and the
    nearest training lesions; and what is not shown, and why."""
    refused = lesion_background.refusal(method, batch.image)
    cells = [[] for _ in cases] if refused else lesion_background.explain(method, batch)
    near = nearest.panels(method, batch, patients, sources.train)
    made = []
    for case, *lines in zip(cases, cells, near, strict=True):
        made.append(list(case))
        for line in filter(None, lines):
            last = max(panel.line for panel in made[-1])
            made[-1] += [replace(panel, line=last + 1) for panel in line]
    return made, f"No Lesion and Background: {refused}." if refused else ""


def _facts(method: Any) -> list[str]:
    """What the network says of itself, as a line for its page: what the record has under network/."""
    said = [f"{name.replace('_', ' ')} {value:.4g}" for name, value in method.facts().items()]
    return [f"Of the trained network (docs/explanations.md says what each is): {', '.join(said)}."] if said else []


def _given(frame: Frame) -> str:
    """What the network saw of a case and in training, in the frame's own words and in plain ones."""
    seen, taught = str(frame.meta["input"]), str(frame.meta["supervision"])
    cut = ": the region was cut around the annotated lesion, so where the lesion is was given" if "ROI" in seen else ""
    if "mask" in seen:
        cut = ": the lesion's annotated outline itself stood in place of the film, in training and here"
    masks = "masks of lesions were used" if "mask" in taught + seen else "no mask was used"
    return f"Input: {seen}{cut}. Training saw: {taught}; {masks}."


def _verdicts(frame: Frame) -> str:
    """Right and wrong answers of each class on the whole side: a kind of case that it lacks cannot be shown."""
    rows = frame.labelled()
    right = rows.probabilities.argmax(axis=1) == rows.labels
    of = [(name, right[rows.labels == k]) for k, name in enumerate(rows.classes)]
    each = "; ".join(f"{name} {own.sum()} right, {(~own).sum()} wrong" for name, own in of)
    counts = np.bincount(rows.labels, minlength=len(rows.classes))
    most = f"always saying {rows.classes[counts.argmax()]} = {counts.max() / counts.sum():.2f}"
    share = f"{right.mean():.2f} right, guessing = {1 / len(rows.classes):.2f}, {most}"
    return f"The whole {frame.meta['side']} side: {each}; in all {share}."


def _draw_cases(
    cases: Sequence[Sequence[Panel]], folder: Path, track: str, words: Sequence[Words], **around: str
) -> list[Path]:
    """<track>.png; cases of several lines stand in files of their own, <track>-2.png and so on. Earlier ones go."""
    for earlier in folder.glob(f"{track}*.png"):
        if re.fullmatch(rf"{track}(-\d+)?", earlier.stem):
            earlier.unlink()
    if not any(panel.line for case in cases for panel in case):
        return [draw_panels(cases, folder / f"{track}.png", words=words, **around)]
    return [
        draw_panels([case], folder / f"{track}{f'-{n}' if n > 1 else ''}.png", words=[said], **around)
        for n, (case, said) in enumerate(zip(cases, words, strict=True), start=1)
    ]


class _Sources:
    """The training samples that a method shows, opened where it shows one."""

    note = (
        "A training picture was not varied: it lies as on its film, or mirrored where it says so. Regions of different "
        "size are shown equally large; their sizes and places (x, y from the upper left corner) are in pixels of the film, "
        "whose size in mm is unknown."
    )

    def __init__(self, job: Job, method: Any) -> None:
        self.job, self.method = job, method

    @cached_property
    def train(self) -> Samples:
        prepared, spec = open_data(self.job), self.job.spec
        split = prepared.split(spec.protocol, spec.split_seed, spec.fold)
        return prepared.training(split, self.method.inputs(), seed=spec.seed).train

    def named(self, panels: Sequence[Panel]) -> list[Panel]:
        """The panels; below those of a training sample also whose breast it is, in which view, how large, and of which
        record."""
        return [
            panel
            if (row := panel.training_row) is None
            else replace(panel, caption=f"{panel.caption}; {self._words(row)}")
            for panel in panels
        ]

    def _words(self, row: int) -> str:
        sample, classes = self.train.table.iloc[row], self.method.task.classes
        label = classes[sample["label"]] if sample["label"] >= 0 else ""
        whose = SIDES.get(sample["laterality"], sample["laterality"])
        parts = (label, whose, sample["view"], _region(sample), _lie(sample), sample["record_id"])
        return ", ".join(part for part in parts if part)


WHOLE = "whole film"


def _place(sample: pd.Series, size: tuple[int, int]) -> str:
    """How large the region is and where on its film, which the picture alone does not tell. size: of the input (H, W)."""
    region = _region(sample)
    film = f"film {sample['width']} x {sample['height']} px, pixel size unknown"  # no prepared table has it
    where = f"whole {film}" if region == WHOLE else f"{region} from the film's upper left corner; {film}"
    return f"{where}; shown as {size[1]} x {size[0]} px, {_lie(sample)}"


def _region(sample: pd.Series) -> str:
    x0, y0, x1, y1 = (round(float(sample[name])) for name in ("wx0", "wy0", "wx1", "wy1"))
    if (x0, y0, x1, y1) == (0, 0, sample["width"], sample["height"]):
        return WHOLE
    return f"region {x1 - x0} x {y1 - y0} px (film) at x {x0}, y {y0}"


def _lie(sample: pd.Series) -> str:
    return "mirrored left to right" if sample["flipped"] else "as on the film"


def job_file(home: Home, identity: str) -> Path | None:
    """The job.json of a finished run of that identity. DataError where none is found and one cannot be read."""
    damaged: list[Path] = []
    for path in sorted(home.checkpoints.glob("**/job.json")):
        try:
            job = Job.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            damaged.append(path)
            continue
        if job.spec.identity == identity:
            return path
    if damaged:
        raise DataError(
            f"this run is not found, and {len(damaged)} job.json cannot be read",
            str(damaged[0].relative_to(home.out)),
            "delete that folder and run the command that made it again",
        )
    return None
