"""From final runs to the board: grouping, cells without numbers, references, comparisons and ranges of ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.config import canonical, config_hash
from bench.leaderboard.badges import badges_of
from bench.leaderboard.collect import PLOTS
from bench.leaderboard.compare import compare, give_ranks
from bench.leaderboard.fairness import mark_unequal, missing_contrasts
from bench.leaderboard.matrix import matrices_of
from bench.leaderboard.measure import ALL, Measured
from bench.leaderboard.references import over_folds, rows_of_references
from bench.leaderboard.rows import Board, Registration, Row, SeedRun, Status
from bench.metrics import METRICS, Estimate
from data.errors import DataError
from data.protocols import FOLDS
from data.tracks import TRACKS

Runs = list[SeedRun]
TOLD = 2  # differing fields that a row's name holds


def build_board(
    runs: Iterable[SeedRun],
    *,
    cells: Sequence[Mapping[str, Any]] = (),
    registrations: Sequence[Registration] = (),
    keep: Path | None = None,
    validation: Callable[[], Iterable[SeedRun]] | None = None,
    update: Callable[[int, int], None] | None = None,
    **shown: Any,
) -> Board:
    """The board of these runs, newest first where one was made again.

    cells: {"method", "arm", "dataset", "track", "status", "reason"} that a suite asked for; those without a run get a row
    that says why. keep: folder of computed metrics, so that a second call reads no frame. validation: the same runs with their
    validation frames, asked for where a table is a matrix of trainings and test-time variants. update: told the trainings that
    are measured and how many there are. shown: title, date... of Board.
    """
    measured = Measured(keep)
    groups = group(runs)
    sets = [_folders(members) for members in groups if _whole(members)]
    measured.ahead([frames for frames in sets if frames], update)
    rows: list[Row] = []
    owners: dict[str, Runs] = {}
    for members in groups:
        for row in _rows_of(members, measured):
            rows.append(row)
            owners[row.key] = [run for run in members if run.usable]
    _tell_apart(rows)
    rows += [_empty(cell) for cell in cells if not _covered(cell, rows)]
    mark_unequal(rows)
    comparisons = compare(rows, owners, registrations, measured)
    give_ranks(rows, comparisons, registrations)
    notes = missing_contrasts(rows, comparisons, registrations)
    rows += _references(groups, rows, measured)
    board = Board(rows, comparisons, tuple(registrations), notes=notes, **shown)
    return replace(board, matrices=matrices_of(board, measured, validation))


def build_rows(runs: Iterable[SeedRun], **options: Any) -> list[Row]:
    """The rows alone."""
    return build_board(runs, **options).rows


def group(runs: Iterable[SeedRun]) -> list[Runs]:
    """Runs of one row: same track, method and everything of the spec but seed, fold and machine.

    Of several runs of one seed and fold the first complete one counts, else the first.
    """
    found: dict[tuple[str, str], dict[tuple[int, int], SeedRun]] = {}
    for run in runs:
        members = found.setdefault((run.track, config_hash(run.spec)), {})
        held = members.get(run.place)
        if held is None or (run.usable and not held.usable):
            members[run.place] = run
    return [[members[place] for place in sorted(members)] for members in found.values()]


def _asked(members: Runs) -> int:
    """How many seeds the row is to have."""
    return max(int(run.facts.get("seeds_asked", 0)) for run in members) or len({run.place[0] for run in members})


def _folds(members: Runs) -> int:
    return FOLDS.get(str(members[0].spec.get("protocol")), 1)


def _whole(members: Runs) -> bool:
    """Whether every seed that was asked for has a result, on every fold."""
    return sum(run.usable for run in members) >= _asked(members) * _folds(members)


def _folders(members: Runs) -> dict[str, Path]:
    """Where the row's frames lie; {}: not all of them on this machine."""
    found = {run.frame_id: run.folder for run in members if run.usable}
    here = {frame: folder for frame, folder in found.items() if folder is not None}
    return here if len(here) == len(found) else {}


def _rows_of(members: Runs, measured: Measured) -> list[Row]:
    asked, usable = _asked(members), [run for run in members if run.usable]
    if not _whole(members):
        status, reason = _incomplete(members, asked, _folds(members))
        return [_row(members, asked, {}, status, reason)]
    loads = {run.frame_id: run.load for run in usable if run.load is not None}
    try:
        return [_row(members, asked, facts, "done", "") for facts in measured.rows(loads)]
    except DataError as error:  # one row that cannot be measured leaves the others standing
        runs = ", ".join(run.run_id[:8] for run in usable)
        return [_row(members, asked, {}, "failed", f"{error}; runs {runs}")]


def _incomplete(members: Runs, asked: int, folds: int) -> tuple[Status, str]:
    """Status and reason of a row that lacks seeds; every failed one is named."""
    whole = sum(1 for seed in {run.place[0] for run in members} if _usable_folds(members, seed) >= folds)
    failed = [run for run in members if run.state == "failed"]
    said = [
        f"seed {run.place[0]}{f' fold {run.place[1]}' if folds > 1 else ''} {run.failure or 'failed'}{f' ({run.reason})' if run.reason else ''}"
        for run in failed
    ]
    count = f"{whole} of {asked} seeds"
    if failed:
        return "failed", f"{count}: {'; '.join(said)}"
    return "missing", f"{count} so far; the same `final` goes on with the rest"


def _usable_folds(members: Runs, seed: int) -> int:
    return sum(run.usable for run in members if run.place[0] == seed)


def _row(members: Runs, asked: int, facts: Mapping[str, Any], status: Status, reason: str) -> Row:
    first = members[0]
    metrics = {name: Estimate(**value) for name, value in facts.get("metrics", {}).items()}
    hashes = {
        "data": str(first.spec.get("data_hash", "")),
        "split": str(first.spec.get("split_hash", "")),
        "config": config_hash(first.spec),
    }
    if facts:
        hashes["rows"] = str(facts["rows"])
    return Row(
        method=first.method,
        dataset=first.dataset,
        track=first.track,
        subset=str(facts.get("subset", ALL)),
        variant=str(facts.get("variant", "default")),
        arms=tuple(dict.fromkeys(name for run in members for name in run.facts.get("arms", ()))),
        seeds=[run.run_id for run in members],
        seeds_asked=asked,
        metrics=metrics,
        each={int(seed): Estimate(**value) for seed, value in facts.get("each", {}).items()},
        input=str(facts.get("input", "")),
        supervision=str(facts.get("supervision", "")),
        cost=cost_of(members),
        status=status,
        reason=reason,
        passport=next((str(run.facts["passport"]) for run in members if run.facts.get("passport")), ""),
        badges=badges_of(members, asked, facts, metrics.get(TRACKS[first.track].primary)),
        hashes=hashes,
        protocol=str(first.spec.get("protocol", "holdout")),
        pictures=_pictures(members, str(facts.get("plots", ""))),
        config=dict(first.spec.get("config", {})),
        options=dict(first.spec.get("options", {})),
        opened_before=min((int(run.facts.get("opened_before", 0)) for run in members), default=0),
        patients=int(facts.get("patients", 0)),
        titles=dict(facts.get("titles", {})),
        coincide=tuple((str(a), str(b), str(why)) for a, b, why in facts.get("coincide", ())),
        unit="image" if TRACKS[first.track].unit == "image" else "lesion image",
    )


def _pictures(members: Runs, variant: str) -> tuple[str, ...]:
    """Panels, pages, and of the plots those of this test-time variant; "": the first one's."""
    found = dict.fromkeys(picture for run in members for picture in run.pictures)
    own = variant or members[0].track
    return tuple(one for one in found if PLOTS not in Path(one).parts or Path(one).parent.name == own)


def cost_of(members: Runs) -> dict[str, float | None]:
    """Machine seconds of a row: its trainings, each run that they start from once, and the search for its settings.

    None where a part was not recorded: an unknown cost is not a cost of nothing.
    """
    trainings = _sum(run.seconds for run in members)
    needs: dict[str, float | None] = {}
    for run in members:
        needs |= run.requirements
    required = _sum(needs.values())
    searches = {run.search["id"]: run.search for run in members if run.search}
    total = None if trainings is None or required is None else trainings + required
    return {
        "machine_seconds": total,
        "training_seconds": trainings,
        "requirements_seconds": required,
        "search_seconds": _sum(search.get("seconds") for search in searches.values()) if searches else 0.0,
        "search_trials": float(sum(int(search.get("trials", 0)) for search in searches.values())),
    }


def _sum(values: Iterable[float | None]) -> float | None:
    listed = list(values)
    return (
        None if any(value is None for value in listed) else float(sum(value for value in listed if value is not None))
    )


def _tell_apart(rows: Sequence[Row]) -> None:
    """Rows of one name in one table get the fields in which they differ, or the start of their settings' hash."""
    for row in rows:
        alike = [r for r in rows if (r.table, r.names, r.variant) == (row.table, row.names, row.variant)]
        if len({r.hashes["config"] for r in alike}) > 1:
            differing = sorted(key for key in row.config if len({canonical(r.config.get(key)) for r in alike}) > 1)
            told = {canonical([r.config.get(key) for key in differing]) for r in alike}
            if 1 <= len(differing) <= TOLD and len(told) == len(alike):
                row.distinct = f"({', '.join(f'{key} {row.config[key]}' for key in differing)})"
            else:
                row.distinct = f"(settings {row.hashes['config'][:6]})"


def _covered(cell: Mapping[str, Any], rows: Sequence[Row]) -> bool:
    name, place = cell.get("arm") or cell["method"], (cell["dataset"], cell["track"])
    return any(name in row.names and (row.dataset, row.track) == place for row in rows)


def _empty(cell: Mapping[str, Any]) -> Row:
    return Row(
        method=str(cell["method"]),
        arms=(str(cell["arm"]),) if cell.get("arm") else (),
        dataset=str(cell["dataset"]),
        track=str(cell["track"]),
        status=cell.get("status", "missing"),
        reason=str(cell.get("reason") or "not run yet"),
        rank_note="no result",
    )


def _references(groups: Sequence[Runs], rows: Sequence[Row], measured: Measured) -> list[Row]:
    """Reference rows of each table, from the first group of runs that carries them."""
    found: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        if row.table in found or not row.hashes.get("rows"):
            continue
        place = (row.track, row.dataset, row.hashes["split"])
        for members in groups:
            if (members[0].track, members[0].dataset, members[0].spec.get("split_hash")) == place:
                made = rows_of_references(_references_of(members, measured), row)
                if made:
                    found[row.table] = made
                    break
    return [row for rows_of_table in found.values() for row in rows_of_table]


def _references_of(members: Runs, measured: Measured) -> Mapping[str, Any]:
    """What the runs of a row carry of references: that of one run, or of all folds of one seed."""
    carry = [run for run in members if run.references]
    folds = FOLDS.get(str(members[0].spec.get("protocol")), 1)
    if folds == 1 or not carry:
        return carry[0].references if carry else {}
    of_seed = [run for run in carry if run.place[0] == carry[0].place[0]]
    if len(of_seed) < folds:
        return {}
    asked = {"references": [run.frame_id for run in of_seed], "metrics": sorted(METRICS)}
    found: Mapping[str, Any] = measured.kept(asked, lambda: over_folds([run.references for run in of_seed]))
    return found
