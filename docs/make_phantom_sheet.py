"""The page of samples in docs/phantom.md.

python -m docs.make_phantom_sheet [OUT]
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage

from data.phantom import Confounder, Exam, Options
from data.record import Box, Record
from data.tracks import MARGINS

CROP = 80  # side of a crop, film pixels
SIDE = 120  # the same on the sheet
COLUMNS = 12


def crop(film: np.ndarray, box: Box) -> np.ndarray:
    """The window of CROP pixels around a box, shifted inside the film, enlarged to SIDE."""
    corner = [int((box[k] + box[k + 2] - CROP) / 2) for k in (0, 1)]
    x, y = (min(max(c, 0), n - CROP) for c, n in zip(corner, film.shape[1::-1], strict=True))
    return np.asarray(Image.fromarray(film[y : y + CROP, x : x + CROP]).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def outlined(record: Record) -> np.ndarray:
    """The crop with the rim of the lesion mask in white and of the fine mask in black."""
    finding = record.findings[0]
    assert finding.mask is not None and finding.fine_mask is not None and finding.box is not None
    film = record.image.read()
    for mask, grey in ((finding.fine_mask.read(), 0), (finding.mask.read(), 255)):
        film[mask & ~ndimage.binary_erosion(mask)] = grey
    return crop(film, finding.box)


def crops(records: list[Record]) -> np.ndarray:
    return np.hstack([crop(r.image.read(), r.findings[0].box) for r in records if r.findings[0].box is not None])


def labelled(strip: np.ndarray, text: str) -> np.ndarray:
    """The strip (h, w) with a line of text above it."""
    line = Image.new("L", (strip.shape[1], 16), 255)
    ImageDraw.Draw(line).text((4, 2), text, fill=0)
    return np.vstack([np.asarray(line), strip])


def of_margin(options: Options, margin: str, count: int) -> list[Record]:
    """CC and MLO in turn, of the first exams whose mass has the margin."""
    found: list[Record] = []
    index = 0
    while len(found) < count:
        record = Exam(options, "test", index).records()[index % 2]
        found += [record] if record.findings[0].margin == margin else []
        index += 1
    return found


def sheet() -> Image.Image:
    """Films, margins at three levels, truth, counterfactuals, confounders, several masses: the first exams."""
    standard = Options(views=4)
    rows = []
    exams = [Exam(standard, "test", index).records() for index in range(9)]
    for view, name in ((0, "CC"), (1, "MLO of the same breasts")):
        films = np.hstack([records[view].image.read() for records in exams])
        rows.append(labelled(films, f"{name}; standard, 256 px"))
    densities = {record.attributes["density"]: records for records in exams for record in records}
    four = np.hstack([r.image.read() for key in sorted(densities, key=str)[:2] for r in densities[key]])
    names = ", ".join(map(str, sorted(densities, key=str)[:2]))
    rows.append(labelled(four, f"two exams of four views, density {names}: the mass's side, then the other"))
    for level in ("easy", "standard", "hard"):
        for margin in MARGINS:
            strip = crops(of_margin(Options(level=level), margin, COLUMNS))
            rows.append(labelled(strip, f"{level}, {margin}"))
    truth = np.hstack([outlined(r) for margin in MARGINS for r in of_margin(Options(level="easy"), margin, 4)])
    rows.append(labelled(truth, "easy: lesion mask (white rim) and fine mask (black rim)"))
    for index in range(0, 4, 2):
        edited: list[Record] = []
        for each in (index, index + 1):
            exam = Exam(Options(), "test", each)
            twins = [exam, *(exam.counterfactual(e) for e in ("removed", *(f"margin={m}" for m in MARGINS), "sham"))]
            edited += [twin.records()[0] for twin in twins]
        rows.append(labelled(crops(edited), "twice: as drawn, removed, circumscribed, indistinct, spiculated, sham"))
    confounded: list[Record] = []
    for confounder in (Confounder(kind="dots", rho_test=1.0), Confounder(kind="blob", rho_test=1.0)):
        shown = Options(confounder=confounder)
        exams_shown = (Exam(shown, "test", index) for index in range(40))
        firsts = [exam.records()[0] for exam in exams_shown]
        confounded += [record for record in firsts if record.attributes["confounder"] == "present"][:6]
    rows.append(labelled(crops(confounded), "confounders: dots, blob"))
    several = np.hstack([Exam(Options(masses=3), "test", index).records()[1].image.read() for index in range(9)])
    rows.append(labelled(several, "one to three masses in a breast"))
    width = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 4), (0, width - row.shape[1])), constant_values=255) for row in rows]
    return Image.fromarray(np.vstack(padded))


if __name__ == "__main__":
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "docs/img/phantom_sheet.png")
    out.parent.mkdir(parents=True, exist_ok=True)
    sheet().save(out, optimize=True)
    print(out)
