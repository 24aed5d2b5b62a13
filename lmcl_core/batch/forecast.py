"""Estimate the time and disk space of `reproduce`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..backbones.bank import FrozenBackbone
from ..common.devices import resolve_device
from ..common.distributed import make_fabric
from ..common.paths import runs_folder
from ..crops import crops_by_scale
from ..data.images import shrunk, upright_size
from ..data.splits import make_split, subsample
from ..data.store import ImageStore
from ..losses import quality_loss
from ..model import QualityModel, make_teacher
from ..recipe import Recipe
from ..results.cross_dataset import common_short_side
from ..results.records import RunSet
from ..runs import folder as runs
from .reproduce import ReproduceOptions, check_options

_SAMPLE = 200  # images whose headers are read
_TIMED_IMAGES = 3  # per timed step


def forecast(options: ReproduceOptions, log: Callable[[str], None] = print) -> pd.DataFrame:
    """Number of runs, training time and disk space of a reproduction; `log` and InputError as in `check_options`.

    Returns one row per benchmark: benchmark, images, runs (to do), finished (runs), minutes (of all runs to do on one
    worker), basis ("finished runs", or "timed now" on blank crops), store_gb (decoded images that the cache lacks, at
    every short side that this benchmark's models and the cross-dataset tests need).
    """
    tables, recipes = check_options(options, log)
    methods, costs, rows = {name: own["lmcl"] for name, own in recipes.items()}, {}, []
    for name, table in tables.items():
        minutes, basis, todo = 0.0, set(), 0
        for recipe in recipes[name].values():
            trained = RunSet(table, recipe, runs_folder(options.runs_dir)).finished(range(options.splits))
            if missing := options.splits - (0 if options.overwrite else len(trained)):
                past = past_seconds(runs_folder(options.runs_dir) / name / recipe.name, recipe)
                seconds = missing * past if past else _seconds_to_do(recipe, table, missing, options.device, costs)
                minutes, todo = minutes + seconds / 60, todo + missing
                basis.add("finished runs" if past else "timed now")
        sides = {recipe.short_side for recipe in recipes[name].values()}
        sides |= {common_short_side(method, table) for other, method in methods.items() if other != name}
        counts = dict(images=len(table), runs=todo, finished=len(recipes[name]) * options.splits - todo)
        time_needed = dict(minutes=minutes, basis=", ".join(sorted(basis)))
        rows.append(dict(benchmark=name) | counts | time_needed | dict(store_gb=store_bytes(table, sides) / 1e9))
    return pd.DataFrame(rows)


def _seconds_to_do(recipe: Recipe, table: pd.DataFrame, runs: int, device: str, costs: dict) -> float:
    """Seconds of runs that were never made; of a frozen backbone, those of its features, once per benchmark.

    `costs` keeps what was measured, once for all recipes whose crops cost the same.
    """
    if not recipe.frozen:
        kind = (recipe.backbone, recipe.embedding_dim, recipe.crop_size, recipe.crops, recipe.precision)
        cost = costs[kind] = costs.get(kind) or crop_seconds(recipe, device)
        return runs * run_seconds(recipe, table, cost)
    if (bank := (table.attrs["benchmark"], recipe.backbone)) in costs:
        return 0.0
    costs[bank] = feature_seconds(recipe, device)
    tests = sum(crops_by_scale(recipe.scales[: recipe.crops], recipe.test_crops).values())
    return len(table) * (recipe.bank_crops + tests + 1) * costs[bank]


def feature_seconds(recipe: Recipe, device: str) -> float:
    """Seconds per crop of a frozen backbone."""
    backbone = FrozenBackbone(recipe.backbone, recipe.crop_size, False).to(resolve_device(device))
    crops = torch.zeros(_TIMED_IMAGES, 3, recipe.crop_size, recipe.crop_size, dtype=torch.uint8)
    return _seconds(lambda: backbone(crops)) / len(crops)


def crop_seconds(recipe: Recipe, device: str) -> tuple[float, float]:
    """Seconds per crop in a training step (student forward and backward, teacher forward), and in a forward pass."""
    fabric = make_fabric(device, recipe.precision)
    with torch.random.fork_rng(devices=[]):
        model = QualityModel(recipe.backbone, False, recipe.embedding_dim, recipe.crop_size)
    model = model.to(fabric.device, memory_format=torch.channels_last)
    teacher, count = make_teacher(model), _TIMED_IMAGES * (recipe.crops + 1)
    crops = torch.zeros(count, 3, recipe.crop_size, recipe.crop_size, dtype=torch.uint8, device=fabric.device)

    def forward() -> None:
        with torch.no_grad(), fabric.autocast():
            teacher(crops)

    def step() -> None:
        forward()
        with fabric.autocast():
            score = model(crops).score
        quality_loss(score[None], torch.ones_like(score)[None], score.detach()[:1] + 1).backward()

    return _seconds(step) / count, _seconds(forward) / count


def _seconds(work: Callable[[], None]) -> float:
    """Seconds of one call of `work`, after a first call to warm up."""
    for _ in range(2):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return time.perf_counter() - start


def run_seconds(recipe: Recipe, table: pd.DataFrame, costs: tuple[float, float]) -> float:
    """Seconds of one training run, from the costs that `crop_seconds` returns."""
    view = (recipe.view_side / recipe.crop_size) ** 2  # cost of a global view, in crops
    split = make_split(table, 0)
    test_crops = sum(crops_by_scale(recipe.scales[: recipe.crops], recipe.test_crops).values())
    training = len(subsample(table, split, recipe.train_share)) * (recipe.crops + view) * costs[0]
    testing = len(split.test) * (test_crops + view) * costs[1]
    return recipe.epochs * (training + testing) + testing  # the student is tested every epoch, the teacher once


def past_seconds(folder: Path, recipe: Recipe) -> float | None:
    """Median seconds of the finished runs of this recipe in ``runs/<benchmark>/<recipe name>``; None without any."""
    folders = [path for path in sorted(folder.glob("split-*")) if not path.name.endswith("-val")]
    records = [record for record in map(runs.read_run, folders) if record is not None]
    seconds = [record["seconds"] for record in records if record.get("recipe_hash") == recipe.hash]
    return float(np.median(seconds)) if seconds else None


def store_bytes(table: pd.DataFrame, short_sides: Iterable[int | None]) -> int:
    """Bytes of the decoded images that the cache lacks at some short sides, extrapolated from 200 image headers."""
    missing = [side for side in set(short_sides) if not ImageStore.is_built(table, side)]
    sample = np.unique(np.linspace(0, len(table) - 1, min(_SAMPLE, len(table))).astype(int))
    sizes = [upright_size(Path(table.attrs["root"]) / table["image"].iloc[n]) for n in sample]
    per_image = sum(np.mean([3 * np.prod(shrunk(*size, side)) for size in sizes]) for side in missing)
    return int(per_image * len(table))
