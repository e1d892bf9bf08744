"""From MLflow to the board's runs: final trainings with their frames, what they started from, and what chose them.

Tags of a final run that are read (all optional): seeds_asked, tracks (served, comma-separated), sweep (run id of the
search), opened_before, reopened (why), forced, altered, grades, arm (names under which suites asked for it).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from bench.config import digest
from bench.leaderboard.references import ARTIFACT
from bench.leaderboard.rows import SeedRun
from bench.metrics import Frame
from bench.tracking import Tracker
from bench.tracking_values import RunInfo
from data.errors import DataError
from data.tracks import TRACKS

COST = "cost/machine_seconds"
PLOTS = "plots"  # theirs: <track>, and below it a folder for each further test-time variant
PICTURES = "panels"  # folder of explanation panels among a run's artifacts


def collect(tracker: Tracker, *, page_folder: Path | None = None, side: str = "test") -> list[SeedRun]:
    """Every final run, newest first, once per track that it serves. page_folder: pictures are named relative to it."""
    required = {run.identity: run.metrics.get(COST) for run in reversed(tracker.runs(kind="requirement"))}
    searches: dict[str, dict[str, Any]] = {}
    found: list[SeedRun] = []
    for info in tracker.runs(kind="final"):
        spec = _spec(tracker, info)
        if spec is None:
            found += [_unreadable(info, track) for track in _tracks(info, side)]
            continue
        sweep = info.tags.get("sweep", "")
        if sweep and sweep not in searches:
            searches[sweep] = _search(tracker, sweep)
        for track in _tracks(info, side):
            load = _loader(tracker, info, track, side)
            frame = _folder(info, track, side)
            found.append(
                SeedRun(
                    run_id=info.run_id,
                    track=track,
                    spec=spec,
                    state=info.state,
                    load=load,
                    failure=info.tags.get("failure", ""),
                    reason=info.tags.get("reason", ""),
                    seconds=info.metrics.get(COST),
                    requirements={identity: required.get(identity) for identity in spec["requirements"].values()},
                    search=searches.get(sweep, {}),
                    facts=_facts(info, spec),
                    references=_json(tracker, info, ARTIFACT.format(track=track)) or {},
                    pictures=tuple(_pictures(info, page_folder, track)),
                    folder=frame,
                    stamp=_stamp(frame) if frame is not None else "",
                )
            )
    return found


def names_of(tags: Mapping[str, str]) -> tuple[str, ...]:
    """The names under which suites asked for a run; empty where that was its method's alone."""
    return tuple(name for name in tags.get("arm", "").split(", ") if name)


def _unreadable(info: RunInfo, track: str) -> SeedRun:
    """A final whose config is lost: it stands on the board as failed, by what its tags say."""
    spec = {"method": info.tags.get("method", "?"), "dataset": info.tags.get("dataset", "?"), "requirements": {}}
    seed = int(info.tags["seed"]) if info.tags.get("seed", "").isdigit() else 0
    why = f"run {info.run_id[:8]} has no readable config.json among its artifacts; the same `final` restores it"
    state = "failed" if info.state == "complete" else info.state
    return SeedRun(
        info.run_id, track, {**spec, "seed": seed}, state, failure="lost", reason=why, facts=_facts(info, spec)
    )


def _spec(tracker: Tracker, info: RunInfo) -> dict[str, Any] | None:
    """The RunSpec that the run recorded; None for one that died before it did."""
    spec = _json(tracker, info, "config.json")
    return {"requirements": {}, **spec} if spec and "method" in spec else None


def _json(tracker: Tracker, info: RunInfo, artifact: str) -> dict[str, Any] | None:
    try:
        path = info.artifacts / artifact if info.artifacts is not None else tracker.download(info.run_id, artifact)
    except DataError:
        return None
    return read_json(path)


def read_json(path: Path) -> dict[str, Any] | None:
    """The mapping that a JSON file holds; None where it is missing or not whole."""
    try:
        loaded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return loaded if isinstance(loaded, dict) else None


def _tracks(info: RunInfo, side: str) -> list[str]:
    """Tracks that the run left frames of, or was to leave frames of."""
    stated = [track for track in info.tags.get("tracks", "").split(",") if track]
    if info.artifacts is not None and info.state == "complete":
        here = sorted(path.name.removeprefix(f"{side}-") for path in (info.artifacts / "frames").glob(f"{side}-*"))
        stated = [*stated, *(track for track in here if track not in stated)]
    return stated or [info.track]


def _loader(tracker: Tracker, info: RunInfo, track: str, side: str) -> partial[Frame] | None:
    if info.state != "complete":
        return None
    return partial(_load, tracker, info.run_id, f"frames/{side}-{track}")


def _folder(info: RunInfo, track: str, side: str) -> Path | None:
    """Of its frame, where that lies on this machine."""
    found = info.artifacts / "frames" / f"{side}-{track}" if info.artifacts is not None else None
    return found if found is not None and found.is_dir() else None


def _stamp(folder: Path) -> str:
    """Changes when a file of the frame does: name, size and time of each."""
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.iterdir())]
    return digest(files)


def _load(tracker: Tracker, run_id: str, artifact: str) -> Frame:
    return Frame.load(tracker.download(run_id, artifact))


def _search(tracker: Tracker, sweep: str) -> dict[str, Any]:
    """Trials and machine seconds of a search, pruned and failed trials included."""
    trials, info = tracker.runs(kind="trial", parent=sweep), tracker.run(sweep)
    return {
        "id": sweep,
        "trials": len({trial.identity for trial in trials}),
        "best": info.metrics.get(f"best/validation/{TRACKS[info.track].primary}"),
        "seconds": sum(trial.metrics.get(COST, 0.0) for trial in trials),
    }


def _facts(info: RunInfo, spec: Mapping[str, Any]) -> dict[str, Any]:
    tags = info.tags
    config = spec.get("config", {})
    return {
        "seeds_asked": int(tags["seeds_asked"]) if tags.get("seeds_asked", "").isdigit() else 0,
        "opened_before": int(tags["opened_before"]) if tags.get("opened_before", "").isdigit() else 0,
        "reopened": tags.get("reopened", ""),
        "forced": tags.get("forced") == "True",
        "altered": tags.get("altered") == "True",
        "dirty": tags.get("dirty") == "True",
        "commit": tags.get("commit", "").replace("unknown", ""),
        "grades": [grade for grade in tags.get("grades", "").split(",") if grade],
        "passport": tags.get("passport", ""),
        "weights": config.get("weights", ""),
        "trained_before": [source for source in tags.get("trained_before", "").split("; ") if source],
        "reduced": [field for field in tags.get("reduced", "").split("; ") if field],
        "ledger_entry": tags.get("ledger_entry", ""),
        "arms": names_of(tags),
    }


def _pictures(info: RunInfo, page_folder: Path | None, track: str) -> Iterator[str]:
    """Panels, galleries (a picture and a page) and plots of a run on this track as paths relative to the page, where both
    lie on this machine.

    Of a run whose panels are drawn: one seed's plots beside them are enough.
    """
    if page_folder is None or info.artifacts is None:
        return
    panels = sorted((info.artifacts / PICTURES).glob("*.png"), key=lambda path: (len(path.stem), path.stem))
    if not panels:
        return
    here = [path for path in panels if path.stem == track or path.stem not in TRACKS]
    mine = here if any(path.stem == track for path in here) else []
    pages = sorted((info.artifacts / PICTURES).glob("*.html")) if mine else []
    for path in [*mine, *pages, *sorted((info.artifacts / PLOTS / track).rglob("*.svg"))]:
        yield relative(path, page_folder)


def relative(path: Path, start: Path) -> str:
    """`path` as seen from the folder `start`, with forward slashes."""
    import os

    return Path(os.path.relpath(path.absolute(), start.absolute())).as_posix()
