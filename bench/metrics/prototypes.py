"""The health of prototypes, and what a prediction loses without its strongest one (docs/metrics/prototypes.md).

Shapes: N labelled rows, S sources of evidence, K classes, D statistics. All is read from contributions, which with a
row's bias add up to its scores. A prototype is a source that has a class of the track. Nothing depends on the order of
sources: what is tied is shared evenly.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import entr, softmax

from bench.metrics.agreement import ratio
from bench.metrics.frame import ROW_KEY, Frame
from bench.metrics.parts import NotComputableError, Part, by_patient, part_of_totals

COLUMNS = (*ROW_KEY, "source", "source_class", "source_level", "source_place", "class", "contribution")
NEAREST = 10  # most activated images that a prototype's purity is read from
LOUDEST = 3  # contributions to a class among which a prototype that is alive stands on some image
LEVELS = (2, 3, 4, 5)  # of a pyramid


@dataclass(frozen=True, eq=False)
class Network:
    """The evidence of one fold's network. position (N): its rows among the labelled ones; contribution (N, S, K);
    scores (N, K); labels (N); of each source kind (S), -1 = of no class, level (S), 0 = of none, and place (S)."""

    position: np.ndarray
    contribution: np.ndarray
    scores: np.ndarray
    labels: np.ndarray
    kind: np.ndarray
    level: np.ndarray
    place: np.ndarray

    @property
    def prototypes(self) -> np.ndarray:
        """(P,) the sources that have a class."""
        return np.flatnonzero(self.kind >= 0)

    @property
    def predicted(self) -> np.ndarray:
        """(N,) the class of the highest score, the first one at a tie."""
        return self.scores.argmax(axis=1)

    def strongest(self) -> np.ndarray:
        """(N, S) 1 on the source that contributes most to the predicted class; tied ones share the 1."""
        mine = self._of_class(self.contribution, self.predicted)
        top = mine == mine.max(axis=1, keepdims=True)
        return np.asarray(top / top.sum(axis=1, keepdims=True))

    def own(self) -> np.ndarray:
        """(N, P) contribution of each prototype to its own class."""
        return self.contribution[:, self.prototypes, self.kind[self.prototypes]]

    def without(self) -> tuple[np.ndarray, np.ndarray]:
        """(N, S) each: by how much the predicted class's probability falls when a source is dropped, and whether
        another class is predicted then. Probabilities are the softmax of the scores."""
        before = np.take_along_axis(softmax(self.scores, axis=1), self.predicted[:, None], axis=1)
        left = self.scores[:, None, :] - self.contribution
        after = self._of_class(softmax(left, axis=2), self.predicted)
        return before - after, left.argmax(axis=2) != self.predicted[:, None]

    @staticmethod
    def _of_class(values_NSK: np.ndarray, kind_N: np.ndarray) -> np.ndarray:
        return np.take_along_axis(values_NSK, kind_N[:, None, None], axis=2)[:, :, 0]


def networks(frame: Frame) -> list[Network]:
    """One a fold. Raises NotComputableError where the frame has no evidence, or rows without it."""
    found: list[Network] = frame.cached("networks", lambda: _networks(frame))
    return found


def _networks(frame: Frame) -> list[Network]:
    labelled, evidence = frame.labelled(), frame.evidence
    if evidence is None:
        raise NotComputableError(
            "the frame has no evidence: the method has no sources, or was trained on another track"
        )
    missing = [name for name in COLUMNS if name not in evidence.columns]
    if missing:
        raise NotComputableError(f"the evidence has no column {missing[0]}")
    rows = pd.MultiIndex.from_frame(labelled.predictions[ROW_KEY].astype(str))
    if not len(rows) or rows.has_duplicates:
        raise NotComputableError("no labelled row" if not len(rows) else "a row stands in several folds")
    row = rows.get_indexer(pd.MultiIndex.from_frame(evidence[ROW_KEY].astype(str)))
    folds = labelled.predictions["fold"].to_numpy()
    return [_network(labelled, evidence, row, np.flatnonzero(folds == fold)) for fold in np.unique(folds)]


def _network(labelled: Frame, evidence: pd.DataFrame, row: np.ndarray, position: np.ndarray) -> Network:
    here = np.isin(row, position)
    mine, local = evidence[here], np.searchsorted(position, row[here])
    source, names = pd.factorize(mine["source"])
    facts = mine.drop_duplicates("source")
    shape = (len(position), len(names), len(labelled.classes))
    contribution = np.full(shape, np.nan)
    contribution[local, source, mine["class"].to_numpy(dtype=np.int64)] = mine["contribution"].to_numpy()
    if not contribution.size or np.isnan(contribution).any():
        raise NotComputableError("a labelled row has no evidence")
    return Network(
        position,
        contribution,
        labelled.scores[position],
        labelled.labels[position],
        facts["source_class"].to_numpy(dtype=np.int64),
        facts["source_level"].to_numpy(dtype=np.int64),
        facts["source_place"].to_numpy(dtype=str),
    )


def _with_prototypes(frame: Frame) -> list[Network]:
    found = networks(frame)
    if not all(len(one.prototypes) for one in found):
        raise NotComputableError("no source has a class: they are no prototypes")
    return found


# ---- facts of the trained network -----------------------------------------------------------------------------------
def duplicates(frame: Frame) -> Part:
    """Share of prototypes whose training patch is also another's of their class and level."""
    found, projected, total = [], 0, 0
    for one in _with_prototypes(frame):
        place = one.place[one.prototypes]
        known = place != ""
        total, projected = total + len(place), projected + int(known.sum())
        if not known.any():
            raise NotComputableError("no prototype is a training patch: none was projected")
        chosen = one.prototypes[known]
        same = pd.DataFrame({"kind": one.kind[chosen], "level": one.level[chosen], "place": one.place[chosen]})
        found.append(float(same.duplicated(keep=False).mean()))
    note = f"{total - projected} of {total} were never projected and do not count" if projected < total else ""
    return _fact(frame, found, projected, note)


def dead(frame: Frame) -> Part:
    """Share of prototypes that on no image are among the three largest contributions to their own class."""
    found = []
    for one in _with_prototypes(frame):
        alive = []
        for kind in np.unique(one.kind[one.prototypes]):
            to_class = one.contribution[:, :, kind]
            for source in np.flatnonzero(one.kind == kind):
                larger = np.sum(to_class > to_class[:, [source]], axis=1)
                alive.append(bool((larger < LOUDEST).any()))
        found.append(1 - float(np.mean(alive)))
    return _fact(frame, found, _count(frame))


def purity(frame: Frame) -> Part:
    """Mean over prototypes of the share of its most activated images that have its class."""
    found, fewest = [], NEAREST
    for one in _with_prototypes(frame):
        nearest = min(NEAREST, len(one.labels))
        fewest = min(fewest, nearest)
        same = one.labels[:, None] == one.kind[one.prototypes]
        found.append(float(np.mean(np.sum(_foremost(one.own(), nearest) * same, axis=0) / nearest)))
    return _fact(frame, found, _count(frame), f"only {fewest} images to look at" if fewest < NEAREST else "")


def purity_chance(frame: Frame) -> Part:
    """What prototypes that tell nothing would get: the mean over them of their class's share of the images."""
    shares = [float(np.mean(one.labels[:, None] == one.kind[one.prototypes])) for one in _with_prototypes(frame)]
    return _fact(frame, shares, _count(frame))


def _foremost(values_NP: np.ndarray, count: int) -> np.ndarray:
    """(N, P) 1 on the `count` largest values of each column; those tied for the last places share them."""
    last = np.sort(values_NP, axis=0)[-count]
    above, tied = values_NP > last, values_NP == last
    return np.asarray(above + tied * (count - above.sum(axis=0)) / tied.sum(axis=0))


def _count(frame: Frame) -> int:
    return sum(len(one.prototypes) for one in _with_prototypes(frame))


def _fact(frame: Frame, values: Sequence[float], count: int, note: str = "") -> Part:
    """A Part that no patient moves; n = prototypes."""
    patients, _ = by_patient(frame.labelled().predictions["patient"].to_numpy())
    none = np.zeros(len(patients))
    return Part(float(np.mean(values)), patients, none, none.astype(np.int64), count, note, of_model=True)


# ---- means over images ----------------------------------------------------------------------------------------------
def used(frame: Frame) -> Part:
    """Effective number of prototypes: which source speaks most for the predicted class."""
    count = max(one.contribution.shape[1] for one in _with_prototypes(frame))
    limits = {"lowest": 1.0, "highest": float(count), "biased": True}
    return _images(frame, lambda one: one.strongest(), effective, f"of {count}", **limits)


def effective(totals: np.ndarray) -> np.ndarray:
    """exp of the entropy of shares, of their totals (..., S)."""
    share = totals / totals.sum(axis=-1, keepdims=True)
    return np.asarray(np.exp(entr(share).sum(axis=-1)))


def use_of_level(frame: Frame, level: int) -> Part:
    """Share of images whose predicted class is spoken for most by a prototype of this level of the pyramid."""
    found = _with_prototypes(frame)
    if not any((one.level > 0).any() for one in found):
        raise NotComputableError("the sources stand on no levels")
    counts = [(int((one.level == level).sum()), len(one.level)) for one in found]
    note = " and ".join(f"{here} of {all_} prototypes stand on it" for here, all_ in dict.fromkeys(counts))
    return _mean(frame, lambda one: one.strongest() @ (one.level == level), note, proportion=True)


def necessity(frame: Frame, which: str = "difference") -> Part:
    """Mean drop of the predicted class's probability without the strongest source (top), without one that is drawn at
    random (random, its exact mean), and their difference."""

    def drop(one: Network) -> np.ndarray:
        fall, _ = one.without()
        top, random = np.sum(one.strongest() * fall, axis=1), fall.mean(axis=1)
        return np.asarray({"top": top, "random": random, "difference": top - random}[which])

    return _mean(frame, drop, lowest=-2.0 if which == "difference" else -1.0)


def flips(frame: Frame, which: str = "top") -> Part:
    """Share of images whose predicted class changes without the strongest source, or without a random one."""

    def changed(one: Network) -> np.ndarray:
        _, other = one.without()
        return np.asarray(np.sum(one.strongest() * other, axis=1) if which == "top" else other.mean(axis=1))

    return _mean(frame, changed, proportion=which == "top")


Statistics = Callable[[Network], np.ndarray]


def _mean(frame: Frame, of: Statistics, note: str = "", **more) -> Part:  # type: ignore[no-untyped-def]
    """The mean over images of a statistic (N)."""
    return _images(frame, lambda one: np.stack([of(one), np.ones(len(one.labels))], axis=1), ratio, note, **more)


def _images(frame: Frame, of: Statistics, value, note: str = "", **more) -> Part:  # type: ignore[no-untyped-def]
    """A function of sums over images of statistics (N, D); D may differ between folds."""
    table = frame.labelled().predictions
    found = networks(frame)
    made = [of(one) for one in found]
    rows = np.zeros((len(table), max(part.shape[1] for part in made)))
    for one, part in zip(found, made, strict=True):
        rows[one.position, : part.shape[1]] = part
    patients, folds, labels = (table[name].to_numpy() for name in ("patient", "fold", "label"))
    return part_of_totals(rows, patients, folds, labels.astype(np.int64), value, n=len(table), note=note, **more)
