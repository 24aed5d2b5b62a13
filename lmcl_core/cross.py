"""Across benchmarks: a model trained on one, judged on pictures of another whose contents it has never seen."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from .benchmarks import BENCHMARKS
from .evaluation import metrics
from .recipe import Recipe
from .scoring import load
from .splits import Split, data_hash
from .files import replacing
from .store import PictureStore


def unseen(trained_on: str, table: pd.DataFrame, split: Split) -> np.ndarray:
    """Rows of a benchmark whose contents a model cannot have seen in training.

    Args:
        trained_on: benchmark of the model.
        table: the benchmark it is to be judged on.
        split: of `trained_on`; gives the test part where both are the same.

    Returns:
        (n,) int64 positions: the test part of the same benchmark; all of another one; none where both took their
        reference pictures from the same collection.
    """
    name = table.attrs["benchmark"]
    if name == trained_on:
        return split.test
    source = BENCHMARKS[trained_on].shared_source
    if source is not None and source == BENCHMARKS[name].shared_source:
        return np.empty(0, dtype=np.int64)
    return np.arange(len(table))


def common_short_side(recipe: Recipe, benchmark: str) -> int | None:
    """The short side at which a model looks at another benchmark's pictures: the smaller of theirs.

    Args:
        recipe: of the model.
        benchmark: the one it is to be judged on, whose preset states its own short side.

    Returns:
        Pixels, or None where neither states one.
    """
    sides = [side for side in (recipe.short_side, Recipe.for_benchmark(benchmark).short_side) if side is not None]
    return min(sides, default=None)


def predict(folder: str | Path, table: pd.DataFrame, rows: np.ndarray, device: str = "auto") -> pd.DataFrame:
    """Scores of a finished run's model on pictures of any benchmark, kept in the run folder for the next time.

    Args:
        folder: the run folder.
        table: the pictures' benchmark.
        rows: (n,) positions in it.
        device: as in `train`.

    Returns:
        One row a picture: image, mos (units of its own benchmark), pred (MOS units of the model's).

    Raises:
        InputError: weights or pictures that cannot be read.
        RunError: the scores cannot be saved.
    """
    if not len(rows):
        return pd.DataFrame(columns=["image", "mos", "pred"])
    model = Path(folder) / "model.safetensors"
    scorer = load(model, device)
    short_side = common_short_side(scorer.recipe, table.attrs["benchmark"])
    made_from = [model.read_bytes(), data_hash(table).encode(), rows.astype("<i8").tobytes(), str(short_side).encode()]
    digest = hashlib.sha256(b"".join(made_from)).hexdigest()[:16]
    kept = Path(folder) / "cross" / f"{table.attrs['benchmark']}-{digest}.csv"
    if kept.is_file():
        return pd.read_csv(kept)
    store = PictureStore.open(table, short_side)
    pictures = (store.picture(int(row)) for row in rows)
    score = torch.cat([seen.score for seen in scorer.looks(pictures)]).double().numpy()
    scores = pd.DataFrame(
        dict(
            image=table["image"].to_numpy()[rows],
            mos=table["mos"].to_numpy()[rows],
            pred=scorer.about["mos_mean"] + scorer.about["mos_std"] * score,
        )
    )
    with replacing(kept) as path:
        scores.to_csv(path, index=False)
    return scores


def agreement(trained_on: str, split: Split, scores: pd.DataFrame, tested_on: str) -> dict[str, object]:
    """One row of the cross-dataset table; correlations keep their sign, since `mos` is higher-better everywhere.

    Args:
        trained_on: benchmark of the model.
        split: the model's.
        scores: from `predict`; empty where contents are shared.
        tested_on: benchmark of the pictures.

    Returns:
        train, test, split, srcc, plcc, n; srcc and plcc are NaN where there is nothing to compare.
    """
    row = dict(train=trained_on, test=tested_on, split=split.index, srcc=float("nan"), plcc=float("nan"), n=len(scores))
    if len(scores):
        found = metrics(pred=scores["pred"], mos=scores["mos"])
        row |= {key: found[key] for key in ("srcc", "plcc", "n")}
    return row
