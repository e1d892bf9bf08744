"""The job `final`: chosen settings trained with several seeds, then the sealed test side opened, with a ledger entry."""

import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import data
from bench.cluster.trials import ListSearch
from bench.cluster.tune import run_trials
from bench.config import Job, config_hash, digest
from bench.engine.run import is_done, lacks_cells, train_run
from bench.leaderboard.collect import names_of, read_json
from bench.leaderboard.references import ARTIFACT, measure_references
from bench.ledger import now
from bench.metrics import CELLS, COUNTERFACTUAL, Frame, compute, quick
from bench.pictures import draw_run
from bench.plan import TUNING_SEED, Ready, look_alike
from bench.proposals import ask_proposed, count_proposals
from bench.recorder import Recorder, keep_state
from bench.suite import Primary
from bench.sweep import TRAINABLE, Seen, run_requirements, share_of
from bench.tracking import RunInfo, Tracker
from data.errors import ConfigError
from data.passport import summary
from data.protocols import FOLDS
from data.tracks import TRACKS
from models.method import MethodConfig

SEEDS = 1000  # a job's number is its method's position x SEEDS + its seed


@dataclass(frozen=True)
class FinalPlan:
    """What is asked of a final. sweep: MLflow id of the sweep that chose the config, empty if none did."""

    config: MethodConfig
    seeds: int = 5
    share_requirements: bool = False
    reopen: str | None = None
    force: bool = False
    sweep: str = ""
    source: str = "published"
    cells: int = 0  # test lesions whose cells are asked for Lesion and Background
    proposals: str = ""  # MLflow id of a detector's final run: test lesions are shown once more through its regions


def register(ready: Ready, primary: Primary | None) -> None:
    """Write the primary contrast into the ledger before the test side opens; what was registered first stands.

    Arms may differ in their data, and so in the hash of these: one split is one test side, and has one registration.
    """
    if primary is None:
        return
    place = {"split_hash": ready.split.hash, "dataset": ready.cell.dataset, "track": ready.cell.track}
    ledger = ready.home.ledger
    if not ledger.find(kind="preregistration", **place):
        looks = len(ledger.looks(ready.split.hash))
        content = {
            "data_hash": ready.prepared.data_hash, **place, **primary.model_dump(),
            "metric": TRACKS[ready.cell.track].primary, "opened_before": looks,
        }  # fmt: skip
        ledger.append({"kind": "preregistration", "hash": digest(content), "date": now(), **content})


def final_jobs(ready: Ready, plan: FinalPlan, ledger_entry: str | None = None) -> dict[int, Job]:
    """seed -> job."""
    jobs: dict[int, Job] = {}
    fold = f" fold {ready.fold}" if FOLDS[ready.cell.protocol] > 1 else ""
    for seed in range(1, plan.seeds + 1):
        need = TUNING_SEED if plan.share_requirements else seed
        spec = ready.spec(plan.config, seed, need)
        folder = ready.home.checkpoints / (spec.identity + ("-forced" if plan.force else ""))
        job = ready.job(
            spec,
            folder,
            requirement_seed=need,
            name=f"{ready.cell.name} seed {seed}{fold}, {ready.cell.dataset}",
            ledger_entry=ledger_entry,
        )
        jobs[seed] = job.model_copy(update={"cells": plan.cells})
    return jobs


def requirements_of(ready: Ready, plan: FinalPlan, seeds: Iterable[int]) -> list[Job]:
    """The runs that these seeds of a final start from."""
    shared = plan.share_requirements
    return [job for seed in seeds for job in ready.all_requirements(plan.config, TUNING_SEED if shared else seed)]


def run_finals(
    finals: list[tuple[Ready, FinalPlan]], tracker: Tracker, seen: Seen = lambda number, payload: None
) -> list[list[str]]:
    """Train what is not finished of several methods together, so that no worker idles; run ids per method.

    Every seed is a run of its own; a failed one stays in the record with its reason. Raises ConfigError where a test
    side would be looked at again without a reason.
    """
    # two tracks that one training serves are one final
    claims = {
        f"final-{config_hash(final_jobs(ready, plan)[1].spec.model_dump(mode='json'))}": ready for ready, plan in finals
    }
    with ExitStack() as held:
        for name, ready in claims.items():
            held.enter_context(ready.home.claim(name, str(ready.cell)))
        return _run_finals(finals, tracker, seen)


def _run_finals(finals: list[tuple[Ready, FinalPlan]], tracker: Tracker, seen: Seen) -> list[list[str]]:
    waiting: dict[int, tuple[Ready, FinalPlan, Job]] = {}
    found: dict[tuple[int, int], str] = {}
    needed: list[Job] = []
    names = _names(finals)
    for position, (ready, plan) in enumerate(finals):
        jobs = final_jobs(ready, plan)
        done = {seed: tracker.find(job.spec.identity, "final") for seed, job in jobs.items()}
        open_seeds = [seed for seed, run in done.items() if run is None or plan.force]
        found |= {(position, seed): run.run_id for seed, run in done.items() if run is not None}
        if not open_seeds:
            continue
        entry = _open_ledger(ready, plan, jobs[1], names[jobs[1].folder])
        for seed, job in final_jobs(ready, plan, entry).items():
            if seed in open_seeds and job.folder not in {other.folder for _, _, other in waiting.values()}:
                waiting[position * SEEDS + seed] = (ready, plan, job)
        needed += requirements_of(ready, plan, open_seeds)
    if waiting:
        run_requirements(finals[0][0], needed, tracker, seen)
        trained = _train(waiting, names, tracker, seen)
        by_folder = {job.folder: trained.get(divmod(number, SEEDS)) for number, (_, _, job) in waiting.items()}
        for position, (ready, plan) in enumerate(finals):
            for seed, job in final_jobs(ready, plan).items():
                if (run_id := by_folder.get(job.folder)) is not None:
                    found[(position, seed)] = run_id
    for ready, plan in finals:
        jobs = final_jobs(ready, plan)
        if any(is_done(Path(job.folder)) for job in jobs.values()):
            count_proposals(ready, plan.proposals, plan.reopen, jobs[1], tracker)
    shown = {
        position: pictured(ready, {seed: tracker.run(run) for (at, seed), run in found.items() if at == position})
        for position, (ready, _) in enumerate(finals)
    }
    for (position, seed), run_id in found.items():
        folder = Path(final_jobs(*finals[position])[seed].folder)
        if is_done(folder):  # a driver that was killed may have left a finished run without its pictures
            _ask_cells(tracker, run_id, folder, finals[position][1].cells)
            ask_proposed(tracker, run_id, folder, finals[position][1].proposals)
            _restore(tracker, run_id, folder)
            draw_run(
                tracker,
                run_id,
                Job.model_validate_json((folder / "job.json").read_text()),
                pictures=seed in shown[position],
            )
    name_runs(finals, tracker)
    return [
        [found[(position, seed)] for seed in range(1, plan.seeds + 1) if (position, seed) in found]
        for position, (_, plan) in enumerate(finals)
    ]


def pictured(ready: Ready, runs: Mapping[int, RunInfo]) -> set[int]:
    """Seeds of which panels are drawn: the first, and the one that did worst on the test side; of the first fold alone."""
    if ready.fold:
        return set()
    primary = f"test/{TRACKS[ready.cell.track].primary}"
    known = {seed: run.metrics[primary] for seed, run in runs.items() if primary in run.metrics}
    return {1} | ({min(sorted(known), key=known.__getitem__)} if known else set())


def _names(finals: list[tuple[Ready, FinalPlan]]) -> dict[str, dict[str, str]]:
    """folder of a run -> the tag that says under which names it is asked for; empty where that is its method's alone."""
    found: dict[str, list[str]] = {}
    for ready, plan in finals:
        for job in final_jobs(ready, plan).values():
            found.setdefault(job.folder, []).append(ready.cell.name)
    methods = {ready.cell.method for ready, _ in finals}
    return {
        folder: {} if methods.issuperset(names) else {"arm": ", ".join(dict.fromkeys(names))}
        for folder, names in found.items()
    }


def name_runs(finals: list[tuple[Ready, FinalPlan]], tracker: Tracker) -> None:
    """Finished runs get the names that they are asked for under now beside those that they had: settings are one run,
    whatever an arm of a suite calls them."""
    for ready, plan in finals:
        for job in final_jobs(ready, plan).values():
            run = tracker.find(job.spec.identity, "final")
            held = () if run is None else names_of(run.tags) or (ready.cell.method,)
            if run is not None and ready.cell.name not in held:
                tracker.tag(run.run_id, {"arm": ", ".join([*held, ready.cell.name])})


def is_whole(run: RunInfo, folder: Path) -> bool:
    """Whether a finished run's artifacts still are what its folder holds; taken to be where one of both is not here."""
    if run.artifacts is None or not is_done(folder):
        return True
    frames = [path for path in (folder / "frames").rglob("*") if path.is_file()]
    kept = [run.artifacts / path.relative_to(folder) for path in frames]
    same = all(b.is_file() and a.stat().st_size == b.stat().st_size for a, b in zip(frames, kept, strict=True))
    return same and read_json(run.artifacts / "config.json") is not None


def _restore(tracker: Tracker, run_id: str, folder: Path) -> None:
    """Put back what is lost or damaged among a finished run's artifacts, from the folder that the run left."""
    if is_whole(tracker.run(run_id), folder):
        return
    tracker.artifact(run_id, folder / "frames", "frames")
    spec = Job.model_validate_json((folder / "job.json").read_text(encoding="utf-8")).spec
    hashes = {"data_hash": spec.data_hash, "split_hash": spec.split_hash}
    tracker.provenance(run_id, config=spec.model_dump(mode="json"), hashes=hashes)


def _ask_cells(tracker: Tracker, run_id: str, folder: Path, count: int) -> None:
    """Lesion and Background cells that a finished run was not asked for when it ran, under the entry that it has."""
    job = Job.model_validate_json((folder / "job.json").read_text(encoding="utf-8"))
    job = job.model_copy(update={"cells": count, "folder": str(folder)})
    if lacks_cells(job):
        [report] = train_run(job)  # trains nothing: adds to the frames
        tracker.artifact(run_id, folder / "frames", "frames")
        tracker.log(run_id, _test_metrics(job), step=report.number)


def _train(
    waiting: Mapping[int, tuple[Ready, FinalPlan, Job]],
    names: Mapping[str, dict[str, str]],
    tracker: Tracker,
    seen: Seen,
) -> dict[tuple[int, int], str]:
    """Run the jobs and record what they left; (position, seed) -> run id."""

    def finished(number: int, run_id: str, payload: Mapping[str, Any]) -> None:
        ready, _, job = waiting[number]
        keep_state(tracker, run_id, job)
        tracker.log(run_id, _test_metrics(job), step=int(payload["number"]))
        _keep_references(tracker, run_id, ready, job)

    recorder = Recorder(
        tracker,
        "final",
        lambda number: waiting[number][2],
        tags=lambda number: _tags(*waiting[number]) | names[waiting[number][2].folder],
        finished=finished,
        seen=seen,
    )
    ready = next(iter(waiting.values()))[0]
    run_trials(
        ListSearch({number: job.model_dump(mode="json") for number, (_, _, job) in waiting.items()}),
        TRAINABLE,
        storage_dir=ready.home.ray,
        share=share_of(ready),
        on_report=recorder.on_report,
        on_end=recorder.on_end,
    )
    return {(number // SEEDS, number % SEEDS): run_id for number, run_id in recorder.run_ids.items()}


def _open_ledger(ready: Ready, plan: FinalPlan, job: Job, names: Mapping[str, str]) -> str:
    """The id of the ledger entry under which this config's test side is opened; an unfinished final goes on with its own."""
    ledger, settings = ready.home.ledger, config_hash(job.spec.model_dump(mode="json"))
    place = {"data_hash": ready.prepared.data_hash, "split_hash": ready.split.hash}
    looks = ledger.looks(place["split_hash"])
    mine = [e for e in looks if (e["kind"], e["settings"]) == ("final", settings)]
    if mine and mine[-1]["seeds"] == plan.seeds and not plan.force and not plan.reopen:
        return str(mine[-1]["id"])
    if mine and not plan.reopen:
        raise ConfigError(
            f"this test side was opened for these settings on {mine[-1]['date'][:10]} with {mine[-1]['seeds']} seeds",
            str(ready.cell), 'give the reason for a second look: --reopen "why"',
        )  # fmt: skip
    entry = {
        "kind": "final", "id": digest([settings, plan.seeds, place, len(looks), time.time_ns()]), "date": now(),
        "dataset": ready.cell.dataset, "track": ready.task.track.name, "tracks": list(ready.tracks()),
        "method": ready.cell.method, "settings": settings, "seeds": plan.seeds, "opened_before": len(looks),
        "reopen": plan.reopen, "source": plan.source, **names, **place,
    }  # fmt: skip
    return str(ledger.append(entry)["id"])


def _tags(ready: Ready, plan: FinalPlan, job: Job) -> dict[str, Any]:
    """What the board tells about a run besides its numbers."""
    entry = ready.home.ledger.find(id=job.ledger_entry)
    return {
        "seeds_asked": plan.seeds,
        "tracks": ",".join(job.tracks),
        "sweep": plan.sweep,
        "opened_before": entry[0]["opened_before"] if entry else 0,
        "reopened": plan.reopen or "",
        "forced": plan.force,
        "passport": summary(ready.prepared.passport),
        "grades": ",".join(grade for grade in ready.prepared.passport["grade"].split(", ") if grade != "full"),
        "reduced": "; ".join(_reduced(ready, job)),
        "trained_before": "; ".join(_trained_before(ready, plan)),
        "ledger_entry": job.ledger_entry or "",
        "source": plan.source,
    }


def _trained_before(ready: Ready, plan: FinalPlan) -> list[str]:
    words = {"all": "all rows", "train": "its training side"}
    found = [f"{one.dataset} ({words[one.rows]})" for one in plan.config.sources]
    if found and (pairs := look_alike(ready)):
        found.append(f"of which {pairs} films look like one that judges here")
    return found


def _reduced(ready: Ready, job: Job) -> list[str]:
    """Budget fields that differ from the published ones, e.g. "width 0.125"."""
    changed = []
    for name, field in ready.kind.Config.model_fields.items():
        extra = field.json_schema_extra
        budget = isinstance(extra, dict) and extra.get("kind") == "budget"
        if budget and name != "weights" and job.spec.config[name] != field.get_default():
            changed.append(f"{name} {job.spec.config[name]}")
    return changed


def _test_metrics(job: Job) -> dict[str, Any]:
    """Metrics of the test side, for the record beside the board's: test/<metric>, of further tracks test/<track>/..., the primary one among them.

    Those of counterfactual pairs are among them where the data have such pairs, those of cells where they were asked for.
    """
    found: dict[str, Any] = {}
    for track in job.tracks:
        prefix = "test" if track == job.spec.track else f"test/{track}"
        frame = Frame.load(Path(job.folder) / "frames" / f"test-{track}")
        estimates = quick(frame) | compute(frame, [TRACKS[track].primary, *COUNTERFACTUAL, *CELLS])
        found |= {f"{prefix}/{name}": estimate for name, estimate in estimates.items()}
    return found


def _keep_references(tracker: Tracker, run_id: str, ready: Ready, job: Job) -> None:
    """The reference rows of each track, measured on the same test rows while they are open."""
    table = ready.prepared.table
    side = ready.split.sides_of(table)
    train = table[(side == "train") & (table["kind"] == "mass") & (table["counterfactual_of"] == "")]
    ceiling = getattr(data.reader(ready.cell.dataset), "ceiling", None)
    for track in job.tracks:
        frame = Frame.load(Path(job.folder) / "frames" / f"test-{track}")
        best = ceiling(ready.prepared.options, track) if ceiling else None
        measured = measure_references(train, frame, best)
        tracker.json(run_id, measured, ARTIFACT.format(track=track))
