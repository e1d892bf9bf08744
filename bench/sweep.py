"""The job `sweep`: a method's settings searched on training and validation rows, durable under kills."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import search_spaces
from bench.cluster.failures import Failure
from bench.cluster.nodes import Share
from bench.cluster.search import DurableSearch, MakeJob
from bench.cluster.trials import Ending, ListSearch, Objective, Payload, State
from bench.cluster.tune import run_trials
from bench.config import Job
from bench.engine.run import is_done
from bench.objectives import check_rows, late, searched
from bench.plan import TUNING_SEED, Ready, trial_folder
from bench.recorder import Recorder, keep_state
from bench.space import held
from bench.sweep_result import document, draw_front
from bench.tracking import RunInfo, Tracker
from data.errors import ConfigError

TRAINABLE = "bench.engine.run:train_run"
Seen = Callable[[int, Mapping[str, Any]], None]


@dataclass(frozen=True)
class SweepPlan:
    """What is asked of a sweep."""

    trials: int
    objectives: tuple[str, ...] = ("auroc_mean",)
    readings: bool = False
    scheduler: Literal["asha", "none"] = "asha"
    sampler: Literal["tpe", "random"] = "tpe"
    time_budget_s: float | None = None
    extend: bool = False
    max_concurrent: int | None = None


def share_of(ready: Ready) -> Share:
    machine = ready.machine
    return Share(machine.workers, machine.cpus_per_worker, machine.gpus_per_worker)


def run_requirements(ready: Ready, jobs: list[Job], tracker: Tracker, seen: Seen = lambda n, p: None) -> None:
    """Train what is not there yet, each once, side by side where none waits for another.

    Raises ConfigError when one fails: nothing that starts from it can run.
    """
    waiting = unfinished(jobs)
    numbers = {
        folder: -1 - position for position, folder in enumerate(waiting)
    }  # beside those of what starts from them
    while waiting:
        wave = [job for job in waiting.values() if not any(need in waiting for need in job.requirements.values())]
        _run_wave(ready, {numbers[job.folder]: job for job in wave}, tracker, seen)
        for job in wave:
            del waiting[job.folder]


def unfinished(jobs: Iterable[Job]) -> dict[str, Job]:
    """folder -> job of what is not trained yet, each once."""
    return {job.folder: job for job in jobs if not is_done(Path(job.folder))}


def _run_wave(ready: Ready, jobs: Mapping[int, Job], tracker: Tracker, seen: Seen) -> None:
    recorder = Recorder(
        tracker,
        "requirement",
        lambda number: jobs[number],
        seen=seen,
        finished=lambda number, run_id, payload: keep_state(tracker, run_id, jobs[number]),
    )
    endings = run_trials(
        ListSearch({number: job.model_dump(mode="json") for number, job in jobs.items()}),
        TRAINABLE,
        storage_dir=ready.home.ray,
        share=share_of(ready),
        on_report=recorder.on_report,
        on_end=recorder.on_end,
    )
    for ending in endings:
        if ending.state != "complete":
            why = ending.failure.reason if ending.failure else ending.state
            name = jobs[ending.number].name
            raise ConfigError(f"the run that others start from has failed: {why}", name, "mend it, then run again")


def study_name(ready: Ready, objectives: tuple[str, ...] = ("auroc_mean",), readings: bool = False) -> str:
    """Names the study: the same cell, settings, data, objectives and space are one sweep, whoever starts it."""
    study = f"{ready.cell.method}-{ready.cell.dataset}-{ready.task.track.name}-{ready.identity}"
    asked = () if objectives == ("auroc_mean",) else objectives
    return "-".join([study, *asked, *(["readings"] if readings else [])])


def run_sweep(
    ready: Ready,
    plan: SweepPlan,
    storage: str,
    tracker: Tracker,
    seen: Seen = lambda n, p: None,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Run a sweep to its number of trials, or go on with it; the JSON document of docs/cli.md."""
    check_rows(ready, plan.objectives)
    study = study_name(ready, plan.objectives, plan.readings)
    name, still = ready.cell.method, held(ready.base, ready.fixed_fields())
    published = search_spaces.published(name, still, plan.readings)
    run_requirements(ready, ready.all_requirements(ready.base, TUNING_SEED), tracker, seen)
    jobs: dict[int, Job] = {}
    earlier = [run.run_id for run in tracker.runs(kind="sweep", track=ready.task.track.name, identity=study, limit=1)]
    trials = tracker.runs(kind="trial", parent=earlier[0]) if earlier else []
    known = {run.number: run for run in trials if run.number is not None}
    wanted = searched(plan.objectives)
    with DurableSearch(
        study=study, storage=storage, space=lambda trial: search_spaces.suggest(name, trial, still, plan.readings),
        make_job=_job_maker(ready, plan, study, jobs), objectives=wanted, trials=plan.trials, seed=0, sampler=plan.sampler,
        published=published, recorded=lambda n: _recorded(known.get(n), wanted),
    ) as search:  # fmt: skip
        _check_extend(search, plan, study)  # before the record is touched: what is refused leaves the sweep as it is
        parent = tracker.start(
            ready.task.track.name, name=f"sweep {ready.cell}", kind="sweep", identity=study,
            params={
                "trials": plan.trials, "objectives": ",".join(plan.objectives), "readings": plan.readings,
                "scheduler": plan.scheduler, "sampler": plan.sampler,
            },
            tags={"method": ready.cell.method, **ready.cell.arm_tag, "dataset": ready.cell.dataset, "study": study},
        )  # fmt: skip
        before = [trial.state.is_finished() for trial in search.study.get_trials(deepcopy=False)]
        if any(before) or len(before) > 1:
            cut = len(before) - sum(before)
            say(
                f"sweep {parent[:8]}: {sum(before)} of {plan.trials} trials were closed before, {cut} waiting or cut off"
            )
        if not search.finished:
            _run(search, ready, plan, Recorder(
                tracker, "trial", lambda number: jobs[number], parent=parent, seen=seen, tags=lambda number: ready.cell.arm_tag,
                finished=lambda number, run_id, payload: keep_state(tracker, run_id, jobs[number]),
            ))  # fmt: skip
        found = document(search, ready, parent, plan.trials)
    _close(tracker, found, ready)
    return found


def _job_maker(ready: Ready, plan: SweepPlan, study: str, jobs: dict[int, Job]) -> MakeJob:
    """Makes the job of a trial from its number and overrides, and keeps it in `jobs`."""
    shared = ready.spec(ready.base, TUNING_SEED).requirements
    further = late(plan.objectives, ready.task.track.name)

    def make_job(number: int, overrides: Mapping[str, Any]) -> dict[str, Any]:
        config = ready.config(overrides)
        spec = ready.spec(config, TUNING_SEED)
        if not spec.requirements.items() <= shared.items():  # it may do without
            raise ConfigError(
                f"trial {number} would start from another run than the one that all trials share",
                f"search space of {ready.cell.method}",
                "leave settings out of it that decide what `requires` asks for, or hold them in the suite",
            )
        job = ready.job(
            spec, trial_folder(ready, study, number), name=f"{ready.cell.name} trial {number}, {ready.cell.dataset}"
        )
        jobs[number] = job.model_copy(update={"objectives": further})
        return jobs[number].model_dump(mode="json")

    return make_job


def _run(search: DurableSearch, ready: Ready, plan: SweepPlan, recorder: Recorder) -> None:
    """Trials until the search is finished; the study keeps the objectives' intervals beside their values."""
    names = [objective.metric for objective in search.objectives]

    def on_end(number: int, state: State, payload: Payload | None, failure: Failure | None) -> dict[str, Any]:
        estimates = payload.get("estimates", {}) if payload else {}
        kept = {name: estimates[name] for name in names if name in estimates}
        return {**recorder.on_end(number, state, payload, failure), "estimates": kept}

    run_trials(
        search, TRAINABLE, storage_dir=ready.home.ray, share=share_of(ready), concurrent=plan.max_concurrent,
        scheduler=plan.scheduler if len(names) == 1 else "none", time_budget_s=plan.time_budget_s,
        on_report=recorder.on_report, on_end=on_end,
    )  # fmt: skip


def _close(tracker: Tracker, found: dict[str, Any], ready: Ready) -> None:
    """What the sweep has found goes into its run, which ends; the document gets the paths of its pictures."""
    parent = found["sweep_id"]
    tracker.close_orphans(parent, {trial["number"]: trial["state"] for trial in found["trials"]})
    pictures = draw_front(found, ready, ready.home.checkpoints / found["study"] / "front")
    found["pictures"] = [str(path) for path in pictures]
    if pictures:
        tracker.artifact(parent, pictures[0].parent, "front")
    if found["status"] == "done":
        if best := found["best"]:
            names = [objective["metric"] for objective in found["objectives"]]
            tracker.log(parent, {f"best/{name}": value for name, value in zip(names, best["values"], strict=True)})
            tracker.json(parent, best, "best.json")
        tracker.finish(parent, "complete")
    else:
        tracker.finish(parent, "interrupted", reason="not all of its trials are closed")


def _check_extend(search: DurableSearch, plan: SweepPlan, study: str) -> None:
    """A sweep that had reached its number grows on request alone: its best trial has perhaps been reported already."""
    attributes = search.study.user_attrs
    target = attributes.get("target")
    closed = sum(trial.state.is_finished() for trial in search.study.get_trials(deepcopy=False))
    if target is not None and plan.trials > target and closed >= target and not plan.extend:
        raise ConfigError(f"this sweep is finished with {target} trials", study, "add --extend to go on to more")
    search.study.set_user_attr("target", max(plan.trials, target or 0))


def _recorded(run: RunInfo | None, objectives: tuple[Objective, ...]) -> Ending | None:
    """How MLflow closed a trial which the study thinks is running: the driver died between the two."""
    if run is None or run.state not in ("complete", "pruned", "failed"):
        return None
    payload = {o.metric: run.metrics[o.metric] for o in objectives if o.metric in run.metrics}
    failure = None
    if run.state == "failed":
        failure = Failure(run.tags.get("failure", "lost"), run.tags.get("reason", ""))  # type: ignore[arg-type]
    number = run.number if run.number is not None else -1
    return Ending(number, run.state, payload, failure)  # type: ignore[arg-type]
