"""Time store, features, training, scoring and loss against baselines, and how time grows with size."""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from ..backbones.networks import NETWORKS
from ..common.devices import device_name, resolve_device
from ..common.errors import InputError
from ..common.files import ensure_writable
from ..common.progress import meter
from ..common.tasks import check_main_guard
from ..data.benchmarks import load_benchmark
from ..recipe import Recipe
from ..results import plots
from ..results.figures import save, save_table
from ..runs.provenance import commit_in_words, provenance
from . import options, rivals
from .rivals import Contender

LOSS_SIZES = (512, 2048, 8192)
#: Sizes of a training step in the part "growth", large enough to hide the fixed cost of a step.
CURVES = dict(batch_images=(8, 16, 32), crops=(7, 15, 31), crop_size=(112, 160, 224))
COLUMNS = ["part", "contender", "size", "repetition", "items", "unit", "seconds", "peak_mb", "waiting"]


def bench(
    folder: str | Path,
    benchmark: str = "demo",
    data_root: str = "",
    repeats: int = 5,
    images: int = 64,
    device: str = "auto",
    parts: Sequence[str] = (),
    against: str = "",
    changes: Mapping[str, Any] | None = None,
    log: Callable[[str], None] = print,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Measure the chosen parts on a benchmark's images and write the files of `write` to a folder.

    Each measurement is repeated `repeats` (>= 1) times on `images` (>= 8) images. `parts` are keys of `PARTS`, empty
    for all. `against` is a checkout of DEIQT to time in "training". `changes` are recipe fields for all parts
    but "scoring" and "loss". Finished parts are kept in ``repetitions*_unfinished.csv`` until all are done. Returns the
    results of `summary` and `exponents`. InputError: an option or the data cannot be used. RunError: the folder
    cannot be written.
    """
    changes = changes or {}
    for name, value, least in (("repeats", repeats, 1), ("images", images, 8)):
        if value < least:
            raise InputError(f"{name} is {value}: it must be at least {least}")
    options.check_options(benchmark, data_root, parts, against, changes)
    ensure_writable(folder)
    table = load_benchmark(benchmark, data_root or None)
    recipe = Recipe.for_benchmark(table, **{"pretrained": False, **changes})
    about = dict(benchmark=table.attrs["benchmark"], images_at_most=images, changes=json.dumps(changes))
    about |= dict(machine=machine(device), commit=commit_in_words(provenance()))
    device = resolve_device(device)
    if against:
        rivals.import_deiqt(against)  # fail before anything is measured
    rows = np.linspace(0, len(table) - 1, min(images, len(table))).round().astype(int)
    table = table.iloc[rows].reset_index(drop=True)
    chosen, found = [part for part in PARTS if part in (parts or PARTS)], []
    name = "_" + "-".join(chosen) if len(chosen) < len(PARTS) else ""  # keep the files of a full bench
    # baselines draw from the global generator
    with closing(meter(len(chosen), "parts")) as shown, torch.random.fork_rng(devices=[]):
        for part in chosen:
            for title, makers, calls, columns in PARTS[part](table, recipe, device, against):
                log(f"{part}: {title}")
                turns = compare(makers, repeats, calls, memory=part in ("training", "scoring", "loss"))
                found.append(turns.assign(**{"part": part, **columns}))
            save_table(pd.concat(found).assign(**about), folder, f"repetitions{name}_unfinished")
            shown.update()
    return write(pd.concat(found, ignore_index=True).reindex(columns=COLUMNS), about, Path(folder), name)


def compare(
    makers: Mapping[Any, Callable[[], Contender]], repeats: int, calls: int = 1, memory: bool = False
) -> pd.DataFrame:
    """Time contenders in alternation, so that other load on the machine affects all of them, after a warm-up round.

    `makers` are functions that make a contender, by name; they must pickle if `memory`. A repetition is `calls` calls.
    Returns columns contender, repetition, items, seconds; peak_mb, from `peak_megabytes`, if `memory`; and waiting, the
    share of the seconds spent waiting for crops (on a GPU, which works meanwhile, an upper bound). NaN: not measured.
    """
    peaks = {name: _peak_in_process(make) for name, make in makers.items()} if memory else {}
    contenders, rows = {name: make() for name, make in makers.items()}, []
    for repetition in range(-1, repeats):
        for name, contender in contenders.items():
            waited, start = getattr(contender, "waited", np.nan), time.perf_counter()
            items = sum(contender() for _ in range(calls))
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds = time.perf_counter() - start
            waiting = (getattr(contender, "waited", np.nan) - waited) / seconds
            rows.append(dict(contender=name, repetition=repetition, items=items, seconds=seconds, waiting=waiting))
    rows = pd.DataFrame(rows[len(makers) :])
    return rows.assign(peak_mb=rows["contender"].map(peaks).astype(float))


def _peak_in_process(make: Callable[[], Contender]) -> float:
    check_main_guard()
    context = multiprocessing.get_context("forkserver")  # a spawned process would inherit the peak of its parent
    with ProcessPoolExecutor(1, context) as pool:
        return pool.submit(peak_megabytes, make).result()


def peak_megabytes(make: Callable[[], Contender]) -> float:
    """Peak memory of two calls of a contender, in megabytes above that before them: GPU memory if it uses a GPU, else
    resident memory of this process without its children."""
    contender, reset = make(), Path("/proc/self/clear_refs")
    now, peak = torch.cuda.memory_allocated, torch.cuda.max_memory_allocated
    if not now():
        now = peak = _resident_peak
        if reset.is_file():  # Linux: restart the high-water mark
            reset.write_text("5")
    before = now()
    contender()
    contender()
    return (peak() - before) / 1e6


def _resident_peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


#: What a part yields for each of its measurements: title, makers and calls for `compare`, and columns to add.
Measurement = tuple[str, dict[Any, Callable[[], Contender]], int, dict[str, Any]]


def _store(table: pd.DataFrame, recipe: Recipe, device: str, against: str) -> Iterator[Measurement]:
    ways = {"ours": rivals.build_store, "decoding alone": rivals.decode_all}
    makers = {name: partial(partial, way, table, recipe.short_side) for name, way in ways.items()}
    yield f"{len(table)} images, in parallel into a store, and one by one", makers, 1, dict(unit="images")


def _features(table: pd.DataFrame, recipe: Recipe, device: str, against: str) -> Iterator[Measurement]:
    if not recipe.frozen:
        recipe = replace(recipe, **{**NETWORKS["clip-b16-frozen"], "pretrained": False})
    makers = {name: partial(rivals.features, table, recipe, device, name) for name in ("ours", "one at a time")}
    yield f"{recipe.backbone}, into a bank, and one view at a time", makers, 1, dict(unit="views")


def _training(table: pd.DataFrame, recipe: Recipe, device: str, against: str) -> Iterator[Measurement]:
    ways = {"ours": rivals.our_training, "plain loop": rivals.plain_training}
    makers = {name: partial(way, table, recipe, device) for name, way in ways.items()}
    calls = 2 if device == "cpu" else 16  # more steps than a contender prefetches
    yield "student, teacher and all losses, and a plain loop", makers, calls, dict(unit="crops")
    if against:  # the same network and crops per step
        vit = replace(recipe, backbone="deit3_small_patch16_224", batch_images=4, crops=4)
        makers = {"ours, ViT-S": partial(rivals.our_training, table, vit, device)}
        makers["DEIQT"] = partial(rivals.deiqt_training, against, table, device)
        yield "ViT-S", makers, 16, dict(unit="crops", part="training ViT-S")


def _scoring(table: pd.DataFrame, recipe: Recipe, device: str, against: str) -> Iterator[Measurement]:
    files = rivals.image_files(table)[:32]
    ways = {"ours": True, "one at a time": False}
    makers = {name: partial(rivals.scoring, files, device, batches) for name, batches in ways.items()}
    yield f"{len(files)} images, in batches and one at a time", makers, 1, dict(unit="images")


def _loss(table: pd.DataFrame, recipe: Recipe, device: str, against: str) -> Iterator[Measurement]:
    for size in LOSS_SIZES:
        makers = {name: partial(rivals.loss_step, name, size, device) for name in rivals.losses(size)}
        calls = min(16, max(1, 2**22 // size**2))
        yield f"{size} embeddings of 128, forward and backward", makers, calls, dict(unit="losses", size=size)


def _growth(table: pd.DataFrame, recipe: Recipe, device: str, against: str) -> Iterator[Measurement]:
    """One curve per quantity. The crops of an image include its global view, which costs about as much as a crop."""

    def step(images: int, **changes: int) -> Callable[[], Contender]:
        return partial(rivals.our_training, table, replace(recipe, batch_images=images, **changes), device)

    files, side = rivals.image_files(table), recipe.short_side
    counts = [len(files) // 8, len(files) // 4, len(files) // 2, len(files)]
    curves = {
        "store, images": {n: partial(partial, rivals.build_store, table.iloc[:n], side) for n in counts},
        "scoring, images": {n: partial(rivals.scoring, files[:n], device, True) for n in counts},
        "training step, images per batch": {n: step(n) for n in CURVES["batch_images"]},
        "training step, crops and view per image": {n + 1: step(4, crops=n) for n in CURVES["crops"]},
        "training step, pixels per crop": {n * n: step(8, crop_size=n) for n in CURVES["crop_size"]},
    }
    for name, makers in curves.items():
        unit = "crops" if name.startswith("training") else "images"
        columns = dict(size=lambda rows: rows["contender"].astype(float), contender=name, unit=unit)
        yield f"{name} {', '.join(map(str, makers))}", makers, 1, columns


PARTS = dict(zip(options.PARTS, (_store, _features, _training, _scoring, _loss, _growth)))


def machine(device: str) -> str:
    """Processor, number of threads and version of torch."""
    return f"{device_name(resolve_device(device))}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}"


def write(found: pd.DataFrame, about: dict[str, object], folder: Path, name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write repetitions<name>.csv, and costs<name> and growth<name> as CSV, PNG and PDF.

    `found` holds all repetitions; `about` holds columns that describe the machine and the options. Returns the results
    of `summary` and `exponents`. RunError: a file cannot be written.
    """
    save_table(found.assign(**about), folder, f"repetitions{name}")
    growing = found["part"] == "growth"
    curves, costs, slopes = found[growing], summary(found[~growing]), exponents(found[growing])
    if len(costs) > 1:
        caption = "Items per second of this package and of what it is compared with. Longer bars are faster."
        save(plots.costs(costs), costs, folder, f"costs{name}", caption, about["machine"])
    elif len(costs):  # one bar is no figure
        save_table(costs, folder, f"costs{name}")
    if len(slopes):
        shown = curves[["contender", "size", "repetition", "seconds"]].merge(slopes)
        caption = "Seconds by size on logarithmic axes. A line of slope 1 is linear growth."
        save(plots.growth(curves, slopes), shown, folder, f"growth{name}", caption, about["machine"])
    (folder / f"repetitions{name}_unfinished.csv").unlink(missing_ok=True)
    return costs, slopes


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """One row per part, contender and size.

    Columns: unit; rate, lowest, highest (median, minimum and maximum items per second); ratio (rate of the part's first
    contender divided by this one's, median over repetitions); peak_mb; waiting (median).
    """
    found = found.assign(rate=found["items"] / found["seconds"])
    first = found.groupby(["part", "size", "repetition"], dropna=False)["rate"].transform("first")
    groups = found.assign(ratio=first / found["rate"]).groupby(["part", "contender", "size"], sort=False, dropna=False)
    columns = dict(unit=("unit", "first"), rate=("rate", "median"), lowest=("rate", "min"), highest=("rate", "max"))
    columns |= dict(ratio=("ratio", "median"), peak_mb=("peak_mb", "first"), waiting=("waiting", "median"))
    return groups.agg(**columns).reset_index()


def exponents(curves: pd.DataFrame) -> pd.DataFrame:
    """One row per curve of the part "growth": contender (what grows), smallest and largest size, and exponent: the
    slope of log median seconds over log size (1: linear)."""
    rows = []
    for name, curve in curves.groupby("contender", sort=False):
        seconds = curve.groupby("size")["seconds"].median()
        slope = np.polyfit(np.log(seconds.index.to_numpy(dtype=float)), np.log(seconds.to_numpy()), 1)[0]
        rows.append(dict(contender=name, smallest=seconds.index.min(), largest=seconds.index.max(), exponent=slope))
    return pd.DataFrame(rows)


def three_digits(value: float) -> str:
    """A number for a printed table: three significant digits, or whole thousands with commas."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
