"""Features of the test images of a finished run, computed once and kept in the run folder."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..common.errors import InputError
from ..common.files import atomic_write
from ..common.progress import bar
from ..data.identity import data_hash, name_order, rows_of
from ..data.store import ImageStore
from ..evaluation import metrics
from ..hard_examples import Features
from ..inference import Prediction, load
from ..runs.folder import read_predictions

FEATURES = "features.npz"  # in the run folder


def features_of_run(run: str | Path, table: pd.DataFrame, device: str = "cpu") -> Features:
    """Features and predictions of the test images of a finished run, in `identity.name_order`.

    They are kept in ``features.npz`` of the run folder and read from there. InputError: not a finished run, a run of
    another table, or damaged features. RunError: the features cannot be saved.
    """
    kept, made_from = Path(run) / FEATURES, _hash(Path(run), table)
    predictions = read_predictions(run)
    predictions = predictions.iloc[name_order(table, predictions["image"])]  # the same order in every folder layout
    if kept.is_file():
        try:
            with np.load(kept) as arrays:
                if arrays["made_from"] == made_from and arrays["image"].tolist() == predictions["image"].tolist():
                    return Features(**{name: arrays[name] for name in Features.__dataclass_fields__})
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"{kept} is damaged ({error}): delete that file and run again") from error
    features = _compute(run, table, predictions, device)
    with atomic_write(kept) as path, open(path, "wb") as file:
        np.savez(file, made_from=made_from, **vars(features))
    return features


def plcc_of_random_crops(run: str | Path, table: pd.DataFrame, device: str = "cpu") -> float:
    """PLCC on the test part of a finished run with crops at random positions (seed 0) instead of the fixed ones."""
    known, scorer = read_predictions(run), load(run, device)
    store = ImageStore.open(table, scorer.recipe.short_side)
    images = (store.image(int(row)) for row in rows_of(table, known["image"]))
    parts = bar(scorer.predict(images, generator=torch.Generator().manual_seed(0)), None, "random crops")
    return metrics(pred=torch.cat([part.score for part in parts]).numpy(), mos=known["mos"])["plcc"]


def _hash(run: Path, table: pd.DataFrame) -> str:
    """SHA-256 of the data from which features are computed: images, model and test part."""
    files = [run / name for name in ("model.safetensors", "predictions.csv")]
    if missing := [path.name for path in files if not path.is_file()]:
        raise InputError(f"{run} is not a finished run, it lacks {', '.join(missing)}: train it, or name another one")
    parts = [data_hash(table).encode(), *(path.read_bytes() for path in files)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _compute(run: str | Path, table: pd.DataFrame, predictions: pd.DataFrame, device: str) -> Features:
    scorer = load(run, device)
    store = ImageStore.open(table, scorer.recipe.short_side)
    predicted = Prediction.concatenate(
        bar(scorer.predict_rows(store, rows_of(table, predictions["image"])), None, "features")
    )
    return Features(
        predictions["image"].to_numpy(dtype=str),
        predictions["mos"].to_numpy(),
        predictions["pred"].to_numpy(),
        torch.einsum("nk,nkc->nc", predicted.weights, predicted.feature).numpy(),
        predicted.feature.half().numpy(),
    )
