"""The documentation says what is there: links, files, commands, options, fields, badges and examples of README and docs/."""

import ast
import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main
import yaml

import data
import models
import run_bench
import search_spaces
from bench.config import method_overrides, resolve
from bench.leaderboard.badges import CODES
from bench.suite import Suite, cells
from data.record import DataCard, Report
from docs import make_method_tables
from models.method import Method, Task
from tests.toy import PROVIDES, ToyContext, toy_batch, train

ROOT = Path(__file__).parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "dashboards").rglob("*.md")])
EXAMPLES = ROOT / "docs" / "examples"
COMMAND = typer.main.get_command(run_bench.app)
COMMANDS: dict[str, Any] = COMMAND.commands  # type: ignore[attr-defined]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
NAMED = re.compile(r"`([^`\s]+)`")
TOPS = ("bench", "data", "models", "search_spaces", "tests", "docs", "perf", "dashboards", ".ci")
PRIVATE = re.compile(
    r"/work\b|/home/|/root\b|\bARCHITECTURE\.md|\bSTATISTICS\b|\bMETHODS_[A-Z]+|\bSTACK\.md|\bPHANTOM\.md|\bCLI\.md|golden file \w+\.md"
)


def page(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def prose(text: str) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", text)


def blocks(path: Path, language: str) -> list[str]:
    return [found[2] for found in FENCE.finditer(path.read_text(encoding="utf-8")) if found[1] == language]


def slug(heading: str) -> str:
    """The anchor that a heading gets on the usual hosts of Markdown."""
    words = re.sub(r"[^\w\- ]", "", heading.replace("`", "").lower())
    return words.strip().replace(" ", "-")


def each(pages: list[Path]) -> Any:
    return pytest.mark.parametrize("path", pages, ids=page)


# ---- links and files ------------------------------------------------------------------------------------------------
@each(PAGES)
def test_relative_links_lead_somewhere(path: Path) -> None:
    wrong = []
    for target in LINK.findall(prose(path.read_text(encoding="utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        other = (path.parent / name).resolve() if name else path
        if not other.exists() or ROOT not in (other, *other.parents):
            wrong.append(target)
        elif anchor and anchor not in [
            slug(line.lstrip("# ")) for line in other.read_text(encoding="utf-8").splitlines() if line.startswith("#")
        ]:
            wrong.append(f"{target}: no such heading")
    assert not wrong, wrong


@each(PAGES)
def test_files_that_are_named_exist(path: Path) -> None:
    """Names in back ticks that look like a file or folder of this checkout; <...>, * and names to come are left alone."""
    wrong = []
    for name in NAMED.findall(prose(path.read_text(encoding="utf-8"))):
        top, slash, _ = name.partition("/")
        if slash and top in TOPS and not re.search(r"[<>*{}]|my_", name) and name not in _TO_WRITE.get(path.name, ()):
            wrong += [] if (ROOT / name.split("::")[0]).exists() else [name]
    assert not wrong, wrong


_TO_WRITE = {"adding_a_method.md": ("models/cam_cnn.py", "search_spaces/cam_cnn.py")}


@each(PAGES)
def test_no_page_speaks_of_where_it_was_written(path: Path) -> None:
    assert not PRIVATE.findall(path.read_text(encoding="utf-8"))


@each(PAGES)
def test_every_page_says_what_it_is_not_for(path: Path) -> None:
    assert "not for clinical use" in path.read_text(encoding="utf-8").lower()


# ---- commands -------------------------------------------------------------------------------------------------------
def command_lines() -> Iterator[tuple[str, str]]:
    for path in PAGES:
        for block in blocks(path, "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                if line.strip() and not line.lstrip().startswith("#"):
                    yield page(path), line.strip()


@pytest.mark.parametrize(("where", "line"), list(command_lines()))
def test_command_lines_exist(where: str, line: str) -> None:
    words = shlex.split(line, comments=True)
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words.pop(0)
    first, rest = words[0], words[1:]
    if first == "export":
        assert all(re.fullmatch(r"[A-Z_]+=\S*", word) for word in rest)
    elif first == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        assert all(word in targets or "=" in word for word in rest), targets
    elif Path(first).name == "python" and rest[0] == "run_bench.py":
        _check_run_bench(rest[1:])
    elif Path(first).name == "python" and rest[0] == "-m":
        module = rest[1].replace(".", "/")
        assert (ROOT / f"{module}.py").is_file() or importlib.util.find_spec(rest[1].split(".")[0]), rest[1]
        assert all((ROOT / word.split("::")[0]).exists() for word in rest[2:] if "/" in word)
    else:
        raise AssertionError(f"{where}: {first!r} is no command that this test knows")


def _check_run_bench(words: list[str]) -> None:
    """Command, options and number of arguments are real, and so are names that can be known."""
    assert words[0] in COMMANDS, f"no command {words[0]!r}"
    command = COMMANDS[words[0]]
    flags = {name: option for option in command.params for name in (*option.opts, *option.secondary_opts)}
    known = {**flags, "--help": None, "-h": None}
    arguments, position = [], 1
    while position < len(words):
        word = words[position]
        name, given, _ = word.partition("=")
        if word.startswith("-"):
            assert name in known, f"{words[0]} has no option {name}"
            takes_value = known[name] is not None and not known[name].is_flag and not given
            if takes_value:
                _check_value(name, words[position + 1])
            position += 1 + takes_value
        else:
            arguments.append(word)
            position += 1
    wanted = [param for param in command.params if param.param_type_name == "argument"]
    assert sum(param.required for param in wanted) <= len(arguments) <= len(wanted), f"{words[0]} {arguments}"
    for param, value in zip(wanted, arguments, strict=False):
        named = {"method": models.names(), "dataset": data.names()}.get(param.name)
        ours = ("cam_cnn", "png_folder")  # of docs/examples
        assert named is None or value in (*named, *ours), f"no {param.name} {value}"


def _check_value(option: str, value: str) -> None:
    if option == "--config" and not value.startswith("my_"):
        assert (ROOT / value).is_file(), f"{option} {value}"


def test_the_command_line_page_names_every_command_and_option() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert set(COMMANDS) == {
        "list", "phantom", "prepare", "train", "sweep", "final", "bench", "leaderboard", "explain", "ui",
    }  # fmt: skip
    for name, command in COMMANDS.items():
        assert re.search(rf"^\| `{name}[ `]", text, re.MULTILINE), f"no row for {name}"
        assert f"run_bench.py {name} " in text or name == "explain", f"no example of {name}"
        for param in command.params:
            for flag in param.opts if param.param_type_name == "option" else ():
                assert not flag.startswith("--") or f"`{flag}" in text, f"{flag} of {name} is not on the page"


def test_the_command_line_page_gives_options_to_the_right_commands() -> None:
    """The column "of" of the table of options: names of commands, or "all but ..."."""
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    owners: dict[str, set[str]] = {}
    for name, command in COMMANDS.items():
        for param in command.params:
            for flag in param.opts if param.param_type_name == "option" else ():
                owners.setdefault(flag, set()).add(name)
    rows = re.findall(r"^\| (`--.*?) \| ([^|]*?) \| ", text.replace("\\|", "/"), re.MULTILINE)
    assert len(rows) > 20
    for options, of in rows:
        if "(" in of:
            continue
        listed = {word.strip() for word in of.replace("all but", "").split(",")}
        wanted = set(COMMANDS) - listed if of.startswith("all") else listed
        for flag in re.findall(r"`(--[a-z-]+)", options):
            assert owners[flag] == wanted, f"{flag}: {sorted(owners[flag])}"


# ---- tables ---------------------------------------------------------------------------------------------------------
def test_the_table_of_badges_is_that_of_the_code() -> None:
    text = (ROOT / "docs" / "reading_the_leaderboard.md").read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| (MB\d+) \| (.+?) \|$", text, re.MULTILINE)) == CODES


@pytest.mark.parametrize(
    "name", [name for name in models.names() if models.load(name).__module__.startswith("models.")]
)
def test_every_method_has_a_page_with_its_settings(name: str) -> None:
    path = ROOT / "docs" / "methods" / f"{name}.md"
    assert path.is_file()
    assert make_method_tables.table(name) in path.read_text(encoding="utf-8"), "python -m docs.make_method_tables"


def test_every_metric_names_a_page() -> None:
    from bench.metrics import METRICS

    assert all((ROOT / metric.doc).is_file() for metric in METRICS.values())


def test_fields_of_a_suite_are_on_its_page() -> None:
    text = (ROOT / "docs" / "suites.md").read_text(encoding="utf-8")
    for name in Suite.model_fields:
        inner = getattr(Suite.model_fields[name].annotation, "model_fields", {})
        parts = [f"{name}.{part}" for part in inner] if name in ("search", "final") else [name]
        assert all(f"| `{part}`" in text for part in parts), parts


def test_suites_that_are_shown_are_suites() -> None:
    found = [yaml.safe_load(block) for block in blocks(ROOT / "docs" / "suites.md", "yaml")]
    assert found
    for suite in (resolve(Suite, one, "docs") for one in found):
        for cell in cells(suite):
            config = models.load(cell.method).Config
            laid = method_overrides(config.model_fields, budget=cell.budget, settings=cell.settings, roi=cell.roi)
            resolve(config, laid, str(cell))
            resolve(data.reader(cell.dataset).Options, cell.options, str(cell))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=page)
def test_example_settings_fit_their_method(path: Path) -> None:
    """A settings file says in its first line whom it is for, or its name ends with the method's; else vgg16 takes it."""
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    name = next((name for name in (*models.names(), "cam_cnn") if path.stem.endswith(name)), "vgg16")
    config = example("cam_cnn").Config if name == "cam_cnn" else models.load(name).Config
    options, budget = settings.pop("data", {}), settings.pop("budget", {})
    laid = method_overrides(config.model_fields, budget=budget, settings=settings, roi=options.pop("roi", {}))
    resolve(config, laid, path.name)
    resolve(data.reader("cbis_ddsm" if "cbis" in path.stem else "phantom").Options, options, path.name)


# ---- examples -------------------------------------------------------------------------------------------------------
def example(name: str) -> ModuleType:
    """A file of docs/examples as a module; nothing is registered."""
    if f"docs_example_{name}" not in sys.modules:
        spec = importlib.util.spec_from_file_location(f"docs_example_{name}", EXAMPLES / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        spec.loader.exec_module(module)
    return sys.modules[f"docs_example_{name}"]


@pytest.mark.parametrize(
    ("where", "names"),
    [
        ("adding_a_method.md", ("cam_cnn", "cam_cnn_space", "cam_cnn_plugin")),
        ("adding_a_dataset.md", ("png_folder", "png_folder_plugin")),
    ],
)
def test_pages_show_the_examples_as_they_are(where: str, names: tuple[str, ...]) -> None:
    shown = [ast.dump(ast.parse(block)) for block in blocks(ROOT / "docs" / where, "python")]
    files = [ast.dump(ast.parse((EXAMPLES / f"{name}.py").read_text(encoding="utf-8"))) for name in names]
    assert shown == files


def test_the_example_method_trains_and_explains() -> None:
    module = example("cam_cnn")
    kind: type[Method] = module.CamCnn
    kind.card = module.CARD
    method = kind(module.Config(size=32, width=0.25), Task.of("margin", "toy", PROVIDES))
    batch = toy_batch(6)
    [stage] = method.stages()
    history = train(method, stage, [batch], steps=20)
    assert history[-1]["cross_entropy"] < history[0]["cross_entropy"]
    maps = method.eval().maps(batch, batch.label)["cam"]
    assert maps.shape == (6, 8, 8) and float(maps.std()) > 0
    assert len(method.explain(batch)) == 6
    assert ToyContext([batch]).world_size == 1


def test_the_example_space_holds_the_published_point() -> None:
    fields = example("cam_cnn").Config().model_dump()

    class Trial:
        def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
            assert fields[name] in choices
            return choices[0]

        def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
            assert low <= fields[name] <= high
            return low

    example("cam_cnn").Config.model_validate(example("cam_cnn_space").space(Trial()))
    assert search_spaces.names()


def test_the_example_reader_reads(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    film, mask = np.zeros((40, 30), np.uint8), np.zeros((40, 30), np.uint8)
    mask[10:20, 5:15] = 255
    film[mask > 0] = 200
    Image.fromarray(film).save(tmp_path / "a.png")
    Image.fromarray(mask).save(tmp_path / "a_mask.png")
    lines = ["patient,side,view,image,mask,malignant", "p1,L,CC,a.png,a_mask.png,1", "p1,L,MLO,b.png,b_mask.png,1"]
    (tmp_path / "findings.csv").write_text("\n".join(lines))
    module, report = example("png_folder"), Report(skip_bad=True)
    assert isinstance(module.CARD, DataCard)
    [record] = module.records(tmp_path, module.Options(), report)
    assert record.findings[0].malignant is True and record.findings[0].mask.read().sum() == 100
    assert report.left_out == {"image not on disk": 1}
