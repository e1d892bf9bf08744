"""The passport: what is odd about data is said, what makes a comparison wrong is refused. On real films and the phantom."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data import forms
from data._look import NEAR, look_at, looks_inverted, near_duplicates
from data.cache import Prepared, prepare
from data.errors import LeakError
from data.passport import summary, warnings
from tests.cbis_tree import SOURCE
from tests.cli import here

FILMS = sorted(SOURCE.glob("*.jpg"))  # five real films


def grey(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("L"))


def folder(root: Path, films: list[tuple[str, str, str, np.ndarray]]) -> Path:
    """A manifest of films (patient, side of the breast, split, pixels), each with a box."""
    root.mkdir(parents=True)
    with (root / "manifest.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["image", "patient", "laterality", "view", "pathology", "box", "split"])
        for number, (patient, side, split, pixels) in enumerate(films):
            Image.fromarray(pixels).save(root / f"{number}.png")
            table.writerow([f"{number}.png", patient, side, "CC", "benign", "40 40 90 90", split])
    return root


def films_of(sides: str = "LLLLL") -> list[tuple[str, str, str, np.ndarray]]:
    split = ("train", "train", "test", "validation", "test")
    return [(f"p{i}", side, split[i], grey(path)) for i, (path, side) in enumerate(zip(FILMS, sides, strict=True))]


def prepared(root: Path, films: list[tuple[str, str, str, np.ndarray]]) -> Prepared:
    return prepare("manifest", folder(root / "films", films), None, root / "cache")


CHANGES: dict[str, Any] = {
    "half the size": lambda image: image.resize((image.width // 2, image.height // 2)),
    "another shape": lambda image: image.resize((200, 320)),
    "brighter": lambda image: image.point(lambda value: min(255, int(1.2 * value))),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "turned": lambda image: image.transpose(Image.Transpose.ROTATE_180),
    "inverted": lambda image: image.point(lambda value: 255 - value),
    "noise": lambda image: Image.fromarray(
        np.clip(np.asarray(image) + np.random.default_rng(0).normal(0, 6, image.size[::-1]), 0, 255).astype(np.uint8)
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("path", FILMS, ids=lambda path: path.stem)
def test_a_copy_looks_like_its_film(path: Path, change: str) -> None:
    copy = np.asarray(CHANGES[change](Image.fromarray(grey(path))))
    pairs = list(near_duplicates([look_at(grey(path)).hash, look_at(copy).hash]))
    assert [pair[:2] for pair in pairs] == [(0, 1)] and pairs[0][2] <= NEAR


def test_different_films_do_not_look_alike() -> None:
    assert not list(near_duplicates([look_at(grey(path)).hash for path in FILMS]))


def test_pairs_are_all_found_whatever_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    hashes = [rng.bytes(32).hex() for _ in range(40)]
    hashes += hashes[3:9]
    expected = {(i, 40 + i - 3) for i in range(3, 9)}
    for block in (1, 7, 512):
        monkeypatch.setattr("data._look.BLOCK", block)
        assert {pair[:2] for pair in near_duplicates(hashes)} == expected


@pytest.mark.parametrize("path", FILMS, ids=lambda path: path.stem)
def test_polarity(path: Path) -> None:
    assert not looks_inverted(look_at(grey(path)))
    assert looks_inverted(look_at(255 - grey(path)))


def test_oddities_are_counted_and_said(tmp_path: Path) -> None:
    films = films_of("LLLLR")
    again = np.asarray(CHANGES["half the size"](Image.fromarray(films[0][3])))
    inverted = (films[3][0], films[3][1], films[3][2], 255 - films[3][3])
    found = prepared(tmp_path, [*films[:3], inverted, films[4], ("p9", "L", "test", again)])
    pixels = found.passport["pixels"]
    assert {key: pixels["near_duplicates"][key] for key in ("pairs", "two_patients", "two_sides")} == {
        "pairs": 1, "two_patients": 1, "two_sides": 1,
    }  # fmt: skip
    assert pixels["looks_inverted"] == 1
    assert (pixels["bits_stored"], pixels["syntax"], pixels["spacing_mm"]["films"]) == ({"8": 6}, {"PNG": 6}, 0)
    said = " | ".join(found.passport["warnings"])
    assert "1 pair of films of two patients that look alike, 1 of them on two official sides" in said
    assert "bright background" in said and "other side" in said
    assert summary(found.passport).startswith("manifest (full); 6 films; 6 findings; 6 patients; nothing left out; ")


def test_a_mirrored_film_counts_whichever_way_the_set_lies(tmp_path: Path) -> None:
    """Most decide: a set whose left breasts lie on the right throughout is no oddity."""
    for number, films in enumerate((films_of("LLLLR"), films_of("RRRRL"))):
        assert prepared(tmp_path / str(number), films).passport["pixels"]["mirrored"] == {"films": 1, "of": 5}


def test_one_film_under_two_headers_on_two_sides_is_refused(tmp_path: Path) -> None:
    films = films_of()
    root = folder(tmp_path / "films", [*films, ("p9", "L", "test", films[0][3])])
    Image.open(root / "5.png").save(root / "5.png", compress_level=1)  # other bytes, the same pixels
    assert (root / "0.png").read_bytes() != (root / "5.png").read_bytes()
    with pytest.raises(LeakError, match="the film of record"):
        prepare("manifest", root, None, tmp_path / "cache").split()


def test_counts_beside_the_published_ones(tmp_path: Path) -> None:
    forms.write_form(tmp_path / "form", "cbis_ddsm", forms.suited("cbis_ddsm", 8, {"size": 64}))
    found = prepare("cbis_ddsm", tmp_path / "form", None, tmp_path / "cache").passport
    assert found["published"]["train/masses"] == {"published": 1318, "here": found["tracks"]["malignancy"]["train"]["benign"]
                                                    + found["tracks"]["malignancy"]["train"]["malignant"]}  # fmt: skip
    assert any(sentence.startswith("fewer than published") for sentence in found["warnings"])


def test_more_than_published_is_said(tmp_path: Path) -> None:
    found = prepared(tmp_path, films_of())
    document = found.passport | {"published": {"masses": {"published": 4, "here": 5}}}
    assert warnings(document) == ["more than published: 5 of 4 masses; is something in twice?"]


def test_a_copy_on_another_side_of_a_drawn_split_is_said(tmp_path: Path) -> None:
    copies = [
        (f"c{i}", "L", "", np.asarray(CHANGES["half the size"](Image.fromarray(grey(path)))))
        for i, path in enumerate(FILMS)
    ]
    films = [(f"p{i}", "L", "", grey(path)) for i, path in enumerate(FILMS)]
    fillers = [(f"f{i}", "L", "", np.roll(grey(FILMS[i % 5]), 60 + 17 * i, axis=i % 2)) for i in range(10)]
    root = folder(tmp_path / "films", [*films, *copies, *fillers])
    document = here("prepare", "manifest", "--data-root", root, "--out", tmp_path / "runs", "--json").document
    said = [sentence for sentence in document["warnings"] if "two sides of this split" in sentence]
    one = prepare("manifest", root, None, tmp_path / "cache")
    sides = one.split().sides_of(one.table).tolist()
    apart = sum(sides[i] != sides[i + 5] for i in range(5))
    assert apart and said and int(said[0].split()[0]) >= apart


def test_films_of_another_set_are_recognised(tmp_path: Path) -> None:
    prepared(tmp_path, films_of())
    other = prepare("manifest", folder(tmp_path / "again", films_of()), None, tmp_path / "cache")
    assert other.alike_elsewhere() == []  # of the same data set: another state of it
    forms.write_form(tmp_path / "form", "manifest", forms.suited("manifest", 8, {"size": 64, "normal_share": 0}))
    prepare("manifest", tmp_path / "form", None, tmp_path / "cache")
    generated = prepare(
        "phantom", None, {"size": 64, "exams": {"train": 6, "test": 2, "validation": 0}}, tmp_path / "cache"
    )
    assert generated.alike_elsewhere() == ["16 pairs of films look alike here and in the prepared manifest"]


def test_prepare_prints_it(tmp_path: Path) -> None:
    root = folder(tmp_path / "films", films_of("LLLLR"))
    said = here("prepare", "manifest", "--data-root", root, "--out", tmp_path / "runs")
    assert said.code == 0 and "look: 1 of 5 films show the breast on the other side" in said.stdout
    document = here("prepare", "manifest", "--data-root", root, "--out", tmp_path / "runs", "--json").document
    assert document["warnings"] and document["published"] == {}
