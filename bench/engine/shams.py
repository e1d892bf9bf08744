"""Sham edits: what a removed lesion changed, added elsewhere in the same crop (docs/metrics/counterfactual.md).

Shapes: H W pixels of the input. Pure numpy.
"""

import numpy as np
from scipy import fft

from bench.metrics.counterfactual import changed
from bench.metrics.seeds import generator

PLACES = 500  # that are drawn and looked at
MOST_ON_LESION = 0.2  # share of the sham's energy that may fall on pixels that the removal changes
MOST_OUTSIDE = 0.1  # the same on pixels outside the breast
LEAST_ENERGY = 0.9  # of the removal's; the rest is cut off where grey would exceed 1
BREAST = 0.1  # grey above which a pixel is of the breast: 0 to 0.04 outside, 0.2 and more inside


def sham(film: np.ndarray, bare: np.ndarray, *names: str) -> np.ndarray | None:
    """The film with the difference pattern (film - bare) added a second time at another place; None: no place fits.

    film, bare (H, W) in [0, 1]: with the lesion, and without. The pattern is shifted as on a torus, what leaves at one
    side coming in at the other, so that each of its differences is there: in a crop around a lesion there is no room
    beside it. `names` seed the draw of places; of those that fit one that falls least on the lesion is taken.
    """
    difference = np.where(changed(film, bare), np.asarray(film, np.float64) - bare, 0.0)
    energy = difference**2
    if not energy.any():
        return None
    on_lesion, outside = (_falls_on(there, energy) for there in (difference != 0, film <= BREAST))
    drawn = generator("sham", *names).permutation(energy.size)[:PLACES]
    fits = drawn[(on_lesion[drawn] <= MOST_ON_LESION) & (outside[drawn] <= MOST_OUTSIDE)]
    for place in fits[np.argsort(on_lesion[fits].round(2), kind="stable")]:
        shift = np.unravel_index(place, energy.shape)
        made = np.clip(film + np.roll(difference, shift, axis=(0, 1)), 0, 1)
        if ((made - film) ** 2).sum() >= LEAST_ENERGY * energy.sum():
            return np.asarray(made, dtype=np.float32)
    return None


def _falls_on(there: np.ndarray, energy: np.ndarray) -> np.ndarray:
    """(H * W,) for each shift the share of the pattern's energy that falls on `there`: a circular cross-correlation."""
    spectrum = np.conj(fft.rfft2(energy)) * fft.rfft2(there.astype(np.float64))
    return np.asarray(fft.irfft2(spectrum, s=energy.shape) / energy.sum()).ravel()
