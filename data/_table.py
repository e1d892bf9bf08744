"""The table of a prepared data set, its hash, its counts, and the index of its pixels: values in, values out.

Columns: record_id, finding_id ("" = a record without finding), lesion_id, patient (public hash), laterality, view,
kind, margin (position in MARGINS), malignant, has_mass (-1 = unknown), official_split ("" = none), height, width,
x0 y0 x1 y1 (film pixels), area_px (of the mask; of the box without one), has_mask, has_fine, image_hash (of the file), pixel_hash (of the decoded
film), look (perceptual hash), mask_hash, fine_hash, counterfactual_of ("" = none), boxes_complete (every mass that the data set names on
the film is among its findings, and every finding was decoded), lesions_known (and so is every lesion of another kind), and
attr_<name>.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd

from data._films import Film, FilmFacts, FindingFacts
from data._store import hash_of
from data.record import Finding, Record, Report, public_id
from data.tracks import MARGINS, TRACKS

VERSION = 3  # of the columns and of how they are filled


def build(records: Sequence[Record], facts: Sequence[FilmFacts], report: Report) -> pd.DataFrame:
    """One row per finding that was decoded, one per record without finding. Counts in `report` what it leaves out."""
    rows: list[dict[str, Any]] = []
    for record, fact in zip(records, facts, strict=True):
        if fact.broken:
            continue
        if fact.unplaced:
            report.leave_out("finding with neither mask nor box", fact.unplaced)
        base = _film_columns(record, fact)
        if not record.findings:
            rows.append(base | _attributes(record, None))
        by_id = {finding.finding_id: finding for finding in record.findings}
        for found in fact.findings:
            finding = by_id[found.finding_id]
            rows.append(base | _finding_columns(finding, found) | _attributes(record, finding))
    table = pd.DataFrame(rows)
    return _plain_attributes(table) if len(table) else table


def _film_columns(record: Record, fact: FilmFacts) -> dict[str, Any]:
    has_mass = record.has_mass
    if has_mass is None and any(finding.kind == "mass" for finding in record.findings):
        has_mass = True
    boxes_complete = record.unlisted == 0 and len(fact.findings) == len(record.findings)
    return {
        "record_id": record.record_id,
        "finding_id": "",
        "lesion_id": "",
        "patient": public_id(record.dataset, "patient", record.patient_id.strip()),
        "laterality": record.laterality,
        "view": record.view,
        "kind": "",
        "margin": -1,
        "malignant": -1,
        "has_mass": -1 if has_mass is None else int(has_mass),
        "official_split": record.official_split or "",
        "height": fact.height,
        "width": fact.width,
        "x0": -1,
        "y0": -1,
        "x1": -1,
        "y1": -1,
        "area_px": 0,
        "has_mask": False,
        "has_fine": False,
        "image_hash": fact.image_hash,
        "pixel_hash": fact.pixel_hash,
        "look": fact.look.hash if fact.look is not None else "",
        "mask_hash": "",
        "fine_hash": "",
        "counterfactual_of": record.counterfactual_of or "",
        "boxes_complete": boxes_complete,
        "lesions_known": boxes_complete and record.other_lesions == 0,
    }


def _finding_columns(finding: Finding, found: FindingFacts) -> dict[str, Any]:
    return {
        "finding_id": finding.finding_id,
        "lesion_id": finding.lesion_id,
        "kind": finding.kind,
        "margin": MARGINS.index(finding.margin) if finding.margin in MARGINS else -1,
        "malignant": -1 if finding.malignant is None else int(finding.malignant),
        **dict(zip(("x0", "y0", "x1", "y1"), found.box, strict=True)),
        "area_px": found.area_px,
        "has_mask": finding.mask is not None,
        "has_fine": finding.fine_mask is not None,
        "mask_hash": found.mask_hash,
        "fine_hash": found.fine_hash,
    }


def _attributes(record: Record, finding: Finding | None) -> dict[str, Any]:
    values = dict(record.attributes) | (dict(finding.attributes) if finding is not None else {})
    return {f"attr_{name}": value for name, value in values.items()}


def _plain_attributes(table: pd.DataFrame) -> pd.DataFrame:
    """attr_ columns sorted by name, each of numbers (NaN = unknown) or of text ("" = unknown)."""
    attributes = sorted(column for column in table.columns if column.startswith("attr_"))
    for column in attributes:
        known = table[column].dropna()
        if len(known) and all(isinstance(value, (int, float)) for value in known):
            table[column] = table[column].astype(float)
        else:
            table[column] = [("" if pd.isna(value) else str(value)) for value in table[column]]
    return table[[column for column in table.columns if column not in attributes] + attributes]


def with_origin_labels(rows: pd.DataFrame, origins: pd.DataFrame) -> pd.DataFrame:
    """Counterfactuals keep the finding ids of their origin; where a film was edited, its own labels may be gone."""
    columns = [track.column for track in TRACKS.values()]
    labels = origins.set_index(["record_id", "finding_id"])[columns].add_prefix("origin_")
    return rows.join(labels, on=["counterfactual_of", "finding_id"])


def per_record(rows: pd.DataFrame, record_attributes: Sequence[str]) -> pd.DataFrame:
    """One row per film whose findings are all known: a detection on an unlisted mass would count as false."""
    rows = rows[rows["boxes_complete"]]
    mass = rows["kind"] == "mass"
    by_record = rows["record_id"]
    first = rows.drop_duplicates("record_id").set_index("record_id")
    summed = rows["area_px"].where(mass, 0).groupby(by_record).sum()
    first["area_px"] = summed.reindex(first.index)
    for column in [name for name in ("malignant", "origin_malignant") if name in rows.columns]:
        first[column] = rows[column].groupby(by_record).max().reindex(first.index)
    for flag in ("has_mask", "has_fine"):
        first[flag] = (rows[flag] & mass).groupby(by_record).any().reindex(first.index)
    first = first.assign(
        finding_id="", lesion_id="", kind="", margin=-1, x0=-1, y0=-1, x1=-1, y1=-1, mask_hash="", fine_hash=""
    )
    of_findings = [c for c in first.columns if c.startswith("attr_") and c not in record_attributes]
    return first.drop(columns=of_findings).reset_index()


def data_hash(dataset: str, table: pd.DataFrame) -> str:
    """sha256 over the rows, whatever their order: labels, sides, boxes and content fingerprints; no path, no time."""
    rows = table.sort_values(["record_id", "finding_id"]).to_json(orient="records", double_precision=10)
    return hash_of([dataset, rows])


def counts(table: pd.DataFrame, sides: "pd.Series[str]") -> dict[str, dict[str, dict[str, int]]]:
    """Samples per track, side ("none" where a row has no side) and label; counterfactuals are not counted."""
    named = sides.where(sides != "", "none").rename("side")
    own = table["counterfactual_of"] == ""
    found: dict[str, dict[str, dict[str, int]]] = {}
    for track in TRACKS.values():
        rows = table[own & (table[track.column] >= 0)]
        rows = rows[rows["kind"] == "mass"] if track.unit == "finding" else rows.drop_duplicates("record_id")
        per_side = found.setdefault(track.name, {})
        for side, labels in rows[track.column].groupby(named.loc[rows.index]):
            per_side[str(side)] = {name: int((labels == label).sum()) for label, name in enumerate(track.classes)}
    return found


def pixel_index(films: Sequence[Film], facts: Sequence[FilmFacts]) -> pd.DataFrame:
    """Which rows of the arrays hold which sample, the window it was cut from, and the film's grey limits.

    The window is one of the film as it is stored. flipped: its left and right were exchanged in the cut; no_breast: the
    breast was asked for (Roi.flip, Roi.crop) and not found.
    """
    rows = []
    for film, fact in zip(films, facts, strict=True):
        for slot in film.slots:
            window = fact.windows.get(slot.finding_id)
            if window is None:  # a problem left the slot unused
                continue
            rows.append(
                {
                    "record_id": film.record.record_id,
                    "finding_id": slot.finding_id,
                    "row": slot.row,
                    "mask_row": slot.mask_row,
                    "fine_row": slot.fine_row,
                    **dict(zip(("wx0", "wy0", "wx1", "wy1"), window, strict=True)),
                    "flipped": fact.pose.flipped,
                    "no_breast": fact.pose.missed,
                    "grey_low": fact.grey[0],
                    "grey_high": fact.grey[1],
                }
            )
    columns = [
        "record_id",
        "finding_id",
        "row",
        "mask_row",
        "fine_row",
        "wx0",
        "wy0",
        "wx1",
        "wy1",
        "flipped",
        "no_breast",
        "grey_low",
        "grey_high",
    ]
    return pd.DataFrame(rows, columns=columns)
