"""A PostgreSQL server of its own for tests: in a temporary folder, on a free port, ended afterwards."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def server() -> Iterator[str]:
    """Its postgresql:// address. As root it runs as `postgres` or `nobody`: PostgreSQL refuses root."""
    programs = _programs()
    user = _user()
    folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))  # a socket's path ends at 107 bytes
    try:
        if user:
            shutil.chown(folder, user)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        data, options = str(folder / "data"), f"-p {port} -c listen_addresses=127.0.0.1 -k {folder}"
        _run(user, programs / "initdb", "-D", data, "-U", "bench", "-A", "trust", "--no-sync")
        _run(user, programs / "pg_ctl", "-D", data, "-l", str(folder / "log"), "-o", options, "-w", "start")
        try:
            yield f"postgresql://bench@127.0.0.1:{port}/postgres"
        finally:
            _run(user, programs / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(folder)


def _programs() -> Path:
    """Where the server's programs are: on the PATH, or where Debian keeps them."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    there = [folder for folder in folders if (folder / "initdb").exists() and (folder / "pg_ctl").exists()]
    assert there, "this test needs a PostgreSQL server: initdb and pg_ctl are not on the PATH (Debian: postgresql)"
    return there[-1]


def _user() -> str | None:
    if os.geteuid() != 0:
        return None
    names = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in names)


def _run(user: str | None, *command: str | Path) -> None:
    done = subprocess.run(
        command, cwd="/tmp", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=120, user=user, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
