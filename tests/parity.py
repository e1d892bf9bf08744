"""Golden files against the project's own functions: `python -m tests.parity [FILE|DIR]`.

Every array of a golden file that the project can compute is computed from the file's inputs, in float64 and in float32,
and its largest deviation printed beside its tolerance; exit code 1 if one is over. Any file of the same layout will do:
what is done with it follows from its name up to the first underscore ("02_mine.npz" is read as a 02 file).
"""

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

GOLDEN = Path(__file__).parent / "golden"
MODULES = (
    "tests.parity_prototypes", "tests.parity_pyramid", "tests.parity_cams", "tests.parity_metrics", "tests.parity_transfer",
    "tests.parity_lesion_background", "tests.parity_gmic", "tests.parity_detection",
)  # fmt: skip


@dataclass
class Check:
    """One array: what we get, what the file holds, and how near |got - want| <= atol + rtol |want| must be."""

    name: str
    got: np.ndarray
    want: np.ndarray
    rtol: float | np.ndarray  # an array where single elements are allowed more
    atol: float

    @property
    def deviation(self) -> float:
        """Largest |got - want|; NaN meets NaN; infinite where shapes differ."""
        got, want = self._pair()
        if got.shape != want.shape or (np.isnan(got) != np.isnan(want)).any():
            return float("inf")
        return float(np.nanmax(np.abs(got - want), initial=0.0))

    @property
    def share(self) -> float:
        """Largest deviation as a share of what is allowed; above 1 is over."""
        if np.isinf(self.deviation):
            return float("inf")
        got, want = self._pair()
        allowed = self.atol + self.rtol * np.abs(want)
        off = np.abs(got - want)
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.where(off == 0, 0.0, off / allowed)
        return float(np.nanmax(shares, initial=0.0))

    @property
    def tolerance(self) -> str:
        rtol = float(np.min(self.rtol))
        more = f" ({np.max(self.rtol):g} x where steep)" if np.max(self.rtol) > rtol else ""
        return "exact" if rtol == self.atol == 0 else f"{rtol:g} x |value| + {self.atol:g}{more}"

    def _pair(self) -> tuple[np.ndarray, np.ndarray]:
        return np.asarray(self.got, dtype=np.float64), np.asarray(self.want, dtype=np.float64)


Evaluator = Callable[[Mapping[str, np.ndarray], str], Iterator[Check]]  # (arrays, "float64" | "float32")


def evaluators() -> dict[str, list[Evaluator]]:
    """Prefix of a golden file -> what evaluates it, from the modules that offer EVALUATORS."""
    found: dict[str, list[Evaluator]] = {}
    for name in MODULES:
        if (Path(__file__).parent / f"{name.split('.')[1]}.py").is_file():
            for prefix, evaluator in importlib.import_module(name).EVALUATORS.items():
                found.setdefault(prefix, []).append(evaluator)
    return found


def files(where: Path) -> list[Path]:
    """The file itself, or all golden files of a folder."""
    return sorted(where.glob("*.npz")) if where.is_dir() else [where]


def checks(file: Path, dtype: str) -> list[Check]:
    """All checks of one file. KeyError (with the array's name) for a file of another layout."""
    with np.load(file, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    return [check for evaluator in evaluators().get(prefix(file), []) for check in evaluator(arrays, dtype)]


def prefix(file: Path) -> str:
    return file.name.split("_")[0]


def main(arguments: list[str]) -> int:
    where = Path(arguments[0]) if arguments else GOLDEN
    known, over, seen = evaluators(), 0, 0
    if not where.exists():
        print(f"error: no such file or folder ({where}); give a golden .npz file or a folder of them", file=sys.stderr)
        return 2
    for file in files(where):
        if prefix(file) not in known:
            print(f"{file.name}: nothing evaluates {prefix(file)!r} files; known: {', '.join(sorted(known))}")
            continue
        for dtype in ("float64", "float32"):
            print(f"{file.name}, {dtype}")
            try:
                found = checks(file, dtype)
            except KeyError as error:
                print(f"error: array {error} is missing ({file}); give a file of the same layout", file=sys.stderr)
                return 2
            for check in found:
                fine = check.share <= 1
                over += not fine
                seen += 1
                print(f"  {'ok  ' if fine else 'OVER'} {check.name:48s} {check.deviation:10.2e}   of {check.tolerance}")
    print(f"{seen} arrays, {over} over their tolerance")
    return 1 if over or not seen else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
