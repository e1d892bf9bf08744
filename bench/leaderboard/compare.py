"""Each method against the reference named beforehand, Holm over the family, and ranges of ranks (docs/reading_the_leaderboard.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bench.leaderboard.badges import control_of
from bench.leaderboard.measure import Measured
from bench.leaderboard.rows import RANKED_SEEDS, Comparison, Registration, Row, SeedRun
from bench.metrics import METRICS, Estimate, holm

Owners = Mapping[str, list[SeedRun]]


def compare(
    rows: Sequence[Row], owners: Owners, registrations: Sequence[Registration], measured: Measured
) -> list[Comparison]:
    """The registered family of each table: every method of the reference's input against the reference.

    Only the primary view of a track is in the family: elsewhere, and without a registration, there are intervals alone.
    A control is held against the reference, too, outside the family.
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
    return found


def _against(
    done: Sequence[Row], reference: Row, registration: Registration, owners: Owners, measured: Measured
) -> list[Comparison]:
    """The rows of the reference's input against it; p of those that are no controls corrected for their number."""
    others = [row for row in done if row is not reference and row.input == reference.input]
    b = _loads(owners[reference.key])
    results = [
        measured.difference(
            _loads(owners[row.key]), b, registration.primary, row.subset, (row.variant, reference.variant)
        )
        for row in others
    ]
    for row, result in zip(others, results, strict=True):
        if min(row.seeds_asked, reference.seeds_asked) < RANKED_SEEDS:
            result["p"] = None
    nan, controls = float("nan"), [control_of(row) or "" for row in others]
    family = [nan if r["p"] is None or control else r["p"] for r, control in zip(results, controls, strict=True)]
    adjusted, rejected = holm(family, registration.alpha)
    own = [row for row, control in zip(others, controls, strict=True) if not control]
    planned = named(own, registration.contrast) or named(others, registration.contrast)
    return [
        Comparison(
            a=row.label,
            b=reference.label,
            track=row.track,
            dataset=row.dataset,
            subset=row.subset,
            metric=registration.primary,
            difference=Estimate(**result["difference"]),
            p=result["p"],
            p_holm=None if result["p"] is None or control else float(corrected),
            rejected=bool(significant),
            planned=row is planned and not registration.opened_before,
            smallest=result["smallest"],
            table=row.table,
            a_row=row.key,
            b_row=reference.key,
            control=control,
        )
        for row, result, corrected, significant, control in zip(
            others, results, adjusted, rejected, controls, strict=True
        )
    ]


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
        if control := control_of(row):
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
