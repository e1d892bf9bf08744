"""Explanation pictures: chosen by rule, written whole, with what a reader has to know; plots beside their numbers."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench.explain import plots
from bench.explain.charts import draw_chart
from bench.explain.choose import choose
from bench.explain.panels import WARNING, WRONG, Words, below, draw_gallery, draw_panels
from bench.metrics import Frame, confusion
from bench.pictures import _place
from data.errors import MachineError
from models._chart import Chart
from models.method import Panel
from tests.toy_frames import value_of
from tests.toy_lesions import mapped_films


def frame(track: str = "margin", n: int = 90) -> Frame:
    rng = np.random.default_rng(0)
    classes = {"margin": 3, "malignancy": 2}[track]
    table = pd.DataFrame({"record_id": [f"r{i}" for i in range(n)], "finding_id": [f"f{i}" for i in range(n)]})
    table["lesion_id"], table["patient"] = table["finding_id"], [f"p{i // 2}" for i in range(n)]
    table["laterality"], table["view"] = "L", "MLO"
    table["margin"], table["malignant"] = rng.integers(0, 3, n), rng.integers(0, 2, n)
    labels = table["margin" if track == "margin" else "malignant"].to_numpy()
    scores = rng.normal(size=(n, classes)) + 1.5 * np.eye(classes)[labels]
    probabilities = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    meta = {"method": "vgg16", "dataset": "phantom", "split_hash": "abcd"}
    return Frame.build(table, track, scores, probabilities, side="test", seed=4, meta=meta)


def panel(**changes: object) -> Panel:
    y, x = np.mgrid[:32, :32] / 31
    outline = ((x - 0.5) ** 2 + (y - 0.5) ** 2 < 0.05).astype(float)
    given: dict[str, object] = {"title": "image", "image": 0.3 + 0.4 * x, "outline": outline}
    return Panel(**{**given, **changes})  # type: ignore[arg-type]


# ---- choosing -------------------------------------------------------------------------------------------------------
def test_every_label_right_and_wrong_is_shown_before_any_twice() -> None:
    made = frame()
    rows = made.predictions.iloc[choose(made.predictions, 6, seed=1)]
    right = made.probabilities.argmax(axis=1)[rows.index] == rows["label"]
    assert set(zip(rows["label"], right, strict=True)) == {(k, v) for k in range(3) for v in (True, False)}


def test_the_choice_depends_on_the_seed_and_not_on_the_order_of_the_table() -> None:
    table = frame().predictions
    shuffled = table.sample(frac=1, random_state=5).reset_index(drop=True)
    names = [list(t.iloc[choose(t, 8, seed=1)]["record_id"]) for t in (table, shuffled)]
    assert names[0] == names[1]
    assert names[0] != list(table.iloc[choose(table, 8, seed=2)]["record_id"])


def test_no_more_than_there_are_and_none_without_a_label() -> None:
    table = frame(n=10).predictions
    table.loc[:3, "label"] = -1
    assert sorted(choose(table, 50)) == list(range(4, 10))
    assert choose(table, 0) == []


# ---- panels ---------------------------------------------------------------------------------------------------------
def test_panels_are_drawn_with_image_map_outline_and_box(tmp_path: Path) -> None:
    rows = [[panel(), panel(title="map", map=np.eye(4), caption="adds +1.2", box=(3.0, 4.0, 20.0, 22.0))], [panel()]]
    path = draw_panels(
        rows, tmp_path / "a" / "case.png", title="vgg16", words=[Words("r1", "L", "CC", "x", "y", 0.4)] * 2
    )
    assert [p.name for p in path.parent.iterdir()] == ["case.png"]
    with Image.open(path) as picture:
        assert picture.text["Description"] == WARNING  # type: ignore[attr-defined]
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    orange = (abs(pixels - np.array([255, 158, 27])).sum(axis=2) < 60).sum()
    assert orange > 100, "the outline is there"


def test_the_same_panels_give_the_same_picture(tmp_path: Path) -> None:
    made = [draw_panels([[panel(map=np.eye(3))]], tmp_path / f"{i}.png", title="t").read_bytes() for i in range(2)]
    assert made[0] == made[1]


@pytest.mark.parametrize(
    "odd",
    [
        {"map": np.zeros((4, 4))},
        {"map": np.full((4, 4), np.nan)},
        {"outline": np.zeros((32, 32))},
        {"outline": np.ones((32, 32))},
        {"image": np.random.default_rng(0).random((20, 44)), "outline": None},
        {"cell": (0.0, 0.0, 4.0, 4.0), "faded": True},
        {"caption": "word " * 40, "title": "a title that is much longer than the picture is wide " * 2},
    ],
)
def test_odd_panels_are_drawn_too(odd: dict[str, object], tmp_path: Path) -> None:
    assert draw_panels([[panel(**odd)]], tmp_path / "odd.png", title="odd").stat().st_size > 1000


def test_a_share_on_the_lesion_stands_beside_what_a_dot_in_the_middle_gets() -> None:
    """A lesion in the middle: the dot has it all; one in a corner: nothing."""
    corner = np.zeros((32, 32))
    corner[:12, :12] = 1
    towards = -np.add.outer(np.arange(8), np.arange(8))
    said = "100% on the lesion; a dot in the middle gets 0%, and the lesion covers 14%"
    assert said in below(panel(map=towards, outline=corner))
    assert "a dot in the middle gets 100%, and the lesion covers 14%" in below(panel(map=np.eye(4)))
    assert "dot" not in below(panel(map=np.eye(4), outline=None))


def test_a_gallery_is_a_grid(tmp_path: Path) -> None:
    path = draw_gallery(
        [panel(title=f"prototype {i}") for i in range(7)], tmp_path / "g.png", title="prototypes", columns=3
    )
    with Image.open(path) as picture:
        assert picture.height > picture.width * 0.9


def test_words_say_side_view_truth_and_verdict() -> None:
    made = frame()
    row = made.predictions.iloc[0]
    words = Words.of(row, made.classes)
    lines = words.lines()
    assert lines[0] == "left breast, MLO"
    assert lines[1] == f"truth: {made.classes[int(row['label'])]}"
    assert (WRONG in lines) == (words.truth != words.predicted)
    assert words.probability == pytest.approx(made.probabilities[0].max())
    unlabelled = Words.of(pd.Series({**row.to_dict(), "label": -1}), made.classes)
    assert unlabelled.truth == "unknown" and WRONG not in unlabelled.lines()


def test_an_unwritable_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for write in (
        lambda: draw_panels([[panel()]], tmp_path / "file" / "x.png", title="t"),
        lambda: plots.save_plots(frame(), tmp_path / "file"),
        lambda: draw_chart(chart(), tmp_path / "file" / "x.png", title="t"),
    ):
        with pytest.raises(MachineError, match="cannot write"):
            write()


# ---- plots ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("track", ["margin", "malignancy"])
def test_plots_lie_beside_the_numbers_they_were_drawn_from(track: str, tmp_path: Path) -> None:
    made = frame(track)
    written = plots.save_plots(made, tmp_path)
    assert [path.name for path in written] == ["roc.svg", "roc.csv", "confusion.svg", "confusion.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(path.name for path in written)
    text = (tmp_path / "roc.svg").read_text()
    for expected in ("n = 90 rows of 45 patients", "1 seed (4)", "split abcd", WARNING, "false positive rate", "logit"):
        assert expected in text, expected
    counts = pd.read_csv(tmp_path / "confusion.csv").select_dtypes("number").to_numpy()
    assert np.array_equal(counts, confusion(made).to_numpy())
    again = plots.save_plots(made, tmp_path / "again")
    assert [p.read_bytes() for p in written] == [p.read_bytes() for p in again]


def test_the_area_under_the_drawn_curve_is_the_metric() -> None:
    from bench.metrics import quick

    made = frame()
    for name, points in plots.roc_table(made).groupby("class"):
        area = np.trapezoid(points["true_positive_rate"], points["false_positive_rate"])
        assert area == pytest.approx(quick(made)[f"auroc_{name}"].value)


def test_the_free_response_curve_is_drawn_where_lesions_are_known(tmp_path: Path) -> None:
    made = mapped_films(films=60)
    written = plots.save_plots(made, tmp_path)
    assert [path.name for path in written[4:]] == ["froc.svg", "froc.csv"]
    table = pd.read_csv(tmp_path / "froc.csv")
    assert set(table["curve"]) == {"the method", "brightest regions", "centre prior", "random weights"}
    for at in (0.25, 0.5, 1, 2):
        for curve, name in (("the method", f"tpr_at_fppi_{at:g}"), ("centre prior", "blind_tpr_centre")):
            points = table[(table["curve"] == curve) & (table[plots.FALSE] <= at)]
            if curve == "the method" or at == 1:
                assert points[plots.SHARE].max() == pytest.approx(value_of(made, name))
    text = (tmp_path / "froc.svg").read_text()
    for expected in ("false positives per normal film", "of 30 lesions", "centre prior", "1 seed (0)", WARNING):
        assert expected in text, expected
    again = plots.save_plots(made, tmp_path / "again")
    assert [p.read_bytes() for p in written] == [p.read_bytes() for p in again]


def test_the_curve_of_folds_is_the_mean_of_theirs() -> None:
    folds = [mapped_films(seed, fold=seed) for seed in (0, 1)]
    joined = Frame.joined(folds)
    table = plots.froc_table(joined)
    own = table[(table["curve"] == "the method") & (table[plots.FALSE] <= 1)]
    assert own[plots.SHARE].max() == pytest.approx(np.mean([value_of(one, "tpr_at_fppi_1") for one in folds]))


def test_a_class_without_positives_is_left_out() -> None:
    made = frame()
    made.predictions.loc[made.predictions["label"] == 1, "label"] = 0
    assert set(plots.roc_table(made)["class"]) == {"circumscribed", "spiculated"}
    plots.plot_roc(made)


# ---- charts ---------------------------------------------------------------------------------------------------------
def chart() -> Chart:
    unknown = (float("nan"),) * 5
    boxes = {
        "before training": {"group 1": (8.0, 8.5, 9.0, 9.2, 9.9), "group 4": unknown},
        "after training": {"group 1": (7.0, 7.5, 8.0, 8.2, 8.9), "group 4": unknown},
    }
    return Chart("Distances", "group", "ln d + 10", boxes, "n = 12 lesions. " + "Words that go on. " * 20)


def test_a_chart_lies_beside_the_numbers_it_was_drawn_from(tmp_path: Path) -> None:
    made = [draw_chart(chart(), tmp_path / str(i) / "transfer.png", title="densenet121_kt") for i in range(2)]
    assert [path.name for path in made[0]] == ["transfer.png", "transfer.csv"]
    assert made[0][0].read_bytes() == made[1][0].read_bytes(), "the same chart is the same picture"
    with Image.open(made[0][0]) as picture:
        assert picture.text["Description"] == WARNING  # type: ignore[attr-defined]
        red, _, blue = np.moveaxis(np.asarray(picture.convert("RGB")).astype(int), 2, 0)
    assert (blue > red + 60).sum() > 500 and (red > blue + 60).sum() > 500, "a box of each series"
    table = pd.read_csv(made[0][1])
    assert table["name"].tolist() == ["group 1", "group 1"], "what was not measured has no box"
    assert table["q50"].tolist() == [9.0, 8.0] and table["series"].tolist() == ["before training", "after training"]


def test_a_whole_film_is_said_to_be_whole_and_a_region_to_lie_on_it() -> None:
    film = {"width": 160, "height": 256, "wx0": 0.0, "wy0": 0.0, "wx1": 160.0, "wy1": 256.0, "flipped": True}
    whole = _place(pd.Series(film), (256, 160))
    assert whole.startswith("whole film 160 x 256 px") and "region" not in whole and "mirrored" in whole
    assert _place(pd.Series(film | {"wx0": 3.0}), (64, 64)).startswith(
        "region 157 x 256 px (film) at x 3, y 0 from the"
    )
