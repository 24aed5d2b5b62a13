"""How long a batch will take and how much room it will need, before it is started."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from . import runs
from .cross import common_short_side
from .crops import crops_by_scale
from .freezing import freeze_batchnorm
from .losses import quality_loss
from .model import QualityModel, make_teacher
from .pictures import shrunk
from .paths import runs_folder
from .recipe import Recipe
from .reproduce import Order, prepare
from .splits import make_split, thinned
from .store import PictureStore, upright_size
from .tables import finished_splits
from .processes import make_fabric

#: Recipe fields that say what a crop costs.
_OF_COST = (
    *("backbone", "stages", "frozen_stages", "freeze_batchnorm"),
    *("embedding_dim", "crop_size", "crops", "precision"),
)
_SAMPLE = 200  # pictures whose headers are read
_PICTURES = 3  # of the steps that are timed


def forecast(order: Order, log: Callable[[str], None] = print) -> pd.DataFrame:
    """What a reproduction would do, how long it would take and how much room it would need.

    Args:
        order: what would be done.
        log: called with one line for every benchmark that is left out.

    Returns:
        One row a benchmark: benchmark, images, runs (to do), finished (runs), minutes (of all runs to do on one
        worker), basis ("finished runs", or "timed now" with random pixels), store_gb (room for decoded pictures, for
        its own models and those of other benchmarks).

    Raises:
        InputError: as `reproduce`.
    """
    tables, recipes = prepare(order, log)
    rows, costs = [], {}
    for name, table in tables.items():
        minutes, basis, finished = 0.0, set(), 0
        for recipe in recipes[name].values():
            folder = runs_folder(order.runs_dir) / name / recipe.name
            past = past_seconds(folder, recipe)
            there = finished_splits(table, recipe, runs_folder(order.runs_dir), range(order.splits))
            to_do = order.splits - (0 if order.overwrite else len(there))
            finished += order.splits - to_do
            if to_do:
                kind = tuple(getattr(recipe, field) for field in _OF_COST)
                if not past and kind not in costs:  # timing takes seconds, and most presets are of one kind
                    costs[kind] = crop_seconds(recipe, order.device)
                a_run = past or run_seconds(recipe, table, costs[kind])
                minutes += to_do * a_run / 60
                basis.add("finished runs" if past else "timed now")
        rows.append(
            dict(
                benchmark=name,
                images=len(table),
                runs=len(recipes[name]) * order.splits - finished,
                finished=finished,
                minutes=minutes,
                basis=", ".join(sorted(basis)),
                store_gb=store_bytes(table, _short_sides(name, recipes)) / 1e9,
            )
        )
    return pd.DataFrame(rows)


def crop_seconds(recipe: Recipe, device: str) -> tuple[float, float]:
    """Seconds a crop costs on this machine, timed on random pixels: in a training step, and at test.

    Args:
        recipe: gives backbone, what of it is frozen, crop size and precision.
        device: as in `train`.

    Returns:
        Seconds a crop in training (student forward and backward, teacher forward), and in a forward pass alone.
    """
    fabric = make_fabric(device, recipe.precision)
    with torch.random.fork_rng(devices=[]):
        model = QualityModel(recipe.backbone, False, recipe.embedding_dim, recipe.crop_size, recipe.stages)
    model.freeze_stages(recipe.frozen_stages)
    model = model.to(fabric.device, memory_format=torch.channels_last)
    if recipe.freeze_batchnorm:
        freeze_batchnorm(model)
    teacher, count = make_teacher(model), _PICTURES * (recipe.crops + 1)
    crops = torch.zeros(count, 3, recipe.crop_size, recipe.crop_size, dtype=torch.uint8, device=fabric.device)

    def look() -> None:
        with torch.no_grad(), fabric.autocast():
            teacher(crops)

    def step() -> None:
        look()
        with fabric.autocast():
            score = model(crops).score
        quality_loss(score[None], torch.ones_like(score)[None], score.detach()[:1] + 1).backward()

    return _timed(step) / count, _timed(look) / count


def run_seconds(recipe: Recipe, table: pd.DataFrame, costs: tuple[float, float]) -> float:
    """Seconds of one training run.

    Args:
        recipe: its recipe.
        table: its benchmark.
        costs: from `crop_seconds`.
    """
    view = (recipe.view_side / recipe.crop_size) ** 2  # how many crops the global view costs
    split = make_split(table, 0)
    looks = sum(crops_by_scale(recipe.scales[: recipe.crops], recipe.test_crops).values())
    training = len(thinned(table, split, recipe.train_share)) * (recipe.crops + view) * costs[0]
    testing = len(split.test) * (looks + view) * costs[1]
    return recipe.epochs * (training + testing) + testing  # at the end the other of student and teacher is tested too


def past_seconds(folder: Path, recipe: Recipe) -> float | None:
    """Median seconds of the finished runs of a recipe, or None where there are none.

    Args:
        folder: ``runs/<benchmark>/<recipe name>``.
        recipe: other recipes' runs do not count.
    """
    folders = [path for path in sorted(folder.glob("split-*")) if not path.name.endswith("-val")]
    records = [runs.read_run(path) for path in folders]
    seconds = [r["seconds"] for r in records if r is not None and r.get("recipe_hash") == recipe.hash]
    return float(np.median(seconds)) if seconds else None


def store_bytes(table: pd.DataFrame, short_sides: Iterable[int | None]) -> int:
    """Bytes of the decoded pictures that the cache lacks; extrapolated from 200 headers where there are more.

    Args:
        table: the benchmark.
        short_sides: the sizes the pictures are kept in, as in `pictures.shrink`.
    """
    lacking = [side for side in set(short_sides) if not PictureStore.is_built(table, side)]
    chosen = np.unique(np.linspace(0, len(table) - 1, min(_SAMPLE, len(table))).astype(int))
    sizes = [upright_size(Path(table.attrs["root"]) / table["image"].iloc[n]) for n in chosen]
    a_picture = sum(np.mean([3 * np.prod(shrunk(*size, side)) for size in sizes]) for side in lacking)
    return int(a_picture * len(table))


def _short_sides(name: str, recipes: Mapping[str, Mapping[str, Recipe]]) -> set[int | None]:
    """Sizes in which a benchmark's pictures are kept: for its own runs, and for other benchmarks' models."""
    own = {recipe.short_side for recipe in recipes[name].values()}
    return own | {common_short_side(others["lmcl"], name) for other, others in recipes.items() if other != name}


def _timed(work) -> float:
    """Seconds of one call, after a first one that warms up."""
    for _ in range(2):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
    return time.perf_counter() - start
