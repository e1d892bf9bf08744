"""bench/cluster/search.py: the study as the truth about a sweep: adopting, closing, refusing, and halving."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from bench.cluster.failures import Failure
from bench.cluster.scheduler import Halving
from bench.cluster.search import DriverLock, open_storage
from bench.cluster.trials import Ending, ListSearch, Objective
from data.errors import ConfigError, MachineError
from tests.toy_search import PUBLISHED, bound, result, searching, states
from tests.toy_trials import METRIC


# ---- the study as the truth ------------------------------------------------------------------------------------------
def test_published_point_comes_first_and_once(tmp_path: Path) -> None:
    for _ in range(3):
        with bound(searching(tmp_path, published=PUBLISHED)) as search:
            config = search.suggest("a")
    assert isinstance(config, dict) and json.loads(config["job"])["x"] == 0.5
    assert config["number"] == 0
    assert len(states(tmp_path)) == 1


def test_published_value_outside_the_space_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x = 3\.0"):
        searching(tmp_path, published={**PUBLISHED, "x": 3.0})
    with pytest.raises(ConfigError, match="round"):
        searching(tmp_path, published={**PUBLISHED, "head": "round"})
    with pytest.raises(ConfigError, match="depth"):
        searching(tmp_path, published={**PUBLISHED, "head": "deep"})


def test_running_trials_are_adopted_with_number_and_parameters(tmp_path: Path) -> None:
    with bound(searching(tmp_path, published=PUBLISHED)) as search:
        first = [search.suggest(name) for name in "abc"]
        search.on_trial_complete("b", result(3, 0.7))
    with bound(searching(tmp_path, published=PUBLISHED)) as search:
        assert not search.finished
        again = [search.suggest(name) for name in "defg"]
    assert again[0] == first[0] and again[1] == first[2]
    assert isinstance(again[2], dict) and again[2]["number"] == 3
    assert again[3] == "FINISHED"  # four trials in all
    assert [state.name for state, _ in states(tmp_path)] == ["RUNNING", "COMPLETE", "RUNNING", "RUNNING"]


def test_half_suggested_trial_is_completed(tmp_path: Path) -> None:
    """The driver died between two parameters: what is stored is kept, the rest is drawn."""
    storage = open_storage(str(tmp_path / "studies.db"))
    half = optuna.create_study(study_name="toy", storage=storage, direction="maximize").ask()
    x = half.suggest_float("x", 0.1, 1.0)
    with bound(searching(tmp_path, published=PUBLISHED)) as search:
        config = search.suggest("a")
    assert isinstance(config, dict) and json.loads(config["job"])["x"] == x and config["number"] == 0


def test_draws_do_not_repeat_after_a_restart(tmp_path: Path) -> None:
    drawn = []
    for start in range(3):
        with bound(searching(tmp_path, trials=9, sampler="random")) as search:
            for i in range(3):
                config = search.suggest(f"{start}{i}")
                assert isinstance(config, dict)
                drawn.append(json.loads(config["job"])["x"])
                search.on_trial_complete(f"{start}{i}", result(3, 0.7))
    assert len(set(drawn)) == 9


def test_record_is_closed_before_the_study(tmp_path: Path) -> None:
    seen: list[TrialState] = []
    with searching(tmp_path) as search:

        def end(number: int, *_: Any) -> None:
            seen.append(search.study.trials[number].state)

        search.bind(lambda n, p: None, end, 9, {})
        search.suggest("a")
        search.on_trial_complete("a", result(3, 0.7))
        search.on_trial_complete("a", result(3, 0.7))  # Tune may say it twice
    assert seen == [TrialState.RUNNING]
    assert states(tmp_path) == [(TrialState.COMPLETE, [0.7])]


def test_what_the_record_has_closed_is_told_and_not_run(tmp_path: Path) -> None:
    with bound(searching(tmp_path)) as search:
        for name in "abcd":
            search.suggest(name)
    known = {
        0: Ending(0, "complete", {METRIC: 0.8, "number": 3}),
        1: Ending(1, "failed", None, Failure("oom", "too large")),
        2: Ending(2, "pruned", {METRIC: 0.3, "number": 1}),
        3: Ending(3, "complete", {"number": 3}),  # without its value: run again
    }
    with bound(searching(tmp_path, recorded=known.get)) as search:
        config = search.suggest("e")
    assert isinstance(config, dict) and config["number"] == 3
    assert states(tmp_path)[:3] == [(TrialState.COMPLETE, [0.8]), (TrialState.FAIL, None), (TrialState.PRUNED, [0.3])]


def test_pruned_keeps_its_last_value(tmp_path: Path) -> None:
    """A scheduler's stop brings the last result to the end only, never as a result."""
    with bound(searching(tmp_path)) as search:
        search.suggest("a"), search.suggest("b")
        search.on_trial_result("a", result(1, 0.2))
        search.on_trial_complete("a", result(2, 0.25))
        search.on_trial_complete("b", result(1, 0.2, selectable=False))
        assert search.history() == {0: {1: 0.2, 2: 0.25}, 1: {}}
    assert states(tmp_path) == [(TrialState.PRUNED, [0.25]), (TrialState.PRUNED, None)]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_final_report_without_a_value_fails(tmp_path: Path, value: float | None) -> None:
    ends: list[Ending] = []
    with bound(searching(tmp_path), ends) as search:
        search.suggest("a")
        search.on_trial_complete("a", result(3, value))
        stored = search.study.trials[0]
    assert stored.state is TrialState.FAIL and stored.user_attrs["failure"] == "diverged"
    assert ends[0].state == "failed" and METRIC in stored.user_attrs["reason"]


def test_several_objectives(tmp_path: Path) -> None:
    objectives = [Objective(METRIC), Objective("loss", "min")]
    with bound(searching(tmp_path, objectives=objectives)) as search:
        search.suggest("a"), search.suggest("b")
        search.on_trial_result("a", result(1, 0.2, loss=0.9))
        search.on_trial_complete("a", result(3, 0.7, loss=0.1))
        search.on_trial_complete("b", result(1, 0.4, loss=0.5))
        partial = search.study.trials[1].user_attrs["partial_values"]
    assert states(tmp_path) == [(TrialState.COMPLETE, [0.7, 0.1]), (TrialState.PRUNED, None)]
    assert partial == {METRIC: 0.4, "loss": 0.5}
    with pytest.raises(ConfigError, match="directions maximize, minimize"):
        searching(tmp_path, objectives=[Objective(METRIC), Objective("loss", "max")])


def test_other_direction_is_refused(tmp_path: Path) -> None:
    searching(tmp_path).__exit__(None, None, None)
    with pytest.raises(ConfigError, match="directions maximize"):
        searching(tmp_path, objectives=[Objective(METRIC, "min")])
    searching(tmp_path).__exit__(None, None, None)  # the refusal holds no lock


@pytest.mark.ray
def test_second_driver_is_refused(tmp_path: Path) -> None:
    with searching(tmp_path):
        code = "import sys, pathlib, tests.toy_search as t; t.searching(pathlib.Path(sys.argv[1]))"
        other = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
        assert "this sweep is being run already" in other.stderr
        searching(tmp_path, study="another").__exit__(None, None, None)
    searching(tmp_path).__exit__(None, None, None)


def test_an_error_of_the_drivers_own_closes_nothing(tmp_path: Path) -> None:
    def full(*_: Any) -> None:
        raise MachineError("disk is full", "mlflow.db", "make room")

    with searching(tmp_path) as search:
        search.bind(lambda n, p: None, full, 9, {})
        search.suggest("a")
        search.on_trial_complete("a", result(3, 0.7))
        assert isinstance(search.error, MachineError) and search.suggest("b") == "FINISHED"
    assert states(tmp_path) == [(TrialState.RUNNING, None)]


def test_what_the_config_refuses_fails_alone(tmp_path: Path) -> None:
    def make_job(number: int, overrides: dict[str, Any]) -> dict[str, Any]:
        if number == 0:
            raise ConfigError("depth = 9 is refused", "space", "at most 4")
        return {"folder": str(tmp_path / str(number))}

    ends: list[Ending] = []
    with bound(searching(tmp_path, make_job=make_job), ends) as search:
        config = search.suggest("a")
    assert isinstance(config, dict) and config["number"] == 1
    assert [(e.number, e.state) for e in ends] == [(0, "failed")]


def test_concurrency_and_storages(tmp_path: Path) -> None:
    with bound(searching(tmp_path), concurrent=1) as search:
        assert isinstance(search.suggest("a"), dict)
        assert search.suggest("b") is None
    with pytest.raises(ConfigError, match="storage"):
        open_storage("redis://somewhere")


def test_list_of_jobs() -> None:
    search = ListSearch({7: {"folder": "a"}, 8: {"folder": "b"}})
    search.bind(lambda n, p: None, lambda n, s, p, f: None, 9, {})
    first, second, third = search.suggest("a"), search.suggest("b"), search.suggest("c")
    assert isinstance(first, dict) and isinstance(second, dict) and third == "FINISHED"
    assert (first["number"], second["number"]) == (7, 8)
    search.complete("a", result(3, None))
    assert not search.finished
    search.forget_live()
    assert search.suggest("d") == second  # was not closed
    search.fail("d", Failure("lost", "gone"))
    assert search.finished and [e.state for e in search.endings] == ["complete", "failed"]


def test_lock_in_postgresql() -> None:
    """The advisory lock's protocol; that the database keeps it for a session is the database's own affair."""

    class Connection:
        def __init__(self, granted: bool) -> None:
            self.granted, self.closed, self.asked = granted, False, ""

        def execution_options(self, **_: str) -> "Connection":
            return self

        def execute(self, query: Any, values: dict[str, str]) -> "Connection":
            self.asked = str(query)
            assert values == {"name": "mammobench/toy"}
            return self

        def scalar(self) -> bool:
            return self.granted

        def invalidate(self) -> None:
            self.closed = True

        def close(self) -> None: ...

    for granted in (True, False):
        connection = Connection(granted)
        url = SimpleNamespace(get_backend_name=lambda: "postgresql")
        storage: Any = SimpleNamespace(engine=SimpleNamespace(url=url, connect=lambda c=connection: c))
        if granted:
            DriverLock(storage, "toy").release()
        else:
            with pytest.raises(MachineError, match="being run already"):
                DriverLock(storage, "toy")
        assert connection.closed and "pg_try_advisory_lock" in connection.asked


# ---- early stopping --------------------------------------------------------------------------------------------------
class _Trial:
    def __init__(self, number: int) -> None:
        self.trial_id, self.config = f"id{number}", {"number": number}


def test_halving_ignores_what_does_not_count() -> None:
    scheduler = Halving("max", grace=1, reduction=3, history={})
    good, bad = _Trial(0), _Trial(1)
    for trial in (good, bad):
        scheduler.on_trial_add(None, trial)
    assert scheduler.on_trial_result(None, good, result(1, 0.9)) == "CONTINUE"
    assert scheduler.on_trial_result(None, bad, result(1, 0.1, selectable=False)) == "CONTINUE"
    assert scheduler.on_trial_result(None, bad, result(1, None)) == "CONTINUE"
    assert scheduler.on_trial_result(None, bad, result(3, 0.1)) == "CONTINUE"  # its last epoch
    assert scheduler.on_trial_result(None, bad, result(2, 0.1)) == "STOP"


def test_halving_knows_former_starts() -> None:
    fresh = Halving("min", grace=1, reduction=3, history={0: {1: 0.1, 2: 0.1}, 1: {1: 0.2}})
    new = _Trial(2)
    fresh.on_trial_add(None, new)
    assert fresh.on_trial_result(None, new, result(1, 0.9)) == "STOP"
    adopted = _Trial(1)
    fresh.on_trial_add(None, adopted)
    assert fresh.on_trial_result(None, adopted, result(2, 0.9)) == "CONTINUE"  # rung 1 was passed before the restart
