"""What prototype networks show of a case and of themselves: sums that add up, outlines, sources, one page that stands alone."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.config import Job
from bench.engine.run import open_data, train_run, trained
from bench.explain.gallery import write_gallery
from bench.explain.panels import CAUTION, WARNING, lines_of
from bench.home import Home
from bench.metrics import Frame, quick
from bench.pictures import _given, _panels, _verdicts
from bench.plan import Ready
from data.batch import Batch
from data.cache import prepare
from data.inputs import Roi
from models.method import Panel
from tests.toy import toy_batch, toy_method, train_all
from tests.toy_cells import WINDOW, toy_cell
from tests.toy_engine import OPTIONS

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ("protopnet", "iaia_bl", "fpn_iaia_bl")
SIZE = 64
MARGINS = ("circumscribed", "indistinct", "spiculated")
NUMBER = r"[+-]?\d+\.\d\d"


@pytest.fixture(scope="module", params=NAMES)
def net(request: pytest.FixtureRequest) -> Any:
    """A network that has been through all of its stages."""
    method = toy_method(
        request.param, prototype_init="lesion_patches", input_norm="per_image", size=SIZE, mal_head={"penalty": "l2"}
    )
    train_all(method, [toy_batch(6, size=SIZE, seed=s, first_row=6 * s) for s in range(3)], steps=2)
    return method.eval()


@pytest.fixture(scope="module")
def batch() -> Batch:
    return toy_batch(3, size=SIZE, seed=8)


def product(text: str) -> tuple[float, float, float]:
    """Similarity, class connection and contribution of a prototype, as its words say."""
    found = re.search(
        rf"({NUMBER})  (?:focal )?similarity\nx +({NUMBER})  class connection\n= +({NUMBER})  to the score", text
    )
    assert found, text
    return float(found[1]), float(found[2]), float(found[3])


def at(cell: Any, values: np.ndarray) -> float:
    """The map's value in the cell that a frame is around."""
    times = SIZE / len(values)
    assert (cell[2] - cell[0], cell[3] - cell[1]) == (times, times)
    return float(values[int(cell[1] / times), int(cell[0] / times)])


def sums(case: list[Panel]) -> list[tuple[float, float, float, str]]:
    """Rows of the sum: what is added to the class, to the other one, their difference, and what it is; the last is the
    logit."""
    found = re.findall(rf"^ *({NUMBER})  +({NUMBER})  +({NUMBER})  ([\w ()]+)$", case[1].beside, re.MULTILINE)
    assert found[-1][3] == "logit"
    return [(float(a), float(b), float(c), said) for a, b, c, said in found]


def rival(case: list[Panel]) -> int:
    """The class that the sum is held against."""
    return MARGINS.index(re.search(r"beside that of (\w+) ", case[1].beside)[1])  # type: ignore[index]


# ---- a case ------------------------------------------------------------------------------------------------------
def test_what_is_shown_to_be_added_up_is_the_logit(net: Any, batch: Batch) -> None:
    """To what two decimals leave, of both classes; and each shown prototype's part is its similarity times its class
    connection."""
    with torch.no_grad():
        logits = net.look(batch.image).logits[:, :3]
    for case, own in zip(net.explain(batch), logits, strict=True):
        rows = sums(case)
        parts, (logit, other, difference, _) = [row[0] for row in rows[:-1]], rows[-1]
        assert logit == pytest.approx(float(own.max()), abs=0.0051)
        assert other == pytest.approx(float(own[rival(case)]), abs=0.0051)
        assert difference == pytest.approx(logit - other, abs=0.0151)
        for column in range(3):
            added = sum(row[column] for row in rows[:-1])
            assert added == pytest.approx(rows[-1][column], abs=0.005 * len(rows) + 1e-4)
        assert all(first - second == pytest.approx(gap, abs=0.0151) for first, second, gap, _ in rows)
        shown = [panel.beside for panel in case if panel.line and panel.beside]
        assert len(shown) == 3
        for part, text in zip(parts, shown, strict=False):
            similarity, connection, contribution = product(text)
            assert contribution == part
            assert similarity * connection == pytest.approx(part, abs=0.005 * (abs(similarity) + abs(connection) + 2))


def test_the_sum_has_every_prototype_once_and_the_lumps_of_each_class_apart(net: Any, batch: Batch) -> None:
    active = net.classes[net.active].tolist()
    for case in net.explain(batch):
        counts = dict.fromkeys(net.class_names, 0)
        for *_, said in sums(case)[:-1]:
            kind, n = re.fullmatch(r"(?:prototype \d+|(?:other )?prototypes?) of (\w+)(?: \((\d+)\))?", said).groups()  # type: ignore[union-attr]
            counts[kind] += int(n or 1)
        assert counts == {name: active.count(k) for k, name in enumerate(net.class_names)}


def test_a_wrong_answer_is_held_against_the_truth_and_a_right_one_against_the_runner_up(net: Any) -> None:
    same = toy_batch(3, size=SIZE, seed=8)
    with torch.no_grad():
        order = net.look(same.image).logits[:, :3].argsort(dim=1, descending=True)
    for place, words in ((0, "the runner-up"), (1, "the true class"), (2, "the true class")):
        same.label[:] = order[:, place]
        for case, own in zip(net.explain(same), order.tolist(), strict=True):
            assert rival(case) == own[max(place, 1)]
            assert f"({words})" in case[1].beside
    same.label[:] = -1
    assert all("(the runner-up)" in case[1].beside for case in net.explain(same))


def test_the_prototypes_shown_are_those_that_spoke_most_for_the_class(net: Any, batch: Batch) -> None:
    evidence, predicted = net.evidence(batch), net.predict(batch, "margin").probabilities.argmax(dim=1)
    for i, case in enumerate(net.explain(batch)):
        kind = int(predicted[i])
        own = [n for n, source in enumerate(evidence.classes) if source == kind]
        best = sorted(own, key=lambda n: -float(evidence.contributions[i, n, kind]))[:3]
        shown = [panel.beside.partition(":")[0] for panel in case if panel.line and panel.beside]
        assert shown == [evidence.names[n] for n in best]


def test_a_line_is_place_map_patch_source_and_self_activation(net: Any, batch: Batch) -> None:
    with torch.no_grad():
        seen = net.look(batch.image)
    for i, case in enumerate(net.explain(batch)):
        first, *lines = lines_of(case)
        assert first[0].outline is first[0].map is first[0].box is None, "the picture as it was judged"
        assert first[1].outline is not None
        scales = set()
        for place, fires, patch, source, itself in lines:
            j = int(re.match(r"prototype (\d+): around its highest cells", place.title)[1])  # type: ignore[index]
            assert np.array_equal(fires.map, seen.map_of(j)[i].numpy())
            assert np.array_equal(itself.map, net.source_map(j).numpy())
            assert source.training_row == int(net.source_place[j, 0])
            x0, y0, x1, y1 = map(int, source.box)
            assert np.array_equal(patch.image, source.image[y0:y1, x0:x1]), "the patch is what the box holds"
            assert place.box is not None
            for panel, values in ((place, fires.map), (fires, fires.map)):
                assert at(panel.cell, values) == values.max(), "the frame is around the highest cell"
            assert source.cell == itself.cell
            own = at(itself.cell, itself.map)
            assert own == net.source_map(j)[tuple(net.source_place[j, 1:])]
            assert f"own cell {own:.2f}" in itself.caption
            for panel in (place, fires, source, itself):
                assert panel.outline is not None and panel.outline.any(), panel.title
            scales |= {fires.scale, itself.scale}
        assert len(scales) == 1, "similarities of a case compare by colour"


def test_the_similarity_is_what_the_words_make_of_the_map_beside_it(net: Any, batch: Batch) -> None:
    for case in net.explain(batch):
        for _, fires, _, _, itself in lines_of(case)[1:]:
            text = itself.beside
            found = re.search(
                r"similarity: (?:mean of its (\d+) highest cells|its highest cell)(, less the mean of all)?\n", text
            )
            assert found, text
            assert ("no ceiling" in text) == bool(found[2]), "what has a mean taken off it can be outdone"
            k = int(found[1] or 1)
            for values, said in ((fires.map, product(text)[0]), (itself.map, float(re.findall(NUMBER, text)[3]))):
                expected = np.sort(values, axis=None)[-k:].mean() - (values.mean() if found[2] else 0)
                assert said == pytest.approx(expected, abs=0.0051)


def test_one_word_does_not_stand_for_a_map_and_for_what_is_pooled_from_it(net: Any, batch: Batch) -> None:
    for case in net.explain(batch):
        for _, fires, *_, itself in lines_of(case)[1:]:
            assert fires.caption.startswith(f"{net.map_word} ") and f"  {net.score_word}\n" in itself.beside
    assert (net.map_word == "cosine") == (net.score_word == "focal similarity") == (net.measure == "cosine")


def test_without_a_mask_no_outline_is_made_up(net: Any) -> None:
    unmasked = toy_batch(1, size=SIZE, seed=8)
    unmasked.has_mask[:] = False
    (case,) = net.explain(unmasked)
    of_case = [panel for panel in case if re.match("class activation|where|.*around its", panel.title)]
    assert len(of_case) == 7 and all(panel.outline is None for panel in of_case)


# ---- the page ----------------------------------------------------------------------------------------------------
def test_every_prototype_has_an_entry_and_one_that_was_pruned_says_so(net: Any) -> None:
    before = net.active.clone()
    net.active[0] = False
    try:
        entries = lines_of(net.artifacts()["prototypes"])
    finally:
        net.active.copy_(before)
    texts = ["".join(panel.beside for panel in entry) for entry in entries]
    assert len(texts) == len(before) and all(len(entry) == 3 for entry in entries)
    for entry, text in zip(entries, texts, strict=True):
        j = int(re.match(r"prototype (\d+)", text)[1])  # type: ignore[index]
        gone = j == 0 or not bool(before[j])
        assert ("pruned\n" in text) == gone
        assert all(panel.faded == gone and panel.title.endswith("(pruned)") == gone for panel in entry)
        if not gone:
            for weight, name in zip(net.h1.weight[:, j].tolist(), net.class_names, strict=False):
                assert f"{weight:+.2f}  to {name}" in text
        assert (f"level {net.level_of(j)} of the pyramid" in text) == bool(net.level_of(j))


def test_the_head_of_the_page_counts_where_own_cells_lie(net: Any) -> None:
    """Each prototype in use once, as its own entry says."""
    said = net.notes()["prototypes"]
    entries = [line[-1].caption for line in lines_of(net.artifacts()["prototypes"]) if not line[-1].faded]
    total = int(re.match(r"Own cells of (\d+) prototypes in use: ", said)[1])  # type: ignore[index]
    counts = {place: int(n) for n, place in re.findall(r"(\d+) ([a-z ]+)[,.]", said)}
    assert total == sum(counts.values()) == len(entries) == int(net.active.sum())
    assert {"on the lesion", "beside the lesion", "outside the breast"} <= set(counts)
    for place, count in counts.items():
        words = r"\d+% lesion" if place == "on the lesion" else place
        assert count == sum(bool(re.search(rf"own cell [\d.-]+, {words};", text)) for text in entries), place
    assert not toy_method("iaia_bl").notes()["prototypes"], "nothing is projected as yet"


def test_a_network_before_its_first_projection_has_a_page_too() -> None:
    panels = toy_method("iaia_bl").artifacts()["prototypes"]
    assert len(panels) == 15 and all("not projected" in panel.caption for panel in panels)


def test_the_page_stands_alone_and_escapes_what_comes_from_data(tmp_path: Path) -> None:
    grey = np.full((8, 8), 0.5)
    panels = [
        Panel("<b>", grey, beside=f"{name}: <script>\n  +1.00  to a", line=line) for line, name in enumerate("ab")
    ]
    text = write_gallery(panels, tmp_path / "page.html", title="iaia_bl & more", notes=["A note."]).read_text("utf-8")
    assert WARNING in text and "iaia_bl &amp; more" in text and "A note." in text
    assert "<script" not in text and "<b>" not in text
    assert set(re.findall(r'(?:src|href)="([^"]{0,5})', text)) == {"data:", "#entr"}
    assert text.count("<article") == 2 and all(
        f'id="{target}"' in text for target in re.findall(r'href="#([^"]+)"', text)
    )


# ---- a finished run ----------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Pictures of a run whose regions of right breasts are mirrored."""
    folder = tmp_path_factory.mktemp("runs")
    roi = {**WINDOW, "flip": "right_breasts"}
    prepared = prepare("phantom", None, OPTIONS, folder / "cache", roi=Roi.model_validate(roi), size=(SIZE, SIZE))
    settings: dict[str, Any] = {"warm_epochs": 1, "joint_epochs": 1, "push_every": 1, "h1_epochs": 1}
    settings |= {"prune": {"h1_epochs": 1}, "mal_head": {"penalty": "l2"}, "prototype_init": "lesion_patches"}
    ready = Ready(Home.at(folder), toy_cell("iaia_bl", settings, size=SIZE, roi=roi), prepared)
    job: Job = ready.job(ready.spec(ready.base, seed=1), folder / "run").model_copy(update={"tracks": ("margin",)})
    list(train_run(job))
    method = trained(job, open_data(job))
    samples = prepared.training(prepared.split(), method.inputs()).validation_for("margin")
    return _panels(
        job, method, samples, Frame.load(folder / "run" / "frames" / "validation-margin"), folder / "p", [0, 3]
    )


@pytest.mark.long
def test_a_finished_run_has_a_picture_of_each_case_and_its_page(drawn: list[Path]) -> None:
    assert [file.name for file in drawn] == ["margin.png", "margin-2.png", "prototypes.png", "prototypes.html"]
    assert all(file.is_file() for file in drawn)
    assert "iaia_bl, margin on phantom (generated films): prototypes, seed 1" in drawn[-1].read_text("utf-8")


@pytest.mark.long
def test_the_page_says_whose_breast_a_source_is_and_whether_it_is_mirrored(drawn: list[Path]) -> None:
    place = r"region \d+ x \d+ px \(film\) at x -?\d+, y -?\d+"
    page = drawn[-1].read_text("utf-8")
    said = re.findall(rf"(left|right) breast, \w+, {place}, ([a-z ]+), phantom-[0-9a-f]+<", page)
    assert {side for side, _ in said} == {"left", "right"}
    assert all(lie == {"left": "as on the film", "right": "mirrored left to right"}[side] for side, lie in said)


@pytest.mark.long
def test_pictures_say_what_was_given_and_what_the_whole_side_holds(drawn: list[Path]) -> None:
    """Of the run above: masks taught it, and the rows of its frame."""
    frame = Frame.load(drawn[0].parent.parent / "run" / "frames" / "validation-margin")
    page = drawn[-1].read_text("utf-8")
    assert "Input: oracle ROI: the region was cut around the annotated lesion" in page
    assert "masks of lesions were used" in page and CAUTION in page and "Own cells of" in page
    frame.meta["supervision"] = "label"
    assert "no mask was used" in _given(frame)
    counts = [(int(a), int(b)) for a, b in re.findall(r"(\d+) right, (\d+) wrong", _verdicts(frame))]
    assert [sum(pair) for pair in counts] == np.bincount(frame.labelled().labels, minlength=3).tolist()
    right = quick(frame)["accuracy"].value
    assert f"in all {right:.2f} right, guessing = 0.33, always saying" in _verdicts(frame)
    assert sum(a for a, _ in counts) == round(right * len(frame.labelled().predictions))


@pytest.mark.long
def test_coefficients_of_malignancy_stand_in_the_record_and_on_the_page(drawn: list[Path]) -> None:
    """Paper 002, Eq. 10, prints them times 100; three margins and an intercept."""
    last = json.loads((drawn[0].parent.parent / "run" / "last.json").read_text())
    found = {name: value for name, value in last["system"].items() if name.startswith("network/malignancy_")}
    assert [name.split("_")[1] for name in found] == ["circumscribed", "indistinct", "spiculated", "intercept"]
    page = drawn[-1].read_text("utf-8")
    assert all(f"malignancy {name.split('_')[1]} x100 {value:.4g}" in page for name, value in found.items())
    assert last["system"]["network/prototypes"] > 0 and last["system"]["network/projection_distance"] > 0
    assert last["system"]["training_data/samples"] >= last["system"]["training_data/has_fine"] > 0
