"""The command line as tests call it: in this process, or in one of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Said:
    """What a command said. `document`: its stdout as the one JSON document that it must be."""

    code: int
    stdout: str
    stderr: str

    @property
    def document(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.stdout)
        return found

    @property
    def error(self) -> str:
        """The one line that a user's mistake is told in."""
        assert self.code == 2, (self.code, self.stdout, self.stderr)
        assert self.stdout == "" and self.stderr.count("\n") == 1 and self.stderr.startswith("error: "), self.stderr
        return self.stderr


def here(*arguments: str | Path) -> Said:
    """The command in this process."""
    from typer.testing import CliRunner

    import run_bench

    result = CliRunner().invoke(run_bench.app, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Said(result.exit_code, result.stdout, result.stderr)


def apart(*arguments: str | Path, timeout: float = 400, **environment: str) -> Said:
    """The command as a user starts it."""
    done = subprocess.run(
        [sys.executable, "run_bench.py", *map(str, arguments)], cwd=ROOT, capture_output=True, text=True,
        timeout=timeout, env={**os.environ, **environment}, check=False,
    )  # fmt: skip
    return Said(done.returncode, done.stdout, done.stderr)


def has(document: dict[str, Any], fields: str | Sequence[str]) -> bool:
    """Whether the document has these fields; says which it lacks."""
    missing = [name for name in (fields.split() if isinstance(fields, str) else fields) if name not in document]
    assert not missing, f"no {missing} in {sorted(document)}"
    return True


def is_estimate(value: Any) -> bool:
    return isinstance(value, dict) and {"value", "low", "high", "n", "interval"} <= value.keys()
