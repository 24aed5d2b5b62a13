"""Scores of images distorted again at known levels, which test models without distortion labels.

The new images have no MOS, so errors cannot be measured. But of two levels of one distortion of one image, the higher
level has the lower quality, and a model should score it lower.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ..common.errors import InputError
from ..common.progress import bar
from ..data.distortions import ALL_DISTORTIONS, KINDS, LEVELS
from ..data.identity import rows_of
from ..data.store import ImageStore
from ..inference import load
from ..runs.folder import read_predictions


def score_redistorted(run: str | Path, table: pd.DataFrame, count: int = 10, device: str = "cpu") -> pd.DataFrame:
    """Score the best test images of a finished run, undistorted and with every distortion at every level.

    The `count` (>= 1) images with the highest MOS are used, because further distortion hardly changes bad images.
    Returns one row per scored image: image, distortion, kind ("noise", "structure" or "other"), level (0 to 5; 0 is
    undistorted), score (MOS units). The undistorted image has one row per distortion. InputError: not a finished run,
    or count is below 1.
    """
    check_count(count)
    run = Path(run)
    if not (run / "predictions.csv").is_file():
        raise InputError(f"{run} is not a finished run, it lacks predictions.csv: train it, or name another folder")
    scorer = load(run, device)
    tested = read_predictions(run).sort_values(["mos", "image"], ascending=[False, True])
    names = tested["image"].head(count).tolist()
    store = ImageStore.open(table, scorer.recipe.short_side)
    originals = [store.image(int(row)).numpy() for row in rows_of(table, names)]
    versions = len(names) * (1 + len(ALL_DISTORTIONS) * LEVELS)
    predictions = scorer.predict(bar(_versions(names, originals), versions, "scoring distorted images"))
    scores = scorer.to_mos(torch.cat([part.score for part in predictions])).reshape(len(names), -1)
    rows = []
    for image, (undistorted, *distorted) in zip(names, scores):
        for distortion, levels in zip(ALL_DISTORTIONS, np.reshape(distorted, (-1, LEVELS))):
            about = dict(image=image, distortion=distortion, kind=KINDS[distortion])
            rows += [about | dict(level=level, score=score) for level, score in enumerate([undistorted, *levels])]
    return pd.DataFrame(rows)


def check_count(count: int) -> None:
    """Raise `InputError` for a number of images below 1; a notebook calls this before it trains."""
    if count < 1:
        raise InputError(f"number of images to distort is {count!r}: it must be at least 1")


def _versions(names: Sequence[str], originals: Sequence[np.ndarray]) -> Iterator[Tensor]:
    """Each image undistorted, then with every distortion at every level; the noise depends only on the image's name."""
    for name, original in zip(names, originals):
        yield torch.from_numpy(original.copy())
        for number, distort in enumerate(ALL_DISTORTIONS.values()):
            for level in range(LEVELS):
                rng = np.random.default_rng([zlib.crc32(name.encode()), number])  # the same noise at all levels
                yield torch.from_numpy(distort(original, level, rng).copy())


def order_kept(scored: pd.DataFrame) -> pd.DataFrame:
    """How well scores of `score_redistorted` follow the level; further columns, such as recipe, form groups.

    Returns one row per group and distortion: the further columns, distortion, kind, pairs_in_order (share of all pairs
    of two levels of one image, 0 included, in which the lower level has the higher score; 0.5 is chance) and drop (mean
    difference of the scores at level 0 and at level 5, in MOS units).
    """
    groups = [name for name in scored.columns if name not in ("image", "distortion", "kind", "level", "score")]
    columns, rows = [*groups, "distortion", "kind"], []
    for key, part in scored.groupby(columns, sort=False):
        levels = part.pivot(index="image", columns="level", values="score").to_numpy()  # (images, 6)
        lower, higher = np.triu_indices(levels.shape[1], 1)
        in_order = (levels[:, lower] > levels[:, higher]).mean()
        rows.append(dict(zip(columns, key), pairs_in_order=in_order, drop=(levels[:, 0] - levels[:, -1]).mean()))
    return pd.DataFrame(rows)
