#!/usr/bin/env python3
"""The command line of mammobench: parses, calls one function, prints (docs/cli.md). Research software, not for clinical use."""

import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

try:
    import typer
except ModuleNotFoundError:
    sys.stderr.write("error: the libraries are not here (typer); run `make setup`, then use .venv/bin/python\n")
    sys.exit(2)

if TYPE_CHECKING:
    from bench.app import App

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Explainable mammography methods, made comparable. Research software, not for clinical use.",
)


def _above_zero(value: float | None) -> float | None:
    if value is not None and not 0 < value < float("inf"):
        raise typer.BadParameter(f"{value} is no number above 0.")
    return value


def _finite(value: float) -> float:
    if not 0 <= value < float("inf"):  # min=0 lets nan pass
        raise typer.BadParameter(f"{value} is no number of GPUs.")
    return value


Out = Annotated[Path, typer.Option(help="everything written goes here", show_default=True)]
DataRoot = Annotated[
    list[str] | None,
    typer.Option(
        metavar="DIR", help="where the data lie; DATASET=DIR for one of several; default $MAMMOBENCH_DATA/<dataset>"
    ),
]
Tracking = Annotated[
    str | None, typer.Option(help="an MLflow server; default $MLFLOW_TRACKING_URI, else OUT/mlflow.db")
]
Storage = Annotated[str | None, typer.Option(help="Optuna's storage; default OUT/studies.db")]
RayAddress = Annotated[str | None, typer.Option(help="local, auto or HOST:PORT; default $RAY_ADDRESS, else local")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="YAML file of settings over the published point")]
Set = Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE, one setting over the file; may be repeated")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="say what would run; start nothing")]
Json = Annotated[bool, typer.Option("--json", help="one JSON document on stdout")]
Quiet = Annotated[bool, typer.Option("--quiet", help="no progress on stderr")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="say more")]
TrackName = Annotated[str, typer.Option("--track", help="margin, malignancy or detection")]
Protocol = Annotated[str, typer.Option(help="holdout or kfold5")]
Workers = Annotated[int, typer.Option(min=1, help="processes per training (Ray Train)")]
Gpus = Annotated[float, typer.Option(min=0, callback=_finite, help="GPUs per worker")]


def _warn(
    message: Warning | str, category: type[Warning], filename: str, lineno: int,
    file: TextIO | None = None, line: str | None = None,
) -> None:  # fmt: skip
    """A warning of this project as one line; a library's as Python shows it, since where it stands tells whose it is."""
    own = category is UserWarning and "site-packages" not in Path(filename).parts
    text = f"warning: {message}\n" if own else warnings.formatwarning(message, category, filename, lineno, line)
    (file or sys.stderr).write(text)


@contextmanager
def _command(**settings: Any) -> Iterator["App"]:
    """The command's surroundings; a user's mistake ends as one line and exit code 2, an interrupt as 130."""
    from bench.app import App
    from data.errors import UserError

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop ends as Ctrl-C does
    try:
        with warnings.catch_warnings(), App(**settings) as running:
            warnings.showwarning = _warn
            yield running
            code = running.exit_code
    except UserError as error:
        sys.stderr.write(f"error: {error}\n")
        raise typer.Exit(2) from None
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; what is finished is kept, the same command goes on from here\n")
        raise typer.Exit(130) from None
    if code:
        raise typer.Exit(code)


@app.command("list", epilog="Example: python run_bench.py list methods -v")
def list_(
    what: Annotated[
        str, typer.Argument(help="methods, datasets, forms, spaces, suites, tracks or metrics; default all")
    ] = "all",
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """What there is: methods, data sets, forms of the phantom, search spaces, suites, tracks and metrics."""
    with _command(as_json=as_json, verbose=verbose) as running:
        running.catalogue(what)


@app.command(epilog="Example: python run_bench.py phantom /tmp/films --format vindr_mammo --exams 20")
def phantom(
    folder: Annotated[Path, typer.Argument(help="a folder to be made: the films and their tables go there")],
    form: Annotated[str, typer.Option("--format", help="a form of `list forms`")] = "manifest",
    exams: Annotated[int, typer.Option(min=1, help="patients; a quarter of them are of the test side")] = 40,
    size: Annotated[int | None, typer.Option(min=64, max=4096, help="height of a film, pixels; default 256")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="of the films; default 0")] = None,
    quirk: Annotated[
        list[str] | None, typer.Option(help="an oddity of the real files (`list forms -v`), or all; may be repeated")
    ] = None,
    config: ConfigFile = None,
    set_: Set = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write generated mammograms in the form of a real data set, to try its reader. --set sets the phantom's options."""
    with _command(as_json=as_json, quiet=quiet) as running:
        running.phantom(folder, form, exams, size, seed, quirk or [], config, set_ or [])


@app.command(epilog="Example: python run_bench.py prepare phantom --set exams.train=40 --out runs")
def prepare(
    dataset: Annotated[str, typer.Argument(help="a data set of `list datasets`")],
    out: Out = Path("runs"),
    data_root: DataRoot = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="leave out what cannot be used, and list it")] = False,
    verify: Annotated[bool, typer.Option("--verify", help="hash again what was prepared, and its files")] = False,
    cache_limit: Annotated[
        float | None,
        typer.Option(
            callback=_above_zero, help="GB that OUT/cache may hold; default $MAMMOBENCH_CACHE_LIMIT, else any"
        ),
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(help="auto or HOST:PORT: decode on that cluster; default $RAY_ADDRESS, else this machine"),
    ] = None,
    config: ConfigFile = None,
    set_: Set = None,
    protocol: Protocol = "holdout",
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Index, check, split and decode a data set, once. --set and --config set the reader's options."""
    with _command(out=out, as_json=as_json, quiet=quiet, verbose=verbose, ray_address=ray_address) as running:
        running.prepare(
            dataset, data_root or [], skip_bad, config, set_ or [], protocol, verify=verify, cache_limit=cache_limit
        )


@app.command(epilog="Example: python run_bench.py train vgg16 phantom --track margin --config docs/examples/tiny.yaml")
def train(
    method: Annotated[str, typer.Argument(help="a method of `list methods`")],
    dataset: Annotated[str, typer.Argument(help="a data set of `list datasets`")],
    track: TrackName = "margin",
    seed: Annotated[
        int, typer.Option(min=0, max=2**31 - 1, help="of initial weights, data order and augmentation")
    ] = 1,
    protocol: Protocol = "holdout",
    workers: Workers = 1,
    gpus_per_worker: Gpus = 0,
    out: Out = Path("runs"),
    data_root: DataRoot = None,
    tracking_uri: Tracking = None,
    ray_address: RayAddress = None,
    config: ConfigFile = None,
    set_: Set = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train one method once and score its validation side. The test side stays sealed."""
    with _command(
        out=out, as_json=as_json, quiet=quiet, verbose=verbose, tracking_uri=tracking_uri, ray_address=ray_address,
        workers=workers, gpus_per_worker=gpus_per_worker, dry_run=dry_run,
    ) as running:  # fmt: skip
        running.train(method, dataset, track, seed, protocol, data_root or [], config, set_ or [])


@app.command(
    epilog="Example: python run_bench.py sweep vgg16 phantom --track margin --trials 4 --config docs/examples/tiny.yaml"
)
def sweep(
    method: Annotated[str, typer.Argument(help="a method of `list methods`")],
    dataset: Annotated[str, typer.Argument(help="a data set of `list datasets`")],
    track: TrackName = "margin",
    trials: Annotated[int, typer.Option(min=1, help="how many, the published point included")] = 20,
    time_budget: Annotated[
        float | None, typer.Option(callback=_above_zero, help="hours after which no trial goes on, above 0")
    ] = None,
    objectives: Annotated[
        str, typer.Option(help="validation metrics of `list metrics`: one, or two with a comma between")
    ] = "auroc_mean",
    readings: Annotated[
        bool, typer.Option("--readings", help="search also the points on which paper and code disagree")
    ] = False,
    scheduler: Annotated[str, typer.Option(help="asha or none")] = "asha",
    extend: Annotated[bool, typer.Option("--extend", help="add trials to a finished sweep")] = False,
    protocol: Protocol = "holdout",
    max_concurrent: Annotated[int | None, typer.Option(min=1, help="trials at once; default: what fits")] = None,
    workers: Workers = 1,
    gpus_per_worker: Gpus = 0,
    out: Out = Path("runs"),
    data_root: DataRoot = None,
    tracking_uri: Tracking = None,
    storage: Storage = None,
    ray_address: RayAddress = None,
    config: ConfigFile = None,
    set_: Set = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Search a method's settings on training and validation rows. The same command again goes on with the same sweep."""
    with _command(
        out=out, as_json=as_json, quiet=quiet, verbose=verbose, tracking_uri=tracking_uri, storage=storage,
        ray_address=ray_address, workers=workers, gpus_per_worker=gpus_per_worker, max_concurrent=max_concurrent,
        dry_run=dry_run,
    ) as running:  # fmt: skip
        running.sweep(
            method, dataset, track, protocol, data_root or [], config, set_ or [],
            trials=trials, time_budget=time_budget, objectives=objectives, readings=readings, scheduler=scheduler,
            extend=extend,
        )  # fmt: skip


@app.command(
    epilog="Example: python run_bench.py final vgg16 phantom --track margin --seeds 2 --config docs/examples/tiny.yaml"
)
def final(
    method: Annotated[str, typer.Argument(help="a method of `list methods`")],
    dataset: Annotated[str, typer.Argument(help="a data set of `list datasets`")],
    track: TrackName = "margin",
    from_: Annotated[
        str | None, typer.Option("--from", help="SWEEP, RUN or published; default: the finished sweep")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, max=999, help="trainings, seeds 1, 2, 3...")] = 5,
    reopen: Annotated[str | None, typer.Option(help="why a test side is looked at again; noted in the ledger")] = None,
    force: Annotated[bool, typer.Option("--force", help="train again what is finished; the board says so")] = False,
    cells: Annotated[
        int, typer.Option(min=0, help="test lesions whose cells are asked for Lesion and Background; 0: none")
    ] = 0,
    proposals: Annotated[
        str, typer.Option(help="RUN, a final of a detector: test lesions once more through its regions, seed by seed")
    ] = "",
    protocol: Protocol = "holdout",
    workers: Workers = 1,
    gpus_per_worker: Gpus = 0,
    out: Out = Path("runs"),
    data_root: DataRoot = None,
    tracking_uri: Tracking = None,
    ray_address: RayAddress = None,
    config: ConfigFile = None,
    set_: Set = None,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Train the chosen settings with several seeds and open the sealed test side, once, with a ledger entry."""
    with _command(
        out=out, as_json=as_json, quiet=quiet, verbose=verbose, tracking_uri=tracking_uri, ray_address=ray_address,
        workers=workers, gpus_per_worker=gpus_per_worker, dry_run=dry_run,
    ) as running:  # fmt: skip
        running.final(
            method, dataset, track, protocol, data_root or [], config, set_ or [],
            source=from_, seeds=seeds, reopen=reopen, force=force, cells=cells, proposals=proposals,
        )  # fmt: skip


@app.command(epilog="Example: python run_bench.py bench smoke --out runs")
def bench(
    suite: Annotated[str, typer.Argument(help="a suite of `list suites`, or your own YAML file")],
    out: Out = Path("runs"),
    data_root: DataRoot = None,
    tracking_uri: Tracking = None,
    storage: Storage = None,
    ray_address: RayAddress = None,
    workers: Workers = 1,
    gpus_per_worker: Gpus = 0,
    dry_run: DryRun = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Every cell of a suite: sweep, final, leaderboard. Called again it shows what is finished and goes on with the rest."""
    with _command(
        out=out, as_json=as_json, quiet=quiet, verbose=verbose, tracking_uri=tracking_uri, storage=storage,
        ray_address=ray_address, workers=workers, gpus_per_worker=gpus_per_worker, dry_run=dry_run,
    ) as running:  # fmt: skip
        running.bench(suite, data_root or [])


@app.command(epilog="Example: python run_bench.py leaderboard --out runs --csv")
def leaderboard(
    out: Out = Path("runs"),
    tracking_uri: Tracking = None,
    csv: Annotated[bool, typer.Option("--csv", help="the rows as CSV on stdout")] = False,
    md: Annotated[bool, typer.Option("--md", help="as a Markdown table")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="as a LaTeX table")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Build table and page again from what MLflow holds."""
    with _command(out=out, as_json=as_json, quiet=quiet, verbose=verbose, tracking_uri=tracking_uri) as running:
        running.leaderboard("csv" if csv else "md" if md else "latex" if latex else "table")


@app.command(epilog="Example: python run_bench.py explain 3f2a --out runs")
def explain(
    run: Annotated[str, typer.Argument(help="MLflow run id, or a unique beginning of it")],
    record: Annotated[list[str] | None, typer.Option("--record", help="record id; default: chosen by rule")] = None,
    out: Out = Path("runs"),
    tracking_uri: Tracking = None,
    as_json: Json = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
) -> None:
    """Explanation panels of a trained run, on its validation side."""
    with _command(out=out, as_json=as_json, quiet=quiet, verbose=verbose, tracking_uri=tracking_uri) as running:
        running.explain(run, record or [])


@app.command(epilog="Example: python run_bench.py ui --out runs")
def ui(
    out: Out = Path("runs"),
    tracking_uri: Tracking = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="where it listens, on this machine only")] = 5000,
    dry_run: DryRun = False,
) -> None:
    """Open the MLflow UI on the runs of OUT."""
    with _command(out=out, tracking_uri=tracking_uri, dry_run=dry_run) as running:
        running.ui(port)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning")  # of libraries, in worker processes
    app()
