"""Evaluation: correlations of predictions with MOS, the fitted logistic, and bootstrap intervals."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import optimize, stats

from .common.errors import InputError

#: Smallest number of splits or contents for which an interval is given. With five values, even the interval from the
#: lowest to the highest covers the median with a probability of only 0.94, and a bootstrap of five contents has too few
#: distinct samples.
FEWEST = 6


def metrics(*, pred: Sequence[float], mos: Sequence[float]) -> dict[str, float]:
    """Agreement of predictions with MOS. Correlations are signed: a reversed prediction is negative.

    Args:
        pred: (n,) predictions, higher is better.
        mos: (n,) mean opinion scores, higher is better.

    Returns:
        srcc, plcc (raw Pearson), plcc_logistic (after a 4-parameter logistic fitted on the same pairs; optimistic),
        krcc, rmse (in the given units) and n.

    Raises:
        ValueError: lengths differ, fewer than 3 pairs, not finite, or constant.
    """
    pred, mos = _pairs(pred, mos)
    plcc = float(np.corrcoef(pred, mos)[0, 1])
    return {
        "srcc": float(stats.spearmanr(pred, mos).statistic),
        "plcc": plcc,
        "plcc_logistic": float(np.copysign(np.corrcoef(logistic_fit(pred, mos), mos)[0, 1], plcc)),
        "krcc": float(stats.kendalltau(pred, mos).statistic),
        "rmse": float(np.sqrt(np.mean((pred - mos) ** 2))),
        "n": len(pred),
    }


def logistic_fit(pred: np.ndarray, mos: np.ndarray) -> np.ndarray:
    """Map predictions to MOS by a 4-parameter logistic (VQEG), fitted on these pairs by least squares.

    Returns (n,) fitted values (β1 - β2) / (1 + exp(-(x - β3) / |β4|)) + β2, x the standardised prediction.
    """
    x = (pred - pred.mean()) / pred.std()
    sign = 1.0 if np.corrcoef(pred, mos)[0, 1] >= 0 else -1.0
    center, scale = mos.mean(), mos.std()
    start = [2 * sign, -2 * sign, 0.0, 1.0]

    def curve(b: np.ndarray) -> np.ndarray:
        z = np.clip(-(x - b[2]) / max(abs(b[3]), 1e-3), -60, 60)
        return (b[0] - b[1]) / (1 + np.exp(z)) + b[1]

    fit = optimize.least_squares(lambda b: curve(b) - (mos - center) / scale, start)
    return center + scale * curve(fit.x)


def bootstrap_interval(
    *,
    pred: Sequence[float],
    mos: Sequence[float],
    content: Sequence[str] | None = None,
    statistic: str = "plcc",
    level: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a metric. Contents are resampled, since images of one content are dependent.

    Args:
        pred: (n,) predictions.
        mos: (n,) mean opinion scores.
        content: (n,) content of each image; None if every image is its own content.
        statistic: "srcc" or "plcc".
        level: coverage in (0, 1).
        draws: bootstrap samples.
        seed: of the resampling.

    Returns:
        Lower and upper end; NaN below `FEWEST` contents.

    Raises:
        ValueError: as `metrics`, or an unknown statistic.
    """
    if statistic not in ("srcc", "plcc"):
        raise InputError(f"statistic is {statistic!r}: it must be 'srcc' or 'plcc'")
    pred, mos = _pairs(pred, mos)
    groups = np.arange(len(pred)) if content is None else pd.factorize(np.asarray(content))[0]
    if groups.max() + 1 < FEWEST:
        return float("nan"), float("nan")
    members = [np.flatnonzero(groups == group) for group in range(groups.max() + 1)]
    rng = np.random.default_rng(seed)
    drawn = []
    for choice in rng.integers(0, len(members), size=(draws, len(members))):
        rows = np.concatenate([members[group] for group in choice])
        a, b = (stats.rankdata(v[rows]) if statistic == "srcc" else v[rows] for v in (pred, mos))
        if np.ptp(a) and np.ptp(b):  # the correlation of a constant sample is undefined
            drawn.append(np.corrcoef(a, b)[0, 1])
    return _interval(drawn, level)


def median_interval(values: Sequence[float], draws: int = 10_000, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of a median, such as the median PLCC over splits; NaN below `FEWEST` values."""
    values = np.asarray(values, dtype=float)
    if len(values) < FEWEST:
        return float("nan"), float("nan")
    drawn = np.median(np.random.default_rng(seed).choice(values, size=(draws, len(values))), axis=1)
    return _interval(drawn, 0.95)


def _interval(drawn: Sequence[float], level: float) -> tuple[float, float]:
    tail = 100 * (1 - level) / 2
    return tuple(float(end) for end in np.percentile(drawn, [tail, 100 - tail]))


def by_distortion(predictions: pd.DataFrame) -> pd.DataFrame:
    """Metrics within each distortion type, as medians over splits.

    `predictions` has the columns split, distortion, mos and pred. The result has one row per distortion: distortion,
    srcc, plcc, rmse (medians) and n (images in all splits); no row without distortion labels. A split with fewer than
    three images of a distortion is left out of that distortion's median.
    """
    rows = []
    for name, group in predictions.dropna(subset=["distortion"]).groupby("distortion"):
        parts = [part for _, part in group.groupby("split") if len(part) > 2]
        if parts:
            each = pd.DataFrame([metrics(pred=part["pred"], mos=part["mos"]) for part in parts])
            rows.append(dict(distortion=name, **each[["srcc", "plcc", "rmse"]].median(), n=len(group)))
    return pd.DataFrame(rows, columns=["distortion", "srcc", "plcc", "rmse", "n"])


def _pairs(pred: Sequence[float], mos: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    if np.iscomplexobj(pred) or np.iscomplexobj(mos):
        raise InputError("pred and mos must be real numbers: they hold complex ones")
    pred, mos = np.asarray(pred, dtype=float), np.asarray(mos, dtype=float)
    if pred.shape != mos.shape or pred.ndim != 1:
        raise InputError(f"pred {pred.shape} and mos {mos.shape}: both must hold one number per image")
    if len(pred) < 3:
        raise InputError(f"only {len(pred)} pairs: a correlation needs at least 3")
    for name, values in (("pred", pred), ("mos", mos)):
        if not np.isfinite(values).all():
            count = int((~np.isfinite(values)).sum())
            raise InputError(f"{name} holds {count} values that are not finite: leave these images out")
        if np.abs(values).max() > 1e100:
            raise InputError(f"{name} holds {values[np.abs(values).argmax()]}: beyond 1e100, metrics overflow")
        if np.ptp(values) < 1e-100:
            raise InputError(f"{name} is constant ({values[0]}): its correlation is undefined; check the values")
    return pred, mos
