"""Hard examples: images that are close in feature space although their MOS differ.

Shapes: `n` images, `K` crops per image, `C` feature channels.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import pandas as pd

from .common.errors import InputError


@dataclass(frozen=True)
class Features:
    """Features of the test images of one run."""

    image: np.ndarray  # (n,) names
    mos: np.ndarray  # (n,) mean opinion scores
    pred: np.ndarray  # (n,) predictions, in MOS units
    feature: np.ndarray  # (n, C) float32, saliency-weighted mean over the crops: the input of the score head
    crop_feature: np.ndarray  # (n, K, C) float16


def cosine_distance(feature: np.ndarray) -> np.ndarray:
    """(n, C) features -> (n, n) distances 1 - cosine, of centred features; the diagonal is infinite."""
    centred = feature - feature.mean(axis=0)
    unit = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    distance = 1 - unit @ unit.T
    np.fill_diagonal(distance, np.inf)
    return distance


def check_measures(images: int, neighbours: int, gap: float, wide_gap: float) -> None:
    """Raise InputError for settings of `separation` out of range; `images` is the size of the smallest test part."""
    if not 1 <= neighbours < images:
        raise InputError(f"neighbours is {neighbours!r}: it must lie in 1..{images - 1}")
    if not 0 < gap <= wide_gap < np.inf:
        rule = "both must be finite and above 0, and wide_gap at least gap"
        raise InputError(f"gap is {gap!r}, wide_gap {wide_gap!r}: {rule}")


def hard_pairs(features: Features, neighbours: int = 5, gap: float = 1.0) -> pd.DataFrame:
    """Pairs of an image and one of its k nearest neighbours in feature space, with their difference in MOS.

    A pair is hard if the two MOS differ by at least `gap` standard deviations of the MOS in the test part.

    Returns:
        One row per pair (n·k rows): a, b (positions), distance (cosine, on centred features), mos_gap (in standard
        deviations of MOS) and hard (bool).
    """
    n = len(features.mos)
    check_measures(n, neighbours, gap, gap)
    if np.ptp(features.mos) == 0:
        raise InputError("mos is the same for every test image: no pair can be hard; choose another split")
    distance = cosine_distance(features.feature)
    nearest = np.argsort(distance, axis=1, kind="stable")[:, :neighbours]  # (n, k)
    a, b = np.repeat(np.arange(n), neighbours), nearest.ravel()
    mos_gap = np.abs(features.mos[a] - features.mos[b]) / features.mos.std()
    return pd.DataFrame(dict(a=a, b=b, distance=distance[a, b], mos_gap=mos_gap, hard=mos_gap >= gap))


def closest_hard_pairs(pairs: pd.DataFrame, count: int) -> pd.DataFrame:
    """The `count` hard pairs closest in feature space, in order of distance; no image appears in two of them."""
    rows, used = [], set()
    for row in pairs[pairs["hard"]].sort_values("distance", kind="stable").itertuples(index=False):
        if len(rows) < count and not {row.a, row.b} & used:
            used |= {row.a, row.b}
            rows.append(row._asdict())
    return pd.DataFrame(rows, columns=pairs.columns)


def distance_rank(feature: np.ndarray, a: pd.Series, b: pd.Series) -> np.ndarray:
    """For m pairs of positions, the percentage (m,) of all pairs of the n images that are closer, 0..100."""
    distance = cosine_distance(feature)
    every = np.sort(distance[np.triu_indices(len(feature), 1)])
    return 100 * np.searchsorted(every, distance[a.to_numpy(int), b.to_numpy(int)]) / len(every)


def separation(features: Features, neighbours: int = 5, gap: float = 1.0, wide_gap: float = 1.5) -> dict[str, float]:
    """Measures of how well a feature space separates images of different quality.

    `neighbours` and `gap` are those of `hard_pairs`; `wide_gap` is the gap of very hard pairs.

    Returns:
        hard_pair_share: share of neighbour pairs that are hard, 0..1, lower is better.
        very_hard_pair_share: the same for very hard pairs.
        knn_mos_error: mean absolute error, in MOS units, of the mean MOS of an image's k neighbours; lower is better.
        intra_image_spread: mean distance between crops of one image divided by that between crops of different images;
        0 means that the crops of an image coincide (the local manifold is lost), 1 that images are not separated.
    """
    pairs = hard_pairs(features, neighbours, gap)
    guess = features.mos[pairs["b"]].reshape(-1, neighbours).mean(axis=1)
    return dict(
        hard_pair_share=float(pairs["hard"].mean()),
        very_hard_pair_share=float((pairs["mos_gap"] >= wide_gap).mean()),
        knn_mos_error=float(np.abs(guess - features.mos).mean()),
        intra_image_spread=intra_image_spread(features.crop_feature),
    )


def intra_image_spread(crop_feature: np.ndarray) -> float:
    """Mean cosine distance between crops of one image, divided by that between crops of different images.

    `crop_feature` is (n, K, C) with n >= 2. The ratio is NaN with one crop per image, or if all features are equal. The
    (n·K, n·K) matrix is never stored.
    """
    crop_feature = crop_feature.astype(np.promote_types(crop_feature.dtype, np.float32), copy=False)
    n, K, _ = crop_feature.shape
    if K < 2:
        return float("nan")
    centred = crop_feature - crop_feature.mean(axis=(0, 1))
    unit = centred / np.maximum(np.linalg.norm(centred, axis=2, keepdims=True), 1e-12)
    # 1 - cos(u, v) = |u - v|² / 2; summed over ordered pairs of m unit vectors it is m·Σ|u|² - |Σu|²
    norms, own = np.square(unit).sum(axis=(1, 2)), unit.sum(axis=1)  # (n,), (n, C)
    within = (K * norms - np.square(own).sum(axis=1)).sum()
    every = n * K * norms.sum() - np.square(own.sum(axis=0)).sum()
    between = (every - within) / (n * (n - 1) * K * K)
    return float(within / (n * K * (K - 1)) / between) if between > 0 else float("nan")


def umap_coordinates(feature: np.ndarray, neighbours: int = 15, seed: int = 0) -> np.ndarray:
    """UMAP coordinates (n, 2) of features (n, C). They repeat on one machine, but differ between versions and systems.

    `neighbours` is UMAP's n_neighbors, clipped to n - 1.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="n_jobs value")  # a fixed seed implies one thread
        import umap

        reducer = umap.UMAP(n_neighbors=min(neighbours, len(feature) - 1), metric="cosine", random_state=seed)
        return reducer.fit_transform(feature - feature.mean(axis=0))
