"""Small frames with known structure, for the tests of metrics and of whatever reads frames."""

import numpy as np
import pandas as pd

from bench.metrics import Frame, MapBuilder, compute, pack_masks, unavailable
from bench.metrics.counterfactual import COLUMNS, TRAINED
from data.tracks import TRACKS


def samples(rows: int = 120, patients: int = 70, track: str = "margin", seed: int = 5) -> pd.DataFrame:
    """A samples table: labels uniform over the track's classes, rows dealt to patients at random."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, len(TRACKS[track].classes), rows)
    unknown = np.full(rows, -1)
    columns = {name: label if TRACKS[track].column == name else unknown for name in ("margin", "malignant", "has_mass")}
    return pd.DataFrame(
        {
            "record_id": [f"r{i}" for i in range(rows)],
            "finding_id": [f"f{i}" for i in range(rows)],
            "lesion_id": [f"l{i // 2}" for i in range(rows)],
            "patient": [f"p{i:03d}" for i in rng.integers(0, patients, rows)],
            "laterality": "L",
            "view": "CC",
            "area_px": rng.integers(50, 500, rows) + 100 * label,
            "attr_density": rng.choice(list("abcd"), rows),
            **columns,
        }
    )


def toy_frame(
    seed: int = 0, skill: float = 1.0, track: str = "margin", table: pd.DataFrame | None = None, **more: object
) -> Frame:
    """Scores = skill on the true class + what the image shares over seeds + what the seed adds."""
    table = samples(track=track) if table is None else table
    label = table[TRACKS[track].column].to_numpy()
    classes = len(TRACKS[track].classes)
    shared = np.random.default_rng(1).normal(size=(len(table), classes))
    own = np.random.default_rng(1000 + seed).normal(size=(len(table), classes))
    scores = 0.7 * shared + 0.5 * own + skill * np.eye(classes)[np.maximum(label, 0)]
    odds = np.exp(scores)
    facts = {"side": "test", "seed": seed, "meta": {"method": "toy"}} | more
    return Frame.build(table, track, scores, odds / odds.sum(axis=1, keepdims=True), **facts)  # type: ignore[arg-type]


def mapped_frame(seed: int = 0, rows: int = 24, size: int = 20, on_lesion: bool = False, images: bool = True) -> Frame:
    """A margin frame with 4 / 3 / 4 prototypes' maps, own maps, lesion masks, fine masks on every third row, images.

    on_lesion: prototype maps are high exactly on the lesion; else noise.
    """
    table = samples(rows, rows // 2)
    rng = np.random.default_rng(seed + 77)
    lesion = np.zeros((rows, size, size))
    for i, (y, x) in enumerate(rng.integers(0, size // 2, (rows, 2))):
        lesion[i, y : y + size // 2, x : x + size // 2] = 1
    fine = lesion * (rng.random(lesion.shape) < 0.3)
    grey = rng.integers(0, 256, lesion.shape).astype(np.uint8) if images else None
    masks = pack_masks(table, lesion, fine, has_fine=np.arange(rows) % 3 == 0, image=grey)
    frame = toy_frame(seed, table=table, masks=masks)
    builder, predicted, label = MapBuilder(), frame.predicted, frame.labels
    for prototype, kind in enumerate(np.repeat([0, 1, 2], [4, 3, 4])):
        here = np.flatnonzero((label == kind) | (predicted == kind))
        of = [("true", "predicted", "both")[2 if label[i] == predicted[i] else int(label[i] != kind)] for i in here]
        maps = lesion[here] if on_lesion else rng.random((len(here), 7, 7))
        ids = [table[key].to_numpy()[here].tolist() for key in ("record_id", "finding_id")]
        builder.add("evidence", maps, *ids, [kind] * len(here), of, f"prototype {prototype}")
    own = rng.random((rows, 5, 5))
    builder.add("own", own, *(table[key].tolist() for key in ("record_id", "finding_id")), label, ["true"] * rows)
    frame.maps = builder.table()
    frame.validate()
    return frame


def value_of(frame: Frame, name: str) -> float:
    """A metric of the frame, which has to have a value."""
    found = compute(frame, [name])
    assert name in found, unavailable(frame, [name])
    value = found[name].value
    assert value is not None
    return value


def with_pairs(table: pd.DataFrame, rows: pd.DataFrame, track: str = "margin", seed: int = 0) -> Frame:
    """A frame of `rows` that holds a table of counterfactual pairs."""
    frame = toy_frame(seed=seed, track=track, table=rows)
    frame.counterfactual = table
    return frame


def toy_pairs(
    rows: pd.DataFrame, networks: int = 2, seed: int = 0, effect: float = 0.0, track: str = "margin"
) -> pd.DataFrame:
    """Normal changes around `effect` (sham: 0) of a removal and of one exchange a film; random networks without effect."""
    rng = np.random.default_rng(seed)
    parts = []
    for network in (TRAINED, *(f"random {i}" for i in range(networks))):
        mean, n = (effect if network == TRAINED else 0.0), len(rows)
        removed = {"delta": mean + rng.normal(size=n), "sham": rng.normal(size=n), "area": 0.5}
        parts.append(
            rows[["record_id", "finding_id"]].assign(
                network=network, edit="removed", lift=rng.random(n) + 0.5, **removed
            )
        )
        exchanged = {"edit": "margin=indistinct", "rise": mean + rng.normal(size=n)}
        if track == "margin":
            parts.append(rows[["record_id", "finding_id"]].assign(network=network, **exchanged))
    return pd.concat(parts, ignore_index=True).reindex(columns=list(COLUMNS))
