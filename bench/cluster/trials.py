"""What a sweep and a fixed list of jobs share: numbers of trials, their last reports, and the order of closing."""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ray.tune.search import Searcher

from bench.cluster.failures import Failure, unpack

GROUP = "placement_group"  # in a report of several workers on its way to the driver: whose places they have
Payload = dict[str, Any]
State = Literal["complete", "pruned", "failed"]
OnReport = Callable[[int, Payload], None]
OnEnd = Callable[[int, State, Payload | None, Failure | None], Mapping[str, Any] | None]


@dataclass(frozen=True)
class Ending:
    """How a trial was closed. payload: its last report; None if it never made one."""

    number: int
    state: State
    payload: Payload | None
    failure: Failure | None = None


@dataclass(frozen=True)
class Objective:
    """A metric by its name in a report, and whether more of it is better."""

    metric: str
    mode: Literal["max", "min"] = "max"


def value_of(payload: Mapping[str, Any], metric: str) -> float | None:
    """The metric's value in a report: a number, or an estimate's value; None if it has none. May be NaN."""
    for found in (payload.get(metric), payload.get("estimates", {}).get(metric)):
        value = found.get("value") if isinstance(found, Mapping) else found
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return float(value)
    return None


def nothing() -> None:
    """What a pickled searcher becomes."""


class Trials:
    """The driver's side of many trials. A subclass proposes them (`_propose`) and keeps what became of them (`_tell`).

    Closing a trial means: the driver's `on_end`, then `_tell`. So a record that says finished, and a study that says
    running, is the only disagreement that a kill can leave, and `recorded` mends it at the next start.
    An error in one of the driver's callables ends the run and is raised there; no trial is closed by it.
    """

    def __init__(self) -> None:
        self.live: dict[str, int] = {}  # Tune's trial id -> number
        self.last: dict[int, Payload] = {}
        self.groups: dict[str, str] = {}  # Tune's trial id -> placement group of its workers
        self.endings: list[Ending] = []
        self.max_concurrent = 1
        self.stopping = False
        self.deadline: float | None = None  # by time.monotonic(): no trial starts after it
        self.error: BaseException | None = None  # ends the run, raised when it has stopped
        self.constants: dict[str, Any] = {}  # goes into each trial's config
        self._on_report: OnReport = lambda number, payload: None
        self._on_end: OnEnd = lambda number, state, payload, failure: None

    def bind(
        self, on_report: OnReport, on_end: OnEnd, max_concurrent: int, constants: dict[str, Any],
        budget_s: float | None = None,
    ) -> None:  # fmt: skip
        """Who is told, how many at once, what each trial's config holds besides its number and job, and how long."""
        self.deadline = None if budget_s is None else time.monotonic() + budget_s
        self._on_report, self._on_end = on_report, on_end
        self.max_concurrent, self.constants = max_concurrent, constants
        self.stopping, self.error, self.endings = False, None, []
        self.live.clear()

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        """Nothing: Tune pickles its searcher into a snapshot that is never read."""
        return nothing, ()

    @property
    def late(self) -> bool:
        """Whether the budget of time is spent."""
        return self.deadline is not None and time.monotonic() > self.deadline

    # ---- what a subclass says ---------------------------------------------------------------------------------------
    @property
    def finished(self) -> bool:
        """Whether nothing is left to run."""
        raise NotImplementedError

    def _propose(self, trial_id: str) -> tuple[int, dict[str, Any]] | None:
        """The next trial's number and job; None when there is none."""
        raise NotImplementedError

    def _tell(self, trial_id: str, ending: Ending, attributes: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def _judge(self, payload: Payload) -> Failure | None:
        """Why a final report does not count, if it does not."""
        return None

    # ---- what Tune calls --------------------------------------------------------------------------------------------
    def next_config(self, trial_id: str) -> dict[str, Any] | str | None:
        """A Tune config, None for "not now", Searcher.FINISHED for "never again"."""
        if self.stopping or self.late:
            return Searcher.FINISHED
        if len(self.live) >= self.max_concurrent:
            return None
        with self._guard():
            proposed = self._propose(trial_id)
            if proposed is not None:
                number, job = proposed
                self.live[trial_id] = number
                return {**self.constants, "number": number, "job": json.dumps(job)}
        return Searcher.FINISHED

    def report(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """An epoch of a trial, before the trial may be closed because of it."""
        if trial_id not in self.live or "payload" not in result:
            return
        payload = json.loads(result["payload"])
        if GROUP in payload:
            self.groups[trial_id] = payload.pop(GROUP)
        number = self.live[trial_id]
        self.last[number] = payload
        with self._guard():
            self._on_report(number, payload)

    def complete(self, trial_id: str, result: Mapping[str, Any] | None) -> None:
        """A trial that Tune has done with: ended by itself, or stopped by the scheduler or the time budget."""
        if trial_id not in self.live:
            return
        result = result or {}
        if "fatal" in result:
            self.stop(unpack(json.loads(result["fatal"])))
            return
        payload = json.loads(result["payload"]) if "payload" in result else None
        if payload is not None:
            payload.pop(GROUP, None)
        number = self.live[trial_id]
        if "failure" in result:
            failure = Failure(result["failure"], result["reason"])
            self.close(trial_id, Ending(number, "failed", self.last.get(number), failure))
        elif payload is None or not payload.get("final"):
            self.close(trial_id, Ending(number, "pruned", payload or self.last.get(number)))
        else:
            wrong = self._judge(payload)
            self.close(trial_id, Ending(number, "failed" if wrong else "complete", payload, wrong))

    def fail(self, trial_id: str, failure: Failure) -> None:
        """A trial whose process died more often than it may."""
        if trial_id in self.live:
            number = self.live[trial_id]
            self.close(trial_id, Ending(number, "failed", self.last.get(number), failure))

    def close(self, trial_id: str, ending: Ending) -> None:
        """The record first, then the study."""
        with self._guard():
            attributes = self._on_end(ending.number, ending.state, ending.payload, ending.failure)
            self._tell(trial_id, ending, attributes or {})
            self.endings.append(ending)
            del self.live[trial_id]

    def stop(self, error: BaseException) -> None:
        """End the run and raise this; what runs now keeps its state and is taken up next time."""
        self.error = self.error or error
        self.stopping = True

    def forget_live(self) -> None:
        """Between two Tune experiments nothing runs; what was not closed can be proposed again."""
        self.live.clear()

    def _guard(self) -> "_Guard":
        return _Guard(self)


class _Guard:
    """Tune takes an exception in a searcher for a failure of the trial; it is one of ours, and must not close it."""

    def __init__(self, trials: Trials) -> None:
        self.trials = trials

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if isinstance(error, Exception):
            self.trials.stop(error)
            return True
        return False


class ListSearch(Trials, Searcher):
    """A fixed list of jobs by number, for final seeds: each is run once, in order."""

    def __init__(self, jobs: Mapping[int, dict[str, Any]]) -> None:
        Trials.__init__(self)
        Searcher.__init__(self)
        self._jobs = dict(jobs)

    @property
    def finished(self) -> bool:
        return not self._jobs

    @property
    def _waiting(self) -> list[int]:
        return [number for number in self._jobs if number not in self.live.values()]

    def _propose(self, trial_id: str) -> tuple[int, dict[str, Any]] | None:
        waiting = self._waiting
        return (waiting[0], self._jobs[waiting[0]]) if waiting else None

    def _tell(self, trial_id: str, ending: Ending, attributes: Mapping[str, Any]) -> None:
        del self._jobs[ending.number]

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        return self.next_config(trial_id)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        if not error:  # an errored one is closed by `fail`, with its exception
            self.complete(trial_id, result)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: Tune's snapshot is never read."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: Tune's snapshot is never read."""


def finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
