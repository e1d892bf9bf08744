"""Statistics of phantom films that can be held against real ones (docs/phantom.md).

python -m docs.measure_phantom [--films 120] [--size 256] [--level standard]
"""

import argparse
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from data import cbis_ddsm
from data._phantom_anatomy import film_shape
from data.phantom import Options, bayes_auroc, records
from data.record import Report

Box = tuple[float, float, float, float]  # x0, y0, x1, y1
Measured = tuple[np.ndarray, list[tuple[str, Box]]]  # a film (H, W) in [0, 1], margin and box of its masses

PATCH = 64
PERCENT = (5, 25, 50, 75, 95)


def breast_of(film: np.ndarray) -> np.ndarray:
    """The largest bright region, holes filled. film (H, W) in [0, 1]."""
    labels, count = ndimage.label(ndimage.gaussian_filter(film, 1) > 0.1)
    if count == 0:
        return np.zeros(film.shape, bool)
    largest = 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    return np.asarray(ndimage.binary_fill_holes(labels == largest))


def spectrum_exponents(film: np.ndarray, breast: np.ndarray) -> list[float]:
    """Exponent of the power spectrum of patches inside the breast: Hann window, plane removed, 3-20 cycles a patch."""
    hann = np.outer(np.hanning(PATCH), np.hanning(PATCH))
    axis = np.arange(PATCH) - PATCH / 2 + 0.5
    plane = np.stack([np.ones(PATCH**2), np.tile(axis, PATCH), np.repeat(axis, PATCH)], axis=1)
    inverse = np.linalg.pinv(plane)
    cycles = np.hypot(np.fft.fftfreq(PATCH, 1 / PATCH)[:, None], np.fft.fftfreq(PATCH, 1 / PATCH)[None, :])
    rings = np.arange(3, 21)
    ring = np.round(cycles).astype(int)
    found = []
    for y in range(0, film.shape[0] - PATCH + 1, PATCH // 2):
        for x in range(0, film.shape[1] - PATCH + 1, PATCH // 2):
            if not breast[y : y + PATCH, x : x + PATCH].all():
                continue
            values = film[y : y + PATCH, x : x + PATCH].ravel()
            flat = (values - plane @ (inverse @ values)).reshape(PATCH, PATCH)
            power = np.abs(np.fft.fft2(flat * hann)) ** 2
            mean = [power[ring == k].mean() + 1e-12 for k in rings]
            found.append(float(-np.polyfit(np.log(rings), np.log(mean), 1)[0]))
    return found


def contrast(film: np.ndarray, breast: np.ndarray, box: Box) -> tuple[float, float]:
    """Lesion minus ring, and the same over the ring's sd: inner 0.7 of the box's ellipse against 1.3-1.9 of it."""
    x0, y0, x1, y1 = box
    y, x = np.ogrid[: film.shape[0], : film.shape[1]]
    radius = np.hypot((x + 0.5 - (x0 + x1) / 2) / ((x1 - x0) / 2), (y + 0.5 - (y0 + y1) / 2) / ((y1 - y0) / 2))
    ring = film[(radius > 1.3) & (radius < 1.9) & breast]
    difference = float(film[radius < 0.7].mean() - ring.mean())
    return difference, difference / max(float(ring.std()), 1e-6)


def measure(films: Iterable[Measured]) -> dict[str, list[float]]:
    """Every statistic of the films; each film (H, W) in [0, 1] with margin and box of its masses."""
    seen: dict[str, list[float]] = {}

    def add(name: str, values: Iterable[float]) -> None:
        seen.setdefault(name, []).extend(values)

    for film, masses in films:
        breast = breast_of(film)
        grey = film[breast]
        add("power-spectrum exponent", spectrum_exponents(film, breast))
        for percent, value in zip(PERCENT, np.percentile(grey, PERCENT), strict=True):
            add(f"grey in the breast, {percent} %", [float(value)])
        add("standard deviation in the breast", [float(grey.std())])
        add("breast share of the film", [float(breast.mean())])
        for margin, box in masses:
            difference, relative = contrast(film, breast, box)
            add("lesion minus ring", [difference])
            add("the same / sd of the ring", [relative])
            add(f"the same / sd of the ring, {margin}", [relative])
            add("longer box side / film height", [max(box[2] - box[0], box[3] - box[1]) / film.shape[0]])
    return seen


def show(seen: dict[str, list[float]]) -> str:
    """A markdown table: number of values and their percentiles."""
    lines = ["| | n | 5 % | 25 % | 50 % | 75 % | 95 % |", "|---|---|---|---|---|---|---|"]
    for name, values in seen.items():
        cells = " | ".join(f"{value:.3f}" for value in np.percentile(values, PERCENT))
        lines.append(f"| {name} | {len(values)} | {cells} |")
    return "\n".join(lines)


def phantom_films(size: int, level: str, count: int) -> Iterator[Measured]:
    """The first phantom films, grey / 255."""
    options = Options.model_validate(
        {"size": size, "level": level, "exams": {"train": count, "validation": 0, "test": 0}}
    )
    for record in islice(records(None, options, Report()), count):
        yield record.image.read() / 255, [(str(f.margin), f.box) for f in record.findings if f.box is not None]


def real_films(root: Path, size: int, count: int) -> Iterator[Measured]:
    """Films of CBIS-DDSM with one mass, drawn at random, over their largest value, at the phantom's shape."""
    listed = [
        r for r in cbis_ddsm.records(root, cbis_ddsm.Options(films=None), Report(skip_bad=True)) if len(r.findings) == 1
    ]
    for index in np.random.default_rng(0).permutation(len(listed))[:count]:
        finding = listed[index].findings[0]
        film = listed[index].image.read().astype(np.float32)
        height, width = film_shape(size)
        small = Image.fromarray(film / film.max()).resize((width, height), Image.Resampling.BOX)
        if finding.mask is None:
            continue
        mask = finding.mask.read()
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        y, x = height / film.shape[0], width / film.shape[1]
        box = (columns[0] * x, rows[0] * y, (columns[-1] + 1) * x, (rows[-1] + 1) * y)
        yield np.asarray(small), [(finding.margin or "other margins", box)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=int, default=120)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--level", choices=("easy", "standard", "hard"), default="standard")
    parser.add_argument("--cbis-ddsm", type=Path, help="measure real films of this folder instead")
    asked = parser.parse_args()
    if asked.cbis_ddsm is not None:
        print(show(measure(real_films(asked.cbis_ddsm, asked.size, asked.films))))
        return
    print(show(measure(phantom_films(asked.size, asked.level, asked.films))))
    print(f"\nbest possible AUROC for malignancy: {bayes_auroc():.4f}")


if __name__ == "__main__":
    main()
