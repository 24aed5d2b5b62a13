"""Pictures distorted anew at known levels: a benchmark without distortion labels can still tell whether rank follows
level.

There are no opinions of the new pictures, so errors cannot be measured; but the worse of two levels of one distortion
of one picture is known.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from . import runs
from .benchmarks import rows_of
from .distortions import ALL_DISTORTIONS, KINDS, LEVELS
from .errors import InputError
from .scoring import load
from .store import PictureStore


def score_redistorted(run: str | Path, table: pd.DataFrame, pictures: int = 10, device: str = "cpu") -> pd.DataFrame:
    """Score the best test pictures of a finished run, as they are and distorted in every way and level.

    The best are taken since a picture that is already bad has little quality to lose.

    Args:
        run: its folder.
        table: from `load_benchmark`.
        pictures: how many, those with the highest MOS of the test part.
        device: as in `load`.

    Returns:
        One row a scored picture: image, distortion, kind ("noise", "structure" or "other"), level (0, the picture as
        it is, to 5), score (MOS units). The undistorted picture stands once in every distortion.

    Raises:
        InputError: not a finished run, or fewer than one picture.
    """
    check_count(pictures)
    run = Path(run)
    if not (run / "predictions.csv").is_file():
        raise InputError(f"{run} is no finished run, it lacks predictions.csv: train it, or name another folder")
    scorer = load(run, device)
    tested = runs.read_predictions(run).sort_values(["mos", "image"], ascending=[False, True])
    chosen = tested["image"].head(pictures).tolist()
    store = PictureStore.open(table, scorer.recipe.short_side)
    originals = [store.picture(int(row)).numpy() for row in rows_of(table, chosen)]
    looks = scorer.looks(_versions(chosen, originals))
    scores = scorer.to_mos(torch.cat([seen.score for seen in looks])).reshape(len(chosen), -1)
    rows = []
    for image, of_picture in zip(chosen, scores):
        for name, of_distortion in zip(ALL_DISTORTIONS, of_picture[1:].reshape(-1, LEVELS)):
            for level, score in enumerate([of_picture[0], *of_distortion]):
                rows.append(dict(image=image, distortion=name, kind=KINDS[name], level=level, score=score))
    return pd.DataFrame(rows)


def check_count(pictures: int) -> None:
    """Refuse a number of pictures before anything is trained.

    Args:
        pictures: as in `score_redistorted`.

    Raises:
        InputError: fewer than one.
    """
    if pictures < 1:
        raise InputError(f"pictures to distort anew are {pictures!r}: there must be at least 1")


def _versions(names: Sequence[str], originals: Sequence[np.ndarray]) -> Iterator[Tensor]:
    """Each picture as it is, then with every distortion at every level; the same on every call for the same names, as
    the table has them: what is random hangs on them."""
    for name, original in zip(names, originals):
        yield torch.from_numpy(original.copy())
        for number, distort in enumerate(ALL_DISTORTIONS.values()):
            for level in range(LEVELS):
                rng = np.random.default_rng([zlib.crc32(name.encode()), number])  # levels share what is random
                yield torch.from_numpy(distort(original, level, rng).copy())


def order_kept(scored: pd.DataFrame) -> pd.DataFrame:
    """How well scores follow the level of distortion.

    Args:
        scored: from `score_redistorted`, with or without further columns, which tell groups apart (recipe, split).

    Returns:
        One row a group and distortion: the further columns, distortion, kind, pairs_in_order (share of all pairs of
        two levels of one picture, the undistorted one among them, in which the milder one scores higher; 0.5 is
        chance) and drop (mean fall of the score from the undistorted picture to level 5, in MOS units).
    """
    extra = [name for name in scored.columns if name not in ("image", "distortion", "kind", "level", "score")]
    rows = []
    for key, part in scored.groupby([*extra, "distortion", "kind"], sort=False):
        levels = part.pivot(index="image", columns="level", values="score").to_numpy()  # (pictures, 6)
        milder, worse = np.triu_indices(levels.shape[1], 1)
        in_order = (levels[:, milder] > levels[:, worse]).mean()
        drop = (levels[:, 0] - levels[:, -1]).mean()
        rows.append(dict(zip([*extra, "distortion", "kind"], key), pairs_in_order=in_order, drop=drop))
    return pd.DataFrame(rows)
