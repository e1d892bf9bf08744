"""An outline as a mask: a closed polygon, filled at its film's size; and a mask as the outline that gives it back."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pydicom
from PIL import Image
from skimage.measure import find_contours, grid_points_in_poly

from data._csv import Refusal
from data.dicom import READ_ERRORS, DicomFile, ImageFile
from data.errors import DataError

Points = Sequence[tuple[float, float]]  # x, y in film pixels, y from the top; whole numbers are centres of pixels
FAR = 100_000  # px; no film is that large
MEND = "mend the outline"


@dataclass(frozen=True)
class Outline:
    """The inside of a closed polygon, as `Pixels`. `file`, `row`: the table and row, or the file and place, that hold it."""

    points: tuple[tuple[float, float], ...]
    film: DicomFile | ImageFile
    file: str
    row: int | None = None

    @property
    def name(self) -> str:
        return self.file if self.row is None else f"{self.file}, row {self.row}"

    @property
    def place(self) -> tuple[str, int | None]:
        return self.file, self.row

    def read(self) -> np.ndarray:
        """(H, W) bool of the film's size, which is read from the film's header; what lies beyond the film is cut off.

        Raises DataError where the header cannot be read, half or more of the outline lies beyond the film (it was drawn
        on a film of another size), or it holds no pixel.
        """
        shape = film_shape(self.film)
        mask = filled(self.points, shape)
        if mask is None:
            size = f"{shape[1]} x {shape[0]}"
            what = f"half or more of the outline lies outside of its film of {size} pixels: it is of another size"
            raise DataError(what, self.name, "restore the film at its full size")
        if not mask.any():
            raise DataError("the outline holds no pixel", self.name, MEND)
        return mask

    def fingerprint(self) -> str:
        """sha256 of the points."""
        return hashlib.sha256(repr(self.points).encode()).hexdigest()


def check(points: Points) -> None:
    """Raises Refusal for what is no outline: fewer than three points, or one that lies on no film."""
    if len(points) < 3:
        raise Refusal(f"outline of {len(points)} points, 3 are the least", "outline that cannot be read", MEND)
    if any(abs(value) >= FAR for point in points for value in point):
        raise Refusal(f"outline with a coordinate beyond {FAR} pixels", "outline that cannot be read", MEND)


def film_shape(film: DicomFile | ImageFile) -> tuple[int, int]:
    """Rows and columns, from the header alone. Raises DataError."""
    path = film.root / film.path
    try:
        if isinstance(film, DicomFile):
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["Rows", "Columns"])
            return int(header.Rows), int(header.Columns)
        with Image.open(path) as image:
            return image.height, image.width
    except (*READ_ERRORS, SyntaxError, Image.DecompressionBombError) as error:  # pillow: SyntaxError = broken file
        what = f"the film's size cannot be read ({type(error).__name__})"
        raise DataError(what, film.where, "download it again") from error


def filled(points: Points, shape: tuple[int, int]) -> np.ndarray | None:
    """(H, W) bool: pixels whose centre lies inside (even-odd rule) or on the polygon. None: half or more of the
    polygon's bounding box lies beyond the film."""
    corners = np.asarray(points, dtype=np.float64)
    low, high = np.floor(corners.min(axis=0)), np.ceil(corners.max(axis=0)) + 1  # half open
    x0, y0 = np.maximum(low, 0)
    x1, y1 = np.minimum(high, shape[::-1])
    if 2 * max(x1 - x0, 0) * max(y1 - y0, 0) <= np.prod(high - low):
        return None
    rows, columns = slice(int(y0), int(y1)), slice(int(x0), int(x1))
    mask = np.zeros(shape, dtype=bool)
    mask[rows, columns] = grid_points_in_poly((int(y1 - y0), int(x1 - x0)), corners[:, ::-1] - (y0, x0))
    return mask


def traced(mask: np.ndarray) -> list[tuple[int, int]]:
    """The outline of the largest part of a mask (H, W) as whole (x, y), at least three: `filled` makes that part of it again.

    It runs through the centres of the part's outermost pixels; holes are not kept.
    """
    contours = find_contours(np.pad(mask, 1).astype(float), 0.99, fully_connected="high")  # 1 = a pixel's centre
    pixels = np.rint(max(contours, key=len)).astype(int) - 1
    turns = pixels[1:][np.any(np.diff(pixels, axis=0), axis=1)]  # where it moves on; the last point is the first
    points = [(int(x), int(y)) for y, x in (turns if len(turns) else pixels[:1])]
    return points + points[-1:] * (3 - len(points))
