"""Heat maps: legible in grey, a scale that is the same for all maps of a metric, and an SVG that is there whole or not at all."""

import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from bench.explain.heatmap import RAMP, Heat, plot_heat, save_heat, shade
from data.errors import MachineError


def heat(values: list[list[float]], better: str = "max", **more: object) -> Heat:
    array = np.array(values, float)
    names = [f"train_{i}" for i in range(len(values))]
    lines = [["0.1–0.2" if np.isfinite(value) else "" for value in row] for row in array]
    given = {"down": "training", "across": "test", "caption": "n = 3."} | more
    columns = [f"map {j}" for j in range(array.shape[1])]
    return Heat("TPR: somewhere", names, columns, values_RC=array, intervals=lines, better=better, **given)  # type: ignore[arg-type]


def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2.1) of #rrggbb."""
    rgb = np.array([int(colour[k : k + 2], 16) for k in (1, 3, 5)]) / 255
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def test_brightness_alone_tells_values_apart_and_black_words_stay_legible() -> None:
    levels = [luminance(shade(share)) for share in np.linspace(0, 1, 21)]
    assert (np.diff(levels) < -0.01).all()
    assert (min(levels) + 0.05) / 0.05 > 4.5
    assert shade(0.5) == "#{:02x}{:02x}{:02x}".format(*RAMP[1])


def test_the_better_a_value_the_darker() -> None:
    rising, falling = heat([[0.2, 0.9]]), heat([[0.2, 4.0]], "min")
    assert luminance(rising.colour(0, 1)) < luminance(rising.colour(0, 0))
    assert luminance(falling.colour(0, 0)) < luminance(falling.colour(0, 1))
    assert "palest 4, darkest 0" in falling.scale and "palest 0, darkest 1" in rising.scale
    assert "more" in heat([[0.2]], "none").scale


def test_the_scale_is_that_of_the_metric_and_not_of_the_noise_between_cells() -> None:
    assert heat([[0.501, 0.502]]).ends == (0.0, 1.0)
    assert heat([[-0.3, 2.5]]).ends == (-0.3, 2.5)
    assert heat([[np.nan]]).ends == (0.0, 1.0)


def test_a_cell_says_value_interval_and_mark_and_an_empty_one_that_it_is() -> None:
    made = heat([[0.25, np.nan], [-0.125, 1.0]], marks={(0, 0): ["best on test"]})
    assert made.words(0, 0) == ["0.250", "0.1–0.2", "best on test"]
    assert made.words(0, 1) == ["–"] and made.colour(0, 1) == "#ffffff"
    assert made.words(1, 0)[0] == "−0.125"


def test_the_picture_holds_every_word(tmp_path: Path) -> None:
    made = heat([[0.25, np.nan], [0.5, 1.0]], marks={(1, 1): ["best on test"]})
    path = save_heat(made, tmp_path / "new" / "heat.svg")
    said = [text.strip() for text in ET.parse(path).getroot().itertext() if text.strip()]
    for expected in ("TPR: somewhere", "train_0", "train_1", "map 0", "0.250", "0.500", "1.000", "–", "best on test"):
        assert expected in said
    assert any("Not for clinical use" in text for text in said)
    before = path.read_bytes()
    assert save_heat(made, path).read_bytes() == before, "the same table gives the same file"
    with pytest.raises(MachineError, match="cannot write"):
        save_heat(made, path / "below_a_file.svg")
    assert [one.name for one in path.parent.iterdir()] == ["heat.svg"]


@pytest.mark.parametrize("shape", [(2, 2), (5, 5), (3, 9)])
def test_nothing_is_cut_off_nor_lies_on_a_neighbour(shape: tuple[int, int]) -> None:
    caption = "Share of lesions found at the map's best threshold; mean over 5 seeds with its 95 % interval. " * 4
    made = heat(
        np.full(shape, 0.123).tolist(), marks={(0, 0): ["validation's choice", "best on test"]}, caption=caption
    )
    figure = plot_heat(made)
    FigureCanvasAgg(figure).draw()
    (axes,) = figure.axes
    page = figure.bbox
    boxes = [
        t.get_window_extent() for t in (*figure.texts, *axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels())
    ]
    boxes += [axes.xaxis.label.get_window_extent(), axes.yaxis.label.get_window_extent()]
    assert all(page.x0 <= b.x0 and b.x1 <= page.x1 and page.y0 <= b.y0 and b.y1 <= page.y1 for b in boxes)
    overlaps = [(i, j) for i, a in enumerate(boxes) for j, b in enumerate(boxes[:i]) if _overlap(a, b)]
    assert not overlaps


def _overlap(a, b) -> bool:  # type: ignore[no-untyped-def]
    wide, high = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    return bool(wide > 1 and high > 1)
