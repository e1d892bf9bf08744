"""The pictures in docs/datasets.md: films as each reader gives them, with what it says of their findings drawn in.

python -m docs.make_dataset_sheets [FOLDER]

All but one are the phantom, written in the form of the data set and read back; cbis_ddsm_real.png shows real films.
"""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

import data
from data import forms
from data.record import Record, Report
from docs.make_phantom_sheet import WARNING, page, row, tile
from tests import cbis_tree

HEIGHT = 300  # of a film on the sheet, pixels
SHOWN = 6
REAL = (
    "CBIS-DDSM (CC BY 3.0, see tests/data/cbis_ddsm/ATTRIBUTION.md), reduced; outlines are ellipses in the real boxes"
)


def drawn(record: Record) -> np.ndarray:
    """A film (HEIGHT, w) with the outline of each mask, or the box where there is none, and a line of what is known."""
    film = np.asarray(record.image.read(), dtype=np.float32)
    low, high = np.percentile(film, [0.5, 99.5])
    grey = Image.fromarray((255 * np.clip((film - low) / max(high - low, 1e-6), 0, 1)).astype(np.uint8))
    scale = HEIGHT / film.shape[0]
    size = (round(film.shape[1] * scale), HEIGHT)
    picture = np.asarray(grey.resize(size, Image.Resampling.LANCZOS)).copy()
    for finding in record.findings:
        if finding.mask is not None:
            mask = np.asarray(Image.fromarray(np.asarray(finding.mask.read())).resize(size, Image.Resampling.NEAREST))
            grown = ndimage.binary_dilation(mask, iterations=3)
            picture[grown & ~ndimage.binary_dilation(mask, iterations=2)] = 255
        elif finding.box is not None:
            canvas = Image.fromarray(picture)
            ImageDraw.Draw(canvas).rectangle(tuple(scale * edge for edge in finding.box), outline=255)
            picture = np.asarray(canvas).copy()
    return tile(np.pad(picture, ((0, 0), (0, max(0, 190 - size[0]))), constant_values=255), said(record))


def said(record: Record) -> str:
    """Side, view and the labels of the first finding."""
    words = [f"{record.laterality} {record.view}"]
    if record.findings:
        first = record.findings[0]
        label = {True: "malignant", False: "benign", None: ""}[first.malignant]
        words += [word for word in (first.margin or (first.kind if first.kind != "mass" else "mass"), label) if word]
        words += [f"+{len(record.findings) - 1}"] if len(record.findings) > 1 else []
    else:
        words.append({True: "mass", False: "normal", None: "nothing said"}[record.has_mass])
    return ", ".join(words)


def chosen(records: list[Record]) -> list[Record]:
    """Some of each kind: films with several findings, with one, and without, in turn."""
    kinds = [[r for r in records if min(len(r.findings), 2) == count] for count in (2, 1, 0)]
    found: list[Record] = []
    while len(found) < SHOWN and any(kinds):
        for kind in kinds:
            found += [kind.pop(0)] if kind and len(found) < SHOWN else []
    return found


def sheets(folder: Path) -> Iterator[tuple[str, Image.Image]]:
    """Name and picture for each form, and for the real films."""
    for name in forms.names():
        root = folder / name
        size = 512
        document = forms.write_form(root, name, forms.suited(name, 12, {"size": size, "seed": 3}))
        title = f"{document['dataset']}: the phantom in this form, as its reader gives it"
        yield name, page([row(title, [drawn(record) for record in chosen(read(document["dataset"], root))])])
    root = folder / "real"
    cbis_tree.build(root, size=(512, 320))
    real = row(REAL, [drawn(record) for record in read("cbis_ddsm", root)])
    yield "cbis_ddsm_real", without_generated(page([real]))


def read(dataset: str, root: Path) -> list[Record]:
    reader = data.reader(dataset)
    return list(reader.records(root, reader.Options(), Report(skip_bad=True)))


def without_generated(picture: Image.Image) -> Image.Image:
    """The page of real films: its warning does not say GENERATED."""
    canvas = picture.copy()
    pen = ImageDraw.Draw(canvas)
    for top in (0, canvas.height - 24):
        pen.rectangle((0, top, canvas.width, top + 24), fill=0)
        pen.text((3, top + 2), WARNING.split(" - ")[1].capitalize(), fill=255, font_size=16)
    return canvas


if __name__ == "__main__":
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/img/datasets")
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for name, picture in sheets(Path(scratch)):
            picture.save(out / f"{name}.png", optimize=True)
            print(out / f"{name}.png", *picture.size)
