"""The floors of the house: who may import whom, and what a command may load (docs/architecture.md)."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import models

ROOT = Path(__file__).parent.parent
ROOMS = ("bench", "data", "models", "search_spaces")

# Longest prefix wins. Floor of each room, by module name.
FLOORS = {
    "data": 0,
    "models": 1,
    "bench": 4,
    "bench.metrics": 1,
    "bench.config": 1,
    "bench.ledger": 1,
    "bench.engine": 2,
    "bench.explain": 2,
    "bench.cluster": 3,
    "bench.tracking": 3,
    "bench.tracking_buffer": 3,
    "bench.tracking_server": 3,
    "bench.tracking_values": 3,
    "bench.provenance": 3,
    "search_spaces": 3,
    "run_bench": 5,
}
# Libraries that belong to some rooms alone.
ONLY_IN = {
    "ray": ("bench.cluster",),
    "optuna": ("bench.cluster",),
    "mlflow": ("bench.tracking_server",),
    "torch": ("data", "models", "bench.engine", "bench.cluster", "bench.pictures", "bench.provenance"),
    "torchvision": ("data", "models"),
    "matplotlib": ("bench.explain",),
    "jinja2": ("bench.explain", "bench.leaderboard"),
    "typer": ("run_bench",),
}
HEAVY = ("torch", "ray", "mlflow", "optuna", "sklearn", "matplotlib")


class Import(NamedTuple):
    module: str  # the file's own
    line: int
    target: str


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def files() -> Iterator[Path]:
    yield ROOT / "run_bench.py"
    for room in ROOMS:
        yield from sorted((ROOT / room).rglob("*.py"))


def _typing_only(tree: ast.Module) -> set[ast.AST]:
    """What stands under `if TYPE_CHECKING`: it is never run."""
    guarded = [n for n in ast.walk(tree) if isinstance(n, ast.If) and "TYPE_CHECKING" in ast.unparse(n.test)]
    return {inner for node in guarded for part in node.body for inner in ast.walk(part)}


def imports(path: Path, tree: ast.Module) -> Iterator[Import]:
    """Every import of a file, those inside functions too; `from x import y` names x.y where that is a module."""
    skipped, module = _typing_only(tree), module_of(path)
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(module, node.lineno, alias.name)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            for alias in node.names:
                below = f"{node.module}.{alias.name}"
                place = ROOT / below.replace(".", "/")
                is_module = place.with_suffix(".py").is_file() or (place / "__init__.py").is_file()
                yield Import(module, node.lineno, below if is_module else str(node.module))


def floor(module: str) -> int | None:
    """None: not a room of the house."""
    found = [name for name in FLOORS if module == name or module.startswith(f"{name}.")]
    return FLOORS[max(found, key=len)] if found else None


def inside(module: str, rooms: tuple[str, ...]) -> bool:
    return any(module == room or module.startswith(f"{room}.") for room in rooms)


@pytest.fixture(scope="module")
def trees() -> dict[Path, ast.Module]:
    return {path: ast.parse(path.read_text(encoding="utf-8")) for path in files()}


@pytest.fixture(scope="module")
def graph(trees: dict[Path, ast.Module]) -> list[Import]:
    return [found for path, tree in trees.items() for found in imports(path, tree)]


def test_nothing_is_imported_from_a_floor_above(graph: list[Import]) -> None:
    assert len(graph) > 300
    wrong = []
    for one in graph:
        own, other = floor(one.module), floor(one.target)
        if own is not None and other is not None and other > own and one.target != "bench":
            wrong.append(f"{one.module}:{one.line} (floor {own}) imports {one.target} (floor {other})")
    assert not wrong, "\n".join(wrong)


def test_libraries_stay_in_their_rooms(graph: list[Import]) -> None:
    wrong = [
        f"{one.module}:{one.line} imports {one.target}"
        for one in graph
        for library, rooms in ONLY_IN.items()
        if one.target.split(".")[0] == library and not inside(one.module, rooms)
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_imports_the_tests(graph: list[Import]) -> None:
    assert not [one for one in graph if one.target.split(".")[0] in ("tests", "docs", "perf")]


def test_shared_rooms_know_no_method_by_name(trees: dict[Path, ast.Module]) -> None:
    """A string that is a method's name, anywhere but in a docstring, is a special case of that method."""
    names = set(models.names())
    wrong = []
    for path, tree in trees.items():
        if path.parts[len(ROOT.parts)] in ("models", "search_spaces"):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and node.value in names:
                wrong.append(f"{path.relative_to(ROOT)}:{node.lineno} names {node.value!r}")
    assert not wrong, "\n".join(wrong)


def python(code: str) -> str:
    """The last line that a fresh Python prints after running this code in the checkout."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


_COMMANDS = f"""
import sys
import run_bench
from typer.testing import CliRunner
heavy = lambda: {{name for name in {HEAVY!r} if name in sys.modules}}
runner, bad = CliRunner(), []
for command in [[], *([c.name or c.callback.__name__] for c in run_bench.app.registered_commands)]:
    said = runner.invoke(run_bench.app, [*command, "--help"])
    if said.exit_code != 0 or "Traceback" in said.output or (command and "Example: " not in said.output):
        bad.append((command, said.output))
helped = heavy()
listed = runner.invoke(run_bench.app, ["list", "--json"])
bad += [] if listed.exit_code == 0 else [("list", listed.output)]
print([bad, sorted(helped), sorted(heavy() & {{"ray", "mlflow", "optuna"}})])
"""


@pytest.mark.long
def test_help_is_light_and_ends_with_an_example() -> None:
    """--help imports no torch, ray or mlflow; list no ray or mlflow."""
    bad, helped, listed = ast.literal_eval(python(_COMMANDS))
    assert bad == []
    assert helped == [], f"--help imports {helped}"
    assert listed == [], f"list imports {listed}"


def without(*libraries: str) -> str:
    """Code that makes these libraries look as if they were not installed."""
    return (
        "import importlib.abc, sys\n"
        "class Missing(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.split('.')[0] in {libraries!r}: raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, Missing())\n"
    )


@pytest.mark.long
def test_floors_0_to_2_run_without_ray_mlflow_and_optuna(trees: dict[Path, ast.Module]) -> None:
    low = [module_of(path) for path in trees if (floor(module_of(path)) or 0) <= 2]
    code = f"import importlib\nfor name in {low!r}: importlib.import_module(name)\nprint(len({low!r}))"
    assert int(python(without("ray", "mlflow", "optuna") + code)) > 30


def test_scoring_runs_without_torch() -> None:
    """Anyone can score a frame again."""
    code = "from bench.metrics import compute\nfrom tests.toy_frames import mapped_frame\nprint(len(compute(mapped_frame())))"
    assert int(python(without("torch", "ray", "mlflow") + code)) > 10
