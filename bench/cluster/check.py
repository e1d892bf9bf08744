"""Addresses of services, checked before data, Ray or a study is touched. Imports neither ray nor optuna: it is light."""

import importlib.util
import re
import socket
from urllib.parse import urlsplit

from data.errors import ConfigError

CLIENT = "ray://"
HOST_PORT = re.compile(r"(?P<host>\[[0-9a-fA-F:.%]+\]|[^\s:/@\[\]]+):(?P<port>\d{1,5})")
PROBE_S = 2.0
DRIVERS = {"postgresql+psycopg": "psycopg", "postgresql+psycopg2": "psycopg2"}


def check_address(address: str) -> None:
    """Refuse what can be no address of a Ray cluster: ConfigError. Whether one answers there is not asked."""
    if address.startswith(CLIENT):
        host = address.removeprefix(CLIENT).rsplit(":", 1)[0]
        raise ConfigError(
            "the Ray Client cannot run Tune and Train", f"--ray-address {address}",
            f"use: ray job submit --address http://{host}:8265 -- python run_bench.py ... --ray-address auto",
        )  # fmt: skip
    if address not in ("local", "auto"):
        host_port(address)


def host_port(address: str) -> tuple[str, int]:
    """The two parts of HOST:PORT; [ADDRESS]:PORT with IPv6. ConfigError if it has not this form."""
    found = HOST_PORT.fullmatch(address)
    if found is None or not 0 < int(found["port"]) < 2**16:
        raise ConfigError(f"no address of a Ray cluster: {address!r}", "--ray-address", "give local, auto or HOST:PORT")
    return found["host"].strip("[]"), int(found["port"])


def answers(host: str, port: int, timeout_s: float = PROBE_S) -> bool:
    """Whether something takes connections there. A busy process does: the kernel accepts for it."""
    try:
        with socket.create_connection((host, port), timeout=timeout_s):
            return True
    except OSError:
        return False


def check_storage(uri: str) -> str:
    """The storage as SQLAlchemy is to be told it: a bare path is of an SQLite file, and postgresql:// names its driver.

    ConfigError for a kind that cannot be used. Whether the database is there is not asked.
    """
    if "://" not in uri:
        return uri
    kind, rest = uri.split("://", 1)
    if kind == "sqlite" and rest.startswith("/") and rest not in ("/", "/:memory:"):
        return uri
    kind = "postgresql+psycopg" if kind == "postgresql" else kind
    if kind not in DRIVERS:
        raise ConfigError(
            "storage of an unknown kind", f"--storage {kind}://",
            "give a file, sqlite:////PATH or postgresql://USER@HOST/DATABASE",
        )  # fmt: skip
    if importlib.util.find_spec(DRIVERS[kind]) is None:
        raise ConfigError(
            f"{DRIVERS[kind]} is not installed", f"--storage {kind}://", "use postgresql://, or make setup"
        )
    try:
        _ = urlsplit(uri).port
    except ValueError as error:
        raise ConfigError(
            f"no address of a database: {error}", "--storage", "give postgresql://USER@HOST/DATABASE"
        ) from error
    return f"{kind}://{rest}"
