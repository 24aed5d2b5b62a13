"""The command line, ``lmcl``: exit 0 good, 1 something is faulty or failed, 2 wrong use."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from .arguments import parse_changes, parse_split
from .errors import InputError, RunError, counted, refused

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Local manifold contrastive learning for no-reference image quality assessment. "
    "With --debug, an error shows its traceback.",
)

Name = Annotated[
    str, typer.Option("--benchmark", help="demo, livec, live, csiq, tid2013, kadid10k, koniq10k, livefb, spaq")
]
Names = Annotated[str, typer.Option("--benchmark", help="one, several with commas, or all that are in the folder")]
Root = Annotated[str, typer.Option("--data-root", help="the benchmark's official folder, or the folder it lies in")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="change a recipe field; may be repeated")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="compute again what is finished")]

_AT_A_TIME = 8  # pictures that are scored together


@app.command()
def reproduce(
    benchmark: Names = "demo",
    data_root: Root = "",
    splits: Annotated[int, typer.Option(help="how many of the numbered splits")] = 3,
    runs_dir: Annotated[str, typer.Option(help="default: runs/ of the checkout")] = "",
    figures_dir: Annotated[str, typer.Option(help="default: figures/ of the checkout")] = "",
    device: Device = "auto",
    overwrite: Overwrite = False,
    changes: Set = None,
    workers: Annotated[int, typer.Option(help="notebooks at once; 0: one a GPU, or one")] = 0,
    scheduler: Annotated[str, typer.Option(help="tcp://HOST:PORT of a Dask scheduler, or slurm")] = "",
    ablation: Annotated[bool, typer.Option("--ablation", help="train every variant too, and run notebook 05")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print plan, time and room; run nothing")] = False,
) -> None:
    """Run notebooks 01 to 04 and 06 (with --ablation 05 too) headless, over benchmarks and splits; finished work is
    skipped."""
    from .reproduce import Order
    from .reproduce import reproduce as run

    order = Order(
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
    )
    if not dry_run:
        run(order, log=_say)
        return
    script = _slurm_script() if scheduler == "slurm" else ""  # first: settings that are missing are told at once
    from .estimates import forecast  # here: it needs torch, which a batch leaves to its notebooks

    expected = forecast(order, log=_say)
    print(expected.round({"minutes": 1, "store_gb": 2}).to_string(index=False))
    print(
        f"in all {expected['runs'].sum()} runs, {expected['minutes'].sum():.0f} minutes of training on one worker, "
        f"{expected['store_gb'].sum():.1f} GB of decoded pictures"
    )
    if script:
        print(script)


def _slurm_script() -> str:
    from .batch import slurm_cluster

    with slurm_cluster() as cluster:
        return cluster.job_script()


@app.command()
def verify(
    benchmark: Annotated[str, typer.Argument(help="its name, such as demo, livec or tid2013")],
    data_root: Annotated[str, typer.Argument(help="the official folder, or the folder it lies in")] = "",
    deep: Annotated[bool, typer.Option("--deep", help="decode every image")] = False,
    show: Annotated[int, typer.Option(min=0, help="faults of one kind to print")] = 10,
) -> None:
    """Check a benchmark's folder; print its split hashes, or every fault with its fix."""
    from .benchmarks import BENCHMARKS, load_benchmark
    from .splits import make_split, shared_contents, split_hash
    from .verify import verify_benchmark

    faults = verify_benchmark(benchmark, data_root or None, deep)
    counts = Counter(fault.kind for fault in faults)
    for kind, count in counts.items():
        for fault in [fault for fault in faults if fault.kind == kind][:show]:
            print(fault, file=sys.stderr)
        if count > show:
            print(f"{kind}: {count - show} more", file=sys.stderr)
    if faults:
        print(f"{benchmark}: {counted(len(faults), 'fault')}", file=sys.stderr)
        raise typer.Exit(1)
    table = load_benchmark(benchmark, data_root or None)
    kind = BENCHMARKS[benchmark].label_kind
    print(f"{benchmark}: {len(table)} images, no faults; labels from {table.attrs['label_file']}: {kind}")
    for note in table.attrs["notes"]:
        print(note)
    seen: dict[str, int | str] = {}
    for index in [*range(10), *(["official"] if table["official_split"].notna().any() else [])]:
        split = make_split(table, index)
        digest = split_hash(table, split)
        again = f"; the same as split {seen[digest]}, there are so few contents" if digest in seen else ""
        seen.setdefault(digest, index)
        counts = ", ".join(f"{len(part)} {name}" for name, part in zip(("train", "val", "test"), split) if len(part))
        print(f"split {index}: {digest}  {counts}, {shared_contents(table, split)} contents shared{again}")


@app.command()
def download(
    benchmark: Annotated[str, typer.Argument(help="its name, such as kadid10k")],
    folder: Annotated[str, typer.Argument(help="where the benchmark's own folder is put")],
    yes: Annotated[bool, typer.Option("--yes", help="accept the owners' terms without being asked")] = False,
) -> None:
    """Download a benchmark that may be had openly, after showing its owners' terms; for others, say where to ask."""
    from .download import download as run

    run(benchmark, folder, accept=lambda: yes or typer.confirm("Do you accept the owners' terms?"), log=_say)


@app.command()
def train(
    benchmark: Name = "demo",
    data_root: Root = "",
    split: Annotated[str, typer.Option(help="which numbered split, or official")] = "0",
    recipe: Annotated[str, typer.Option(help="lmcl, no-manifold, or another variant of the ablation")] = "lmcl",
    validation: Annotated[bool, typer.Option("--validation", help="measure on 15 % of the training part")] = False,
    runs_dir: Annotated[str, typer.Option(help="default: runs/ of the checkout")] = "",
    device: Device = "auto",
    overwrite: Overwrite = False,
    changes: Set = None,
) -> None:
    """Train and test one split, without a notebook; a killed run goes on where it was."""
    from .benchmarks import load_benchmark
    from .splits import make_split, validation_split
    from .paths import runs_folder
    from .processes import rank
    from .recipe import Recipe, check_changes
    from .runs import run_folder
    from .training import train as run

    settings, index = Recipe.for_benchmark(benchmark, recipe, **parse_changes(changes)), parse_split(split)
    check_changes({field: value for field, value in parse_changes(changes).items() if field != "name"}, [recipe])
    table = load_benchmark(benchmark, data_root or None)
    parts = validation_split(table, index) if validation else make_split(table, index)
    folder = run_folder(runs_folder(runs_dir), benchmark, settings.name, parts.index)
    result = run(table, parts, settings, folder, device, resume=not overwrite, log=_say)
    if rank() > 0:  # of several processes the first one tells
        return
    part = "validation" if validation else "test"
    print(f"{folder}: {part} SRCC {result['srcc']:.4f}  PLCC {result['plcc']:.4f}  (last epoch)")


@app.command()
def score(
    paths: Annotated[list[str], typer.Argument(help="pictures, or folders, at any depth; with --out also addresses")],
    weights: Annotated[str, typer.Option(help="bundled name, model.safetensors or its run folder")] = "livec",
    form: Annotated[str, typer.Option("--format", help="csv or json")] = "csv",
    overlays: Annotated[str | None, typer.Option(help="folder for one picture a file: saliency, crop scores")] = None,
    batch_size: Annotated[int, typer.Option(help="pictures at a time")] = _AT_A_TIME,
    out: Annotated[str | None, typer.Option(help="folder of Parquet files, scored in parts on a Dask cluster")] = None,
    workers: Annotated[int, typer.Option(help="with --out: workers; 0: one a GPU, or one")] = 0,
    scheduler: Annotated[str, typer.Option(help="with --out: tcp://HOST:PORT of a Dask scheduler, or slurm")] = "",
    device: Device = "auto",
) -> None:
    """Score pictures: image, score in MOS units, percentile. Unreadable ones are listed on stderr, exit 1."""
    if not all(name.strip() for name in [*paths, weights]) or out is not None and not out.strip():
        raise InputError("a path, --weights or --out is empty: name files or folders, or leave the option out")
    if out is not None:
        if overlays is not None or form != "csv" or batch_size != _AT_A_TIME:
            raise InputError("--overlays, --format and --batch-size go with rows on standard output: leave out --out")
        _score_many(paths, out, weights, scheduler, workers, device)
        return
    if scheduler or workers:
        raise InputError("--scheduler and --workers need a place for the scores: add --out FOLDER")
    if address := next((path for path in paths if "://" in path), None):
        raise InputError(f"{address} is an address: add --out FOLDER, or name files and folders")
    from PIL import Image

    from .catalogue import BENCHMARKS
    from .pictures import pictures_below
    from .score_files import picture_files, score_files
    from .score_writers import WRITERS
    from .scoring import load

    if form not in WRITERS:
        raise InputError(f"--format is {form!r}: it must be one of {', '.join(WRITERS)}")
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large pictures are wanted here
    drawn = None if overlays is None else _overlays(overlays, paths)
    if empty := next((path for path in map(Path, paths) if os.path.isdir(path) and not pictures_below(path)), None):
        raise InputError(f"no pictures in {empty}, hidden ones aside: name picture files, or folders that hold some")
    scorer = load(weights, device)
    if scorer.about["benchmark"] == "demo":
        print(f"scores are those of the demo's labels: {BENCHMARKS['demo'].label_kind}", file=sys.stderr)
    answers, faults = score_files(scorer, picture_files(paths), batch_size), 0
    with WRITERS[form]() as write:
        for number, scored in enumerate(answers):
            if scored.fault is not None:
                faults += 1
                print(" ".join(scored.fault.split()), file=sys.stderr)
                continue
            write(dict(image=scored.image, score=round(scored.score, 4), percentile=round(scored.percentile, 2)))
            if drawn is not None:
                drawn.save(scorer, scored, number)
    if faults:
        raise typer.Exit(1)


def _overlays(folder: str, paths: list[str]):
    from .overlays import Overlays  # here: it needs matplotlib
    from .paths import whole_path

    if not folder.strip():
        raise InputError("--overlays is empty: name a folder, or leave it out")
    return Overlays(whole_path(folder), paths)


def _score_many(paths: list[str], out: str, weights: str, scheduler: str, workers: int, device: str) -> None:
    from .score_many import score_many

    scored, faults = score_many(paths, out, weights, scheduler=scheduler, workers=workers, device=device, log=_say)
    print(f"{counted(scored, 'picture')} scored, {faults} could not be read; scores in {out}")
    if faults:
        print(f"{counted(faults, 'picture')} could not be read: the column fault of {out} says why", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def bench(
    benchmark: Name = "demo",
    data_root: Root = "",
    parts: Annotated[str, typer.Option(help="store, training, scoring, loss, growth; several with commas")] = "",
    repeats: Annotated[int, typer.Option(help="repetitions of each measurement")] = 5,
    images: Annotated[int, typer.Option(help="how many of its pictures; scoring: 32 at most")] = 64,
    against: Annotated[str, typer.Option(help="with LIVEC: a checkout of DEIQT, timed too")] = "",
    figures_dir: Annotated[str, typer.Option(help="default: figures/ of the checkout")] = "",
    device: Device = "auto",
    changes: Set = None,
) -> None:
    """Measure this machine: store, training, scoring, loss and memory beside plain loops, and how costs grow."""
    from . import bench as measure
    from .bench_report import Report
    from .paths import figures_folder

    order = measure.Order(
        benchmark=benchmark,
        data_root=data_root,
        repeats=repeats,
        images=images,
        device=device,
        parts=tuple(part.strip() for part in parts.split(",")) if parts else measure.PARTS,
        against=against,
        changes=parse_changes(changes),
    )
    report = Report(order, Path(figures_folder("bench", figures_dir), benchmark))
    measure.bench(order, log=_say, done=report.write)
    for told in (report.costs, report.growth):
        if len(told):
            print(told.to_string(index=False, float_format=_three_figures, na_rep="-"))
    print(f"{report.note}; tables and pictures in {report.folder}")


def _three_figures(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _kept(arguments: list[str]) -> str:
    """What of a command that was stopped is kept."""
    if arguments[:1] == ["score"]:
        parts = any(argument.startswith("--out") for argument in arguments)
        rows = "the rows that were printed are whole; the other pictures are not scored"
        return "finished parts are kept, run the same command again to go on" if parts else rows
    if arguments[:1] == ["bench"]:
        return "tables and pictures of parts that were measured whole are kept, under names that end in unfinished"
    trains = arguments[:1] in (["train"], ["reproduce"])
    return "finished epochs are kept, run the same command again to go on" if trains else ""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with its code; every error is one or two lines on stderr."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    if sys.stderr is None:  # closed by whoever called: what would be told there is lost, the exit code is not
        sys.stderr = open(os.devnull, "w")
    if sys.stdout is None:
        _fail("standard output is closed, and the answer would be lost: send it to a file or to /dev/null", 2, debug)
    sys.stdout.reconfigure(errors="backslashreplace")  # a name that the terminal's encoding lacks stops nothing
    arguments = [argument for argument in arguments if argument != "--debug"]
    if not arguments:
        app(["--help"], prog_name="lmcl", standalone_mode=False)
        sys.exit(2)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what a queue sends stops it as Ctrl-C does
    try:
        code = app(arguments, prog_name="lmcl", standalone_mode=False)
    except InputError as error:
        _fail(str(error), 2, debug)
    except typer.Abort:
        _fail("stopped at a question nobody answered: add --yes to accept the terms without being asked", 2, debug)
    except RunError as error:
        _fail(str(error), 1, debug)
    except Exception as error:  # the last line of defence: one line for the user, all of it with --debug
        if hasattr(error, "format_message"):  # wrong use of an option, found by the command-line library
            command = getattr(getattr(error, "ctx", None), "command_path", "lmcl")
            _fail(f"{error.format_message()} Try `{command} --help`.", 2, debug)
        told = refused(error) if isinstance(error, OSError) else None
        _fail(told or f"unexpected {type(error).__name__}: {error}; run again with --debug to see where", 1, debug)
    if code == 130:  # how the library reports Ctrl-C
        _fail("; ".join(["stopped", *filter(None, [_kept(arguments)])]), 130, debug)
    sys.exit(code if isinstance(code, int) else 0)


def _fail(message: str, code: int, debug: bool) -> None:
    if debug:
        import traceback

        traceback.print_exc()
    print(f"lmcl: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


def _say(line: str) -> None:
    print(line, flush=True)
