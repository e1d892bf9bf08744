"""Ray's OptunaSearch made durable: the study is the truth about a sweep, and Tune's snapshot of it is never read.

It leans on private names of ray (_space, _ot_study, _ot_trials) and optuna (Trial's _trial_id); both are pinned, and
tests/test_search.py holds them.
"""

import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import filelock
import numpy as np
import optuna
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState
from ray.tune.search.optuna import OptunaSearch

from bench.cluster.check import check_storage
from bench.cluster.failures import Failure
from bench.cluster.trials import Ending, Objective, Payload, Trials, finite, value_of
from data.errors import ConfigError, MachineError

Space = Callable[[Any], dict[str, Any]]  # a function of search_spaces/<method>.py
MakeJob = Callable[[int, dict[str, Any]], dict[str, Any]]
Recorded = Callable[[int], Ending | None]
CLOSED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)
BUSY_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 10  # a host that is switched off would be waited for over two minutes


def open_storage(uri: str) -> optuna.storages.RDBStorage:
    """Optuna's storage: sqlite:///ABSOLUTE/PATH, a bare path of an SQLite file, or postgresql://..."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    uri = check_storage(uri)
    if "://" not in uri:
        path = Path(uri).absolute()
        path.parent.mkdir(parents=True, exist_ok=True)
        uri = f"sqlite:///{path}"
    if uri.startswith("sqlite"):
        options: dict[str, Any] = {"connect_args": {"timeout": BUSY_TIMEOUT_S}}
    else:
        options = {"pool_pre_ping": True, "connect_args": {"connect_timeout": CONNECT_TIMEOUT_S}}
    try:
        return optuna.storages.RDBStorage(uri, engine_kwargs=options)
    except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
        first = str(error).strip().splitlines()[0]
        raise MachineError(f"the storage does not open: {first}", "--storage", "check address and rights") from error


class DriverLock:
    """One driver per study: a file beside an SQLite file, an advisory lock in PostgreSQL. Both end with the process."""

    def __init__(self, storage: optuna.storages.RDBStorage, study: str) -> None:
        self._file: filelock.BaseFileLock | None = None
        self._connection: sqlalchemy.Connection | None = None
        url = storage.engine.url
        if url.get_backend_name() == "sqlite":
            safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in study)
            self._file = filelock.FileLock(f"{url.database}.{safe}.lock")
            try:
                self._file.acquire(timeout=0)
                taken = True
            except filelock.Timeout:
                taken = False
        else:
            # autocommit: a session-level lock needs no transaction, and an idle one would hold back the vacuum
            self._connection = storage.engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            query = sqlalchemy.text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))")
            taken = bool(self._connection.execute(query, {"name": f"mammobench/{study}"}).scalar())
        if not taken:
            self.release()
            raise MachineError("this sweep is being run already", study, "wait for it, or stop it first")

    def release(self) -> None:
        if self._file is not None:
            self._file.release()
        if self._connection is not None:
            self._connection.invalidate()  # closes the session, and the lock with it, instead of pooling it
            self._connection.close()
        self._file = self._connection = None


class DurableSearch(Trials, OptunaSearch):
    """Proposes the trials of one study, and closes each exactly once, whatever kills the driver in between.

    study: its name. space(trial) -> overrides. make_job(number, overrides) -> job; its folder must depend on the
    number alone. trials: how many the study is to hold, all states counted. published: the parameters of trial 0,
    refused when the space cannot give them. recorded(number): how the record has closed a trial that the study thinks
    is running, None if it has not. A context manager: it holds the study's lock.
    """

    def __init__(
        self, *, study: str, storage: str, space: Space, make_job: MakeJob, objectives: Iterable[Objective],
        trials: int, seed: int = 0, sampler: Literal["tpe", "random"] = "tpe",
        published: Mapping[str, Any] | None = None, recorded: Recorded | None = None,
    ) -> None:  # fmt: skip
        Trials.__init__(self)
        self.objectives = tuple(objectives)
        self.target, self.sampler_name, self._run_seed = trials, sampler, seed
        self.make_job, self.recorded = make_job, recorded
        point = inside(space, published) if published is not None else None
        opened = open_storage(storage)
        self._lock = DriverLock(opened, study)
        try:
            several = len(self.objectives) > 1
            names = [objective.metric for objective in self.objectives]
            modes: list[str] = [objective.mode for objective in self.objectives]
            OptunaSearch.__init__(
                self, space, metric=names if several else names[0], mode=modes if several else modes[0],
                study_name=study, storage=opened, sampler=self._sampler_for(0),
            )  # fmt: skip
            self.study: optuna.Study = self._ot_study
            self._check_directions()
            if point is not None and not self.study.get_trials(deepcopy=False):
                self.study.enqueue_trial(point)
            self._reconcile()
        except BaseException:
            self._lock.release()
            raise

    def __enter__(self) -> "DurableSearch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()

    # ---- the study --------------------------------------------------------------------------------------------------
    def history(self) -> dict[int, dict[int, float]]:
        """number -> epoch -> value reported, of all trials: what a scheduler knew before this start."""
        return {trial.number: dict(trial.intermediate_values) for trial in self.study.get_trials(deepcopy=False)}

    def overrides(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """What the space makes of a trial's parameters."""
        return dict(self._space(optuna.trial.FixedTrial(dict(params))))

    @property
    def finished(self) -> bool:
        return self._count(CLOSED) >= self.target and not self._count((TrialState.RUNNING,))

    def _count(self, states: tuple[TrialState, ...]) -> int:
        return len(self.study.get_trials(deepcopy=False, states=states))

    def _check_directions(self) -> None:
        wanted = ["maximize" if objective.mode == "max" else "minimize" for objective in self.objectives]
        found = [direction.name.lower() for direction in self.study.directions]
        if wanted != found:
            raise ConfigError(
                f"the study has directions {', '.join(found)}, this sweep asks for {', '.join(wanted)}",
                self.study.study_name, "give the same objectives, or another output folder",
            )  # fmt: skip

    def _reconcile(self) -> None:
        """Tell the study of trials that the record had closed when the driver died."""
        if self.recorded is None:
            return
        for frozen in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            ending = self.recorded(frozen.number)
            if ending is None or (ending.state == "complete" and self._judge(ending.payload or {}) is not None):
                continue  # a completion without its values is run again: its folder gives the last report at once
            self._tell_trial(optuna.Trial(self.study, frozen._trial_id), ending, {})

    def _sampler_for(self, number: int) -> optuna.samplers.BaseSampler:
        """A sampler of its own for each trial: one seeded once would repeat its draws after a restart."""
        seed = int(np.random.SeedSequence([self._run_seed, number]).generate_state(1)[0])
        if self.sampler_name == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        return optuna.samplers.TPESampler(seed=seed)

    # ---- proposing --------------------------------------------------------------------------------------------------
    def _propose(self, trial_id: str) -> tuple[int, dict[str, Any]] | None:
        while (trial := self._adopt() or self._ask()) is not None:
            self._ot_trials[trial_id] = trial
            try:
                return trial.number, self.make_job(trial.number, self._space(trial))
            except ConfigError as error:  # the space drew what the method's Config refuses: only this point fails
                self.live[trial_id] = trial.number
                failure = Failure("bug", f"the space drew it: {error}")
                self.close(trial_id, Ending(trial.number, "failed", None, failure))
                if self.stopping:
                    return None
        return None

    def _adopt(self) -> optuna.Trial | None:
        """A trial that a former driver left running: `suggest_*` gives its stored values, and its number is kept."""
        mine = set(self.live.values())
        for frozen in self.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if frozen.number not in mine:
                return optuna.Trial(self.study, frozen._trial_id)
        return None

    def _ask(self) -> optuna.Trial | None:
        if self._count(CLOSED) + len(self.live) >= self.target:
            return None
        self.study.sampler = self._sampler_for(len(self.study.get_trials(deepcopy=False)))
        return self.study.ask()

    # ---- closing ----------------------------------------------------------------------------------------------------
    def _judge(self, payload: Payload) -> Failure | None:
        for objective in self.objectives:
            value = value_of(payload, objective.metric)
            if not finite(value):
                why = payload.get("estimates", {}).get(objective.metric, {}).get("note")
                if value is None and why:  # the data or the method cannot give it
                    return Failure("data", f"no {objective.metric}: {why}")
                state = "no value" if value is None else f"the value {value}"
                return Failure("diverged", f"the last report has {state} of {objective.metric}")
        return None

    def _tell(self, trial_id: str, ending: Ending, attributes: Mapping[str, Any]) -> None:
        self._tell_trial(self._ot_trials.pop(trial_id), ending, attributes)

    def _tell_trial(self, trial: optuna.Trial, ending: Ending, attributes: Mapping[str, Any]) -> None:
        payload = ending.payload or {}
        values = [value_of(payload, objective.metric) for objective in self.objectives]
        for key, value in attributes.items():
            trial.set_user_attr(key, value)
        if ending.failure is not None:
            trial.set_user_attr("failure", ending.failure.kind)
            trial.set_user_attr("reason", ending.failure.reason)
        if ending.state == "complete":
            self.study.tell(trial, [value for value in values if value is not None], state=TrialState.COMPLETE)
            return
        if ending.state == "failed":
            self.study.tell(trial, state=TrialState.FAIL)
            return
        if len(self.objectives) == 1 and payload.get("selectable", True):
            self._report(trial, payload)  # a scheduler's stop brings its last result here only
        elif len(self.objectives) > 1:  # optuna keeps no values of such a pruned trial
            partial = {o.metric: v for o, v in zip(self.objectives, values, strict=True) if finite(v)}
            trial.set_user_attr("partial_values", partial)
        self.study.tell(trial, state=TrialState.PRUNED)

    def _report(self, trial: optuna.Trial, payload: Mapping[str, Any]) -> None:
        value, step = value_of(payload, self.objectives[0].metric), payload.get("number")
        known = self.study._storage.get_trial(trial._trial_id).intermediate_values
        if value is not None and finite(value) and isinstance(step, int) and step not in known:
            trial.report(value, step)

    # ---- what Tune calls --------------------------------------------------------------------------------------------
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        return self.next_config(trial_id)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A report of an epoch that may be chosen goes into the study, for the sampler and for a later start."""
        if len(self.objectives) == 1 and "objective" in result and trial_id in self.live:
            with self._guard():
                payload = {self.objectives[0].metric: result["objective"], "number": result["rung"]}
                self._report(self._ot_trials[trial_id], payload)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if not error:  # an errored one is closed by `fail`, with its exception
            self.complete(trial_id, result)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: Tune's snapshot is never read, and would hold the storage and all."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: Tune's snapshot is never read."""


def inside(space: Space, published: Mapping[str, Any]) -> dict[str, Any]:
    """The published values of those parameters that the space asks for; ConfigError where it could not draw one."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # optuna only warns of what is refused below
        trial = optuna.trial.FixedTrial(dict(published))
        try:
            space(trial)
        except ValueError as error:
            what = f"the published point: {str(error).rstrip('.')}"
            raise ConfigError(what, "search space", "widen the space") from error
    for name, distribution in trial.distributions.items():
        if not distribution._contains(distribution.to_internal_repr(published[name])):
            what = f"the published {name} = {published[name]} lies outside its range"
            raise ConfigError(what, "search space", f"widen {distribution}")
    return {name: published[name] for name in trial.distributions}


def trial_of(study: optuna.Study, number: int) -> FrozenTrial:
    """The stored trial of a number."""
    return study.get_trials(deepcopy=False)[number]
