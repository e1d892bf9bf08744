"""bench/cluster: places, failures and leases; then sweeps on a running Ray."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from optuna.trial import TrialState
from ray.train.v2.api.exceptions import WorkerGroupError

from bench.cluster import failures, nodes
from bench.cluster.failures import Failure
from bench.cluster.lease import Lease
from bench.cluster.nodes import Cluster, Node, Share
from bench.cluster.train import fit_distributed
from bench.cluster.trials import Ending, ListSearch, Objective
from bench.cluster.tune import run_trials
from data.errors import ConfigError, DataError, LeakError, MachineError, UserError
from tests import toy_trials
from tests.toy_search import PUBLISHED, searching, states
from tests.toy_trials import METRIC


# ---- resources -------------------------------------------------------------------------------------------------------
def test_how_many_at_once() -> None:
    two = Cluster((Node(2, 0),))
    assert nodes.max_concurrent(two, Share(1, 1)) == 2
    assert nodes.max_concurrent(two, Share(2, 1)) == 1
    assert nodes.max_concurrent(Cluster((Node(8, 0),)), Share(2, 1)) == 4
    assert nodes.max_concurrent(Cluster((Node(8, 0),)), Share(3, 1)) == 2
    assert nodes.max_concurrent(Cluster((Node(3, 0), Node(3, 0))), Share(1, 2)) == 2  # not 3: a worker has one node
    assert nodes.max_concurrent(Cluster((Node(16, 1), Node(16, 1))), Share(1, 4, 1)) == 2
    assert nodes.max_concurrent(Cluster((Node(16, 1),)), Share(1, 4, 0.5)) == 2
    share = Share(3, 1)
    assert nodes.OUTER_CPU + 3 * share.inner_cpus <= 3
    for cluster, share in ((two, Share(3, 1)), (two, Share(1, 1, 1)), (two, Share(1, 4)), (Cluster(()), Share())):
        with pytest.raises(MachineError, match="one trial needs"):
            nodes.max_concurrent(cluster, share)


def test_ray_client_is_refused() -> None:
    with (
        pytest.raises(ConfigError, match=r"ray job submit --address http://head:8265"),
        nodes.attach("ray://head:10001"),
    ):
        pass


# ---- failures and leases ---------------------------------------------------------------------------------------------
def test_kinds_of_failure(tmp_path: Path) -> None:
    for fate, kind in {"nan": "diverged", "bug": "bug", "data": "data", "memory": "oom"}.items():
        with pytest.raises(Exception) as caught:
            toy_trials.meet(fate, tmp_path)
        assert failures.classify(caught.value).kind == kind and failures.fatal(caught.value) is None
    for fate, expected in {"leak": LeakError, "full": MachineError}.items():
        with pytest.raises(Exception) as caught:
            toy_trials.meet(fate, tmp_path)
        found = failures.fatal(caught.value)
        assert isinstance(found, expected) and str(tmp_path) not in str(found)
        assert str(failures.unpack(failures.pack(found))) == str(found)
    assert failures.classify(TimeoutError("not finished after 3 s")) == Failure("timeout", "not finished after 3 s")
    assert failures.classify(RuntimeError("[/gloo/pair.cc:547] Connection closed by peer")).kind == "lost"
    dead, peer, bug = ray.exceptions.RayActorError(), RuntimeError("gloo: closed by peer"), KeyError("x")
    for errors, kind in (({0: bug, 1: dead}, "lost"), ({0: peer, 1: bug}, "bug"), ({0: peer}, "lost")):
        assert failures.classify(WorkerGroupError("workers failed", errors)).kind == kind
    assert failures.fatal(DataError("a", "b", "c")) is None and issubclass(LeakError, UserError)


def test_lease_waits_for_a_living_holder(tmp_path: Path) -> None:
    with Lease(tmp_path, beat_s=0.05):
        entered = threading.Event()

        def enter() -> None:
            with Lease(tmp_path, beat_s=0.05):
                entered.set()

        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.4)
    assert entered.wait(5)
    thread.join()
    assert not (tmp_path / "lease.json").exists()


def test_lease_passes_over_the_dead_and_the_silent(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    host_name = os.uname().nodename
    (tmp_path / "lease.json").write_text(json.dumps({"token": "t", "host": host_name, "pid": gone.pid, "started": 0}))
    started = time.monotonic()
    with Lease(tmp_path, patience_s=30):
        assert time.monotonic() - started < 5
    (tmp_path / "lease.json").write_text(json.dumps({"token": "t", "host": "elsewhere", "pid": 1, "started": 0}))
    with Lease(tmp_path, patience_s=0.3, beat_s=0.05) as lease:
        lease.check()
        (tmp_path / "lease.json").write_text(
            json.dumps({"token": "other", "host": "elsewhere", "pid": 1, "started": 0})
        )
        with pytest.raises(failures.LeaseLost):
            lease.check()
    assert json.loads((tmp_path / "lease.json").read_text())["token"] == "other"  # not ours to remove


# ---- with Ray --------------------------------------------------------------------------------------------------------
class Record:
    """What the driver hears."""

    def __init__(self) -> None:
        self.reports: list[tuple[int, dict[str, Any]]] = []
        self.ends: dict[int, Ending] = {}

    def report(self, number: int, payload: dict[str, Any]) -> None:
        self.reports.append((number, payload))

    def end(self, number: int, state: Any, payload: dict[str, Any] | None, failure: Failure | None) -> dict[str, Any]:
        assert number not in self.ends
        self.ends[number] = Ending(number, state, payload, failure)
        return {"run_id": f"run{number}"}

    def epochs(self, number: int) -> list[int]:
        return [payload["number"] for n, payload in self.reports if n == number]


@pytest.fixture
def record() -> Iterator[Record]:
    yield Record()


@pytest.mark.ray
def test_sweep_with_every_fate(tmp_path: Path, record: Record, local_ray: Cluster) -> None:
    """Complete, diverged, bug, data, killed once, killed for good: each is closed once, in the record and the study."""
    fates = {1: {"2": "nan"}, 2: {"1": "bug"}, 3: {"2": "data"}, 4: {"2": "die"}, 5: {"2": "die always"}}
    job = {number: {"fate": fate} for number, fate in fates.items()}
    with searching(tmp_path, trials=7, published=PUBLISHED, job=job) as search:
        endings = run_trials(
            search, "tests.toy_trials:train", storage_dir=tmp_path / "ray", max_failures=1,
            on_report=record.report, on_end=record.end,
        )  # fmt: skip
        stored = search.study.trials
        assert search.finished
    kinds = {e.number: e.failure.kind for e in endings if e.failure}
    assert kinds == {1: "diverged", 2: "bug", 3: "data", 5: "lost"}
    assert sorted(record.ends) == list(range(7)) == sorted(e.number for e in endings)
    for trial in stored:
        assert (trial.state is TrialState.COMPLETE) == (record.ends[trial.number].state == "complete")
        assert trial.user_attrs["run_id"] == f"run{trial.number}"
        assert trial.user_attrs.get("failure") == kinds.get(trial.number)
    assert stored[0].params == PUBLISHED and stored[0].value == pytest.approx(0.5 * 0.875)
    assert record.epochs(4) == [1, 2, 3]  # resumed in epoch 2, after its process died there
    assert "step 1" in stored[1].user_attrs["reason"] and "KeyError" in stored[2].user_attrs["reason"]
    assert "no such layer" in (tmp_path / "2" / failures.LOG).read_text()
    payloads = [payload for _, payload in record.reports]
    assert len({payload["pid"] for payload in payloads}) <= 5  # two processes, and those after each death
    assert {payload["threads"] for payload in payloads} == {1}
    assert {payload["running"] for payload in payloads} == {1}  # no former trial's thread lives on in a reused process
    assert not list((tmp_path / "ray").iterdir())


@pytest.mark.ray
def test_sweep_with_early_stopping(tmp_path: Path, record: Record, local_ray: Cluster) -> None:
    job = {number: {"x": x, "epochs": 4} for number, x in enumerate([0.9, 0.2, 0.1, 0.95])}
    with searching(tmp_path, job=job) as search:
        run_trials(
            search, "tests.toy_trials:train", storage_dir=tmp_path / "ray", concurrent=1, scheduler="asha",
            on_report=record.report, on_end=record.end,
        )  # fmt: skip
        stored = search.study.trials
    assert [trial.state.name for trial in stored] == ["COMPLETE", "PRUNED", "PRUNED", "COMPLETE"]
    for trial in stored:
        payload = record.ends[trial.number].payload
        assert payload is not None and trial.value == payload[METRIC]
    assert record.epochs(1) == [1] and record.epochs(3) == [1, 2, 3, 4]


@pytest.mark.ray
def test_list_budget_timeout_and_errors(tmp_path: Path, record: Record, local_ray: Cluster) -> None:
    storage = tmp_path / "ray"

    def job(number: int, **more: Any) -> dict[str, Any]:
        return {"folder": str(tmp_path / f"job{number}"), "epochs": 2, "epoch_s": 0.1, "x": 1, **more}

    jobs = ListSearch({3: job(3), 5: job(5, epochs=50, epoch_s=0.3), 6: job(6, fate={"2": "stop"})})
    endings = run_trials(
        jobs, "tests.toy_trials:train", storage_dir=storage, trial_timeout_s=1.0, on_report=record.report
    )
    assert {e.number: (e.state, e.failure) for e in endings} == {
        3: ("complete", None),
        5: ("failed", Failure("timeout", "not finished after 1 s")),
        6: ("failed", Failure("bug", "the training ended without a final report")),
    }

    again = ListSearch({3: job(3), 7: job(7, fate={"1": "full"})})
    with pytest.raises(MachineError, match="No space left"):
        run_trials(again, "tests.toy_trials:train", storage_dir=storage, concurrent=1)
    assert [(e.number, e.state) for e in again.endings] == [(3, "complete")]
    assert len(toy_trials.events(tmp_path / "job3")) == 4  # the second call trained nothing
    with pytest.raises(MachineError, match="one trial needs 3 x 1 CPU"):
        run_trials(ListSearch({8: job(8)}), "tests.toy_trials:train", storage_dir=storage, share=Share(3))
    with searching(tmp_path, objectives=[Objective(METRIC), Objective("loss", "min")], trials=2) as search:
        with pytest.raises(ConfigError, match="scheduler"):
            run_trials(search, "tests.toy_trials:train", storage_dir=storage, scheduler="asha")
        run_trials(search, "tests.toy_trials:train", storage_dir=storage)
        assert [len(trial.values or []) for trial in search.study.best_trials] and search.finished


@pytest.mark.ray
def test_ctrl_c_and_budget_keep_the_state(tmp_path: Path, record: Record, local_ray: Cluster) -> None:
    job = {number: {"epochs": 40, "epoch_s": 0.2} for number in range(3)}

    def interrupt(number: int, payload: dict[str, Any]) -> None:
        if payload["number"] == 2:
            os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with searching(tmp_path, trials=3, job=job) as search, pytest.raises(KeyboardInterrupt):
        run_trials(search, "tests.toy_trials:train", storage_dir=tmp_path / "ray", on_report=interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    assert {state.name for state, _ in states(tmp_path)} == {"RUNNING"}
    with searching(tmp_path, trials=3, job=job) as search:
        run_trials(search, "tests.toy_trials:train", storage_dir=tmp_path / "ray", time_budget_s=6.0,
                   on_report=record.report, on_end=record.end)  # fmt: skip
    assert record.ends and {e.state for e in record.ends.values()} == {"pruned"}
    assert len(states(tmp_path)) == 2  # the third was never drawn
    assert min(record.epochs(0)) > 1  # taken up where it was


@pytest.mark.ray
def test_two_workers(tmp_path: Path, record: Record, local_ray: Cluster) -> None:
    """Two gloo workers inside a trial; rank 1 is killed in epoch 2, and the group resumes there."""
    job = {"folder": str(tmp_path / "a"), "epochs": 3, "epoch_s": 0.2, "x": 1.0, "fate": {"2": "die"}}
    endings = run_trials(
        ListSearch({0: job}), "tests.toy_trials:train_together", storage_dir=tmp_path / "ray", share=Share(workers=2),
        on_report=record.report,
    )  # fmt: skip
    assert [e.state for e in endings] == ["complete"] and record.epochs(0) == [1, 2, 3]
    assert {(payload["ranks"], payload["world"]) for _, payload in record.reports} == {(1.0, 2)}
    starts = [e["epoch"] for e in toy_trials.events(tmp_path / "a") if e["event"] == "start" and e["rank"] == 1]
    assert starts == [1, 2, 2, 3]


@pytest.mark.ray
@pytest.mark.long
def test_two_workers_fail_and_work_without_tune(tmp_path: Path, local_ray: Cluster) -> None:
    job = {"folder": str(tmp_path / "b"), "epochs": 2, "epoch_s": 0.2, "x": 1.0, "fate": {"1": "nan"}}
    endings = run_trials(
        ListSearch({1: job}), "tests.toy_trials:train_together", storage_dir=tmp_path / "ray", share=Share(workers=2)
    )
    assert endings[0].failure is not None and endings[0].failure.kind == "diverged"
    seen: list[int] = []
    whole = {**job, "folder": str(tmp_path / "c"), "fate": {}}
    toy_trials.checkpoint(tmp_path, 1)  # a folder is taken up, whoever left it
    (tmp_path / "c").mkdir()
    (tmp_path / "epoch").rename(tmp_path / "c" / "epoch")
    fit_distributed(whole, "tests.toy_trials:train_together", workers=2, on_report=lambda p: seen.append(p["number"]))
    assert seen == [2]


@pytest.mark.ray
@pytest.mark.long
def test_stopped_groups_give_their_places_back(tmp_path: Path, record: Record, local_ray: Cluster) -> None:
    """Each trial takes the whole cluster by two workers; one that is stopped early must not keep it from the next."""
    job = {number: {"x": x, "epochs": 4, "epoch_s": 0.5} for number, x in enumerate([0.5, 0.1, 0.9])}
    for trials in (2, 3):  # the second call finds the places of the first one's last trial free too
        with searching(tmp_path, job=job, trials=trials) as search:
            run_trials(
                search, "tests.toy_trials:train_together", storage_dir=tmp_path / "ray", share=Share(workers=2),
                scheduler="asha", on_report=record.report, on_end=record.end,
            )  # fmt: skip
    assert [state.name for state, _ in states(tmp_path)] == ["COMPLETE", "PRUNED", "COMPLETE"]
    assert all("placement_group" not in payload for _, payload in record.reports)
