"""What a film looks like at a glance: a perceptual hash, the side of the breast, polarity. For the passport alone."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from PIL import Image
from scipy.fft import dctn

THUMB = 64  # pixels of the thumbnail's side
LOW = 16  # frequencies of each direction that the hash keeps: 256 bits
HASH = LOW * LOW // 8  # bytes
FLAT = 0.1  # share of the grey range that counts as its dark or bright end
NEAR = 24  # bits of 256 that near-duplicates may differ in (docs/datasets.md#passport)
BLOCK = 512  # films compared at once with all later ones


@dataclass(frozen=True)
class Look:
    """hash: 64 hex digits; near-duplicates differ in few bits. side: left or right, where most of the light is.

    dark, bright: shares of pixels in the lowest and the highest tenth of the grey range.
    """

    hash: str
    side: str
    dark: float
    bright: float


def look_at(film: np.ndarray) -> Look:
    """The look of a film (H, W)."""
    whole = Image.fromarray(np.ascontiguousarray(film, dtype=np.float32))
    small = np.asarray(whole.resize((THUMB, THUMB), Image.Resampling.BOX))
    low, high = np.percentile(small, [0.5, 99.5])
    thumb = np.clip((small - low) / max(high - low, 1e-12), 0.0, 1.0)
    waves = dctn(thumb, norm="ortho")[:LOW, :LOW].ravel()[1:]  # without the mean: brightness does not count
    bits = np.packbits(np.append(waves > 0, False))  # signs: a mirrored film has those of odd waves the other way
    halves = thumb[:, : THUMB // 2].sum(), thumb[:, THUMB // 2 :].sum()
    side = "left" if halves[0] >= halves[1] else "right"
    return Look(bits.tobytes().hex(), side, float((thumb < FLAT).mean()), float((thumb > 1 - FLAT).mean()))


def near_duplicates(hashes: Sequence[str], most: int = NEAR) -> Iterator[tuple[int, int, int]]:
    """Pairs of positions (i < j) whose hashes differ in at most `most` bits, and in how many.

    A film counts as alike, too, if it is mirrored, upside down or inverted: that turns the sign of waves that are odd
    along the mirrored side, or of all of them, and so their bits.
    """
    words = _words(bytes.fromhex(text) for text in hashes)
    for start in range(0, len(words), BLOCK):
        block, rest = words[start : start + BLOCK], words[start:]
        apart: np.ndarray = np.full((len(block), len(rest)), 8 * HASH, np.uint16)
        for turned in _TURNS:
            other = rest ^ turned
            bits = sum(
                np.bitwise_count(block[:, word, None] ^ other[None, :, word]).astype(np.uint16) for word in range(4)
            )
            np.minimum(apart, bits, out=apart)
        for i, j in zip(*np.nonzero(apart <= most), strict=True):
            if i < j:
                yield start + int(i), start + int(j), int(apart[i, j])


def _words(hashes: Iterable[bytes]) -> np.ndarray:
    return np.array([np.frombuffer(one, np.uint64) for one in hashes], np.uint64).reshape(-1, 4)


def _turned(mirrored: int, upside_down: int, inverted: int) -> bytes:
    """The bits of a hash that change. The last bit is padding."""
    rows, columns = np.divmod(np.arange(1, LOW * LOW), LOW)
    return np.packbits(np.append((columns * mirrored + rows * upside_down + inverted) % 2, 0).astype(bool)).tobytes()


_TURNS = _words(_turned(*how) for how in product((0, 1), repeat=3))


def looks_inverted(look: Look) -> bool:
    """Whether the film's background is bright: air is dark once a film is read as brighter = denser."""
    return look.bright > max(look.dark, 0.2)
