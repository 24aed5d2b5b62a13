"""Cross-dataset tests: a model trained on one benchmark scores images of another one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..common.files import atomic_write
from ..data.benchmarks import BENCHMARKS
from ..data.identity import data_hash
from ..data.splits import Split
from ..data.store import ImageStore
from ..evaluation import metrics
from ..inference import load
from ..recipe import Recipe


def unseen(trained_on: str, table: pd.DataFrame, split: Split) -> np.ndarray:
    """(n,) int64 rows of a benchmark whose contents a model, trained on a split of `trained_on`, cannot have seen.

    These are the test part if both benchmarks are the same, no rows if their reference images come from the same
    collection, else all rows. Whether own data share images with another benchmark is not known here.
    """
    name = table.attrs["benchmark"]
    if name == trained_on:
        return split.test
    sources = [BENCHMARKS[one].shared_source for one in (trained_on, name) if one in BENCHMARKS]
    related = len(sources) == 2 and sources[0] is not None and sources[0] == sources[1]
    return np.arange(0 if related else len(table))


def common_short_side(recipe: Recipe, benchmark: str | pd.DataFrame) -> int | None:
    """The smaller short side, in pixels, of a model's recipe and a benchmark's preset; None if neither sets one."""
    sides = [side for side in (recipe.short_side, Recipe.for_benchmark(benchmark).short_side) if side is not None]
    return min(sides, default=None)


def predict(folder: str | Path, table: pd.DataFrame, rows: np.ndarray, device: str = "auto") -> pd.DataFrame:
    """Score images of any benchmark with a finished run's model; the run folder keeps the scores for the next call.

    `rows` are (n,) positions of the images in `table`. InputError: the weights or an image cannot be read. RunError:
    the scores cannot be saved.

    Returns:
        One row per image: image, mos (units of its benchmark), pred (MOS units of the model's benchmark).
    """
    if not len(rows):
        return pd.DataFrame(columns=["image", "mos", "pred"])
    model = Path(folder) / "model.safetensors"
    scorer = load(model, device)
    short_side = common_short_side(scorer.recipe, table)
    parts = [model.read_bytes(), data_hash(table).encode(), rows.astype("<i8").tobytes(), str(short_side).encode()]
    digest = hashlib.sha256(b"".join(parts)).hexdigest()[:16]
    kept = Path(folder) / "cross" / f"{table.attrs['benchmark']}-{digest}.csv"
    if kept.is_file():
        return pd.read_csv(kept)
    store = ImageStore.open(table, short_side)
    predictions = scorer.predict(store.image(int(row)) for row in rows)
    pred = scorer.to_mos(torch.cat([prediction.score for prediction in predictions]))
    scores = table[["image", "mos"]].iloc[rows].reset_index(drop=True).assign(pred=pred)
    with atomic_write(kept) as path:
        scores.to_csv(path, index=False)
    return scores


def agreement(trained_on: str, split: Split, scores: pd.DataFrame, tested_on: str) -> dict[str, object]:
    """One row of the cross-dataset table, from scores of `predict`: train, test, split, srcc, plcc, n.

    Correlations are signed; they are NaN if there are no scores.
    """
    found = metrics(pred=scores["pred"], mos=scores["mos"]) if len(scores) else dict(srcc=np.nan, plcc=np.nan, n=0)
    row = dict(train=trained_on, test=tested_on, split=split.index)
    return row | {key: found[key] for key in ("srcc", "plcc", "n")}
