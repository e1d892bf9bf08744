"""Order of the tests and the one Ray that they share.

Unmarked tests run first, then those marked `ray`, then those marked `long`, which run only with --run-long or -m long.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from tests.toy_engine import Tiny

if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes side by side, as many as there are cores
    os.environ.setdefault("OMP_NUM_THREADS", "1")

settings.register_profile(
    "tests", deadline=None
)  # how long a case takes says how busy the machine is, not what the code does
settings.load_profile("tests")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-long", action="store_true", help="also run the tests marked `long` (make test-all)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        if item.get_closest_marker("long"):
            return 2
        return 1 if item.get_closest_marker("ray") else 0

    items.sort(key=rank)  # stable: files stay together
    asked = config.getoption("--run-long") or "long" in str(config.getoption("-m"))
    if not asked:
        left = [item for item in items if item.get_closest_marker("long")]
        if left:
            config.hook.pytest_deselected(items=left)
            items[:] = [item for item in items if not item.get_closest_marker("long")]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch on one thread, so that sums have one order."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def local_ray() -> Iterator[object]:
    """One local Ray of 2 CPUs for the whole session, as bench.cluster.nodes.Cluster: starting one takes 10 to 40 s."""
    from bench.cluster.nodes import attach

    with attach("local", num_cpus=2) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def attached(local_ray: object) -> Iterator[None]:
    """Commands that a module runs in this process find the shared Ray in place of one of their own."""

    @contextmanager
    def attach(address: str) -> Iterator[object]:
        yield local_ray

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bench.cluster.nodes.attach", attach)
        yield


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A phantom of 32 exams, prepared once for the session."""
    from tests.toy_engine import Tiny

    return Tiny.make(tmp_path_factory.mktemp("tiny"))
