"""What rows of one table do not share though they stand side by side, and registered contrasts that no table shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.leaderboard.badges import CODES, control_of
from bench.leaderboard.compare import registration_for
from bench.leaderboard.rows import Badge, Comparison, Registration, Row

LIKE_FOR_LIKE = ("size", "width")  # fields of every method's config that should not differ between rows of a table


def mark_unequal(rows: Sequence[Row]) -> None:
    """Give MB015 to rows that had more search, or another input, than another row of their table; MB016 to rows of one
    split whose test rows differ, and which therefore stand in different tables."""
    done = [row for row in rows if row.status == "done" and row.kind == "method"]
    for row in done:
        peers = [other for other in done if other.table == row.table]
        reasons = [*_more_search(row, peers), *_other_input(row, peers)]
        if reasons:
            row.badges.append(Badge("MB015", "unequal budget", "; ".join(reasons)))
        apart = [other for other in done if other.table[:4] == row.table[:4] and other.table != row.table]
        if apart:
            named = ", ".join(sorted({other.label for other in apart}))
            row.badges.append(Badge("MB016", "other test rows", f"{CODES['MB016']} Here: {named}."))


def _more_search(row: Row, peers: Sequence[Row]) -> Iterator[str]:
    least = min(peers, key=_trials)
    if _trials(row) > _trials(least):
        yield f"settings chosen among {_trials(row)} trials, those of {least.label} among {_trials(least)}"


def _trials(row: Row) -> int:
    return int(row.cost.get("search_trials") or 0)


def _other_input(row: Row, peers: Sequence[Row]) -> Iterator[str]:
    for field in LIKE_FOR_LIKE:
        mine = row.config.get(field)
        other = next((peer for peer in peers if peer.config.get(field, mine) != mine), None)
        if mine is not None and other is not None:
            yield f"{field} {mine}, in {other.label} {other.config[field]}"


def missing_contrasts(
    rows: Sequence[Row], comparisons: Sequence[Comparison], registrations: Sequence[Registration]
) -> list[str]:
    """One sentence for each registered primary contrast that was not tested, with the reason."""
    said = []
    places = dict.fromkeys(
        (row.track, row.dataset, row.hashes.get("split", "")) for row in rows if row.status == "done"
    )
    for track, dataset, split in places:
        mine = [r for r in rows if (r.track, r.dataset, r.hashes.get("split", "")) == (track, dataset, split)]
        registration = registration_for(mine[0], registrations)
        if registration is None or any(c.planned and (c.track, c.dataset) == (track, dataset) for c in comparisons):
            continue
        pair = f"{registration.contrast} - {registration.reference}"
        said.append(f"the registered contrast {pair} on {track}, {dataset}, was not tested: {_why(mine, registration)}")
    return said


def _why(rows: Sequence[Row], registration: Registration) -> str:
    if registration.opened_before:
        return f"it was written after {registration.opened_before} openings of the test side"
    sides = {}
    for name in (registration.contrast, registration.reference):
        found = [row for row in rows if row.is_called(name) and row.status == "done"]
        if not found:
            return f"{name} has no result"
        sides[name] = found
    if all(control_of(row) for row in sides[registration.reference]):
        return f"{registration.reference} is a control, and no reference to rank against"
    a, b = sides.values()
    if not {row.table for row in a} & {row.table for row in b}:
        return "the two rest on different test rows"
    return "the two have different input"
