"""The phantom is what its recipe says: same bytes for the same seed, exact truth."""

import hashlib
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from data import _phantom_anatomy, _phantom_film, _phantom_lesion, _phantom_place, _phantom_tissue
from data._phantom_facts import P_IRREGULAR, P_MALIGNANT, ExamFacts, exam_facts, malignancy_ceiling
from data.errors import ConfigError
from data.phantom import CARD, Confounder, Exam, Exams, Options, bayes_auroc
from data.record import Record
from data.tracks import MARGINS, TRACKS
from tests.phantom_films import SIZE, SMALL, read_all

FIRST_EXAM = "f0977657"


def facts_of(options: Options, side: str, count: int) -> list[ExamFacts]:
    return [exam_facts(Exam(options, side, index).recipe) for index in range(count)]


def forget() -> None:
    """Empty the caches, so that the next reading makes everything anew."""
    for cached in (
        _phantom_anatomy.anatomy,
        _phantom_tissue.breast,
        _phantom_place._both_views,
        _phantom_film._lesion,
        _phantom_film.truths,
        _phantom_film.image,
    ):
        cached.cache_clear()


def digest(options: Options, exam: int = 0) -> str:
    parts = []
    for record in Exam(options, "train", exam).records():
        finding = record.findings[0]
        assert finding.mask is not None and finding.fine_mask is not None
        parts += [record.image.fingerprint(), finding.mask.fingerprint(), finding.fine_mask.fingerprint()]
    return hashlib.sha256("".join(parts).encode()).hexdigest()[:8]


# -- determinism ------------------------------------------------------------------------------------------------------


def test_the_first_exam_has_the_bytes_of_version_2() -> None:
    assert digest(SMALL) == FIRST_EXAM, "pixels changed: raise CARD.version and write the new hash here"
    assert CARD.version == 2


def test_threads_and_order_do_not_matter() -> None:
    listed = read_all(SMALL)
    once = [record.image.fingerprint() for record in listed]
    forget()
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda record: record.image.fingerprint(), reversed(listed)))
    assert once == again[::-1]
    assert len(set(once)) == len(once)


def test_seed_and_size_make_other_films() -> None:
    hashes = {
        digest(SMALL),
        digest(SMALL.model_copy(update={"seed": 1})),
        digest(SMALL.model_copy(update={"size": 136})),
    }
    assert len(hashes) == 3


def test_options_change_only_what_they_name() -> None:
    plain = {record.record_id: record for record in read_all(SMALL)}
    more = Options(size=SIZE, exams=Exams(train=7, validation=3, test=3), views=4, masses=3, fine_share=0.0)
    for record in read_all(more):
        if record.record_id in plain:
            before = plain[record.record_id]
            assert record.findings[0].box == before.findings[0].box
            assert record.findings[0].margin == before.findings[0].margin
            if len(record.findings) == 1:
                assert record.image.fingerprint() == before.image.fingerprint()
    hard = {record.record_id: record for record in read_all(SMALL.model_copy(update={"level": "hard"}))}
    assert hard.keys() == plain.keys()
    assert all(hard[key].findings[0].margin == plain[key].findings[0].margin for key in plain)


def test_pixels_are_picklable_hashable_and_named() -> None:
    for record in Exam(SMALL, "test", 1).counterfactual("margin=spiculated").records():
        again = pickle.loads(pickle.dumps(record))
        assert again == record
        assert again.image.fingerprint() == record.image.fingerprint()
        assert hash(record.image) == hash(again.image)
        assert "test-000001" in record.image.name and "margin=spiculated" in record.image.name


def test_what_is_read_may_be_written_to() -> None:
    pixels = Exam(SMALL, "train", 0).records()[0].image
    before = pixels.read()
    pixels.read()[:] = 0
    assert (pixels.read() == before).all()


# -- truth ------------------------------------------------------------------------------------------------------------


def check_record(record: Record, options: Options) -> None:
    """What holds for every record, whatever the options."""
    film = record.image.read()
    assert film.dtype == np.uint8 and film.shape == (options.size, max(8, 8 * round(0.625 * options.size / 8)))
    assert film.max() > 60 and film.min() < 30
    if record.laterality == "L":
        assert film[:, 0].mean() > film[:, -1].mean()
    else:
        assert film[:, -1].mean() > film[:, 0].mean()
    assert record.has_mass == any(finding.mask is not None for finding in record.findings)
    for finding in record.findings:
        assert finding.box is not None
        x0, y0, x1, y1 = finding.box
        assert 0 <= x0 < x1 <= film.shape[1] and 0 <= y0 < y1 <= film.shape[0]
        if finding.mask is None:
            continue
        mask = finding.mask.read()
        assert mask.dtype == bool and mask.shape == film.shape and mask.any()
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        bounds = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        assert bounds[0] <= x0 and bounds[1] <= y0 and x1 <= bounds[2] and y1 <= bounds[3]
        if options.box == "mask":
            assert finding.box == bounds
        if finding.margin != "spiculated":
            assert finding.box == bounds
        if finding.fine_mask is not None:
            fine = finding.fine_mask.read()
            assert fine.dtype == bool and fine.shape == film.shape and fine.any()


@pytest.mark.parametrize("box", ["core", "mask"])
def test_masks_boxes_and_films_fit(box: str) -> None:
    options = SMALL.model_copy(update={"box": box})
    for record in read_all(options):
        check_record(record, options)


@settings(max_examples=25)
@example(510969, 64, "easy", 2, 1, 0.0, 0.25, "none", "")  # a mass of one pixel
@given(
    seed=st.integers(0, 2**40),
    size=st.sampled_from([64, 80, 128]),
    level=st.sampled_from(["easy", "standard", "hard"]),
    views=st.sampled_from([2, 4]),
    masses=st.integers(1, 4),
    normal_share=st.floats(0, 1),
    lesion_scale=st.floats(0.25, 2),
    kind=st.sampled_from(["none", "dots", "blob"]),
    edit=st.sampled_from(["", "removed", "sham", *(f"margin={margin}" for margin in MARGINS)]),
)
def test_any_options_give_sound_records(
    seed: int,
    size: int,
    level: str,
    views: int,
    masses: int,
    normal_share: float,
    lesion_scale: float,
    kind: str,
    edit: str,
) -> None:
    options = Options.model_validate(
        {
            "seed": seed,
            "size": size,
            "level": level,
            "views": views,
            "masses": masses,
            "normal_share": normal_share,
            "lesion_scale": lesion_scale,
            "confounder": {"kind": kind, "rho_train": 0.5, "rho_test": -0.5},
        }
    )
    exam = Exam(options, "train", seed % 7)
    shown = exam.counterfactual(edit) if edit else exam
    found = shown.records()
    assert len(found) == views
    for record in found:
        check_record(record, options)
        if record.laterality != found[0].laterality:
            assert not record.findings and record.has_mass is False


def test_the_grey_change_lies_on_the_mask() -> None:
    inside = total = 0.0
    for index in range(9):
        exam = Exam(SMALL.model_copy(update={"size": 256}), "train", index)
        for record, bare in zip(exam.records(), exam.counterfactual("removed").records(), strict=True):
            change = np.abs(record.image.read().astype(float) - bare.image.read())
            mask = record.findings[0].mask
            assert mask is not None
            inside, total = inside + change[mask.read()].sum(), total + change.sum()
    assert 0.8 < inside / total < 0.99


def test_views_share_the_lesion_and_sides_share_no_patient() -> None:
    found = read_all(SMALL)
    assert len({record.record_id for record in found}) == len(found) == 24
    assert len({finding.finding_id for record in found for finding in record.findings}) == 24
    assert len({finding.lesion_id for record in found for finding in record.findings}) == 12
    sides: dict[str, set[str]] = {}
    for record in found:
        sides.setdefault(str(record.official_split), set()).add(record.patient_id)
    assert {side: len(patients) for side, patients in sides.items()} == {"train": 6, "validation": 3, "test": 3}
    assert len(set.union(*sides.values())) == 12
    for first, second in zip(found[::2], found[1::2], strict=True):
        assert (first.view, second.view) == ("CC", "MLO")
        assert first.findings[0].lesion_id == second.findings[0].lesion_id
        assert first.findings[0].margin == second.findings[0].margin
        assert first.attributes["density"] == second.attributes["density"]


def nipple_distances(options: Options, count: int) -> np.ndarray:
    """Distance from the nipple to the middle of the first mass's box, (exams, views), pixels."""
    found = []
    for index in range(count):
        exam = Exam(options, "train", index)
        for key, record in zip(exam.keys(), exam.records(), strict=True):
            nipple = np.array(_phantom_anatomy.anatomy(key.recipe, key.other, key.view).nipple) * options.size
            x0, y0, x1, y1 = record.findings[0].box or (0, 0, 0, 0)
            middle = (x0 + x1) / 2 if key.laterality == "L" else 0.625 * options.size - (x0 + x1) / 2
            found.append(np.hypot(middle - nipple[0], (y0 + y1) / 2 - nipple[1]))
    return np.array(found).reshape(count, 2)


def test_a_mass_is_equally_far_from_the_nipple_in_both_views() -> None:
    found = nipple_distances(Options(), 60)
    assert np.corrcoef(found.T)[0, 1] > 0.95
    assert (np.abs(found[:, 0] - found[:, 1]) / found.mean(1)).max() < 0.15  # 10 %, and the box's whole pixels
    assert np.percentile(found, 90) > 2 * np.percentile(found, 10)  # masses still lie everywhere


def test_every_mass_keeps_its_distance_and_its_room() -> None:
    angles = []
    for index in range(60):
        recipe = Exam(Options(masses=3), "train", index).recipe
        views = [_phantom_place.places(recipe, view) for view in _phantom_anatomy.VIEWS]
        assert [place.mass for place in views[0]] == [place.mass for place in views[1]]
        seen = []
        for view, places in zip(_phantom_anatomy.VIEWS, views, strict=True):
            shape = _phantom_anatomy.anatomy(recipe, False, view)
            for place in places:
                x, y = place.centre
                row, column = round(y), round(x)
                assert shape.inside[row, column] and shape.muscle[row, column] < 0
                assert shape.depth[row, column] * recipe.size > 0.35 * place.radius
            offset = [np.array(p.centre) + 0.5 - np.array(shape.nipple) * recipe.size for p in places]
            seen.append([np.hypot(*each) for each in offset])
            angles.append(np.arctan2(offset[0][1], -offset[0][0]))
        for one, other in zip(*seen, strict=True):
            assert abs(one - other) < 0.05 * (one + other) + 2.5  # each view within 5 %; jitter and bins of a pixel
    first, second = np.array(angles).reshape(-1, 2).T
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.4  # the angle is each view's own


def test_small_sides_hold_every_margin() -> None:
    margins = [exam_facts(Exam(SMALL, "validation", index).recipe).masses[0].margin for index in range(3)]
    assert sorted(margins) == sorted(MARGINS)


def test_normal_exams_are_the_same_draw_without_the_mass() -> None:
    half = Options(size=SIZE, exams=Exams(train=6, validation=0, test=0), normal_share=0.5)
    found = read_all(half)
    assert [record.has_mass for record in found[::2]] == [True, False] * 3
    normal = found[2]
    removed = Exam(SMALL, "train", 1).counterfactual("removed").records()[0]
    assert normal.record_id == Exam(SMALL, "train", 1).records()[0].record_id
    assert normal.image.fingerprint() == removed.image.fingerprint()
    assert normal.attributes["density"] == removed.attributes["density"]


def test_density_tells_nothing_about_the_label() -> None:
    drawn = [(facts.density, index % 2) for index, facts in enumerate(facts_of(Options(), "train", 2000))]
    for density, expected in zip("abcd", (0.1, 0.4, 0.35, 0.15), strict=True):
        for half in (0, 1):
            share = np.mean([d == density for d, h in drawn if h == half])
            assert abs(share - expected) < 4 * np.sqrt(expected * (1 - expected) / 1000)


def test_several_masses_do_not_overlap() -> None:
    options = Options(size=256, masses=3, exams=Exams(train=12, validation=0, test=0))
    counts = set()
    for record in read_all(options):
        masks = [finding.mask.read() for finding in record.findings if finding.mask is not None]
        counts.add(len(masks))
        for i, one in enumerate(masks):
            assert not any((one & other).sum() > 0.1 * one.sum() for other in masks[i + 1 :])
        assert len({finding.lesion_id for finding in record.findings}) == len(masks)
    assert counts == {1, 2, 3}


def test_fine_masks_may_be_hidden_in_training_only() -> None:
    options = Options(size=64, fine_share=0.3, exams=Exams(train=100, validation=5, test=5))
    shown: dict[str, list[bool]] = {"train": [], "validation": [], "test": []}
    for record in read_all(options):
        shown[str(record.official_split)] += [finding.fine_mask is not None for finding in record.findings]
    assert abs(np.mean(shown["train"]) - 0.3) < 0.12
    assert all(shown["validation"]) and all(shown["test"])


# -- labels -----------------------------------------------------------------------------------------------------------


def test_labels_follow_the_stated_probabilities() -> None:
    drawn = [facts.masses[0] for facts in facts_of(Options(), "train", 3000)]
    for margin in MARGINS:
        of_margin = [mass for mass in drawn if mass.margin == margin]
        assert len(of_margin) == 1000
        assert abs(np.mean([mass.shape == "irregular" for mass in of_margin]) - P_IRREGULAR[margin]) < 0.06
        for shape in ("oval", "irregular"):
            cell = [mass.malignant for mass in of_margin if mass.shape == shape]
            p = P_MALIGNANT[margin, shape]
            assert abs(np.mean(cell) - p) < 4 * np.sqrt(p * (1 - p) / len(cell))
    assert abs(np.mean([mass.malignant for mass in drawn]) - 0.54) < 0.04


def test_the_ceiling_of_malignancy_is_known() -> None:
    assert bayes_auroc() == bayes_auroc(Options()) == pytest.approx(0.8945, abs=5e-5)
    assert malignancy_ceiling(1.0) == pytest.approx(1.0)
    assert malignancy_ceiling(0.5) == pytest.approx(malignancy_ceiling(-0.5)) and malignancy_ceiling(0.5) > 0.9
    drawn = [facts.masses[0] for facts in facts_of(Options(), "train", 3000)]
    measured = roc_auc_score([m.malignant for m in drawn], [P_MALIGNANT[m.margin, m.shape] for m in drawn])
    assert measured == pytest.approx(bayes_auroc(), abs=0.02)


@pytest.mark.parametrize("rho", [0.9, 0.0, -0.5])
def test_the_confounder_correlates_as_asked_on_each_side(rho: float) -> None:
    options = Options(confounder=Confounder(kind="dots", rho_train=rho, rho_test=-rho))
    for side, expected in (("train", rho), ("validation", rho), ("test", -rho)):
        drawn = facts_of(options, side, 1200)
        seen = np.corrcoef([f.confounded for f in drawn], [f.masses[0].malignant for f in drawn])[0, 1]
        assert abs(seen - expected) < 0.09


@pytest.mark.parametrize("kind", ["dots", "blob"])
def test_the_confounder_changes_nothing_else(kind: str) -> None:
    for index in range(8):
        shown = Options.model_validate({"confounder": {"kind": kind, "rho_test": 1.0}})
        plain = Exam(Options(), "test", index).records()
        for before, after in zip(plain, Exam(shown, "test", index).records(), strict=True):
            change = after.image.read().astype(int) - before.image.read()
            assert (after.attributes["confounder"] == "present") == before.findings[0].malignant == bool(change.any())
            assert after.findings[0].box == before.findings[0].box
            assert (change >= 0).all() and (change != 0).mean() < 0.03


def test_calcifications_are_small_and_unlike_each_other() -> None:
    """Alone in a wide cluster: half height within 3 px (a skin marker's is wider), brightness differs twofold."""
    peaks, areas = [], []
    for seed in range(30):
        patch = _phantom_lesion.render_dots(np.random.default_rng(seed), 200.0, (500.0, 500.0), 256)
        labels, count = ndimage.label(patch.change > 0.1)
        for number in range(1, count + 1):
            dot = patch.change * (labels == number)
            peaks.append(dot.max())
            areas.append((dot > dot.max() / 2).sum())
    assert len(peaks) > 150 and np.median(areas) <= 4 and np.percentile(areas, 95) <= 9
    assert len(set(areas)) > 3
    assert np.percentile(peaks, 90) > 2 * np.percentile(peaks, 10)


def test_a_halo_is_no_deeper_than_a_share_of_its_mass() -> None:
    for level in ("standard", "hard"):
        draws = [_phantom_lesion.draw_lesion(np.random.default_rng(seed), level) for seed in range(40)]
        for draw in (draw for draw in draws if draw.halo):
            change = _phantom_lesion.render_lesion(draw, "circumscribed", "oval", 14.0, (50.0, 50.0)).change
            assert -0.2 * change.max() < change.min() < 0


# -- card and options -------------------------------------------------------------------------------------------------


def test_card_serves_the_tracks() -> None:
    assert set(CARD.tracks) == set(TRACKS) and CARD.grade == "synthetic" and not CARD.needs_root


def test_wrong_options_are_refused() -> None:
    for wrong in ({"levle": "easy"}, {"level": "medium"}, {"exams": {"training": 3}}, {"views": 3}, {"seed": -1}):
        with pytest.raises(ValidationError):
            Options.model_validate(wrong)
    with pytest.raises(ConfigError, match="margin=spiculated"):
        Exam(Options(), "test", 0).counterfactual("margin=round")
