"""The record on an MLflow server that keeps the artifacts itself: they are copied whole, or the reason is said."""

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import ui
from bench.tracking import Tracker
from data.errors import DataError, MachineError


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    """The address of an MLflow server that keeps the artifacts itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    places = ["--backend-store-uri", f"sqlite:///{tmp_path}/s.db", "--artifacts-destination", str(tmp_path / "kept")]
    with subprocess.Popen([*command, *places], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            ui.wait_for(process, port)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


@pytest.mark.long
def test_artifacts_of_a_server_are_copied_or_the_reason_is_said(server: str, tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    (tmp_path / "frames" / "x.txt").write_text("x")
    tracker = Tracker(server, out=tmp_path / "out")
    run = tracker.start("margin", name="vgg16", kind="trial", identity="abc", params={})
    tracker.artifact(run, tmp_path / "frames", "frames/test")
    with pytest.raises(DataError, match="the run has no such artifact"):
        tracker.download(run, "frames/test/y.txt")
    (tmp_path / "out" / "cache").mkdir(parents=True, exist_ok=True)
    (tmp_path / "out" / "cache" / "mlflow").write_text("in the way")
    with pytest.raises(MachineError, match=r"could not be copied here: .*frames/test\); see that the disk"):
        tracker.download(run, "frames/test")
    (tmp_path / "out" / "cache" / "mlflow").unlink()
    copied = tracker.download(run, "frames/test")
    assert [(path.name, path.read_text()) for path in copied.iterdir()] == [("x.txt", "x")]
    assert [path.name for path in copied.parent.iterdir()] == ["test"]
