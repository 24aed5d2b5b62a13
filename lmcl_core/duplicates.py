"""Near-duplicates: pictures of one scene under two names, which a split of contents may put on both sides.

In the wild every picture counts as a content of its own. ``python -m lmcl_core.duplicates BENCHMARK DATA_ROOT``
lists those that show the same scene in ``figures/<benchmark>/duplicates.csv`` of the checkout, and says of recorded
runs of the benchmark's recipe what leaving them out of the test parts changes (``duplicates_by_split.csv``) and how
large their errors are (``duplicates_errors.csv``).
"""

from __future__ import annotations

import hashlib
import sys
from collections import defaultdict
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from tqdm import tqdm

from . import evaluation, records, runs
from .arguments import module_command
from .benchmarks import load_benchmark
from .crops import resize_crop
from .errors import InputError
from .files import replacing
from .paths import figures_folder
from .recipe import Recipe
from .splits import Split, make_split
from .store import PictureStore
from .weights import create_backbone

#: Cosine similarity from which two pictures count as one scene; of LIVEC's pairs above it, all do to the eye.
SIMILARITY = 0.85
_KINDS = ("no near-duplicate", "near-duplicate not trained on", "near-duplicate trained on")
_BACKBONE, _SIDE, _BATCH = "tf_efficientnet_lite0", 224, 32
_ROWS = 1024  # compared with all others at a time


def identical_pictures(table: pd.DataFrame) -> pd.DataFrame:
    """Files that are the same byte for byte although they count as different contents.

    Args:
        table: from `load_benchmark`.

    Returns:
        Columns image and other, one row a pair, in the order of the table.
    """
    paths = [Path(table.attrs["root"]) / image for image in table["image"]]
    sizes, digests = defaultdict(list), defaultdict(list)
    for row, path in enumerate(paths):
        sizes[path.stat().st_size].append(row)
    for rows in sizes.values():
        for row in rows if len(rows) > 1 else []:
            with open(paths[row], "rb") as file:
                digests[hashlib.file_digest(file, "sha256").digest()].append(row)
    pairs = sorted(pair for rows in digests.values() for pair in combinations(rows, 2))
    images, contents = table["image"].to_numpy(), table["content"].to_numpy()
    found = [(images[one], images[other]) for one, other in pairs if contents[one] != contents[other]]
    return pd.DataFrame(found, columns=["image", "other"])


def near_duplicates(table: pd.DataFrame, similarity: float = SIMILARITY) -> pd.DataFrame:
    """Pictures of different contents that look alike to a network that learnt to name what pictures show.

    Args:
        table: from `load_benchmark`.
        similarity: of their pooled features, in (0, 1], from which two pictures count as one scene.

    Returns:
        One row a pair, the most similar first: image, other, similarity (cosine, 1 for the same picture), identical
        (whether the files are the same byte for byte).

    Raises:
        InputError: the similarity is out of range.
    """
    if not 0 < similarity <= 1:
        raise InputError(f"similarity is {similarity!r}: it must be above 0 and at most 1")
    feature = _features(table)
    images, contents = table["image"].to_numpy(), table["content"].to_numpy()
    found = []
    for start in range(0, len(feature), _ROWS):
        alike = np.triu(feature[start : start + _ROWS] @ feature.T, start + 1)
        for row, other in zip(*np.nonzero(alike >= similarity - 1e-6)):
            if contents[start + row] != contents[other]:
                found.append((images[start + row], images[other], min(1.0, float(alike[row, other]))))
    pairs = pd.DataFrame(found, columns=["image", "other", "similarity"])
    same = set(identical_pictures(table).itertuples(index=False, name=None))
    pairs["identical"] = [pair in same for pair in zip(pairs["image"], pairs["other"])]
    return pairs.sort_values(["similarity", "image"], ascending=[False, True], ignore_index=True)


@torch.no_grad()
def _features(table: pd.DataFrame) -> np.ndarray:
    """(n, C) float32 pooled features of length 1, of whole pictures squeezed into a square."""
    store = PictureStore.open(table, Recipe.for_benchmark(table.attrs["benchmark"]).short_side)
    with torch.random.fork_rng(devices=[]):  # what is drawn is overwritten
        backbone = create_backbone(_BACKBONE, _SIDE, pretrained=True)
    network = backbone.network.eval()
    mean, std = (torch.tensor(values)[:, None, None] for values in (backbone.mean, backbone.std))
    found = []
    for start in tqdm(range(0, len(table), _BATCH), "looking for near-duplicates", leave=False, disable=None):
        views = [resize_crop(store.picture(row), _SIDE) for row in range(start, min(start + _BATCH, len(table)))]
        pixels = torch.stack(views).permute(0, 3, 1, 2).float() / 255
        found.append(network((pixels - mean) / std))
    return F.normalize(torch.cat(found), dim=1).numpy()


def seen_in_training(table: pd.DataFrame, split: Split, pairs: pd.DataFrame) -> np.ndarray:
    """Positions of the test pictures of a split whose scene is in the training part too.

    Args:
        table: from `load_benchmark`.
        split: of this table.
        pairs: from `near_duplicates` or `identical_pictures`.
    """
    images = table["image"].to_numpy()
    trained = set(images[split.train])
    both = [*zip(pairs["image"], pairs["other"]), *zip(pairs["other"], pairs["image"])]
    seen = {one for one, other in both if other in trained}
    return split.test[[image in seen for image in images[split.test]]]


def effect(table: pd.DataFrame, pairs: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """What leaving near-duplicates out of test parts changes.

    Args:
        table: from `load_benchmark`.
        pairs: from `near_duplicates`.
        predictions: columns split, image, mos and pred, such as `recorded_predictions`.

    Returns:
        One row a split: split, test (pictures), again (how many of them are left out), plcc, plcc_without.
    """
    rows = []
    for index, part in predictions.groupby("split"):
        again = table["image"].iloc[seen_in_training(table, make_split(table, index), pairs)]
        kept = part[~part["image"].isin(again)]
        whole, less = (evaluation.metrics(pred=one["pred"], mos=one["mos"])["plcc"] for one in (part, kept))
        rows.append(dict(split=index, test=len(part), again=len(part) - len(kept), plcc=whole, plcc_without=less))
    return pd.DataFrame(rows, columns=["split", "test", "again", "plcc", "plcc_without"])


def errors(table: pd.DataFrame, pairs: pd.DataFrame, predictions: pd.DataFrame) -> pd.DataFrame:
    """Whether a test picture is predicted better because its scene was trained on, or because it is an easy one.

    Args:
        table, pairs, predictions: as for `effect`.

    Returns:
        One row a kind of test picture, those that occur: kind, predictions (one a split and picture), rmse and mae (MOS
        units), mos_std (of their opinion scores). Where it helps to have seen the scene, the error of those whose
        near-duplicate was trained on is smaller than that of those where it was not.
    """
    kind = predictions["image"].isin({*pairs["image"], *pairs["other"]}).map({True: _KINDS[1], False: _KINDS[0]})
    for index, part in predictions.groupby("split"):
        again = table["image"].iloc[seen_in_training(table, make_split(table, index), pairs)]
        kind[part.index[part["image"].isin(again)]] = _KINDS[2]
    rows = []
    for name in _KINDS:
        mos = predictions.loc[kind == name, "mos"]
        error = predictions.loc[kind == name, "pred"] - mos
        if len(mos):
            measured = dict(rmse=np.sqrt((error**2).mean()), mae=error.abs().mean(), mos_std=mos.std())
            rows.append(dict(kind=name, predictions=len(mos), **measured))
    return pd.DataFrame(rows, columns=["kind", "predictions", "rmse", "mae", "mos_std"])


def recorded_predictions(table: pd.DataFrame) -> pd.DataFrame:
    """Predictions of the benchmark's recipe in the records that come with the project.

    Args:
        table: from `load_benchmark`.

    Returns:
        Columns split, image, mos, pred; no row where none are recorded for this data.

    Raises:
        InputError: damaged records.
    """
    benchmark, parts = table.attrs["benchmark"], [pd.DataFrame(columns=["split", "image", "mos", "pred"])]
    if records.committed(benchmark).is_file():
        known, recipe = records.read_records(records.committed(benchmark)), Recipe.for_benchmark(benchmark)
        for index in sorted(set(known["split"])):
            record = records.recall(known, runs.identity(table, make_split(table, index), recipe), index)
            if record is not None:
                parts.append(records.predictions(record, table, index).assign(split=index))
    return pd.concat(parts[1:] or parts, ignore_index=True)


def main(arguments: list[str]) -> None:
    """What ``python -m lmcl_core.duplicates`` does; exit 0 good, 1 failed, 2 wrong use, as `lmcl`."""
    with module_command("duplicates", "BENCHMARK DATA_ROOT", arguments, (2,)):
        table = load_benchmark(arguments[0], arguments[1] or None)
        pairs = near_duplicates(table)
        predictions = recorded_predictions(table)
        found = dict(
            duplicates=pairs,
            duplicates_by_split=effect(table, pairs, predictions),
            duplicates_errors=errors(table, pairs, predictions),
        )
        for name, rows in found.items():
            path = Path(figures_folder(arguments[0])) / f"{name}.csv"
            with replacing(path) as temporary:
                rows.to_csv(temporary, index=False, float_format="%.6g")
            print(rows.round(4).to_string(index=False), path, sep="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
