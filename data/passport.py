"""The passport of a prepared data set: what a reader of a result has to know about its data; fit for publication."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from data import _table
from data._films import FilmFacts
from data._look import Look, looks_inverted, near_duplicates
from data.record import DataCard, Options, Record, Report
from data.tracks import MARGINS

SHOWN = 20  # pairs of near-duplicates that are listed; all are counted


def passport(
    card: DataCard,
    options: Options,
    records: Sequence[Record],
    table: pd.DataFrame,
    facts: Sequence[FilmFacts],
    report: Report,
) -> dict[str, Any]:
    """The document. `warnings`: what is merely odd, a sentence each; what makes a comparison wrong is refused elsewhere."""
    films = table.drop_duplicates("record_id")
    own = table[table["counterfactual_of"] == ""]
    areas = table.loc[table["finding_id"] != "", "area_px"]
    decoded = [fact for fact in facts if not fact.broken]
    document = {
        "dataset": card.name,
        "version": card.version,
        "grade": ", ".join(grades(card, table, options)),
        "options": options.of_films.as_json(),
        "records": len(films),
        "findings": int((table["finding_id"] != "").sum()),
        "kinds": {str(kind): int(count) for kind, count in table["kind"].value_counts().items() if kind},
        "patients": int(table["patient"].nunique()),
        "published": published(card, own),
        "patients_on_two_sides": patients_on_two_sides(own),
        "tracks": _table.counts(table, table["official_split"]),
        "left_out": [{"reason": reason, "count": count} for reason, count in sorted(report.left_out.items())],
        "masks_shared": masks_shared(table),
        "masks_over_half": int((own["has_mask"] & (2 * own["area_px"] > own["height"] * own["width"])).sum()),
        "boxes_clipped": sum(found.box_clipped for fact in facts for found in fact.findings),
        "pixels": looks(own, decoded),
        "record_attributes": sorted({f"attr_{name}" for record in records for name in record.attributes}),
        "height": _spread(films["height"]),
        "width": _spread(films["width"]),
        "area_px": _spread(areas),
        "grey_low": _spread([fact.grey[0] for fact in decoded]),
        "grey_high": _spread([fact.grey[1] for fact in decoded]),
        "data_hash": _table.data_hash(card.name, table),
    }
    return document | {"warnings": warnings(document)}


def as_asked(document: dict[str, Any], options: Options) -> dict[str, Any]:
    """The passport of the prepared films as that of what training sees of them: fewer_masks, placebo."""
    asked = {"fewer_masks": options.masks_kept < 1, "placebo": options.masks == "shuffled"}
    grade = ", ".join([document["grade"], *(name for name, used in asked.items() if used)])
    return document | {"grade": grade, "options": options.as_json()}


def grades(card: DataCard, table: pd.DataFrame, options: Options) -> list[str]:
    """What the data are (full, reduced, proxy, synthetic), as stated film by film, else by the data set; and which
    options made the films or their sides other than they are: band, and what divides a patient between sides."""
    stated = set(table["attr_grade"].dropna().astype(str)) - {""} if "attr_grade" in table.columns else set()
    asked = {
        "band": "attr_fine" in table.columns and (table["attr_fine"] == "band").any(),
        **{scope: options.patient_scope == scope for scope in ("within_class", "lesion", "film")},
    }
    return sorted(stated or {card.grade}) + sorted(name for name, used in asked.items() if used)


def counts(own: pd.DataFrame) -> dict[str, int]:
    """What published counts are stated in: of all films, and with `train/` or `test/` before it of an official side."""
    found: dict[str, int] = {}
    for prefix, part in (("", own), *((f"{side}/", own[own["official_split"] == side]) for side in ("train", "test"))):
        films, findings = part.drop_duplicates("record_id"), part[part["finding_id"] != ""]
        masses = findings[findings["kind"] == "mass"]
        found |= {
            f"{prefix}films": len(films),
            f"{prefix}normal films": int((films["has_mass"] == 0).sum()),
            f"{prefix}mass films": int((films["has_mass"] == 1).sum()),
            f"{prefix}patients": int(part["patient"].nunique()),
            f"{prefix}mass patients": int(masses["patient"].nunique()),
            f"{prefix}findings": len(findings),
            f"{prefix}masses": len(masses),
            f"{prefix}margin": int((masses["margin"] >= 0).sum()),
            f"{prefix}malignant": int((masses["malignant"] == 1).sum()),
            f"{prefix}benign": int((masses["malignant"] == 0).sum()),
            **{f"{prefix}{name}": int((masses["margin"] == label).sum()) for label, name in enumerate(MARGINS)},
        }
    return found


def published(card: DataCard, own: pd.DataFrame) -> dict[str, dict[str, int]]:
    """The published counts of the data set beside those of the prepared films."""
    here = counts(own)
    return {name: {"published": number, "here": here[name]} for name, number in card.published_counts.items()}


def patients_on_two_sides(own: pd.DataFrame) -> int:
    """Patients whose films the data set's own split puts on more than one side."""
    stated = own[own["official_split"] != ""]
    return int((stated.groupby("patient")["official_split"].nunique() > 1).sum())


def masks_shared(table: pd.DataFrame) -> int:
    """Masks that lesions of more than one patient have, pixel by pixel: a lesion that is there twice, or copied."""
    own = table[(table["mask_hash"] != "") & (table["counterfactual_of"] == "")]
    return int((own.groupby("mask_hash")["patient"].nunique() > 1).sum())


def looks(own: pd.DataFrame, decoded: Sequence[FilmFacts]) -> dict[str, Any]:
    """What the films look like: near-duplicates, polarity, breast side against laterality."""
    films = own.drop_duplicates("record_id").set_index("record_id")
    known = [(fact, fact.look) for fact in decoded if fact.look is not None and fact.record_id in films.index]
    return {
        "near_duplicates": _pairs(films, known),
        "looks_inverted": sum(looks_inverted(look) for _, look in known),
        "mirrored": _mirrored(films, known),
        **_headers(films, decoded),
    }


def _headers(films: pd.DataFrame, decoded: Sequence[FilmFacts]) -> dict[str, Any]:
    """What the files' headers say, counted; nothing of generated films."""
    known = [
        (films.at[f.record_id, "laterality"], f.source) for f in decoded if f.source and f.record_id in films.index
    ]
    spacing = [source.spacing_mm[0] for _, source in known if source.spacing_mm is not None]
    return {
        "bits_stored": _counted(str(source.bits_stored) for _, source in known),
        "photometric": _counted(source.photometric for _, source in known),
        "syntax": _counted(source.syntax for _, source in known),
        "spacing_mm": {"films": len(spacing), "of": len(known), "rows": _spread(spacing)},
        "header_laterality_differs": sum(
            source.laterality in ("L", "R") and source.laterality != side for side, source in known
        ),
    }


def _counted(words: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(words).items()))


def _pairs(films: pd.DataFrame, known: Sequence[tuple[FilmFacts, Look]]) -> dict[str, Any]:
    """Pairs of films that look alike: how many, of two patients, on two official sides; and the first of them."""
    found = []
    for i, j, bits in near_duplicates([look.hash for _, look in known]):
        a, b = films.loc[known[i][0].record_id], films.loc[known[j][0].record_id]
        two_sides = a["official_split"] != b["official_split"]
        found.append(
            {
                "a": a.name,
                "b": b.name,
                "bits": bits,
                "equal": a["pixel_hash"] == b["pixel_hash"],
                "two_patients": a["patient"] != b["patient"],
                "two_sides": bool(two_sides),
            }
        )
    found.sort(key=lambda pair: (not pair["two_sides"], not pair["two_patients"], pair["bits"], pair["a"]))
    return {
        "pairs": len(found),
        "two_patients": sum(pair["two_patients"] for pair in found),
        "two_sides": sum(pair["two_sides"] for pair in found),
        "listed": found[:SHOWN],
    }


def alike_on_two_sides(table: pd.DataFrame, sides: "pd.Series[str]") -> int:
    """Pairs of films that look alike and are on two sides of a split. sides: per row of the table."""
    films = table.assign(side=sides)[table["counterfactual_of"] == ""].drop_duplicates("record_id")
    films = films[films["look"] != ""]
    on = films["side"].to_numpy()
    return sum(on[i] != on[j] for i, j, _ in near_duplicates(films["look"].tolist()))


def alike(table: pd.DataFrame, other: pd.DataFrame) -> int:
    """How many pairs of films of two data sets look alike."""
    mine, theirs = (t.loc[t["counterfactual_of"] == "", "look"].drop_duplicates() for t in (table, other))
    both = [*mine[mine != ""], *theirs[theirs != ""]]
    own = int((mine != "").sum())
    return sum(i < own <= j for i, j, _ in near_duplicates(both))


def _mirrored(films: pd.DataFrame, known: Sequence[tuple[FilmFacts, Look]]) -> dict[str, int]:
    """Films whose breast lies on the other side than in most films of the data set with the same laterality."""
    sides = Counter((films.at[fact.record_id, "laterality"], look.side) for fact, look in known)
    usual = sides["L", "left"] + sides["R", "right"]
    other = sides["L", "right"] + sides["R", "left"]
    return {"films": min(usual, other), "of": usual + other}


def warnings(document: dict[str, Any]) -> list[str]:
    """What is odd about these data, a sentence each; nothing here is wrong by itself."""
    pixels, said = document["pixels"], []
    missing = {name: pair for name, pair in document["published"].items() if pair["here"] < pair["published"]}
    if missing:
        name, pair = max(missing.items(), key=lambda item: item[1]["published"] - item[1]["here"])
        said.append(f"fewer than published: {pair['here']} of {pair['published']} {name.replace('/', ' ')}")
    more = {name: pair for name, pair in document["published"].items() if pair["here"] > pair["published"]}
    if more:
        name, pair = max(more.items(), key=lambda item: item[1]["here"] - item[1]["published"])
        said.append(
            f"more than published: {pair['here']} of {pair['published']} {name.replace('/', ' ')}; is something in twice?"
        )
    if shared := document["masks_shared"]:
        said.append(
            f"{_many(shared, 'mask')} of lesions of more than one patient, pixel by pixel: is a patient in twice?"
        )
    if huge := document["masks_over_half"]:
        said.append(f"{_many(huge, 'mask')} over more than half of the film: is lesion and background exchanged?")
    near = pixels["near_duplicates"]
    if near["two_patients"]:
        on_sides = f", {near['two_sides']} of them on two official sides" if near["two_sides"] else ""
        said.append(f"{_many(near['two_patients'], 'pair')} of films of two patients that look alike{on_sides}")
    if inverted := pixels["looks_inverted"]:
        said.append(f"{_many(inverted, 'film')} with a bright background: is the polarity as stated?")
    if differs := pixels["header_laterality_differs"]:
        said.append(f"{_many(differs, 'film')} whose header names the other breast than the table")
    mirrored = pixels["mirrored"]
    if mirrored["films"]:
        said.append(
            f"{mirrored['films']} of {mirrored['of']} films show the breast on the other side than most of their laterality"
        )
    return said


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def summary(document: dict[str, Any]) -> str:
    """One line for a row of the leaderboard."""
    left_out = sum(item["count"] for item in document["left_out"])
    kept = document["options"].get("masks_kept", 1)
    parts = [
        f"{document['dataset']} ({document['grade']})",
        f"{document['records']} films",
        f"{document['findings']} findings",
        f"{document['patients']} patients",
        *([f"masks of {100 * kept:g}% of the training patients"] if kept < 1 else []),
        f"{left_out} left out" if left_out else "nothing left out",
        *document["warnings"],
    ]
    return "; ".join(parts)


def _spread(values: Any) -> dict[str, float] | None:
    """5, 50 and 95 % quantiles."""
    numbers = np.asarray(values, dtype=np.float64)
    if not len(numbers):
        return None
    low, middle, high = np.quantile(numbers, [0.05, 0.5, 0.95])
    return {"q05": float(low), "median": float(middle), "q95": float(high)}
