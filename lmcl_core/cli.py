"""The command ``lmcl``. Exit codes: 0 success; 1 faults found or work failed; 2 wrong use or input; 130 interrupted."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

import typer

from .common.command import exit_codes, fail, kept, parse_changes, parse_split, print_faults, wrong_option
from .common.errors import InputError, counted
from .data.catalogue import BENCHMARKS

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, pretty_exceptions_enable=False)


def _complete(module: str, names: str) -> Callable[[str], list[str]]:
    """A function with which a shell completes the keys of a mapping of this package."""

    def matching(incomplete: str) -> list[str]:
        return [key for key in getattr(import_module(module, __package__), names) if key.startswith(incomplete)]

    return matching


_benchmarks = _complete(".data.catalogue", "BENCHMARKS")
_recipes = _complete(".recipe", "VARIANTS")
_weights = _complete(".runs.model_file", "BUNDLED")
_networks = _complete(".backbones.networks", "NETWORKS")
_BATCH_SIZE = 8
_ONE = f"{', '.join(BENCHMARKS)}, or the path of own data"
_SEVERAL = f"{_ONE}; several with commas, or all: every benchmark found"
Name = Annotated[str, typer.Option("--benchmark", help=_ONE, autocompletion=_benchmarks)]
Names = Annotated[str, typer.Option("--benchmark", help=_SEVERAL, autocompletion=_benchmarks)]
Root = Annotated[str, typer.Option("--data-root", help="the benchmark's folder, or its parent folder")]
RunsDir = Annotated[str, typer.Option(help="folder of run folders; default: $LMCL_RUNS, else runs/ of the checkout")]
FiguresDir = Annotated[str, typer.Option(help="folder of figures and tables; default: figures/ in the folder of runs")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps")]
Network = Annotated[str, typer.Option(help="lite0, clip-b16-frozen, clip-b16, deit3-s", autocompletion=_networks)]
_SET = "change a recipe field; may be repeated"
Set = Annotated[list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help=_SET)]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="run finished work again")]


@app.callback()
def _options(debug: Annotated[bool, typer.Option("--debug", help="show the traceback of an error")] = False) -> None:
    """Local manifold contrastive learning for no-reference image quality assessment."""


@app.command()
def reproduce(
    benchmark: Names = "demo",
    data_root: Root = "",
    splits: Annotated[int, typer.Option(help="number of splits, from split 0")] = 2,
    runs_dir: RunsDir = "",
    figures_dir: FiguresDir = "",
    device: Device = "auto",
    overwrite: Overwrite = False,
    changes: Set = None,
    workers: Annotated[int, typer.Option(help="notebooks that run at once; 0: one per GPU or core")] = 0,
    scheduler: Annotated[str, typer.Option(help="tcp://HOST:PORT of a Dask scheduler, or slurm")] = "",
    network: Network = "lite0",
    ablation: Annotated[bool, typer.Option("--ablation", help="train every variant, and run notebook 05")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print runs, time and disk space; run nothing")] = False,
) -> None:
    """Run notebooks 01 to 04 and 06 (with --ablation also 05); skip finished work; compare with the reference."""
    from .batch.reproduce import ReproduceOptions, print_forecast
    from .batch.reproduce import reproduce as run

    options = ReproduceOptions(
        benchmark=benchmark,
        data_root=data_root,
        splits=splits,
        runs_dir=runs_dir,
        figures_dir=figures_dir,
        device=device,
        overwrite=overwrite,
        changes=parse_changes(changes),
        workers=workers,
        scheduler=scheduler,
        ablation=ablation,
        network=network,
    )
    (print_forecast if dry_run else run)(options, _log)


@app.command()
def compare(
    benchmark: Name = "demo",
    runs_dir: RunsDir = "",
    figures_dir: FiguresDir = "",
    reference: Annotated[str, typer.Option(help="folder of the reference; default: figures/ of the checkout")] = "",
) -> None:
    """Compare results with the committed reference; exit code 1 if one lies outside its tolerance."""
    from .common.paths import figures_folder, reference_folder
    from .data.benchmarks import name_of
    from .results.reproduction import report

    name = name_of(benchmark)
    folder = figures_folder(name, reference) if reference else reference_folder(name)
    report(figures_folder(name, figures_dir, runs_dir), folder, _log)


@app.command()
def audit(data_root: Root = "") -> None:
    """Check that committed tables, records and numbers on pages agree; exit code 1 if one does not."""
    from .results.audit import audit as run

    problems = run(data_root, _log)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"{counted(len(problems), 'difference')} in figures/, notebooks/ and README.md")
    raise typer.Exit(bool(problems))


@app.command()
def rerun(
    run: Annotated[str, typer.Argument(help="folder of a finished run, or its run.json")],
    data_root: Root = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps; default: the recorded one")] = "",
    out: Annotated[str, typer.Option(help="folder of the new run; default: a temporary one")] = "",
) -> None:
    """Train a finished run again and compare its results; exit code 1 if one lies outside its tolerance."""
    from .common.devices import check_device_name
    from .results.rerun import rerun as train_again

    check_device_name(device or "auto")
    train_again(run, data_root or None, device, out, _log)


@app.command()
def verify(
    benchmark: Annotated[str, typer.Argument(help=_ONE, autocompletion=_benchmarks)],
    data_root: Annotated[str, typer.Argument(help="the benchmark's folder, or its parent folder")] = "",
    deep: Annotated[bool, typer.Option("--deep", help="also decode every image")] = False,
    hashes: Annotated[str | None, typer.Option(help="known-good list, to compare every image with")] = None,
    write_hashes: Annotated[str | None, typer.Option(help="new file for the list of a folder without faults")] = None,
    show: Annotated[int, typer.Option(min=0, help="number of faults of one kind to print")] = 10,
) -> None:
    """Check a benchmark's folder. Print every fault with its fix or, if there are none, the splits and their hashes."""
    from .data.benchmarks import load_benchmark
    from .data.verify import UNSEEN, split_lines, verify_benchmark, write_known_good

    if faults := verify_benchmark(benchmark, data_root or None, deep, hashes):
        print_faults(benchmark, faults, show)
        raise typer.Exit(1)
    if write_hashes:
        write_known_good(write_hashes, benchmark, data_root or None)
    table = load_benchmark(benchmark, data_root or None)
    kind = table.attrs["label_kind"]
    print(f"{benchmark}: {len(table)} images, no faults; labels from {table.attrs['label_file']}: {kind}")
    for line in [*table.attrs["notes"], *split_lines(table), *([UNSEEN] if deep and not hashes else [])]:
        print(line)


@app.command()
def download(
    benchmark: Annotated[str, typer.Argument(help="its name, such as kadid10k", autocompletion=_benchmarks)],
    folder: Annotated[str, typer.Argument(help="folder that will hold the benchmark's own folder")],
    yes: Annotated[bool, typer.Option("--yes", help="accept the owners' terms without a question")] = False,
) -> None:
    """Show a benchmark's terms and download it; if it is not openly available, say whom to ask."""
    from .data.download import download as run

    run(benchmark, folder, accept=lambda: yes or typer.confirm("Do you accept the owners' terms?"), log=_log)


@app.command()
def train(
    benchmark: Name = "demo",
    data_root: Root = "",
    split: Annotated[str, typer.Option(help="index of a numbered split, or official")] = "0",
    recipe: Annotated[
        str, typer.Option(help="lmcl, no-manifold, or another variant of the ablation", autocompletion=_recipes)
    ] = "lmcl",
    network: Network = "lite0",
    validation: Annotated[
        bool, typer.Option("--validation", help="test on a validation part: 15 % of all contents, cut from training")
    ] = False,
    runs_dir: RunsDir = "",
    device: Device = "auto",
    overwrite: Overwrite = False,
    changes: Set = None,
) -> None:
    """Train and test on one split, without a notebook. Repeat the command to resume a killed run."""
    from .common.devices import check_device_name
    from .common.paths import runs_folder
    from .data.benchmarks import load_benchmark
    from .data.splits import make_split, validation_split
    from .recipe import Recipe, check_changes
    from .runs.folder import run_folder

    check_device_name(device)
    fields, index, runs = parse_changes(changes), parse_split(split), runs_folder(runs_dir)
    Recipe.for_benchmark("demo", recipe, network=network, **fields)  # wrong use is found before the demo is built
    check_changes({field: value for field, value in fields.items() if field != "name"}, [recipe])
    table = load_benchmark(benchmark, data_root or None)
    settings = Recipe.for_benchmark(table, recipe, network=network, **fields)
    parts = validation_split(table, index) if validation else make_split(table, index)
    folder = run_folder(runs, table.attrs["benchmark"], settings.name, parts.index)
    from .common.distributed import rank
    from .training import train as run

    result = run(table, parts, settings, folder, device, resume=not overwrite, log=_log)
    if rank() == 0:
        scores = "  ".join(f"{key[-4:].upper()} {result[key]:.4f}" for key in ("srcc", "plcc"))
        print(f"{folder}: {'validation' if validation else 'test'} {scores}  (last epoch)")


@app.command()
def score(
    paths: Annotated[list[str], typer.Argument(help="images, or folders of images; with --out also s3://...")],
    weights: Annotated[
        str, typer.Option(help="bundled name, model.safetensors, or a run folder", autocompletion=_weights)
    ] = "general",
    form: Annotated[Literal["csv", "json"] | None, typer.Option("--format", help="of rows; default: csv")] = None,
    overlays: Annotated[str | None, typer.Option(help="folder for overlays of saliency and crop scores")] = None,
    batch_size: Annotated[int, typer.Option(min=1, max=2**16, help="images per forward pass")] = _BATCH_SIZE,
    out: Annotated[str | None, typer.Option(help="folder of Parquet files, scored in chunks on Dask")] = None,
    workers: Annotated[int, typer.Option(help="with --out: number of workers; 0: one per GPU or core")] = 0,
    scheduler: Annotated[str, typer.Option(help="with --out: tcp://HOST:PORT of a Dask scheduler, or slurm")] = "",
    device: Device = "auto",
) -> None:
    """Score images: image, score in MOS units, percentile (percentage of the training images with a lower MOS).

    Unreadable images are listed on stderr, with exit code 1.
    """
    from .common.devices import check_device_name
    from .runs.model_file import find_model
    from .scoring.output import check_options, print_scores

    check_options(paths, out, overlays is not None or form is not None or batch_size != _BATCH_SIZE, scheduler, workers)
    find_model(weights)
    check_device_name(device)
    if out is not None:
        _score_on_cluster(paths, out, weights, scheduler, workers, device)
        return
    if print_scores(paths, weights, form, overlays, batch_size, device):
        raise typer.Exit(1)


def _score_on_cluster(paths: list[str], out: str, weights: str, scheduler: str, workers: int, device: str) -> None:
    from .batch.cluster import check_cluster, check_scheduler, connect
    from .scoring.many import score_many

    check_cluster(scheduler, workers)
    check_scheduler(scheduler)
    scored, faults = score_many(paths, out, weights, cluster=connect(scheduler, workers), device=device, log=_log)
    print(f"{counted(scored, 'image')} scored, {faults} could not be read; scores in {out}")
    if faults:
        print(f"{counted(faults, 'image')} could not be read: column fault of {out} gives the reasons", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def bench(
    benchmark: Name = "demo",
    data_root: Root = "",
    parts: Annotated[str, typer.Option(help="of store,features,training,scoring,loss,growth; default: all")] = "",
    repeats: Annotated[int, typer.Option(min=1, max=1000, help="repetitions of each measurement")] = 5,
    images: Annotated[int, typer.Option(min=8, max=10**6, help="number of images; scoring uses at most 32")] = 64,
    against: Annotated[str, typer.Option(help="with LIVEC: a checkout of DEIQT to time as well")] = "",
    figures_dir: FiguresDir = "",
    device: Device = "auto",
    changes: Set = None,
) -> None:
    """Time store, features, training, scoring and loss on this machine against plain loops, and how costs grow."""
    from .bench.options import check_options
    from .common.devices import check_device_name
    from .common.paths import figures_folder
    from .data.benchmarks import name_of

    check_device_name(device)
    fields, folder = parse_changes(changes), Path(figures_folder("bench", figures_dir), name_of(benchmark))
    chosen = [part.strip() for part in parts.split(",")] if parts else []
    check_options(benchmark, data_root, chosen, against, fields)
    from .bench.measure import bench as run
    from .bench.measure import machine, three_digits

    tables = run(folder, benchmark, data_root, repeats, images, device, chosen, against, fields, log=_log)
    for table in tables:
        if len(table):
            print(table.to_string(index=False, float_format=three_digits, na_rep="-"))
    print(f"{machine(device)}; tables and figures are in {folder}")


@app.command()
def doctor(
    folders: Annotated[list[str] | None, typer.Argument(help="folders of benchmarks to look into")] = None,
) -> None:
    """Check packages, processor, memory, disk, weights, cache and data; exit 1 if `make reproduce` would stop."""
    from .batch.doctor import doctor as run

    run(folders or [], _log)


def _log(line: str) -> None:
    from .common.progress import above_bar

    with above_bar():
        print(line, flush=True)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code; every error is one line on stderr."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    if sys.stderr is None:  # closed by the caller
        sys.stderr = open(os.devnull, "w")
    if sys.stdout is None:
        fail("lmcl", "standard output is closed, and results would be lost: redirect it to a file or /dev/null", 2)
    sys.stdout.reconfigure(errors="backslashreplace")  # for names that the terminal's encoding lacks
    arguments = [argument for argument in arguments if argument != "--debug"]
    if not arguments and "_LMCL_COMPLETE" not in os.environ:  # by which a shell asks for completions
        app(["--help"], prog_name="lmcl", standalone_mode=False)
        sys.exit(2)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop as with Ctrl-C when a queue ends the job
    try:
        with exit_codes("lmcl", debug):
            words = [word for argument in arguments for word in argument.split("=", 1)]
            if empty := [option for option, value in zip(words, words[1:]) if option[:2] == "--" and not value.strip()]:
                raise InputError(f"{empty[0]} is empty: give it a value, or leave it out")
            code = app(arguments, prog_name="lmcl", standalone_mode=False)
    except typer.Abort:
        fail("lmcl", "the question got no answer: add --yes to accept the terms without it", 2, debug)
    except Exception as error:
        if (message := wrong_option(error, arguments)) is not None:
            fail("lmcl", message, 2, debug)
        fail("lmcl", f"unexpected {type(error).__name__}: {error}; run again with --debug to see where", 1, debug)
    if code == 130:  # typer reports Ctrl-C by this code
        fail("lmcl", "; ".join(filter(None, ["stopped", kept(arguments)])), 130, debug)
    sys.exit(code if isinstance(code, int) else 0)
