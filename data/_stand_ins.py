"""What may stand in for annotations, and says so: a band for a fine annotation, masks of other patients as a placebo.

And what training does without: the masks of a part of its patients.
"""

import hashlib
import math
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.ndimage import distance_transform_edt

from data.errors import ConfigError
from data.record import Finding, Options, Pixels, Record, place_of
from data.split import strata


@dataclass(frozen=True)
class Band:
    """The band around a lesion's contour, in place of a fine annotation: within `share` of the lesion's radius of it.

    The radius is that of a disc of the mask's area. Pixels on both sides of the contour belong to the band.
    """

    mask: Pixels
    share: float

    @property
    def name(self) -> str:
        return f"{self.mask.name}, band"

    @property
    def place(self) -> tuple[str, int | None]:
        return place_of(self.mask)

    def read(self) -> np.ndarray:
        """(H, W) bool. Raises DataError as the mask does; an empty mask gives an empty band."""
        mask = np.asarray(self.mask.read(), dtype=bool)
        band: np.ndarray = np.zeros_like(mask)
        if not mask.any():
            return band
        reach = max(1.0, self.share * math.sqrt(mask.sum() / math.pi))
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        spare = math.ceil(reach) + 1
        window = (
            slice(max(int(rows[0]) - spare, 0), int(rows[-1]) + spare + 1),
            slice(max(int(columns[0]) - spare, 0), int(columns[-1]) + spare + 1),
        )
        inside = np.pad(mask[window], 1)  # beyond the film there is no lesion: the film's edge is a contour, too
        depth = distance_transform_edt(inside) + distance_transform_edt(~inside)
        band[window] = (depth <= reach)[1:-1, 1:-1]
        return band

    def fingerprint(self) -> str:
        return hashlib.sha256(f"band {self.share} of {self.mask.fingerprint()}".encode()).hexdigest()


def with_stand_ins(record: Record, options: Options) -> Record:
    """The record with bands where the option asks for them and a finding has a mask and no fine annotation."""
    if options.fine != "band":
        return record
    return replace(record, findings=tuple(_banded(finding, options.band) for finding in record.findings))


def _banded(finding: Finding, share: float) -> Finding:
    if finding.mask is None or finding.fine_mask is not None:
        return finding
    return replace(finding, fine_mask=Band(finding.mask, share), attributes={**finding.attributes, "fine": "band"})


def exchanged(table: pd.DataFrame, seed: int) -> np.ndarray:
    """Positions (N,) of the samples whose masks the samples get: each of another patient, as far as there are others.

    A sample exchanges with those that have the same kinds of masks, so that has_mask and has_fine stay as they are.
    Patients are put into random order and the masks moved on by as many samples as the largest patient has. Raises
    ConfigError where there is no mask, or one that cannot be exchanged: a placebo that is none would pass for a finding.
    """
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(_PLACEBO,))))
    given = np.arange(len(table))
    order = {patient: place for place, patient in enumerate(rng.permutation(sorted(table["patient"].unique())))}
    for kinds, part in table.reset_index(drop=True).groupby(["has_mask", "has_fine"]):
        if not any(kinds):
            continue
        ranks = part["patient"].map(order).to_numpy()
        positions = part.index.to_numpy()[np.argsort(ranks, kind="stable")]
        largest = int(part["patient"].value_counts().max())
        given[positions] = np.roll(positions, largest)
    patients, masked = table["patient"].to_numpy(), table[["has_mask", "has_fine"]].any(axis=1).to_numpy()
    own = int((patients == patients[given])[masked].sum())
    if own or not masked.any():
        what = f"{own} of {int(masked.sum())} masks have no other patient to go to" if own else "no sample has a mask"
        raise ConfigError(
            f"masks cannot be exchanged between patients: {what}", "masks: shuffled", "leave masks as they are (own)"
        )
    return given


def withheld(table: pd.DataFrame, trains: "pd.Series[bool]", share: float, seed: int) -> pd.DataFrame:
    """The table with masks on the training side of `share` of its patients alone; trains: which rows are of that side.

    Raises ConfigError where no training patient has a mask: nothing would be withheld.
    """
    if not table.loc[trains, ["has_mask", "has_fine"]].any(axis=None):
        raise ConfigError("no training patient has a mask", f"masks_kept: {share:g}", "leave it at 1")
    hidden = trains & ~table["patient"].isin(kept_patients(table[trains], share, seed))
    none = {"has_mask": False, "has_fine": False, "mask_hash": "", "fine_hash": ""}
    return table.assign(**{column: table[column].mask(hidden, value) for column, value in none.items()})


def kept_patients(table: pd.DataFrame, share: float, seed: int) -> set[str]:
    """The patients, of those with a mass that has a mask, who are among the first `share` of a drawn order.

    The patient of rank r (0, 1...) among the n of a stratum (the most severe label and margin) stands at r / n: Adams'
    divisor method, which is house monotone. So patients kept at a share are kept at every larger one, and no stratum
    has a second patient before each has one. Of a share above 0 at least one patient.
    """
    masked = table[(table["kind"] == "mass") & (table["has_mask"] | table["has_fine"])]
    stratum = strata(masked).groupby(masked["patient"]).first().sort_index()
    rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=(_KEPT,))))
    drawn = stratum.iloc[rng.permutation(len(stratum))]
    size = drawn.map(drawn.value_counts())
    place = pd.DataFrame({"turn": drawn.groupby(drawn).cumcount() / size, "rarity": -size})
    order = place.sort_values(["turn", "rarity"], kind="stable").index
    count = max(1, round(share * len(order))) if share else 0
    return set(order[:count])


_PLACEBO, _KEPT = 7001, 7003  # name the streams
