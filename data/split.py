"""Sides: which patient trains, validates or tests. Decided per patient for the whole data set, stratified, seeded."""

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedKFold

from data.errors import ConfigError, DataError, LeakError
from data.protocols import FOLDS, NO_TEST, PROTOCOLS

SIDES = ("train", "validation", "test")
_SEVENTH = 7  # one of seven parts: twice in a row 14 % test, 12 % validation, 73 % training (73/12/15 of paper 002)
_COLUMNS = ["record_id", "finding_id", "patient", "image_hash", "side", "fold"]


@dataclass(frozen=True)
class Split:
    """One assignment of patients to sides. `table`: record_id, finding_id, patient, image_hash, side, fold."""

    protocol: str
    seed: int
    fold: int
    source: str  # "official", "official, validation carved from train" or "seeded"
    table: pd.DataFrame
    hash: str
    patient_scope: str = "global"

    def sides_of(self, table: pd.DataFrame) -> "pd.Series[str]":
        """The side of each row of a table of the same data set."""
        by_record = self.table.drop_duplicates("record_id").set_index("record_id")["side"]
        sides = table["record_id"].map(by_record)
        if sides.isna().any():
            raise DataError("a record is in no side of the split", str(self.hash[:12]), "make the split anew")
        return sides

    def save(self, folder: Path) -> Path:
        """Write the manifest to `<folder>/<hash>.parquet`, unless it is there."""
        path = folder / f"{self.hash}.parquet"
        if not path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            part = path.with_suffix(f".part{np.random.default_rng().integers(1 << 32)}")
            self.table.to_parquet(part, index=False)
            part.replace(path)
        return path


def make_split(
    table: pd.DataFrame, protocol: str = "holdout", seed: int = 0, fold: int = 0, patient_scope: str = "global"
) -> Split:
    """Sides for every row of a prepared table.

    holdout: the official sides where the data set has them (validation, if it has none, is a seventh of the training
    patients), else a seeded 73/12/14 %. kfold5: fold 0..4 is the test side, a fifth of the rest validates. no_test: a
    seventh validates, the rest trains, official sides or not. A patient
    counts with the most severe label. patient_scope within_class: what is kept together is a patient's films of one
    class (the most severe margin, else malignancy of the film), as paper 000 words it; lesion: the films of a lesion, and
    of those that share a film with it; film: nothing, as where each lesion image is dealt out by itself. Raises LeakError
    if a patient or an image sits on two sides, DataError if the official sides lack train or test: films that were meant
    for one side are never dealt out anew.
    """
    if protocol not in (*PROTOCOLS, NO_TEST):
        raise ConfigError(f"no protocol {protocol!r}", "protocol", f"choose one of: {', '.join(PROTOCOLS)}")
    if not 0 <= fold < FOLDS.get(protocol, 1):
        raise ConfigError(f"no fold {fold} in {protocol}", "fold", f"choose 0 to {FOLDS.get(protocol, 1) - 1}")
    table = table.assign(patient_id=table["patient"], patient=_kept_together(table, patient_scope))
    origins = table[table["counterfactual_of"] == ""]
    if protocol == NO_TEST:
        sides, source = (
            np.where(_part(origins, _SEVENTH, seed, 0), "validation", "train").tolist(),
            "seeded, no test side",
        )
    elif protocol == "kfold5":
        sides, source = _folds(origins, seed, fold), "seeded"
    elif _is_official(origins):
        sides, source = _official(origins, seed)
    else:
        sides, source = _seeded(origins, seed), "seeded"
    manifest = table[["record_id", "finding_id", "patient", "patient_id", "image_hash", "pixel_hash"]].copy()
    origin_of = table["record_id"].where(table["counterfactual_of"] == "", table["counterfactual_of"])
    by_record = dict(zip(origins["record_id"], sides, strict=True))
    manifest["side"] = origin_of.map(by_record)
    manifest["fold"] = fold
    _check(manifest)
    manifest = manifest.assign(patient=manifest["patient_id"])
    manifest = manifest.sort_values(["record_id", "finding_id"], ignore_index=True)[_COLUMNS]
    return Split(protocol, seed, fold, source, manifest, _hash(manifest), patient_scope)


def _kept_together(table: pd.DataFrame, patient_scope: str) -> "pd.Series[str]":
    """Per row what goes to one side as a whole (Options.patient_scope)."""
    if patient_scope == "global":
        return table["patient"]
    origin = table["record_id"].where(table["counterfactual_of"] == "", table["counterfactual_of"])
    if patient_scope == "film":
        return origin
    if patient_scope == "lesion":
        return origin.map(_by_lesions(origin, table["lesion_id"]))
    worst = table.groupby("record_id")[["margin", "malignant"]].transform("max")
    label = np.where(worst["margin"] >= 0, "margin " + worst["margin"].astype(str), worst["malignant"].astype(str))
    of_record = dict(zip(table["record_id"], label, strict=True))
    return table["patient"] + ", " + origin.map(of_record)


def _by_lesions(films: "pd.Series[str]", lesions: "pd.Series[str]") -> dict[str, str]:
    """film -> one film of its group: films that share a lesion, directly or through others."""
    film, names = pd.factorize(films)
    lesion, _ = pd.factorize(lesions.where(lesions != "", "of " + films))
    shared = coo_array((np.ones(len(film)), (film, len(names) + lesion)), shape=(2 * len(films) + len(names),) * 2)
    group = connected_components(shared, directed=False)[1][: len(names)]
    first = pd.Series(names).groupby(group).transform("min")
    return dict(zip(names, first, strict=True))


def strata(table: pd.DataFrame) -> "pd.Series[str]":
    """Per row its patient's stratum: the most severe label (malignant, benign, normal) and the most severe margin."""
    worst = table.groupby("patient")[["malignant", "has_mass", "margin"]].transform("max")
    severity = np.where(worst["malignant"] >= 0, worst["malignant"] + 2, worst["has_mass"])
    return pd.Series([f"{s}/{m}" for s, m in zip(severity, worst["margin"], strict=True)], index=table.index)


def _is_official(table: pd.DataFrame) -> bool:
    """Whether the data set has sides of its own. Raises DataError if some rows have none or an unknown one, or no row
    is of train or of test."""
    found = set(table["official_split"])
    if found == {""}:
        return False
    if unknown := found - set(SIDES):
        name = sorted(unknown)[0]
        what = "some films have no official side" if name == "" else f"unknown official side {name!r}"
        raise DataError(what, "official_split", f"give every film one of: {', '.join(SIDES)}")
    if lacking := [side for side in ("train", "test") if side not in found]:
        raise DataError(
            f"official sides without a film for {' and '.join(lacking)}",
            f"official_split: {', '.join(side for side in SIDES if side in found)}",
            "give train and test a film each, or no film an official side",
        )
    return True


def _official(table: pd.DataFrame, seed: int) -> tuple[list[str], str]:
    sides = table["official_split"].to_numpy(dtype=object).copy()
    if "validation" in sides:
        return sides.tolist(), "official"
    train = np.flatnonzero(sides == "train")
    on_test = set(table["patient"][sides == "test"])
    if both := sorted(on_test & set(table["patient"].iloc[train])):
        raise LeakError(
            f"patient {both[0]} is on two official sides", "official_split", "move or drop that patient's films"
        )
    sides[train[_part(table.iloc[train], _SEVENTH, seed, 0)]] = "validation"
    return sides.tolist(), "official, validation carved from train"


def _seeded(table: pd.DataFrame, seed: int) -> list[str]:
    return _two_parts(table, _SEVENTH, _SEVENTH, seed, 0)


def _folds(table: pd.DataFrame, seed: int, fold: int) -> list[str]:
    return _two_parts(table, 5, 5, seed, fold)


def _two_parts(table: pd.DataFrame, test_parts: int, validation_parts: int, seed: int, fold: int) -> list[str]:
    """Test is one of `test_parts` (number `fold`), validation one of `validation_parts` of what remains."""
    sides = np.full(len(table), "train", dtype=object)
    test = _part(table, test_parts, seed, fold)
    sides[test] = "test"
    rest = np.flatnonzero(~test)
    sides[rest[_part(table.iloc[rest], validation_parts, seed, 0)]] = "validation"
    return sides.tolist()


def _part(table: pd.DataFrame, parts: int, seed: int, number: int) -> np.ndarray:
    """(rows,) bool: part `number` of `parts`, whole patients, strata alike. Independent of the order of rows.

    Patients are drawn, not rows: a division that evens out rows deals out the patients with most films first, and so
    always to the same part.
    """
    strata_of = strata(table).groupby(table["patient"]).first().sort_index()
    if len(strata_of) < parts:
        what = f"{len(strata_of)} patients cannot be divided into {parts} parts, one of which tests or validates"
        raise DataError(what, "split", "use more data, or films with train, validation and test sides of their own")
    folds = StratifiedKFold(parts, shuffle=True, random_state=seed)
    with warnings.catch_warnings():  # a stratum of fewer patients than parts cannot be on every side: expected
        warnings.simplefilter("ignore", UserWarning)
        chosen = list(folds.split(strata_of, _merged(strata_of, parts)))[number][1]
    return table["patient"].isin(set(strata_of.index[chosen])).to_numpy()


def _merged(labels: "pd.Series[str]", parts: int) -> "pd.Series[str]":
    """Strata of fewer patients than parts lose their margin, and if still too few are put together."""
    severities = labels.map(lambda label: label.split("/")[0])
    for coarser in (severities, pd.Series("rare", index=labels.index)):
        sizes = labels.map(labels.value_counts())
        labels = labels.where(sizes >= parts, coarser)
    return labels if labels.value_counts().max() >= parts else pd.Series("all", index=labels.index)


def _check(manifest: pd.DataFrame) -> None:
    """No patient and no image on two sides; an image is the same if its file is, or if its pixels are."""
    for column, noun in (
        ("patient", "patient"),
        ("image_hash", "the image of record"),
        ("pixel_hash", "the film of record"),
    ):
        sides = manifest.groupby(column)["side"].nunique()
        if (sides > 1).any():
            row = manifest[manifest[column] == sides.index[sides > 1][0]]
            other = row[row["side"] != row["side"].iloc[0]].iloc[0]
            who = row["patient"].iloc[0] if column == "patient" else row["record_id"].iloc[0]
            raise LeakError(
                f"{noun} {who} is on two sides, {row['side'].iloc[0]} and {other['side']} ({(sides > 1).sum()} such)",
                f"records {row['record_id'].iloc[0]} and {other['record_id']}",
                "put all films of a patient on one side, and every film in once",
            )


def _hash(manifest: pd.DataFrame) -> str:
    """sha256 over the sorted rows: ids, patients, image hashes, sides, fold."""
    lines = ["|".join(map(str, row)) for row in manifest.itertuples(index=False)]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
