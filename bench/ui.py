"""`mlflow ui` on the runs of a folder: checked before it starts, its address told when it answers."""

import os
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Mapping
from pathlib import Path

from bench.home import Home
from data.errors import ConfigError, MachineError

HOST = "127.0.0.1"
PATIENCE_S = 120.0


def command(home: Home, uri: str, port: int) -> list[str]:
    """The command line that serves these runs."""
    return [
        sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--default-artifact-root", str(home.artifacts),
        "--host", HOST, "--port", str(port), "--workers", "1",
    ]  # fmt: skip


def check(uri: str, port: int) -> None:
    """ConfigError where there are no runs, or something else listens already: its pages would be taken for these."""
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise ConfigError(
            "there are no runs yet", uri.removeprefix("sqlite:///"), "name the --out of a command that ran"
        )
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ConfigError(f"cannot listen: {error.strerror}", f"--port {port}", "choose another port") from error


def serve(home: Home, uri: str, port: int, experiments: Mapping[str, str], say: Callable[[str], None]) -> int:
    """Run the server until it is stopped; its exit code. experiments: track -> id, for links to their runs."""
    say("starting; Ctrl-C ends it")
    os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", DO_NOT_TRACK="true")
    with subprocess.Popen(command(home, uri, port)) as server:
        try:
            wait_for(server, port)
            say(f"open http://{HOST}:{port}")
            for track, experiment in sorted(experiments.items()):
                say(f"  runs of {track}: {link(port, experiment)}")
            return server.wait()
        except BaseException:
            server.terminate()
            raise


def link(port: int, experiment: str, metric: str = "validation/auroc_mean") -> str:
    """The page of an experiment's runs, the best first."""
    order = urllib.parse.urlencode({"orderByKey": f"metrics.`{metric}`", "orderByAsc": "false"})
    return f"http://{HOST}:{port}/#/experiments/{experiment}/runs?{order}&workflowType=machine_learning"


def wait_for(server: "subprocess.Popen[bytes]", port: int) -> None:
    """Until the server listens; MachineError when it ends before, or does not within PATIENCE_S."""
    ends = time.monotonic() + PATIENCE_S
    while time.monotonic() < ends:
        if server.poll() is not None:
            raise MachineError(f"ended with exit code {server.returncode}", "mlflow ui", "see what it said above")
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return
        time.sleep(0.2)
    raise MachineError(f"does not answer after {PATIENCE_S:.0f} s", "mlflow ui", "try again")
