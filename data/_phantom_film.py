"""One film of the phantom: breast, masses, confounder and edit put together, turned into grey values and truth.

Everything is made with the chest wall at the left and mirrored at the end. Shapes: H W film pixels, h w a window.
"""

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from scipy import ndimage

from data._phantom_anatomy import VIEWS, Anatomy, anatomy
from data._phantom_facts import Recipe, Stream, exam_facts
from data._phantom_lesion import Patch, render_blob, render_dots, render_lesion, render_sham
from data._phantom_place import Place, places
from data._phantom_tissue import breast, sigmoid
from data.record import Box

CURVE = 5.2  # steepness of the film curve
SHAM_ROUNDS = 4  # of scaling a sham to its energy and bending its dark parts up to fat


@dataclass(frozen=True)
class FilmKey:
    """All that one film depends on. edit: "" | "removed" | "sham" | "margin=..."; target: the mass edited, -1 = all."""

    recipe: Recipe
    other: bool  # the breast opposite to the exam's mass
    view: str
    edit: str = ""
    target: int = -1

    @property
    def laterality(self) -> str:
        side = exam_facts(self.recipe).laterality
        return {"L": "R", "R": "L"}[side] if self.other else side

    @property
    def bare(self) -> bool:
        """No mass is rendered in this film, whatever the edit."""
        return self.other or self.recipe.normal

    def edit_of(self, mass: int) -> str:
        return self.edit if self.target in (-1, mass) else ""

    def margin_of(self, mass: int) -> str:
        edit = self.edit_of(mass)
        own = exam_facts(self.recipe).masses[mass].margin
        return edit.removeprefix("margin=") if edit.startswith("margin=") else own


@dataclass(frozen=True)
class Truth:
    """What is known of one mass in one film; masks (H, W) bool."""

    mass: int  # position in the exam's masses
    present: bool  # False: removed; then masks and boxes are those of the origin
    margin: str
    mask: np.ndarray
    fine: np.ndarray
    core_box: Box  # boxes are the origin's under every edit
    mask_box: Box


@lru_cache(maxsize=32)
def _lesion(recipe: Recipe, view: str, position: int, margin: str) -> Patch:
    place = places(recipe, view)[position]
    mass = exam_facts(recipe).masses[place.mass]
    return render_lesion(place.draw, margin, mass.shape, place.radius, place.centre)


def _paste(x0: int, y0: int, values: np.ndarray, film: np.ndarray) -> None:
    """Add the part of `values` (h, w) that lies on the film (H, W) to it; for masks, unite."""
    h, w = values.shape
    top, left = max(y0, 0), max(x0, 0)
    bottom, right = min(y0 + h, film.shape[0]), min(x0 + w, film.shape[1])
    film[top:bottom, left:right] += values[top - y0 : bottom - y0, left - x0 : right - x0]


def _whole(patch: Patch, values: np.ndarray, shape: Anatomy) -> np.ndarray:
    """A mask on the whole film, inside the breast."""
    mask = np.zeros(shape.inside.shape, bool)
    _paste(patch.x0, patch.y0, values, mask)
    return mask & shape.inside


def _box(mask: np.ndarray) -> Box:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


@lru_cache(maxsize=16)
def truths(key: FilmKey) -> tuple[Truth, ...]:
    """The masses of a film. No tissue is made for it, so that records can be listed quickly."""
    if key.bare:
        return ()
    recipe, view = key.recipe, key.view
    shape = anatomy(recipe, key.other, view)
    found = []
    for position, place in enumerate(places(recipe, view)):
        patch = _lesion(recipe, view, position, key.margin_of(place.mass))
        origin = _lesion(recipe, view, position, exam_facts(recipe).masses[place.mass].margin)
        mask, fine = _whole(patch, patch.mask, shape), _whole(patch, patch.fine, shape)
        truth = Truth(
            mass=place.mass,
            present=key.edit_of(place.mass) != "removed",
            margin=key.margin_of(place.mass),
            mask=mask,
            fine=fine if fine.any() else mask,  # a mass of one or two pixels has no rim of its own
            core_box=_box(_whole(origin, origin.core, shape)),
            mask_box=_box(_whole(origin, origin.mask, shape)),
        )
        found.append(_mirrored(truth) if key.laterality == "R" else truth)
    return tuple(found)


def _mirrored(truth: Truth) -> Truth:
    width = truth.mask.shape[1]

    def turn(box: Box) -> Box:
        return width - box[2], box[1], width - box[0], box[3]

    return replace(
        truth,
        mask=np.ascontiguousarray(truth.mask[:, ::-1]),
        fine=np.ascontiguousarray(truth.fine[:, ::-1]),
        core_box=turn(truth.core_box),
        mask_box=turn(truth.mask_box),
    )


def _confounder(key: FilmKey, shape: Anatomy) -> Patch:
    """Dots or a blob 1.55 R beside the first mass, in a normal exam beside the place that it would have."""
    recipe, height = key.recipe, key.recipe.size
    first = places(recipe, key.view)[0]
    rng = recipe.generator(Stream.CONFOUNDER, VIEWS.index(key.view))
    turns = rng.uniform(0, 2 * math.pi, 24)
    x = first.centre[0] + 1.55 * first.radius * np.cos(turns)
    y = first.centre[1] + 1.55 * first.radius * np.sin(turns)
    on_film = (x > 0) & (x < shape.inside.shape[1] - 1) & (y > 0) & (y < height - 1)
    depth = shape.depth[np.clip(y, 0, height - 1).astype(int), np.clip(x, 0, shape.inside.shape[1] - 1).astype(int)]
    chosen = int(np.argmax(on_film & (depth * height > 0.5 * first.radius)))  # the first that fits
    centre = float(x[chosen]), float(y[chosen])
    if recipe.confounder == "dots":
        return render_dots(rng, first.radius, centre, height)
    return render_blob(rng, first.radius, centre)


def confounder_box(key: FilmKey) -> Box | None:
    """Around the pixels that a film's confounder changes by a tenth of its peak or more; None: the film has none."""
    if key.other or not exam_facts(key.recipe).confounded:
        return None
    shape = anatomy(key.recipe, key.other, key.view)
    patch = _confounder(key, shape)
    change = np.zeros(shape.inside.shape)
    _paste(patch.x0, patch.y0, patch.change, change)
    seen = change >= 0.1 * patch.change.max()
    return _box(seen[:, ::-1] if key.laterality == "R" else seen)


def _add_sham(key: FilmKey, shape: Anatomy, place: Place, lesion: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Gland of the area and energy of `lesion` (H, W), as near to it as breast and `taken` leave room; (H, W)."""
    rng = key.recipe.generator(Stream.SHAM, VIEWS.index(key.view), place.mass)
    sqrt_t = breast(key.recipe, key.other, key.view).sqrt_thickness
    radius = math.sqrt(max(int(np.count_nonzero(lesion)), 1) / math.pi)
    free = ndimage.distance_transform_edt(~taken)
    dx = np.arange(lesion.shape[1])[None, :] - place.centre[0]
    dy = np.arange(lesion.shape[0])[:, None] - place.centre[1]
    away = np.hypot(dx, dy) + 1e-3 * np.cos(np.arctan2(dy, dx) - rng.uniform(0, 2 * math.pi))
    added = np.zeros(lesion.shape)
    for shrink in range(16):
        radius_tried = max(radius * 0.85**shrink, 1.5)
        room = (free > radius_tried + 1) & (shape.depth * key.recipe.size > 0.8 * radius_tried) & (shape.muscle < 0)
        if room.any():
            row, column = divmod(int(np.argmin(np.where(room, away, np.inf))), lesion.shape[1])
            texture = render_sham(rng, radius_tried)
            reach = texture.shape[0] // 2
            _paste(column - reach, row - reach, texture, added)
            return _among_tissue(added * sqrt_t, float((lesion**2).sum()), key, shape)
    return added


def _among_tissue(added: np.ndarray, energy: float, key: FilmKey, shape: Anatomy) -> np.ndarray:
    """`added` (H, W) at the given energy, its dark parts no darker than this breast's fat."""
    x = breast(key.recipe, key.other, key.view).x
    tissue = x[(shape.depth > 0.03) & (shape.muscle < 0)]
    fat = float(np.percentile(tissue if tissue.size else x, 5))
    dark = added < 0
    room = np.maximum(x[dark] - fat, 0.01)  # a place that is dark already keeps a little, or the area would shrink
    for _ in range(SHAM_ROUNDS):
        added = added * math.sqrt(energy / max(float((added**2).sum()), 1e-12))
        added[dark] = room * np.tanh(added[dark] / room)  # bent, not cut: a cut shows as a flat patch
    return added * math.sqrt(energy / max(float((added**2).sum()), 1e-12))


def _change(key: FilmKey, shape: Anatomy) -> np.ndarray:
    """All that is added to the breast's x (H, W): masses as edited, confounder, sham."""
    recipe, view = key.recipe, key.view
    sqrt_t = breast(recipe, key.other, view).sqrt_thickness
    change = np.zeros(shape.inside.shape)
    if key.other:
        return change
    if not recipe.normal:
        lesions = []
        for position, place in enumerate(places(recipe, view)):
            patch = _lesion(recipe, view, position, key.margin_of(place.mass))
            lesion = np.zeros(change.shape)
            if key.edit_of(place.mass) != "removed":
                _paste(patch.x0, patch.y0, patch.change, lesion)
            lesions.append(lesion * sqrt_t)
        change += np.sum(lesions, axis=0)
        taken = np.any([lesion != 0 for lesion in lesions], axis=0)
        for lesion, place in zip(lesions, places(recipe, view), strict=True):
            if key.edit_of(place.mass) == "sham":
                sham = _add_sham(key, shape, place, lesion, taken)
                taken |= sham != 0
                change += sham
    if exam_facts(recipe).confounded:
        confounder = _confounder(key, shape)
        _paste(confounder.x0, confounder.y0, confounder.change, change)
    return change


@lru_cache(maxsize=12)
def image(key: FilmKey) -> np.ndarray:
    """A film (H, W) uint8, brighter = denser, not writable. Nothing is rescaled per image."""
    tissue = breast(key.recipe, key.other, key.view)
    grey = sigmoid(CURVE * (tissue.x + _change(key, anatomy(key.recipe, key.other, key.view)) - 0.5))
    grey = tissue.cover * grey + (1 - tissue.cover) * tissue.outside + tissue.grain
    pixels = np.round(255 * np.clip(grey, 0, 1)).astype(np.uint8)
    if key.laterality == "R":
        pixels = np.ascontiguousarray(pixels[:, ::-1])
    pixels.setflags(write=False)
    return pixels
