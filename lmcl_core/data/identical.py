"""Byte-identical image files that count as different contents."""

from __future__ import annotations

from collections import defaultdict
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from ..common.files import digest
from .splits import Split


def identical_images(table: pd.DataFrame) -> pd.DataFrame:
    """Pairs of byte-identical files with different contents: columns image and other, in table order."""
    paths = [Path(table.attrs["root"]) / image for image in table["image"]]
    sizes = pd.Series([path.stat().st_size for path in paths])
    digests = defaultdict(list)
    for row in np.flatnonzero(sizes.duplicated(keep=False)):
        digests[digest(paths[row])].append(row)
    pairs = sorted(pair for rows in digests.values() for pair in combinations(rows, 2))
    images, contents = table["image"].to_numpy(), table["content"].to_numpy()
    found = [(images[one], images[other]) for one, other in pairs if contents[one] != contents[other]]
    return pd.DataFrame(found, columns=["image", "other"])


def seen_in_training(table: pd.DataFrame, split: Split, pairs: pd.DataFrame) -> np.ndarray:
    """Positions of test images whose file is also in the training part; `pairs` come from `identical_images`."""
    images, both = table["image"], pd.concat([pairs, pairs.rename(columns={"image": "other", "other": "image"})])
    seen = both.loc[both["other"].isin(images.iloc[split.train]), "image"]
    return split.test[images.iloc[split.test].isin(seen)]
