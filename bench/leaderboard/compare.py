"""Each method against the reference named beforehand, Holm over the family, and ranges of ranks (docs/reading_the_leaderboard.md)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.leaderboard.badges import control_of
from bench.leaderboard.measure import Measured
from bench.leaderboard.rows import RANKED_SEEDS, Comparison, Registration, Row, SeedRun
from bench.metrics import METRICS, Estimate, holm
from bench.metrics.frame import PROPOSED
from data.tracks import TRACKS

Owners = Mapping[str, list[SeedRun]]
LEFT = "what is left where a detector proposes the region"  # of a classifier that was shown the annotated one


def compare(
    rows: Sequence[Row], owners: Owners, registrations: Sequence[Registration], measured: Measured
) -> list[Comparison]:
    """The registered family of each table: every method of the reference's input against the reference.

    Only the primary view of a track is in the family: elsewhere, and without a registration, there are intervals alone.
    A control is held against the reference, too, outside the family; so is, against its own training under the oracle's
    regions, each that was shown proposed ones, with or without a registration.
    """
    found: list[Comparison] = []
    for table in dict.fromkeys(row.table for row in rows if row.hashes.get("rows")):
        done = [row for row in rows if row.table == table and row.status == "done" and row.kind == "method"]
        mine = [row for row in done if control_of(row) is None]
        registration = registration_for(mine[0], registrations) if mine else None
        if registration is None or not _primary_view(mine[0], rows):
            continue
        reference = named(mine, registration.reference)
        if reference is not None:
            found += _against(done, reference, registration, owners, measured)
    return [*found, *_proposed(rows, owners, measured)]


def _against(
    done: Sequence[Row], reference: Row, registration: Registration, owners: Owners, measured: Measured
) -> list[Comparison]:
    """The rows of the reference's input against it; p of those that are no controls corrected for their number."""
    others = [row for row in done if row is not reference and row.input == reference.input]
    results = [_difference(row, reference, registration.primary, owners, measured) for row in others]
    nan, controls = float("nan"), [control_of(row) or "" for row in others]
    family = [nan if r["p"] is None or control else r["p"] for r, control in zip(results, controls, strict=True)]
    adjusted, rejected = holm(family, registration.alpha)
    own = [row for row, control in zip(others, controls, strict=True) if not control]
    planned = named(own, registration.contrast) or named(others, registration.contrast)
    return [
        _comparison(
            row,
            reference,
            registration.primary,
            result,
            p_holm=None if result["p"] is None or control else float(corrected),
            rejected=bool(significant),
            planned=row is planned and not registration.opened_before,
        )
        for row, result, corrected, significant, control in zip(
            others, results, adjusted, rejected, controls, strict=True
        )
    ]


def _proposed(rows: Sequence[Row], owners: Owners, measured: Measured) -> Iterator[Comparison]:
    """Each training in the regions that a detector proposed, less the same training in those around the annotation.

    On a secondary view of the track there is the interval alone, as everywhere.
    """
    done = [row for row in rows if row.status == "done" and row.kind == "method"]
    for row in done:
        own = [other for other in done if (other.table, other.seeds) == (row.table, row.seeds)]
        oracle = next((other for other in own if other.variant != PROPOSED), None)
        if row.variant != PROPOSED or oracle is None:
            continue
        metric = TRACKS[row.track].primary
        result = _difference(row, oracle, metric, owners, measured)
        if not _primary_view(row, rows):
            result["p"] = None
        yield _comparison(row, oracle, metric, result, asks=LEFT)


def _difference(a: Row, b: Row, metric: str, owners: Owners, measured: Measured) -> dict[str, Any]:
    """What `Measured.difference` says of two rows of a table; no test where one of them has too few seeds."""
    loads = [_loads(owners[row.key]) for row in (a, b)]
    found = measured.difference(loads[0], loads[1], metric, a.subset, (a.variant, b.variant))
    return found | ({"p": None} if min(a.seeds_asked, b.seeds_asked) < RANKED_SEEDS else {})


def _comparison(
    a: Row,
    b: Row,
    metric: str,
    result: Mapping[str, Any],
    *,
    p_holm: float | None = None,
    rejected: bool = False,
    planned: bool = False,
    asks: str = "",
) -> Comparison:
    return Comparison(
        a=a.label,
        b=b.label,
        track=a.track,
        dataset=a.dataset,
        subset=a.subset,
        metric=metric,
        difference=Estimate(**result["difference"]),
        p=result["p"],
        p_holm=p_holm,
        rejected=rejected,
        planned=planned,
        smallest=result["smallest"],
        table=a.table,
        a_row=a.key,
        b_row=b.key,
        control=control_of(a) or "",
        asks=asks,
        paired_seeds=result["paired_seeds"],
    )


def give_ranks(rows: Sequence[Row], comparisons: Sequence[Comparison], registrations: Sequence[Registration]) -> None:
    """Set `ranks` to [1 + number significantly better, n - number significantly worse] within equal input.

    What lies above the reference and what lies below it are told apart through it: both rejections hold at once under
    Holm. Rows with fewer than five seeds, and tables without a registered reference, are not ranked, and say so.
    """
    for row in rows:
        if row.kind == "reference" or row.status != "done":
            row.rank_note = row.rank_note or "no result"
            continue
        registration = registration_for(row, registrations)
        peers = [r for r in rows if _peers(r, row)]
        if row.variant == PROPOSED:
            row.rank_note = "not ranked: held against its own network in the oracle's region alone"
        elif control := control_of(row):
            row.rank_note = f"not ranked: {control}"
        elif row.seeds_asked < RANKED_SEEDS:
            row.rank_note = f"not ranked: fewer than {RANKED_SEEDS} seeds"
        elif registration is None:
            row.rank_note = "not ranked: no reference was registered"
        elif not _primary_view(row, rows):
            row.rank_note = "not ranked: a secondary view"
        elif named(peers, registration.reference) is None:
            row.rank_note = (
                f"not ranked: no row of the reference {registration.reference} with the same input and seeds"
            )
        elif len(peers) < 2:
            row.rank_note = "not ranked: nothing beside it"
        else:
            row.ranks = _range(row, peers, comparisons, registration)


def _range(
    row: Row, peers: Sequence[Row], comparisons: Sequence[Comparison], registration: Registration
) -> tuple[int, int]:
    levels = {peer.key: 0 for peer in peers}  # 1 above the reference, -1 below it, 0 not told apart (or itself)
    reference = named(peers, registration.reference)
    assert reference is not None
    sign = -1 if METRICS[registration.primary].direction == "min" else 1
    for c in comparisons:
        if c.a_row in levels and c.b_row == reference.key and c.rejected and c.difference.value is not None:
            levels[c.a_row] = sign if c.difference.value > 0 else -sign
    mine = levels.pop(row.key)
    better = sum(_told_apart(level, mine, key, row.key, reference.key) for key, level in levels.items())
    worse = sum(_told_apart(mine, level, row.key, key, reference.key) for key, level in levels.items())
    return 1 + better, len(peers) - worse


def _told_apart(high: int, low: int, high_key: str, low_key: str, reference: str) -> bool:
    """Whether the first is significantly better than the second, directly or through the reference."""
    if low_key == reference:
        return high == 1
    if high_key == reference:
        return low == -1
    return high == 1 and low == -1


def registration_for(row: Row, registrations: Sequence[Registration]) -> Registration | None:
    """The last registration of the row's track, data set and split."""
    mine = [
        r
        for r in registrations
        if r.track == row.track and r.dataset in ("", row.dataset) and r.split in ("", row.hashes.get("split", ""))
    ]
    return mine[-1] if mine else None


def named(rows: Sequence[Row], name: str) -> Row | None:
    """The row of that method or arm, in the variant that the name gives, else in its default or first one.

    Of several settings the one whose test side was opened first: a reference cannot be exchanged after a look.
    """
    mine = sorted((row for row in rows if row.is_called(name)), key=lambda row: row.opened_before)
    return next((row for row in mine if row.variant == "default"), mine[0] if mine else None)


def _peers(other: Row, row: Row) -> bool:
    return (
        other.table == row.table
        and other.input == row.input
        and other.kind == "method"
        and other.status == "done"
        and other.seeds_asked >= RANKED_SEEDS
        and control_of(other) is None
    )


def _primary_view(row: Row, rows: Sequence[Row]) -> bool:
    """The first view in order of appearance is the primary one of its track and data set."""
    return next(r.subset for r in rows if r.status == "done" and r.table[:2] == row.table[:2]) == row.subset


def _loads(runs: Sequence[SeedRun]):  # type: ignore[no-untyped-def]  # -> dict[str, Callable[[], Frame]]
    return {run.frame_id: run.load for run in runs if run.load is not None}
