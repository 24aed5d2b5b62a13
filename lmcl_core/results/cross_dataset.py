"""Cross-dataset tests: a model trained on one benchmark scores images of another one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..common.errors import InputError, first_line
from ..common.progress import bar
from ..data.benchmarks import BENCHMARKS
from ..data.identity import data_hash
from ..data.splits import Split
from ..data.store import ImageStore
from ..evaluation import metrics
from ..inference import load
from ..recipe import Recipe
from ..runs.folder import write_csv


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

    `rows` are (n,) positions of the images in `table`. Returns one row per image: image, mos (units of its benchmark),
    pred (MOS units of the model's benchmark). InputError: the weights, an image or kept scores cannot be read.
    RunError: the scores cannot be saved.
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
        return _read_kept(kept, len(rows))
    store = ImageStore.open(table, short_side)
    predictions = bar(scorer.predict_rows(store, rows), None, f"scoring {table.attrs['benchmark']}")
    pred = scorer.to_mos(torch.cat([prediction.score for prediction in predictions]))
    scores = table[["image", "mos"]].iloc[rows].reset_index(drop=True).assign(pred=pred)
    write_csv(kept, scores)
    return scores


def _read_kept(path: Path, count: int) -> pd.DataFrame:
    try:
        scores = pd.read_csv(path)
        if len(scores) != count or not np.isfinite(scores[["mos", "pred"]].to_numpy(dtype=float)).all():
            raise ValueError(f"expected {count} scores")
        return scores[["image", "mos", "pred"]]
    except (KeyError, ValueError) as error:  # pandas raises ValueErrors for binary, empty and cut files
        raise InputError(f"{path} is damaged ({first_line(error)}): delete it to score the images again") from error


def agreement(trained_on: str, split: Split, scores: pd.DataFrame, tested_on: str) -> dict[str, object]:
    """One row of the cross-dataset table, from scores of `predict`: train, test, split, srcc, plcc, n.

    Correlations are signed; they are NaN if there are no scores.
    """
    found = metrics(pred=scores["pred"], mos=scores["mos"]) if len(scores) else dict(srcc=np.nan, plcc=np.nan, n=0)
    row = dict(train=trained_on, test=tested_on, split=split.index)
    return row | {key: found[key] for key in ("srcc", "plcc", "n")}


def conclusion(found: pd.DataFrame) -> str:
    """One line per training benchmark: the result on its own test part, and the range of SRCC on other benchmarks.

    `found` has the columns train, test, srcc, plcc, of rows from `agreement`; medians over splits are compared.
    """
    medians = found.groupby(["train", "test"], sort=False)[["srcc", "plcc"]].median().dropna().reset_index()
    lines = []
    for train, rows in medians.groupby("train", sort=False):
        own, others = rows[rows["test"] == train], rows[rows["test"] != train].set_index("test")["srcc"]
        line = f"trained on {train}: "
        line += "".join(f"SRCC {row.srcc:.3f}, PLCC {row.plcc:.3f} on its own test part; " for row in own.itertuples())
        if others.empty:
            lines.append(f"{line}no other benchmark was scored, so the question stays open")
        else:
            worst, best = (f"{others[name]:.3f} ({name})" for name in (others.idxmin(), others.idxmax()))
            lines.append(f"{line}SRCC {worst} to {best} on others")
    return "\n".join(lines) or "no finished run: run notebook 02 first"
