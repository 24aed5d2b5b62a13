"""Hard examples: pictures that lie close in feature space although people judge them far apart.

Shapes: `n` pictures, `K` crops a picture, `C` feature channels.
"""

from __future__ import annotations

import hashlib
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from . import runs
from .benchmarks import name_order, rows_of
from .errors import InputError
from .files import replacing
from .scoring import load
from .splits import data_hash
from .store import PictureStore


FEATURES = "features.npz"  # of a run folder


@dataclass(frozen=True)
class Described:
    """Features of the test pictures of one run.

    Attributes:
        image: (n,) names.
        mos: (n,) opinion scores.
        pred: (n,) predictions, in MOS units.
        feature: (n, C) float32, mean over the crops with the weights of their scores: what the score is read from.
        crop_feature: (n, K, C) float16, since they are many.
    """

    image: np.ndarray
    mos: np.ndarray
    pred: np.ndarray
    feature: np.ndarray
    crop_feature: np.ndarray


def describe(run: str | Path, table: pd.DataFrame, device: str = "cpu") -> Described:
    """Features and predictions of the test pictures of a finished run; kept in its features.npz, and read from there.

    Args:
        run: its folder; predictions.csv says which pictures were its test part.
        table: from `load_benchmark`.
        device: where to work: "auto", "cpu", "cuda" or "mps".

    Returns:
        `Described`, in `benchmarks.name_order`.

    Raises:
        InputError: not a finished run, one of another table, or damaged features.
        RunError: the features cannot be saved.
    """
    run = Path(run)
    kept, made_from = run / FEATURES, _hash_of(run, table)
    predictions = runs.read_predictions(run)
    predictions = predictions.iloc[name_order(table, predictions["image"])]  # alike in every layout of the folder
    if kept.is_file():
        try:
            with np.load(kept) as arrays:
                if arrays["made_from"] == made_from and arrays["image"].tolist() == predictions["image"].tolist():
                    return Described(**{name: arrays[name] for name in Described.__dataclass_fields__})
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise InputError(f"{kept} is damaged ({error}): delete that file and run again") from error
    described = _look_again(run, table, predictions, device)
    with replacing(kept) as path, open(path, "wb") as file:
        np.savez(file, made_from=made_from, **vars(described))
    return described


def _hash_of(run: Path, table: pd.DataFrame) -> str:
    """SHA-256 of what features are made from: pictures, model and test part."""
    files = [run / name for name in ("model.safetensors", "predictions.csv")]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        raise InputError(f"{run} is no finished run, it lacks {', '.join(missing)}: train it, or name another folder")
    parts = [data_hash(table).encode(), *(path.read_bytes() for path in files)]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def _look_again(run: Path, table: pd.DataFrame, predictions: pd.DataFrame, device: str) -> Described:
    scorer = load(run, device)
    store = PictureStore.open(table, scorer.recipe.short_side)
    looks = scorer.look_at(store.picture(int(i)) for i in rows_of(table, predictions["image"]))
    crop_feature = torch.cat([seen.feature for seen in looks])  # (n, K, C)
    weights = torch.cat([seen.weights for seen in looks])  # (n, K)
    return Described(
        predictions["image"].to_numpy(dtype=str),
        predictions["mos"].to_numpy(),
        predictions["pred"].to_numpy(),
        torch.einsum("nk,nkc->nc", weights, crop_feature).numpy(),
        crop_feature.half().numpy(),
    )


def cosine_distance(feature: np.ndarray) -> np.ndarray:
    """(n, C) features -> (n, n) distances 1 - cosine, after centring on their mean; the diagonal is infinite."""
    centred = feature - feature.mean(axis=0)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    distance = 1 - unit @ unit.T
    np.fill_diagonal(distance, np.inf)
    return distance


def check_measures(images: int, neighbours: int, gap: float, wide_gap: float) -> None:
    """Refuse settings of `separation` before anything is trained.

    Args:
        images: n, pictures in the smallest of the test parts.
        neighbours: k of `hard_pairs`.
        gap: of `hard_pairs`.
        wide_gap: the same for pairs that are very hard.

    Raises:
        InputError: one of them is out of range.
    """
    if not 1 <= neighbours < images:
        raise InputError(f"neighbours is {neighbours!r}: it must lie in 1..{images - 1}")
    if not 0 < gap <= wide_gap < np.inf:
        raise InputError(f"gap is {gap!r}, wide_gap {wide_gap!r}: the second must be no less, both finite and above 0")


def hard_pairs(described: Described, neighbours: int = 5, gap: float = 1.0) -> pd.DataFrame:
    """Pairs of a picture and one of its nearest neighbours in feature space, and how far apart people judge them.

    Args:
        described: from `describe`.
        neighbours: k, nearest neighbours a picture, 1..n-1.
        gap: a pair is hard if its MOS differ by at least this many standard deviations of MOS.

    Returns:
        One row a pair (n·k rows): a, b (positions), distance (cosine, on centred features), mos_gap (in standard
        deviations of MOS) and hard (bool).

    Raises:
        InputError: k or gap out of range.
    """
    n = len(described.mos)
    check_measures(n, neighbours, gap, gap)
    if np.ptp(described.mos) == 0:
        raise InputError("mos is the same for every picture: no pair can be hard")
    distance = cosine_distance(described.feature)
    nearest = np.argsort(distance, axis=1, kind="stable")[:, :neighbours]  # (n, k)
    a, b = np.repeat(np.arange(n), neighbours), nearest.ravel()
    mos_gap = np.abs(described.mos[a] - described.mos[b]) / described.mos.std()
    return pd.DataFrame(dict(a=a, b=b, distance=distance[a, b], mos_gap=mos_gap, hard=mos_gap >= gap))


def closest_hard_pairs(pairs: pd.DataFrame, count: int) -> pd.DataFrame:
    """The hard pairs that lie closest in feature space, each named once.

    Args:
        pairs: from `hard_pairs`.
        count: how many at most.

    Returns:
        Rows of `pairs` in order of distance; no picture stands in two of them.
    """
    rows, used = [], set()
    for row in pairs[pairs["hard"]].sort_values("distance", kind="stable").itertuples(index=False):
        if len(rows) < count and not {row.a, row.b} & used:
            used |= {row.a, row.b}
            rows.append(row._asdict())
    return pd.DataFrame(rows, columns=pairs.columns)


def distance_rank(feature: np.ndarray, a: pd.Series, b: pd.Series) -> np.ndarray:
    """How far pairs are apart compared with all pairs.

    Args:
        feature: (n, C).
        a: (m,) positions.
        b: (m,) positions.

    Returns:
        (m,) percent of all pairs of the n pictures that are closer, 0..100.
    """
    distance = cosine_distance(feature)
    every = np.sort(distance[np.triu_indices(len(feature), 1)])
    return 100 * np.searchsorted(every, distance[a.to_numpy(int), b.to_numpy(int)]) / len(every)


def separation(described: Described, neighbours: int = 5, gap: float = 1.0, wide_gap: float = 1.5) -> dict[str, float]:
    """How well a feature space keeps pictures of different quality apart.

    Args:
        described: from `describe`.
        neighbours: k of `hard_pairs`.
        gap: of `hard_pairs`.
        wide_gap: the same for pairs that are very hard.

    Returns:
        hard_pair_share: share of neighbour pairs that are hard, 0..1, lower is better.
        very_hard_pair_share: that of pairs that are hard from `wide_gap` on.
        knn_mos_error: mean absolute error, in MOS units, of the mean MOS of a picture's k neighbours; lower is better.
        intra_image_spread: mean distance between crops of one picture over that between crops of different pictures;
        0 means that all crops of a picture fall together (the local manifold is lost), 1 that pictures do not show.
    """
    pairs = hard_pairs(described, neighbours, gap)
    guess = described.mos[pairs["b"]].reshape(-1, neighbours).mean(axis=1)
    return dict(
        hard_pair_share=float(pairs["hard"].mean()),
        very_hard_pair_share=float((pairs["mos_gap"] >= wide_gap).mean()),
        knn_mos_error=float(np.abs(guess - described.mos).mean()),
        intra_image_spread=intra_image_spread(described.crop_feature),
    )


def intra_image_spread(crop_feature: np.ndarray) -> float:
    """Mean cosine distance between crops of one picture, over that between crops of different pictures.

    Args:
        crop_feature: (n, K, C) with n >= 2.

    Returns:
        The ratio; NaN with a single crop a picture, or where all features are equal. Means over all pairs, computed
        from sums, never from an (n·K, n·K) matrix.
    """
    crop_feature = crop_feature.astype(np.promote_types(crop_feature.dtype, np.float32), copy=False)
    n, K, _ = crop_feature.shape
    if K < 2:
        return float("nan")
    centred = crop_feature - crop_feature.mean(axis=(0, 1))
    unit = centred / np.maximum(np.linalg.norm(centred, axis=2, keepdims=True), 1e-12)
    # 1 - cos(u, v) = |u - v|² / 2, and the sum of that over ordered pairs of m vectors is m·Σ|u|² - |Σu|²
    norms, own = np.square(unit).sum(axis=(1, 2)), unit.sum(axis=1)  # (n,), (n, C)
    within = (K * norms - np.square(own).sum(axis=1)).sum()
    every = n * K * norms.sum() - np.square(own.sum(axis=0)).sum()
    between = (every - within) / (n * (n - 1) * K * K)
    return float(within / (n * K * (K - 1)) / between) if between > 0 else float("nan")


def umap_coordinates(feature: np.ndarray, neighbours: int = 15, seed: int = 0) -> np.ndarray:
    """Two UMAP coordinates a picture; the same on one machine, not across versions, so store what you show.

    Args:
        feature: (n, C) float.
        neighbours: UMAP's n_neighbors; clipped to n - 1.
        seed: its random state.

    Returns:
        (n, 2) float32.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="n_jobs value")  # a fixed seed means one thread; that is wanted
        import umap

        reducer = umap.UMAP(n_neighbors=min(neighbours, len(feature) - 1), metric="cosine", random_state=seed)
        return reducer.fit_transform(feature - feature.mean(axis=0))
