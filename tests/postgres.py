"""A PostgreSQL server of its own for tests: in a temporary folder, on a free port, ended afterwards."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def server() -> Iterator[str]:
    """Its postgresql:// address. Needs initdb and pg_ctl on the PATH; as root, also a user `postgres` or `nobody`."""
    missing = [name for name in ("initdb", "pg_ctl") if shutil.which(name) is None]
    assert not missing, f"PostgreSQL's {' and '.join(missing)} are not on the PATH: install the server (postgresql)"
    user = _user()
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # a socket's path ends at 107 bytes
    try:
        if user:
            shutil.chown(folder, user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        data, options = str(folder / "data"), f"-p {port} -c listen_addresses=127.0.0.1 -k {folder}"
        _run(user, "initdb", "-D", data, "-U", "bench", "-A", "trust", "--no-sync")
        _run(user, "pg_ctl", "-D", data, "-l", str(folder / "log"), "-o", options, "-w", "start")
        try:
            yield f"postgresql://bench@127.0.0.1:{port}/postgres"
        finally:
            _run(user, "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)


def _user() -> str | None:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return None
    import pwd

    return next(entry.pw_name for name in ("postgres", "nobody") for entry in pwd.getpwall() if entry.pw_name == name)


def _run(user: str | None, *command: str) -> None:
    as_user: dict[str, Any] = {"user": user, "group": None, "extra_groups": []} if user else {}
    done = subprocess.run(
        [shutil.which(command[0]) or command[0], *command[1:]], cwd="/tmp", stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120, check=False, **as_user,
    ) if command[0] == "initdb" else _detached(command, as_user)  # fmt: skip
    assert done.returncode == 0, done.stdout
