"""The pictures in docs/phantom.md: films with the masses ringed on a second row, and masses close up.

python -m docs.make_phantom_sheet [FOLDER]
"""

import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from data.phantom import Confounder, Exam, Options
from data.record import Box, Record
from data.tracks import MARGINS

CROP = 80  # side of a crop, film pixels
SIDE = 132  # the same on the sheet
COLUMNS = 10
GAP = 6  # white, between any two films: two chest walls that touch read as one pair
WARNING = "GENERATED - not for clinical use"
SHORT = {"circumscribed": "circ.", "indistinct": "indist.", "spiculated": "spic."}


def text_line(width: int, text: str, height: int = 16, size: int = 11, dark: bool = False) -> np.ndarray:
    """A line of text (height, width), black on white or the other way round."""
    line = Image.new("L", (width, height), 0 if dark else 255)
    ImageDraw.Draw(line).text((3, 1), text, fill=255 if dark else 0, font=ImageFont.load_default(size))
    return np.asarray(line)


def tile(picture: np.ndarray, label: str) -> np.ndarray:
    """A picture (h, w) with its label below."""
    return np.vstack([picture, text_line(picture.shape[1], label)])


def row(title: str, tiles: Iterable[np.ndarray]) -> np.ndarray:
    """Tiles of one height side by side with gaps, a title above."""
    gapped = np.hstack([np.pad(each, ((0, 0), (0, GAP)), constant_values=255) for each in tiles])
    return np.vstack([text_line(gapped.shape[1], title, 20, 13), gapped])


def page(rows: list[np.ndarray]) -> Image.Image:
    """Rows under each other, the warning burnt in above and below and between."""
    width = max(each.shape[1] for each in rows)
    warning = text_line(width, f"{WARNING}      " * (1 + width // 320), 24, 16, dark=True)
    parts = [warning]
    for number, each in enumerate(rows, 1):
        parts.append(np.pad(each, ((0, 2 * GAP), (0, width - each.shape[1])), constant_values=255))
        if number % 4 == 0 or number == len(rows):
            parts.append(warning)
    return Image.fromarray(np.vstack(parts))


def label_of(record: Record) -> str:
    """Side, view, density and margins of a film."""
    margins = [SHORT[finding.margin] for finding in record.findings if finding.margin is not None]
    return f"{record.laterality} {record.view}, {record.attributes['density']}, {' '.join(margins) or 'no mass'}"


def clean(record: Record) -> np.ndarray:
    return tile(record.image.read(), label_of(record))


def ringed(record: Record) -> np.ndarray:
    """The film with a thin ring around the box of each mass."""
    picture = Image.fromarray(record.image.read())
    for finding in record.findings:
        if finding.box is not None:
            x0, y0, x1, y1 = finding.box
            radius = 0.62 * max(x1 - x0, y1 - y0) + 5
            x, y = (x0 + x1) / 2, (y0 + y1) / 2
            ImageDraw.Draw(picture).ellipse((x - radius, y - radius, x + radius, y + radius), outline=255)
    return tile(np.asarray(picture), label_of(record))


def crop(film: np.ndarray, box: Box) -> np.ndarray:
    """The window of CROP pixels around a box, shifted inside the film, enlarged to SIDE."""
    corner = [int((box[k] + box[k + 2] - CROP) / 2) for k in (0, 1)]
    x, y = (min(max(c, 0), n - CROP) for c, n in zip(corner, film.shape[1::-1], strict=True))
    return np.asarray(Image.fromarray(film[y : y + CROP, x : x + CROP]).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def close(record: Record, rim: np.ndarray | None = None, label: str | None = None) -> np.ndarray:
    """The mass of a film close up, with the rim of a mask (H, W) in white where one is given."""
    box = record.findings[0].box
    assert box is not None
    film = record.image.read()
    if rim is not None:
        film[rim & ~ndimage.binary_erosion(rim)] = 255
    return tile(crop(film, box), label or label_of(record))


def masks(record: Record) -> tuple[np.ndarray, np.ndarray]:
    """Lesion mask and fine mask of the first mass (H, W)."""
    finding = record.findings[0]
    assert finding.mask is not None and finding.fine_mask is not None
    return finding.mask.read(), finding.fine_mask.read()


def of_margin(options: Options, margin: str, count: int) -> list[Record]:
    """CC and MLO in turn, of the first exams whose mass has the margin."""
    found: list[Record] = []
    index = 0
    while len(found) < count:
        record = Exam(options, "test", index).records()[index % 2]
        found += [record] if record.findings[0].margin == margin else []
        index += 1
    return found


def films() -> Image.Image:
    """Whole films of the first exams, each row again with its masses ringed."""
    exams = [Exam(Options(), "test", index).records() for index in range(8)]
    pairs = [record for records in exams for record in records]
    rows = []
    for part, number in ((pairs[:8], "1 to 4"), (pairs[8:], "5 to 8")):
        rows.append(row(f"exams {number}, CC and MLO of each; standard, 256 px", map(clean, part)))
        rows.append(row("the same, mass ringed: equally far from the nipple in both views", map(ringed, part)))
    four = [record for index in (0, 1) for record in Exam(Options(views=4), "test", index).records()]
    rows.append(row("two exams of four views: CC and MLO of the mass's side, then of the other", map(clean, four)))
    several = [record for index in range(4) for record in Exam(Options(masses=3), "test", index).records()]
    rows.append(row("one to three masses in a breast", map(clean, several)))
    rows.append(row("the same, masses ringed", map(ringed, several)))
    return page(rows)


def masses() -> Image.Image:
    """Margins at three levels, truth, counterfactual pairs and confounders, close up."""
    rows = []
    for level in ("easy", "standard", "hard"):
        for margin in MARGINS:
            rows.append(row(f"{level}, {margin}", map(close, of_margin(Options(level=level), margin, COLUMNS))))
    truth = [record for margin in MARGINS for record in of_margin(Options(level="easy"), margin, 4)][:COLUMNS]
    rows.append(row("easy: as drawn", map(close, truth)))
    rows.append(row("the same, rim of the lesion mask", [close(record, masks(record)[0]) for record in truth]))
    rows.append(row("the same, rim of the fine mask", [close(record, masks(record)[1]) for record in truth]))
    edits = ("removed", *(f"margin={margin}" for margin in MARGINS), "sham")
    names = ("as drawn", "removed", *MARGINS, "sham")
    for index in range(3):
        exam = Exam(Options(), "test", index)
        first = exam.records()[0]
        twins = [first, *(exam.counterfactual(edit).records()[0] for edit in edits)]
        rows.append(row(f"exam {index + 1}, {label_of(first)}, and its pairs", map(close, twins, [None] * 6, names)))
        changed = [ndimage.binary_closing(twin.image.read() != first.image.read()) for twin in twins]
        tiles = [close(twin, change, name) for twin, change, name in zip(twins, changed, names, strict=True)]
        rows.append(row("the same, rim of the changed pixels", tiles))
    for kind, what in (("dots", "calcification-like dots"), ("blob", "second dense blob")):
        shown = Options(confounder=Confounder.model_validate({"kind": kind, "rho_test": 1.0}))
        firsts = [Exam(shown, "test", index).records()[0] for index in range(40)]
        present = [record for record in firsts if record.attributes["confounder"] == "present"]
        rows.append(row(f"confounder: {what}", map(close, present[:COLUMNS])))
    return page(rows)


if __name__ == "__main__":
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/img")
    folder.mkdir(parents=True, exist_ok=True)
    for name, picture in (("phantom_sheet.png", films()), ("phantom_masses.png", masses())):
        picture.save(folder / name, optimize=True)
        print(folder / name, *picture.size)
