"""bench/cluster when what it stands on fails: Ray itself, addresses that nothing answers, storages, killed drivers."""

import http.server
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import optuna
import psutil
import pytest

from bench.cluster import nodes, watch
from bench.cluster.check import check_address, check_storage
from bench.cluster.nodes import Door
from bench.cluster.owner import dead, me
from bench.cluster.search import DriverLock, open_storage
from bench.cluster.watch import ClusterLost, Watch
from data.errors import ConfigError, MachineError
from tests import postgres, sweep_driver
from tests.toy_trials import events

ROOT = Path(__file__).parents[1]
DEADLINE_S = 150.0


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.socket() as opened:
        opened.bind(("", 0))  # Ray turns localhost into the machine's own address
        opened.listen()
        yield opened


# ---- addresses -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("address", ["local", "auto", "head:6379", "10.0.0.1:6379", "[::1]:6379"])
def test_addresses_of_clusters(address: str) -> None:
    check_address(address)


@pytest.mark.parametrize(
    "address", ["nonsense", "http://head:6379", "head:0", "head:99999", ":6379", "a b:1", "::1", ""]
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match=r"\(--ray-address\); give local, auto or HOST:PORT"):
        check_address(address)


@pytest.mark.timeout(60)  # it used to wait for ever
@pytest.mark.ray
def test_a_head_that_is_not_there_is_told_at_once(listening: socket.socket) -> None:
    """Nothing listens; something does, but says nothing; something does that is no head, as a cluster's dashboard."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        web = http.server.HTTPServer(("", 0), http.server.SimpleHTTPRequestHandler)
        threading.Thread(target=web.serve_forever, daemon=True).start()
        for port in (free.getsockname()[1], listening.getsockname()[1], web.server_port):
            with pytest.raises(MachineError, match=rf"no Ray cluster answers \(--ray-address localhost:{port}\)"):
                nodes._join(f"localhost:{port}")
        web.shutdown()
        web.server_close()


# ---- storages --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "uri", ["mysql://u@h/d", "postgres://u@h/d", "sqlite://", "sqlite:///:memory:", "redis://h", "://"]
)
def test_storage_of_an_unknown_kind_is_refused(uri: str) -> None:
    with pytest.raises(ConfigError, match="storage of an unknown kind"):
        check_storage(uri)


def test_storage_that_cannot_be_used_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"psycopg2 is not installed \(--storage postgresql\+psycopg2://\)"):
        check_storage("postgresql+psycopg2://u:secret@h/d")
    with pytest.raises(ConfigError, match="no address of a database"):
        check_storage("postgresql://u:secret@h:port/d")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        with pytest.raises(MachineError, match="the storage does not open") as caught:
            open_storage(f"postgresql://u:secret@127.0.0.1:{free.getsockname()[1]}/d")
    assert "secret" not in str(caught.value) and "\n" not in str(caught.value)


def test_checks_are_light() -> None:
    """They are to come before anything else, so they may cost nothing."""
    code = "import sys, bench.cluster.check; print({'ray', 'optuna', 'sqlalchemy', 'torch'} & set(sys.modules))"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        == "set()\n"
    )


@pytest.mark.long  # needs a PostgreSQL server's programs
def test_study_in_postgresql() -> None:
    with postgres.server() as uri:
        storage = open_storage(uri)
        study = optuna.create_study(study_name="toy", storage=storage)
        study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=2)
        assert [
            trial.state.name for trial in optuna.load_study(study_name="toy", storage=open_storage(uri)).trials
        ] == ["COMPLETE"] * 2
        lock = DriverLock(storage, "toy")
        with pytest.raises(MachineError, match="being run already"):
            DriverLock(open_storage(uri), "toy")
        DriverLock(open_storage(uri), "another").release()
        lock.release()
        DriverLock(open_storage(uri), "toy").release()
        storage.engine.dispose()


# ---- what a killed driver leaves -------------------------------------------------------------------------------------
def test_folders_of_dead_drivers_are_removed(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", "pass"])
    gone.wait()
    mine, old = me(), time.time() - 700

    def leftover(name: str, note: object = None, changed: float | None = None) -> Path:
        folder = tmp_path / f"{nodes.PREFIX}{name}"
        (folder / "session").mkdir(parents=True)
        if note is not None:
            (folder / nodes.OWNER).write_text(note if isinstance(note, str) else json.dumps(note))
        if changed is not None:
            os.utime(folder, (changed, changed))
        return folder

    removed = [
        leftover(f"{gone.pid}-dead", {**mine, "pid": gone.pid}),
        leftover(f"{os.getpid()}-reused", {**mine, "started": mine["started"] - 100}),
        leftover(f"{gone.pid}-noteless", changed=old),
        leftover(f"{gone.pid}-halfnote", note='{"pid"', changed=old),
    ]
    kept = [
        leftover(f"{os.getpid()}-mine", mine, changed=old),
        leftover(f"{gone.pid}-elsewhere", {**mine, "host": "elsewhere", "pid": gone.pid}, changed=old),
        leftover(f"{gone.pid}-young"),
        leftover("data-set", changed=old),
    ]
    writing, ended = leftover(f"{gone.pid}-writing", {**mine, "pid": gone.pid}), threading.Event()
    orphan = threading.Thread(target=_write, args=(writing / "session", ended))
    orphan.start()  # a Ray takes some seconds to end after its driver
    nodes._sweep(tmp_path)
    ended.set()
    orphan.join()
    nodes._sweep(tmp_path)
    assert not writing.exists()
    assert not any(folder.exists() for folder in removed) and all(folder.exists() for folder in kept)
    assert not dead({**mine, "host": "elsewhere"}) and dead({"host": mine["host"]})


def _write(folder: Path, ended: threading.Event) -> None:
    for number in itertools.count():
        if ended.is_set() or not folder.exists():
            return
        with suppress(FileNotFoundError):
            (folder / str(number)).touch()


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell that starts pytest in the background has SIGINT ignored; a driver sets its own handler (tune.py)."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


# ---- the watch -------------------------------------------------------------------------------------------------------
def test_watch_gets_the_main_thread_out(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch, interruptible: None
) -> None:
    monkeypatch.setattr(watch, "EVERY_S", 0.1)
    monkeypatch.setattr(watch, "PATIENCE_S", 0.5)
    door = Door("head (gcs_server)", "127.0.0.1", listening.getsockname()[1])
    monkeypatch.setattr(nodes, "doors", (door,))
    monkeypatch.setattr(nodes, "started_here", lambda: False)
    stopped: list[ClusterLost] = []
    message = rf"head .* answers no more \(127.0.0.1:{door.port}\); see to the cluster"
    with pytest.raises(ClusterLost, match=message), Watch(stopped.append) as looking:
        assert looking.closed() is None
        time.sleep(1.0)
        assert not stopped
        threading.Timer(0.1, listening.close).start()
        time.sleep(60)
    assert len(stopped) == 1
    with pytest.raises(KeyboardInterrupt), Watch(stopped.append):  # a user's Ctrl-C stays one, at first
        raise KeyboardInterrupt
    monkeypatch.setattr(nodes, "started_here", lambda: True)
    with pytest.raises(ClusterLost, match=r"head .* died"), Watch(stopped.append):  # between two runs
        pass


# ---- Ray dies under a driver -----------------------------------------------------------------------------------------
@pytest.mark.ray
@pytest.mark.parametrize(
    ("victim", "then", "died"),
    [
        pytest.param("ray::DashboardAgent", None, "node process (raylet)", id="agent"),
        pytest.param("gcs/gcs_server", None, "head (gcs_server)", id="head", marks=pytest.mark.long),
        pytest.param("gcs/gcs_server", signal.SIGINT, "head (gcs_server)", id="in-a-call", marks=pytest.mark.long),
    ],
)
def test_ray_dies(tmp_path: Path, victim: str, then: signal.Signals | None, died: str) -> None:
    """The driver says so in time, leaves nothing behind, and the same command goes on; no trial is blamed.

    After Ctrl-C Tune tidies up by calls to the head that cannot be interrupted: there the process itself has to end.
    """
    command = [sys.executable, "-m", "tests.sweep_driver", str(tmp_path)]
    with (tmp_path / "stderr").open("w") as said:
        driver = subprocess.Popen(command, cwd=ROOT, env=_environment(), stdout=subprocess.DEVNULL, stderr=said)
        _wait_for(lambda: _ended(tmp_path, 0) >= 1, driver)
        processes = psutil.Process(driver.pid).children(recursive=True)
        commands = [process.as_dict(["cmdline"], ad_value=[])["cmdline"] for process in processes]  # none of a zombie
        [one] = [p for p, words in zip(processes, commands, strict=True) if victim in " ".join(words)[:250]]
        one.kill()
        if then is not None:
            driver.send_signal(then)
        driver.wait(timeout=45)  # it used to wait for ever
    stderr = (tmp_path / "stderr").read_text()
    line = f"Ray's {died} died (the Ray that this command had started); run it again: it goes on from what is finished"
    # 1: the toy's command shows a traceback; 2: the process had to end, which the death of a head can come to by itself
    assert driver.returncode in ((1, 2) if then is None else (2,))
    assert stderr.rstrip().endswith(f": {line}"), stderr
    assert not re.search(r"^\[20|Trials did not complete", stderr, re.MULTILINE)  # nothing of Ray's own
    _wait_for(lambda: not any(map(nodes._runs, processes)), None)
    assert not [
        f for place in {tempfile.gettempdir(), "/tmp"} for f in Path(place).glob(f"{nodes.PREFIX}{driver.pid}-*")
    ]
    closed = {line["number"]: line["state"] for line in sweep_driver.Ledger(tmp_path / "ledger.jsonl").lines("end")}
    assert closed.get(0, "complete") == "complete" and closed.get(1, "failed") == "failed"  # as in a quiet run

    again = subprocess.run(
        command, cwd=ROOT, env=_environment(), capture_output=True, text=True, timeout=DEADLINE_S, check=False
    )
    assert again.returncode == 0, again.stderr[-2000:]
    ends = sweep_driver.Ledger(tmp_path / "ledger.jsonl").lines("end")
    assert Counter(end["number"] for end in ends) == Counter(range(sweep_driver.TRIALS))
    assert {end["number"]: end["state"] for end in ends if end["state"] != "complete"} == {1: "failed"}
    assert {end["failure"][0] for end in ends if end["failure"]} == {"diverged"}
    starts = Counter(e["epoch"] for e in events(tmp_path / "trials" / "0") if e["event"] == "end")
    assert starts == dict.fromkeys(range(1, sweep_driver.EPOCHS + 1), 1)


def _ended(folder: Path, number: int) -> int:
    """Epochs of a trial that its driver has heard of."""
    lines = sweep_driver.Ledger(folder / "ledger.jsonl").lines("report")
    return sum(line["number"] == number for line in lines)


def _wait_for(condition: Callable[[], bool], driver: subprocess.Popen[bytes] | None) -> None:
    started = time.monotonic()
    while not condition():
        assert driver is None or driver.poll() is None, "the driver ended before its moment"
        assert time.monotonic() - started < (DEADLINE_S if driver else 20.0), "the moment never came"
        time.sleep(0.05)


def _environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}
