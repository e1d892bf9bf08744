"""The record of runs: adoption, closing, outages, and what never gets in."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench import provenance
from bench.metrics.estimate import Estimate
from bench.tracking import Tracker
from bench.tracking_values import checked_uri, masked
from data.errors import ConfigError, DataError, MachineError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty migrated database: making one takes seconds, copying it does not."""
    out = tmp_path_factory.mktemp("migrated")
    Tracker(out=out).connect()
    return out / "mlflow.db"


@pytest.fixture
def make(migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Tracker]:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(migrated, tmp_path / "mlflow.db")
    return lambda **options: Tracker(out=tmp_path, **options)


def begin(tracker: Tracker, **changes: Any) -> str:
    given: dict[str, Any] = {
        "name": "vgg16",
        "kind": "trial",
        "identity": "abc",
        "params": {"lr": 1e-3, "roi": {"scale": 1.6}},
    }
    return tracker.start("margin", **{**given, **changes})


class Broken:
    """A client whose server is away."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        def call(*args: Any, **kwargs: Any) -> None:
            raise ConnectionRefusedError(111, "Connection refused")

        return call


# ---- a run's life ---------------------------------------------------------------------------------------------------
def test_a_run_comes_back_as_it_was_written(make: Callable[..., Tracker]) -> None:
    tracker = make()
    sweep = begin(tracker, kind="sweep", identity="s")
    run = begin(tracker, parent=sweep, number=3, tags={"method": "vgg16"})
    tracker.log(run, {"loss/total": 1.5, "validation/auroc_mean": Estimate(0.8, 0.7, 0.9, 120, "logit")}, step=1)
    tracker.log(
        run, {"loss/total": 1.2, "validation/auroc_mean": Estimate(None, None, None, 0, "logit", "one class")}, step=2
    )
    tracker.finish(run, "complete")
    (info,) = tracker.runs(kind="trial", parent=sweep)
    assert (info.run_id, info.number, info.parent, info.track) == (run, 3, sweep, "margin")
    assert (info.status, info.state) == ("FINISHED", "complete")
    assert info.params == {"lr": "0.001", "roi.scale": "1.6"}
    assert info.tags["method"] == "vgg16"
    assert info.metrics["loss/total"] == 1.2
    assert info.estimate("validation/auroc_mean") == Estimate(0.8, 0.7, 0.9, 120, "as logged")
    assert info.tags["no_value"] == "validation/auroc_mean"
    assert tracker.history(run, "loss/total") == [(1, 1.5), (2, 1.2)]
    assert info.start and info.end and info.seconds is not None and info.seconds >= 0


def test_infinity_and_nan_are_left_out(make: Callable[..., Tracker]) -> None:
    tracker = make()
    run = begin(tracker)
    tracker.log(run, {"a": float("inf"), "b": float("nan"), "c": None, "d": 1.0})
    assert tracker.run(run).metrics == {"d": 1.0}
    assert tracker.run(run).tags["no_value"] == "a, b, c"


@pytest.mark.parametrize(
    ("state", "status"),
    [("complete", "FINISHED"), ("pruned", "KILLED"), ("failed", "FAILED"), ("interrupted", "KILLED")],
)
def test_states_and_mlflow_statuses(make: Callable[..., Tracker], state: str, status: str) -> None:
    tracker = make()
    run = begin(tracker)
    tracker.finish(run, state, failure="oom" if state == "failed" else None, reason="why")
    info = tracker.run(run)
    assert (info.status, info.state, info.tags["reason"]) == (status, state, "why")
    assert info.tags.get("failure") == ("oom" if state == "failed" else None)


def test_an_unknown_state_is_refused(make: Callable[..., Tracker]) -> None:
    tracker = make()
    with pytest.raises(ConfigError, match="unknown state 'done'"):
        tracker.finish(begin(tracker), "done")


# ---- going on with what was cut off ---------------------------------------------------------------------------------
def test_a_run_that_was_cut_off_is_gone_on_with(make: Callable[..., Tracker]) -> None:
    first = begin(make(), number=1)
    again = make()  # as a new driver would
    assert begin(again, number=1, params={"lr": 1e-3, "extra": 1}) == first
    again.finish(first, "interrupted", reason="stopped by hand")
    assert begin(again, number=1) == first
    info = again.run(first)
    assert (info.status, info.state) == ("RUNNING", "running")
    assert "reason" not in info.tags
    assert info.params["extra"] == "1"
    assert len(again.runs()) == 1


@pytest.mark.parametrize(
    "change", [{"identity": "other"}, {"kind": "train"}, {"number": 2}, {"parent": "f" * 32}, {"number": None}]
)
def test_another_identity_kind_number_or_parent_is_another_run(
    make: Callable[..., Tracker], change: dict[str, Any]
) -> None:
    tracker = make()
    assert begin(tracker, number=1) != begin(tracker, **{"number": 1, **change})


def test_a_sweep_has_one_run_for_ever(make: Callable[..., Tracker]) -> None:
    tracker = make()
    sweep = begin(tracker, kind="sweep", params={"trials": 3})
    tracker.finish(sweep, "complete")
    assert begin(tracker, kind="sweep", params={"trials": 5}) == sweep
    assert tracker.run(sweep).params == {"trials": "3"}


@pytest.mark.parametrize("state", ["complete", "pruned", "failed"])
def test_a_closed_run_stays_closed(make: Callable[..., Tracker], state: str) -> None:
    tracker = make()
    first = begin(tracker)
    tracker.finish(first, state)
    assert begin(tracker) != first
    assert tracker.run(first).state == state


def test_a_run_of_another_living_process_is_not_taken(
    make: Callable[..., Tracker], monkeypatch: pytest.MonkeyPatch
) -> None:
    tracker = make()
    run = begin(tracker)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        machine, _, _ = provenance.this_driver().split(":")
        started = int(provenance.psutil.Process(child.pid).create_time())
        tracker.tag(run, {"driver": f"{machine}:{child.pid}:{started}"})
        with pytest.raises(MachineError, match="another process is writing"):
            begin(tracker)
        assert tracker.mark_dead() == []
    finally:
        child.communicate(b"\n", timeout=30)
    assert [dead.run_id for dead in tracker.mark_dead()] == [run]
    assert tracker.run(run).state == "interrupted"
    assert begin(tracker) == run


def test_orphans_are_closed_as_the_study_says(make: Callable[..., Tracker]) -> None:
    tracker = make()
    sweep = begin(tracker, kind="sweep", identity="s")
    runs = [begin(tracker, parent=sweep, number=n, identity=str(n)) for n in range(5)]
    closed = tracker.close_orphans(sweep, {0: "complete", 1: "pruned", 2: "failed", 3: "running"})
    assert sorted(closed) == sorted(runs[:3])
    found = [tracker.run(run) for run in runs]
    assert [run.state for run in found] == ["complete", "pruned", "failed", "running", "running"]
    assert found[2].tags["failure"] == "lost"


# ---- finding --------------------------------------------------------------------------------------------------------
def test_find_gives_complete_runs_only(make: Callable[..., Tracker]) -> None:
    tracker = make()
    assert tracker.find("abc", "trial") is None
    run = begin(tracker)
    assert tracker.find("abc", "trial") is None
    tracker.finish(run, "complete")
    found = tracker.find("abc", "trial")
    assert found is not None and found.run_id == run
    assert tracker.find("abc", "train") is None
    assert tracker.find("abc", "trial", track="malignancy") is None


def test_a_prefix_finds_one_run_or_lists_several(make: Callable[..., Tracker]) -> None:
    tracker = make()
    runs = [begin(tracker, identity=str(n)) for n in range(17)]  # 17 ids: two of them share their first digit
    assert tracker.resolve(runs[0]).run_id == runs[0]
    shared = next(r[0] for r in runs if sum(other[0] == r[0] for other in runs) > 1)
    with pytest.raises(ConfigError, match=r"several runs start so: .*trial vgg16"):
        tracker.resolve(shared)
    for wrong in ("zz", "", "%", "a' OR 'b"):
        with pytest.raises(ConfigError, match="no run has an id"):
            tracker.resolve(wrong)


def test_a_run_that_is_not_there(make: Callable[..., Tracker]) -> None:
    with pytest.raises(ConfigError, match="no such run"):
        make().run("0" * 32)


def test_tracks_are_experiments_with_their_own_artifacts(make: Callable[..., Tracker], tmp_path: Path) -> None:
    tracker = make()
    run = begin(tracker)
    tracker.text(run, "a,b\n1,2\n", "tables/confusion.csv")
    assert tracker.download(run, "tables/confusion.csv").read_text() == "a,b\n1,2\n"
    assert tracker.download(run, "tables/confusion.csv").is_relative_to(tmp_path / "artifacts" / "margin")
    folder = tmp_path / "frame"
    folder.mkdir()
    (folder / "x.txt").write_text("x")
    tracker.artifact(run, folder, "frames/test")
    assert (tracker.download(run, "frames/test") / "x.txt").read_text() == "x"
    with pytest.raises(DataError, match="no such artifact"):
        tracker.download(run, "nothing.txt")
    with pytest.raises(DataError, match="no such artifact"):
        tracker.artifact(run, folder / "nothing")


def test_a_folder_of_runs_with_blanks_may_be_moved(
    migrated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    old, new = tmp_path / "my runs #1", tmp_path / "moved"
    old.mkdir()
    shutil.copy(migrated, old / "mlflow.db")
    run = begin(tracker := Tracker(out=old))
    tracker.json(run, {"a": 1}, "config.json")
    assert json.loads(tracker.download(run, "config.json").read_text()) == {"a": 1}
    old.rename(new)
    assert json.loads(Tracker(out=new).download(run, "config.json").read_text()) == {"a": 1}


# ---- outages --------------------------------------------------------------------------------------------------------
def test_an_outage_is_written_to_disk_and_sent_later(
    make: Callable[..., Tracker], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = make(retry_s=0.0)
    run = begin(tracker, number=0)
    client, tracker._server.mlflow = tracker._server.mlflow, Broken()
    file = tmp_path / "panel.txt"
    file.write_text("picture")
    tracker.log(run, {"loss": 1.0}, step=1)
    tracker.artifact(run, file, "panels")
    file.unlink()  # the original may go, the record must not
    tracker.finish(run, "complete")
    late = begin(tracker, identity="late", number=1)
    tracker.log(late, {"loss": 2.0}, step=1)
    assert late.startswith("pending-")
    assert sum("does not answer" in r.message for r in caplog.records) == 1
    assert tracker.flush() == 5
    tracker._server.mlflow = client
    tracker.log(late, {"loss": 3.0}, step=2)  # the next success takes everything along, in order
    assert not (tmp_path / "logs" / "tracking-buffer.jsonl").exists()
    assert tracker.run(run).state == "complete"
    assert tracker.download(run, "panels/panel.txt").read_text() == "picture"
    assert tracker.history(late, "loss") == [(1, 2.0), (2, 3.0)]
    tracker.finish(late, "complete")
    assert len(tracker.runs()) == 2


def test_records_of_an_outage_outlive_the_driver(make: Callable[..., Tracker], tmp_path: Path) -> None:
    tracker = make()
    tracker.connect()
    tracker._server.mlflow = Broken()
    pending = begin(tracker)
    tracker.log(pending, {"loss": 1.0})
    with (tmp_path / "logs" / "tracking-buffer.jsonl").open("a") as stream:
        stream.write('{"do": "log", "run": "cut sh')  # the disk was full
    again = make()
    assert again.flush() == 0
    (info,) = again.runs()
    assert info.metrics == {"loss": 1.0}


def test_a_refused_record_does_not_hold_up_the_rest(make: Callable[..., Tracker], tmp_path: Path) -> None:
    tracker = make()
    run = begin(tracker)
    tracker.log("0" * 32, {"loss": 1.0})  # a run that somebody deleted
    tracker.log(run, {"loss": 1.0})
    assert tracker.run(run).metrics == {"loss": 1.0}
    (line,) = (tmp_path / "logs" / "tracking-buffer-rejected.jsonl").read_text().splitlines()
    assert "not found" in json.loads(line)["refused"]


def test_reading_in_an_outage_says_so(make: Callable[..., Tracker]) -> None:
    tracker = make()
    tracker.connect()
    tracker._server.mlflow = Broken()
    with pytest.raises(MachineError, match="Connection refused"):
        tracker.runs()


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("http://someone:secret@127.0.0.1:9", r"127\.0\.0\.1:9"),
        ("sqlite:////proc/nowhere/mlflow.db", "sqlite file mlflow.db"),
    ],
)
def test_first_contact_names_the_address(
    uri: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(MachineError, match=message) as caught:
        Tracker(uri, out=tmp_path).connect()
    assert "secret" not in str(caught.value)


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database at all, and longer than a header" * 50)
    with pytest.raises(MachineError, match=r"sqlite file mlflow\.db.*move a damaged file away"):
        Tracker(f"sqlite:///{tmp_path / 'mlflow.db'}", out=tmp_path).connect()


def test_the_warm_up_raises_what_connecting_raises(tmp_path: Path) -> None:
    with pytest.raises(MachineError):
        Tracker("sqlite:////proc/nowhere/mlflow.db", out=tmp_path).warm_up().result(timeout=60)


@pytest.mark.parametrize("uri", ["runs/mlruns", "file:///tmp/x", "weird://x"])
def test_addresses_that_cannot_hold_runs(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"give sqlite:///FILE\.db"):
        checked_uri(uri)


def test_passwords_are_masked() -> None:
    assert masked("postgresql://me:secret@host:5432/db") == "postgresql://me:***@host:5432/db"


# ---- what never gets in ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('File "/srv/data/x.py", line 3', 'File "…/x.py", line 3'),
        ("sqlite:////srv/x/y.db", "…/y.db"),
        ("C:\\Users\\me\\x.dcm", "…/x.dcm"),
        ("see logs/sweep/x.log, 3/4, http://a.b/c/d", "see logs/sweep/x.log, 3/4, http://a.b/c/d"),
        ("validation/auroc_mean", "validation/auroc_mean"),
    ],
)
def test_absolute_paths_are_cut_short(text: str, kept: str) -> None:
    assert provenance.scrub(text) == kept


def test_no_path_host_or_user_reaches_the_record(make: Callable[..., Tracker], tmp_path: Path) -> None:
    tracker = make()
    secret = tmp_path / "P_00123" / "films"
    run = begin(tracker, params={"root": str(secret), "deep": {"list": [str(secret)]}}, tags={"from": str(secret)})
    tracker.provenance(run, config={"root": str(secret)}, hashes={"data_hash": "d", "split_hash": "s"})
    tracker.text(run, f"read {secret}", "log.txt")
    tracker.finish(run, "failed", "bug", f"cannot read {secret}/a.dcm")
    info = tracker.run(run)
    assert info.tags["data_hash"] == "d" and info.tags["split_hash"] == "s" and len(info.tags["commit"]) >= 7
    assert info.artifacts is not None
    texts = [*info.params.values(), *info.tags.values()]
    texts += [path.read_text() for path in info.artifacts.rglob("*") if path.is_file()]
    assert {path.name for path in info.artifacts.iterdir()} == {"config.json", "environment.json", "log.txt"}
    for forbidden in (str(tmp_path), "P_00123", os.uname().nodename):
        assert not any(forbidden in text for text in texts), forbidden


def test_importing_the_tracker_does_not_import_mlflow() -> None:
    code = "import sys, bench.tracking; sys.exit(any(m.split('.')[0] in ('mlflow', 'torch') for m in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=120, check=False).returncode == 0
