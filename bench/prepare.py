"""The job `prepare`: a data set on disk (or generated) becomes indexed, checked, split and cached, once."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import data
from bench.config import resolve
from bench.home import Home
from data.augment import cached_margin
from data.cache import Prepared, prepare
from data.errors import ConfigError
from data.inputs import Augment, Inputs, Roi
from data.split import SIDES
from data.tracks import TRACKS

Progress = Callable[[int, int], None]


def data_root(dataset: str, given: Path | None) -> Path | None:
    """Where the data set lies: --data-root, else $MAMMOBENCH_DATA/<dataset>; None for one that is generated."""
    card = data.reader(dataset).CARD
    if not card.needs_root:
        return None
    base = os.environ.get("MAMMOBENCH_DATA")
    root = given or (Path(base) / dataset if base else None)
    if root is None:
        raise ConfigError(
            f"{dataset} lies on your disk; where is not known",
            "--data-root",
            f"pass it, or set MAMMOBENCH_DATA; source: {card.source}",
        )
    if not root.is_dir():
        raise ConfigError("no such folder", f"--data-root {root}", f"give the folder that holds {card.title}")
    return root.absolute()


def prepare_data(
    home: Home,
    dataset: str,
    options: Mapping[str, Any],
    root: Path | None,
    *,
    skip_bad: bool = False,
    inputs: Inputs | None = None,
    processes: int | None = None,
    progress: Progress | None = None,
) -> Prepared:
    """The prepared data set, with the regions that `inputs` read; made now if it was not made before.

    Raises DataError, MachineError, ConfigError.
    """
    checked = resolve(data.reader(dataset).Options, options, f"options of {dataset}")
    track = next(iter(data.reader(dataset).CARD.tracks))
    wanted = inputs or Inputs((224, 224), track, (), Roi(), Augment())
    return prepare(
        dataset,
        data_root(dataset, root),
        checked,
        home.cache,
        skip_bad=skip_bad,
        roi=wanted.roi,
        size=wanted.size,
        margin=cached_margin(wanted.augment),
        unit=TRACKS[wanted.target].unit,
        processes=processes or os.cpu_count() or 1,
        progress=progress,
    )


def document(prepared: Prepared, protocol: str = "holdout", seed: int = 0) -> dict[str, Any]:
    """What `prepare --json` prints: counts per track, side and label, what was left out and why, and the hashes."""
    split = prepared.split(protocol, seed, 0)
    table = prepared.table[prepared.table["counterfactual_of"] == ""]
    findings = table[table["finding_id"] != ""]
    by_side = split.sides_of(findings).value_counts()
    return {
        "dataset": prepared.card.name,
        "records": int(table["record_id"].nunique()),
        "findings": len(findings),
        "patients": int(table["patient"].nunique()),
        "tracks": {name: n for name, n in prepared.counts(split).items() if name in prepared.card.tracks},
        "findings_by_side": {side: int(by_side.get(side, 0)) for side in SIDES},
        "left_out": prepared.passport["left_out"],
        "masks_shared": prepared.passport.get("masks_shared", 0),
        "problems_file": str(prepared.folder / "problems.json"),
        "problems": prepared.passport["problems"],
        "passport": str(prepared.folder / "passport.json"),
        "manifest": str(prepared.folder / "splits" / f"{split.hash}.parquet"),
        "data_hash": prepared.data_hash,
        "split_hash": split.hash,
    }
