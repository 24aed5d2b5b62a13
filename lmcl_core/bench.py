"""What things cost on this machine: store, training, scoring, loss, in alternation with others, and how costs grow."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.nn import functional as F

from . import peak, rivals
from .benchmarks import load_benchmark
from .devices import computes_in_bfloat16, resolve_device
from .errors import InputError, unknown
from .pictures import decode, shrink
from .recipe import BENCHMARK_PRESETS, Recipe
from .rivals import Contender
from .score_files import score_files
from .scoring import load
from .splits import Split
from .store import PictureStore
from .utilisation import matmul_rate, operations

PARTS = ("store", "training", "scoring", "loss", "growth")
LOSS_SIZES = (512, 2048, 8192)
_STEPS = 16  # in a turn, where others load ahead: more than they hold ready
#: Sizes of what grows in a training step, large enough that its fixed cost does not show.
CURVES = dict(batch_images=(8, 16, 32), crops=(7, 15, 31), crop_size=(112, 160, 224))
COLUMNS = ["part", "contender", "size", "repetition", "items", "unit", "seconds", "peak_mb", "utilisation", "waiting"]


@dataclass(frozen=True)
class Order:
    """What is to be measured.

    Attributes:
        benchmark: whose pictures.
        data_root: its folder; empty for the demo.
        repeats: repetitions of each measurement after one that does not count, 1 or more.
        images: how many of its pictures are used, 8 or more; `scoring` takes 32 of them at most.
        device: as in `train`.
        parts: some of `PARTS`.
        against: a checkout of DEIQT that is timed too, for `training`; empty for none.
        changes: recipe fields that differ from the benchmark's preset, for `store` (short_side), `training` and
            `growth`, which varies batch_images, crops and crop_size itself.
    """

    benchmark: str = "demo"
    data_root: str = ""
    repeats: int = 5
    images: int = 64
    device: str = "auto"
    parts: Sequence[str] = PARTS
    against: str = ""
    changes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, least in (("repeats", 1), ("images", 8)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}: it must be at least {least}")
        for part in self.parts:
            if part not in PARTS:
                raise unknown("part", part, PARTS)
        if self.benchmark not in BENCHMARK_PRESETS:
            raise unknown("benchmark", self.benchmark, BENCHMARK_PRESETS)
        for name, users in (("against", {"training"}), ("changes", {"store", "training", "growth"})):
            if getattr(self, name) and not users & set(self.parts):
                words = "--against" if name == "against" else "--set"
                raise InputError(f"{words} means nothing to {', '.join(self.parts)}: add {' or '.join(sorted(users))}")


def bench(
    order: Order, log: Callable[[str], None] = print, done: Callable[[pd.DataFrame], None] = lambda found: None
) -> pd.DataFrame:
    """Measure. Contenders take turns, so that what else the machine does falls on all of them alike; all of them work
    in one process, under the settings of memory that `cpu` makes for ours.

    Args:
        order: what is to be measured.
        log: called with one line a measurement.
        done: called after every part with what there is so far.

    Returns:
        One row a repetition: part, contender, size (what grows, where something does), repetition, items, unit (of the
        items), seconds, peak_mb (megabytes above what the process had before, of the contender), utilisation
        (operations a second beside those of plain matrix products), waiting (share of the seconds in which a step waits
        for its crops; on a GPU, which works on meanwhile, an upper bound); NaN where not measured. A contender that
        needs more memory than there is has one row, without seconds.

    Raises:
        InputError: as `load_benchmark`, `train` and `rivals.DeiqtTraining`.
    """
    table = load_benchmark(order.benchmark, order.data_root or None)
    rows = np.linspace(0, len(table) - 1, min(order.images, len(table))).round().astype(int)
    if order.against:
        rivals.deiqt_modules(order.against, table)  # what is missing is told before anything is measured
    used = table.iloc[np.unique(rows)].reset_index(drop=True)
    used.attrs = table.attrs
    # speed does not depend on the weights
    recipe = Recipe.for_benchmark(order.benchmark, **{"pretrained": False, **order.changes})
    order = replace(order, device=resolve_device(order.device))
    measure = dict(store=_store, training=_training, scoring=_scoring, loss=_loss, growth=_growth)
    parts: list[pd.DataFrame] = []
    with torch.random.fork_rng(devices=[]):  # of which others draw
        for part in [part for part in PARTS if part in order.parts]:
            parts.append(measure[part](order, used, recipe, log))
            found = pd.concat(parts, ignore_index=True).reindex(columns=COLUMNS)
            done(found)
    return found


def take_turns(contenders: Mapping[str, Contender], repeats: int, calls: int = 1) -> pd.DataFrame:
    """Time contenders in alternation; the first round does not count.

    Args:
        contenders: by name; a call does one portion of work and returns its items.
        repeats: rounds that count.
        calls: calls in a row that make one repetition.

    Returns:
        Columns contender, repetition, items, seconds; waiting, the share of them that a contender with the attribute
        `waited` (seconds so far) spent so.
    """
    rows = []
    for repetition in range(-1, repeats):
        for name, contender in contenders.items():
            waited, start = getattr(contender, "waited", np.nan), time.perf_counter()
            items = sum(contender() for _ in range(calls))
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            seconds = time.perf_counter() - start
            waiting = (getattr(contender, "waited", np.nan) - waited) / seconds
            rows.append(dict(contender=name, repetition=repetition, items=items, seconds=seconds, waiting=waiting))
    columns = ["contender", "repetition", "items", "seconds", "waiting"]
    return pd.DataFrame([row for row in rows if row["repetition"] >= 0], columns=columns)


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """Median and range of every measurement, and how many times as fast as each contender the first of its part is.

    Args:
        found: from `bench`.

    Returns:
        One row a part, contender and size: unit, rate (items a second, median), lowest, highest, ratio (rate of the
        part's first contender at that size by this one's, median over repetitions), peak_mb, utilisation and waiting
        (medians).
    """
    rows = []
    for (part, size), group in found.assign(rate=found["items"] / found["seconds"]).groupby(
        ["part", "size"], sort=False, dropna=False
    ):
        first = group[group["contender"] == group["contender"].iloc[0]].set_index("repetition")["rate"]
        for name, own in group.groupby("contender", sort=False):
            own = own.set_index("repetition")
            rate = own["rate"]
            rows.append(
                dict(part=part, contender=name, size=size, unit=own["unit"].iloc[0], rate=rate.median())
                | dict(lowest=rate.min(), highest=rate.max(), ratio=(first / rate).median())
                | dict(peak_mb=own["peak_mb"].iloc[0])
                | own[["utilisation", "waiting"]].median().to_dict()
            )
    return pd.DataFrame(rows)


def exponents(found: pd.DataFrame) -> pd.DataFrame:
    """How costs grow: the slope of log seconds over log size.

    Args:
        found: from `bench`; its part "growth" is read.

    Returns:
        One row a curve: contender (what grows), smallest, largest, exponent (1: linear).
    """
    rows = []
    for name, curve in found[found["part"] == "growth"].groupby("contender", sort=False):
        seconds = curve.groupby("size")["seconds"].median()
        slope = np.polyfit(np.log(seconds.index.to_numpy(dtype=float)), np.log(seconds.to_numpy()), 1)[0]
        rows.append(dict(contender=name, smallest=seconds.index.min(), largest=seconds.index.max(), exponent=slope))
    return pd.DataFrame(rows, columns=["contender", "smallest", "largest", "exponent"])


def machine(device: str) -> str:
    """Processor, threads and version, in one line."""
    device = resolve_device(device)
    names = [line.split(":")[1].strip() for line in _cpu_lines() if line.startswith("model name")]
    name = torch.cuda.get_device_name() if device == "cuda" else names[0] if names else platform.processor()
    return f"{name}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}"


def _cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.is_file() else []


def _store(order: Order, table: pd.DataFrame, recipe: Recipe, log: Callable) -> pd.DataFrame:
    log(f"store: {len(table)} pictures, decoded in parallel into a store, and one after another into nothing")
    side = recipe.short_side
    contenders = {"ours": partial(_build_store, table, side), "decoding alone": partial(_decode_all, table, side)}
    return take_turns(contenders, order.repeats).assign(part="store", unit="images", size=np.nan, peak_mb=np.nan)


def _build_store(table: pd.DataFrame, short_side: int | None) -> int:
    """Decode everything into a store in an empty cache."""
    with tempfile.TemporaryDirectory() as folder:
        return len(PictureStore.open(table, short_side, cache=Path(folder)))


def _decode_all(table: pd.DataFrame, short_side: int | None) -> int:
    return len([shrink(decode(Path(table.attrs["root"]) / image), short_side).shape for image in table["image"]])


def _training(order: Order, table: pd.DataFrame, recipe: Recipe, log: Callable) -> pd.DataFrame:
    everything = _all_to_train(table)
    kinds = {"ours": "ours", "plain loop": "plain"} | ({"DEIQT": "deiqt"} if order.against else {})
    if order.against:
        kinds["ours, ViT-S"] = "vit"
    arguments = (order.against, table, everything, recipe, order.device)
    parts, most = [], matmul_rate(order.device)
    log(f"training: plain matrix products reach {most / 1e12:.3g} TFLOP/s here")
    for names in (("ours", "plain loop"), ("ours, ViT-S", "DEIQT")):  # those that are compared take turns
        chosen = [name for name in names if name in kinds]
        if not chosen:
            continue
        log(f"training: {', '.join(chosen)}")
        memory = {name: peak.peak_megabytes(_trainer, kinds[name], *arguments) for name in chosen}
        contenders = {name: _trainer(kinds[name], *arguments) for name in _fitting(memory, log)}
        turns = take_turns(contenders, order.repeats, calls=_STEPS if "DEIQT" in chosen or order.device != "cpu" else 2)
        work = turns["contender"].map({name: operations(step) / step() for name, step in contenders.items()})
        turns["utilisation"] = work * turns["items"] / turns["seconds"] / most
        part = "training" if not parts else "training ViT-S"
        parts.append(_with_memory(turns, memory).assign(part=part))
    return pd.concat(parts).assign(unit="crops", size=np.nan)


def _all_to_train(table: pd.DataFrame) -> Split:
    return Split(np.arange(len(table)), np.arange(0), np.arange(0), None)


def _trainer(kind: str, against: str, table: pd.DataFrame, split: Split, recipe: Recipe, device: str) -> Contender:
    if kind == "deiqt":
        return rivals.DeiqtTraining(against, table, split, device)
    if kind == "plain":
        # on a CPU, processes of its own would decode while the others have their turn, and off the clock
        return rivals.PlainTraining(table, split, recipe, device, 0 if device == "cpu" else min(4, os.cpu_count() or 1))
    if kind == "vit":  # the same network and crops a step as DEIQT's
        recipe = replace(recipe, backbone="deit3_small_patch16_224", batch_images=4, crops=4)
    return rivals.OurTraining(table, split, recipe, device)


def _scoring(order: Order, table: pd.DataFrame, recipe: Recipe, log: Callable) -> pd.DataFrame:
    files = [Path(table.attrs["root"]) / image for image in table["image"]][:32]
    log(f"scoring: {len(files)} pictures, in batches and one at a time")
    kinds = {"ours": "ours", "one at a time, bfloat16": "half", "one at a time, float32": "single"}
    if not computes_in_bfloat16(order.device):
        del kinds["one at a time, bfloat16"]
    memory = {name: peak.peak_megabytes(_scorer, kind, files, order.device) for name, kind in kinds.items()}
    contenders = {name: _scorer(kinds[name], files, order.device) for name in _fitting(memory, log)}
    turns = take_turns(contenders, order.repeats)
    return _with_memory(turns, memory).assign(part="scoring", unit="images", size=np.nan)


def _scorer(kind: str, files: Sequence[Path], device: str) -> Contender:
    scorer = load("livec", device)
    if kind == "ours":
        return lambda: len(list(score_files(scorer, files)))
    return rivals.PlainScoring(scorer, files, half=kind == "half")


def _loss(order: Order, table: pd.DataFrame, recipe: Recipe, log: Callable) -> pd.DataFrame:
    parts = []
    for size in LOSS_SIZES:
        log(f"loss: {size} embeddings of 128, forward and backward")
        names = list(rivals.losses())
        memory = {name: peak.peak_megabytes(_loss_step, name, size, order.device) for name in names}
        names = _fitting(memory, log, f" at {size} embeddings")
        calls = min(16, max(1, 2**22 // size**2))
        turns = take_turns({name: _loss_step(name, size, order.device) for name in names}, order.repeats, calls)
        parts.append(_with_memory(turns, memory).assign(size=size))
    return pd.concat(parts).assign(part="loss", unit="losses")


def _fitting(memory: Mapping[str, float], log: Callable, where: str = "") -> list[str]:
    """Those of the contenders that the machine has the memory for; the others are told."""
    for name in [name for name, peak_mb in memory.items() if peak_mb == np.inf]:
        log(f"{name}: left out{where}, it needs more memory than there is")
    return [name for name, peak_mb in memory.items() if peak_mb < np.inf or np.isnan(peak_mb)]


def _with_memory(turns: pd.DataFrame, memory: Mapping[str, float]) -> pd.DataFrame:
    """Repetitions with the memory of each contender, and one without seconds of each that does not fit."""
    left = [dict(contender=name, repetition=0) for name, peak_mb in memory.items() if peak_mb == np.inf]
    rows = pd.DataFrame([*left, *turns.to_dict("records")])
    rows["peak_mb"] = rows["contender"].map(memory)
    place = {name: n for n, name in enumerate(memory)}  # the first stays the one that others are compared with
    return rows.sort_values(["repetition", "contender"], key=lambda c: c.map(place) if c.name == "contender" else c)


def _loss_step(name: str, size: int, device: str) -> Contender:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (F.normalize(torch.randn(size, 128, generator=generator), dim=1).to(device) for _ in range(2))
    loss = rivals.losses()[name]
    student.requires_grad_()

    def step() -> int:
        student.grad = None
        loss(student, teacher).backward()
        return 1

    return step


def _growth(order: Order, table: pd.DataFrame, recipe: Recipe, log: Callable) -> pd.DataFrame:
    """Every curve: what is enlarged, from small to large, everything else held. A step's crops are counted with the
    global view of their image, which costs as much as one of them."""
    everything = _all_to_train(table)
    files = [Path(table.attrs["root"]) / image for image in table["image"]]

    def trained(images: int, **changes: Any) -> Contender:
        return rivals.OurTraining(table, everything, replace(recipe, batch_images=images, **changes), order.device)

    counts = [len(table) // 8, len(table) // 4, len(table) // 2, len(table)]
    curves = {
        "store, images": {n: partial(_build_store, table.iloc[:n], recipe.short_side) for n in counts},
        "scoring, images": {n: _scorer("ours", files[:n], order.device) for n in counts},
        "training step, images a batch": {n: trained(n) for n in CURVES["batch_images"]},
        "training step, crops and view of an image": {n + 1: trained(4, crops=n) for n in CURVES["crops"]},
        "training step, pixels a crop": {n * n: trained(8, crop_size=n) for n in CURVES["crop_size"]},
    }
    parts = []
    for name, curve in curves.items():
        log(f"growth: {name} {', '.join(map(str, curve))}")
        turns = take_turns({str(size): contender for size, contender in curve.items()}, order.repeats)
        parts.append(
            turns.assign(
                size=turns["contender"].astype(float),
                contender=name,
                unit="crops" if name.startswith("training") else "images",
            )
        )
    return pd.concat(parts).assign(part="growth", peak_mb=np.nan)
