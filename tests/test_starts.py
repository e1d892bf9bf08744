"""A start from a file (bench/starts.py): a run's identity follows what the file holds, and its row says whom that may have seen."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bench import starts
from bench.config import KNOWN, RELEASED
from bench.engine import checkpoint
from bench.engine.run import build, open_data, train_run
from bench.final import FinalPlan, _tags
from bench.home import Home
from bench.leaderboard import badges
from bench.plan import Ready, inputs_of, make_ready
from bench.suite import Cell
from data.errors import ConfigError, LeakError
from models.gmic import Gmic
from tests.board_samples import five
from tests.parity_gmic import released_names

pytestmark = pytest.mark.usefixtures("one_thread")
DATA = {"exams": {"train": 8, "validation": 6, "test": 6}, "level": "easy", "size": 64, "normal_share": 0.5}
FILMS = {"input_width": 40, "stages": 2, "blocks": 1, "epochs": 1, "K": 1, "crop": 0.25, "augment": {"recipe": "none"}}


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Ready:
    """The cell with random weights, its data prepared."""
    return make_ready(Home.at(tmp_path_factory.mktemp("runs")), cell_of())


def cell_of(**settings: Any) -> Cell:
    budget = {"width": 0.0625, "batch": 8, "size": 64}
    return Cell(
        method="gmic", dataset="phantom", track="detection", options=DATA, budget=budget, settings={**FILMS, **settings}
    )


def started(plain: Ready, file: Path, home: Home | None = None) -> Ready:
    return Ready(home or plain.home, cell_of(weights=str(file)), plain.prepared)


def network(ready: Ready, seed: int) -> Gmic:
    torch.manual_seed(seed)
    method = ready.kind(ready.base.model_copy(update={"weights": "none"}), ready.task)
    assert isinstance(method, Gmic)
    return method


def released(plain: Ready, folder: Path, seed: int = 1, name: str = "model.p") -> Path:
    """A file as the authors would hand it out."""
    net = network(plain, seed).net
    names = released_names(net)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({names[key]: value for key, value in net.state_dict().items()}, folder / name)
    return folder / name


def left_by_a_run(plain: Ready, folder: Path, **lineage: list[str]) -> Path:
    """final.pt and lineage.json of a run that has seen these."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(network(plain, 1).state_dict(), folder / "final.pt")
    (folder / "lineage.json").write_text(json.dumps({"patients": [], "images": [], **lineage}))
    return folder / "final.pt"


def on_test_side(ready: Ready) -> str:
    table = ready.split.table
    return str(table[table["side"] == "test"]["patient"].iloc[0])


# ---- identity -------------------------------------------------------------------------------------------------------
def test_the_identity_is_that_of_the_content_wherever_the_file_lies(plain: Ready, tmp_path: Path) -> None:
    file = released(plain, tmp_path / "a")
    (tmp_path / "b").mkdir()
    moved = tmp_path / "b" / "renamed.p"
    moved.write_bytes(file.read_bytes())
    one, same = started(plain, file), started(plain, moved)
    assert one.spec(one.base, 1).identity == same.spec(same.base, 1).identity != plain.spec(plain.base, 1).identity
    assert one.identity == same.identity != plain.identity, "nor is a search another one"
    released(plain, tmp_path / "a", seed=2)
    other = started(plain, file)
    assert other.spec(other.base, 1).identity != one.spec(one.base, 1).identity
    assert one.config({"lr": 1e-3}).start_file == one.base.start_file, (
        "all trials of a search start from what was read first"
    )


def test_no_path_is_in_what_is_recorded(plain: Ready, tmp_path: Path) -> None:
    ready = started(plain, released(plain, tmp_path))
    job = ready.job(ready.spec(ready.base, 1), tmp_path / "run")
    tags = _tags(ready, FinalPlan(ready.base), job)
    for text in (job.spec.model_dump_json(), json.dumps(tags)):
        assert str(tmp_path) not in text and "model.p" not in text
    assert "weights" not in tags["reduced"] and "size 64" in tags["reduced"]


def test_settings_of_another_run_are_enough_where_the_file_is_kept(plain: Ready, tmp_path: Path) -> None:
    file = released(plain, tmp_path / "a")
    ready = started(plain, file)
    file.unlink()
    named = Ready(plain.home, cell_of(weights=ready.base.start_file), plain.prepared)
    assert named.spec(named.base, 1).identity == ready.spec(ready.base, 1).identity
    with pytest.raises(ConfigError, match="no file of that content is kept in this folder"):
        Ready(Home.at(tmp_path / "elsewhere"), named.cell, plain.prepared)


# ---- what is loaded -------------------------------------------------------------------------------------------------
def test_a_run_starts_from_the_file_and_says_what_it_does_not_know(plain: Ready, tmp_path: Path) -> None:
    """A run from released weights; then a run from that run's state: of both it is unknown whom their ancestor saw."""
    file = released(plain, tmp_path / "a")
    ready = started(plain, file)
    job = ready.job(ready.spec(ready.base, 1), tmp_path / "run").model_copy(update={"tracks": ("detection",)})
    state, first = torch.load(file), build(job, open_data(job)).state_dict()
    assert torch.equal(first["net.saliency.weight"], state["left_postprocess_net.gn_conv_last.weight"])
    *_, last = train_run(job)
    assert last.final
    lineage = json.loads((tmp_path / "run" / "lineage.json").read_text())
    assert lineage["unknown"] == [ready.base.start_file.removeprefix(RELEASED)] and lineage["patients"]
    above = started(plain, tmp_path / "run" / "final.pt")
    assert above.base.start_file.startswith(RELEASED)
    [before] = starts.folder_of(above.home, above.base).values()
    assert json.loads((Path(before) / "lineage.json").read_text())["patients"] == lineage["patients"]
    again = above.job(above.spec(above.base, 1), tmp_path / "above")
    kept = checkpoint.load(tmp_path / "run" / "final.pt")
    assert all(torch.equal(value, kept[key]) for key, value in build(again, open_data(again)).state_dict().items())


def test_a_state_of_a_run_that_has_seen_the_test_films_starts_nothing(plain: Ready, tmp_path: Path) -> None:
    judged = on_test_side(plain)
    known = started(plain, left_by_a_run(plain, tmp_path / "clean", patients=["somebody else"]))
    assert known.base.start_file.startswith(KNOWN)
    for kind in ("patients", "chosen_patients"):
        file = left_by_a_run(plain, tmp_path / kind, **{kind: [judged]})
        with pytest.raises(
            LeakError, match=r"1 patients of .*test were in the (training|choice) of this state .*weights"
        ):
            started(plain, file)
    (tmp_path / "patients" / "lineage.json").unlink()
    assert started(plain, tmp_path / "patients" / "final.pt").base.start_file.startswith(RELEASED)


# ---- what is refused before data are touched ------------------------------------------------------------------------
class Surprise:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("executed",)


def test_a_pickled_object_is_never_executed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": Surprise()}, tmp_path / "bad.p")
    (tmp_path / "text.p").write_text("no checkpoint")
    for name in ("bad.p", "text.p"):
        with pytest.raises(ConfigError, match=rf"no file of tensors alone \(weights: {name}\)"):
            inputs_of(cell_of(weights=str(tmp_path / name)))
    assert "executed" not in capsys.readouterr().out


def test_what_is_no_state_is_told_in_words(tmp_path: Path) -> None:
    for name, held, says in (
        ("list.pt", [torch.zeros(1)], "holds no names with tensors"),
        ("numbers.pt", {1: torch.zeros(1)}, "holds no names with tensors"),
        ("below.pt", {"epoch": torch.zeros(1), "state_dict": {"a": torch.zeros(1)}}, "a state under 'state_dict'"),
    ):
        torch.save(held, tmp_path / name)
        with pytest.raises(ConfigError, match=rf"{says}.*\(weights: {name}\)"):
            inputs_of(cell_of(weights=str(tmp_path / name)))


def test_a_file_that_is_not_there_or_does_not_fit_is_told_at_once(plain: Ready, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such file \(weights: nowhere.p\)"):
        inputs_of(cell_of(weights=str(tmp_path / "nowhere.p")))
    torch.save({"fusion_dnn.bias": torch.zeros(1)}, tmp_path / "part.p")
    with pytest.raises(ConfigError, match=r"its tensors do not fit: \d+ missing: attention_u.weight"):
        inputs_of(cell_of(weights=str(tmp_path / "part.p")))
    file = left_by_a_run(plain, tmp_path / "run")
    (tmp_path / "run" / "lineage.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"lineage.json is damaged \(weights: final.pt\)"):
        started(plain, file)


# ---- what its row says ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("weights", "found"),
    [
        (RELEASED + "0" * 64, {"MB008": "ancestry unknown"}),
        (KNOWN + "0" * 64, {"MB004": "trunk: another run"}),
        ("none", {"MB004": "trunk: random"}),
    ],
)
def test_a_row_says_where_its_networks_started(weights: str, found: dict[str, str]) -> None:
    shown = badges.badges_of(five("gmic", 1.0, facts={"weights": weights}), 5, {}, None)
    assert {badge.code: badge.label for badge in shown if badge.code in ("MB004", "MB008")} == found
