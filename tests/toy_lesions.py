"""Small frames of whole films with lesions, maps and boxes, for the tests of detection and of what reads such frames."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from bench.metrics import Frame, MapBuilder, pack_masks
from bench.metrics.maps import UNTRAINED

SIZE = (96, 64)  # of the input, in pixels
CELLS = (24, 16)  # of the maps


def film_table(labels: Sequence[int], patients: Sequence[str] | None = None) -> pd.DataFrame:
    """One row per film: label 1 = mass, 0 = normal, -1 = unknown."""
    names = [f"r{i}" for i in range(len(labels))]
    unknown = np.full(len(labels), -1)
    return pd.DataFrame(
        {"record_id": names, "finding_id": "", "patient": patients or [f"p{i:03d}" for i in range(len(labels))]}
        | {"has_mass": np.array(labels), "margin": unknown, "malignant": unknown}
    )


def boxed_frame(
    labels: Sequence[int],
    truth: Sequence[Sequence[float]],
    boxes: Sequence[Sequence[float]],
    patients: Sequence[str] | None = None,
    probability: Sequence[float] | None = None,
    **more: object,
) -> Frame:
    """A frame of a method that gives boxes itself: 5 numbers a box; truth: 4 a lesion."""
    p = np.array(probability if probability is not None else np.where(np.array(labels) == 1, 0.8, 0.2), float)
    both = np.stack([1 - p, p], axis=1)
    facts = {"side": "test", "seed": 0} | more
    frame = Frame.build(film_table(labels, patients), "detection", both, both, **facts)  # type: ignore[arg-type]
    frame.meta["size"] = list(SIZE)
    frame.predictions["truth"] = [list(map(float, one)) for one in truth]
    frame.predictions["boxes"] = [list(map(float, one)) for one in boxes]
    return frame


def mapped_films(seed: int = 0, films: int = 40, skill: float = 1.0, fold: int = 0, variants: int = 1) -> Frame:
    """Half normal, two films a patient; the map has a blob of height `skill` on each lesion, and others anywhere.

    Untrained maps have the others alone; films are bright at random places. Each variant reads a map of its own.
    """
    rng = np.random.default_rng(seed)
    labels = np.repeat([1, 0], films // 2)
    table = film_table(labels, [f"p{fold}{i // 2:03d}" for i in range(films)])
    table["record_id"] = [f"{fold}-{name}" for name in table["record_id"]]
    truth, maps, random, image = [], [], [], []
    for label in labels:
        side = rng.integers(10, 24)
        x, y = rng.integers(0, SIZE[1] - side), rng.integers(0, SIZE[0] - side)
        truth.append([x, y, x + side, y + side] if label else [])
        noise = sum((blob(*rng.random(2), 0.08, rng.random()) for _ in range(2)), np.zeros(CELLS))
        place = ((x + side / 2) / SIZE[1], (y + side / 2) / SIZE[0])
        maps.append(noise + label * blob(*place, side / SIZE[0] / 2, skill))
        random.append(sum((blob(*rng.random(2), 0.1, rng.random()) for _ in range(3)), np.zeros(CELLS)))
        image.append(rng.random(SIZE))
    p = np.clip(0.3 + 0.3 * labels + 0.2 * rng.normal(size=films), 0.02, 0.98)
    both = np.stack([1 - p, p], axis=1)
    builder, keys = MapBuilder(), [table[key].tolist() for key in ("record_id", "finding_id")]
    for number in range(variants):
        height = np.array(maps) ** (1 + number)
        builder.add(f"map {number}", height, *keys, [1] * films, ["found"] * films)
        builder.add(f"{UNTRAINED}map {number}", np.array(random), *keys, [1] * films, ["found"] * films)
        builder.add(f"map {number}", rng.random((films, *CELLS)), *keys, [0] * films, ["predicted"] * films)
    parts = []
    for number in range(variants):
        made = Frame.build(table, "detection", both, both, side="test", seed=0, fold=fold, variant=f"v{number}")
        parts.append(made.predictions.assign(truth=truth))
    meta = {**made.meta, "size": list(SIZE), "variant_maps": {f"v{i}": f"map {i}" for i in range(variants)}}
    rows = pd.concat(parts, ignore_index=True)
    frame = Frame(rows, meta, builder.table(), pack_masks(table, image=np.array(image)))
    frame.validate()
    return frame


def blob(x: float, y: float, sigma: float, height: float) -> np.ndarray:
    """(h, w) a Gaussian at a place given as shares of width and height; sigma: share of the height."""
    rows, columns = (np.arange(CELLS[0]) + 0.5) / CELLS[0], (np.arange(CELLS[1]) + 0.5) / CELLS[1]
    ratio = SIZE[1] / SIZE[0]
    square = (rows[:, None] - y) ** 2 + ((columns[None, :] - x) * ratio) ** 2
    return np.asarray(height * np.exp(-square / (2 * sigma**2)))
