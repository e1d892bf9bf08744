"""What prototype networks show of a case and of themselves: sums that add up, outlines, sources, one page that stands alone."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.config import Job
from bench.engine.run import open_data, train_run, trained
from bench.explain.gallery import write_gallery
from bench.explain.panels import WARNING, lines_of
from bench.home import Home
from bench.metrics import Frame
from bench.pictures import _panels
from bench.plan import Ready
from bench.suite import Cell
from data.batch import Batch
from data.cache import prepare
from data.inputs import Roi
from models.method import Panel
from tests.toy import toy_batch, toy_method, train_all
from tests.toy_engine import OPTIONS

pytestmark = pytest.mark.usefixtures("one_thread")
NAMES = ("protopnet", "iaia_bl", "fpn_iaia_bl")
SIZE = 64
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
    found = re.search(rf"({NUMBER})  similarity\nx +({NUMBER})  class connection\n= +({NUMBER})  to the score", text)
    assert found, text
    return float(found[1]), float(found[2]), float(found[3])


# ---- a case ------------------------------------------------------------------------------------------------------
def test_what_is_shown_to_be_added_up_is_the_logit(net: Any, batch: Batch) -> None:
    """To what two decimals leave; and each shown prototype's part is its similarity times its class connection."""
    with torch.no_grad():
        logits = net.look(batch.image).logits[:, :3]
    for case, own in zip(net.explain(batch), logits, strict=True):
        (total,) = [panel.beside for panel in case if "What makes the score" in panel.beside]
        above, _, below = total.partition("-------")
        parts = [float(value) for value in re.findall(rf"^ *({NUMBER})  ", above, re.MULTILINE)]
        logit = float(re.findall(NUMBER, below)[0])
        assert logit == pytest.approx(float(own.max()), abs=0.0051)
        assert sum(parts) == pytest.approx(logit, abs=0.005 * (len(parts) + 1) + 1e-4)
        shown = [panel.beside for panel in case if panel.line and panel.beside]
        assert len(shown) == 3
        for part, text in zip(parts, shown, strict=False):
            similarity, connection, contribution = product(text)
            assert contribution == part
            assert similarity * connection == pytest.approx(part, abs=0.005 * (abs(similarity) + abs(connection) + 2))


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
            j = int(place.title.split()[-1])
            assert np.array_equal(fires.map, seen.map_of(j)[i].numpy())
            assert np.array_equal(itself.map, net.source_map(j).numpy())
            assert source.training_row == int(net.source_place[j, 0])
            x0, y0, x1, y1 = map(int, source.box)
            assert np.array_equal(patch.image, source.image[y0:y1, x0:x1]), "the patch is what the box holds"
            assert place.box is not None
            for panel in (place, fires, source, itself):
                assert panel.outline is not None and panel.outline.any(), panel.title
            scales |= {fires.scale, itself.scale}
        assert len(scales) == 1, "similarities of a case compare by colour"


def test_the_similarity_is_what_the_words_make_of_the_map_beside_it(net: Any, batch: Batch) -> None:
    for case in net.explain(batch):
        for _, fires, _, _, itself in lines_of(case)[1:]:
            text = itself.beside
            found = re.search(
                r"similarity: (?:mean of the (\d+) highest cells|the highest cell)(, less the mean of all)?\n", text
            )
            assert found, text
            k = int(found[1] or 1)
            for values, said in ((fires.map, product(text)[0]), (itself.map, float(re.findall(NUMBER, text)[3]))):
                expected = np.sort(values, axis=None)[-k:].mean() - (values.mean() if found[2] else 0)
                assert said == pytest.approx(expected, abs=0.0051)


def test_without_a_mask_no_outline_is_made_up(net: Any) -> None:
    unmasked = toy_batch(1, size=SIZE, seed=8)
    unmasked.has_mask[:] = False
    (case,) = net.explain(unmasked)
    of_case = [panel for panel in case if panel.title.startswith(("class activation", "strongest", "where"))]
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
    for text in texts:
        j = int(re.match(r"prototype (\d+)", text)[1])  # type: ignore[index]
        gone = j == 0 or not bool(before[j])
        assert ("pruned\n" in text) == gone
        if not gone:
            for weight, name in zip(net.h1.weight[:, j].tolist(), net.class_names, strict=False):
                assert f"{weight:+.2f}  to {name}" in text
        assert (f"level {net.level_of(j)} of the pyramid" in text) == bool(net.level_of(j))


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
    roi = {"strategy": "box_scale", "scale": 1.6, "flip": "right_breasts"}
    prepared = prepare("phantom", None, OPTIONS, folder / "cache", roi=Roi.model_validate(roi), size=(SIZE, SIZE))
    budget = {"width": 0.0625, "size": SIZE, "batch": 12, "samples": None, "weights": "none", "trunk_blocks": 4}
    settings: dict[str, Any] = {"warm_epochs": 1, "joint_epochs": 1, "push_every": 1, "h1_epochs": 1}
    settings |= {"prune": {"h1_epochs": 1}, "mal_head": {"penalty": "l2"}, "prototype_init": "lesion_patches"}
    cell = Cell(
        method="iaia_bl", dataset="phantom", track="margin", options=OPTIONS, roi=roi, budget=budget, settings=settings
    )  # fmt: skip
    ready = Ready(Home.at(folder), cell, prepared)
    job: Job = ready.job(ready.spec(ready.base, seed=1), folder / "run").model_copy(update={"tracks": ("margin",)})
    list(train_run(job))
    method = trained(job, open_data(job))
    samples = prepared.training(prepared.split(), method.inputs()).validation_for("margin")
    return _panels(
        job, method, samples, Frame.load(folder / "run" / "frames" / "validation-margin"), folder / "p", [0, 3]
    )


def test_a_finished_run_has_a_picture_of_each_case_and_its_page(drawn: list[Path]) -> None:
    assert [file.name for file in drawn] == ["margin.png", "margin-2.png", "prototypes.png", "prototypes.html"]
    assert all(file.is_file() for file in drawn)
    assert "iaia_bl, margin on phantom (generated films): prototypes, seed 1" in drawn[-1].read_text("utf-8")


def test_the_page_says_whose_breast_a_source_is_and_whether_it_is_mirrored(drawn: list[Path]) -> None:
    said = re.findall(r"(left|right) breast, \w+, region \d+ x \d+ px, ([a-z ]+)<", drawn[-1].read_text("utf-8"))
    assert {side for side, _ in said} == {"left", "right"}
    assert all(lie == {"left": "as on the film", "right": "mirrored left to right"}[side] for side, lie in said)
