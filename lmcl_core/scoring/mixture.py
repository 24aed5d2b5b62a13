"""Data of the bundled weights `general`: ``python -m lmcl_core.scoring.mixture LIVEC_RUN LIVE_RUN LIVEC LIVE OUT``.

The folder OUT becomes a benchmark of own data. Its training part holds the training images of LIVEC's split 0, those of
split 0 of the LIVE images in their re-rated form (scores brought to LIVEC's units), and photographs of LIVEC's training
part distorted at five known levels. Its test part is that of LIVEC's split 0. The two runs are teachers of the frozen
regime, trained on these splits, so no test image has an influence on a label.
"""

from __future__ import annotations

import os
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from ..common.command import Parser
from ..common.errors import InputError
from ..data.benchmarks import load_benchmark
from ..data.distortions import DISTORTIONS, LEVELS
from ..data.own import COLUMNS, FILE
from ..data.splits import make_split
from ..data.store import ImageStore
from ..inference import Scorer, load
from ..runs.folder import read_run

TYPES = ("white noise", "blur", "JPEG", "JPEG 2000", "contrast")
#: Each level is labelled at least this many MOS units below the level before it, so that no two levels are equal.
LEAST_STEP = 3.0
#: Photographs below this MOS are not distorted, because five levels would not fit below them.
LEAST_MOS = 20.0

TOML = """\
name = "general"
title = "LIVEC, extended"
labels = "labels.csv"
mos_range = [0, 100]
higher_is_better = true
label_kind = "MOS of LIVEC; labels in its units for LIVE, re-rated, and for distorted photographs"
source = "made from LIVEC and LIVE, re-rated, whose terms apply"
"""


def write_mixture(
    runs: tuple[str | Path, str | Path], livec: str | Path, live: str | Path, out: str | Path, photographs: int = 300
) -> pd.DataFrame:
    """Write the folder; returns its labels: image, mos, content, distortion, level, official_split.

    Args:
        runs: finished runs of split 0 of LIVEC and of LIVE re-rated, the teachers.
        livec: folder that holds LIVEC.
        live: folder of LIVE re-rated, with its ``benchmark.toml``.
        out: the new folder.
        photographs: number of LIVEC's photographs to distort, each with one type at all levels; noise twice as often.

    Raises:
        InputError: `out` exists, or a run is not the finished run of split 0 of its benchmark.
    """
    tables = load_benchmark("livec", livec), load_benchmark(str(live))
    for run, table in zip(runs, tables):
        about = read_run(run) or {}
        if (about.get("benchmark"), about.get("split_index")) != (table.attrs["benchmark"], 0):
            raise InputError(f"{run} is not a finished run of split 0 of {table.attrs['benchmark']}: train it first")
    if (out := Path(out)).exists():
        raise InputError(f"{out} exists: name a new folder")
    (out / "images").mkdir(parents=True)
    splits = [make_split(table, 0) for table in tables]
    stores = [ImageStore.open(table) for table in tables]
    first, second = (load(run) for run in runs)

    livec_rows = _copied(tables[0].assign(official_split=pd.NA), "livec", out)
    for part, name in ((splits[0].train, "train"), (splits[0].test, "test")):
        livec_rows.loc[livec_rows.index[part], "official_split"] = name
    live_rows = _copied(tables[1].iloc[splits[1].train].assign(official_split="train"), "live", out)
    to_livec = _line(live_rows["mos"], _scores(first, stores[1], splits[1].train))
    live_rows["mos"] = to_livec(live_rows["mos"])

    def teach(store: ImageStore, rows: np.ndarray) -> np.ndarray:
        return (_scores(first, store, rows) + to_livec(_scores(second, store, rows))) / 2

    good = splits[0].train[tables[0]["mos"].to_numpy()[splits[0].train] >= LEAST_MOS]
    chosen = np.sort(np.random.default_rng(0).permutation(good)[:photographs])
    copies = _distort(livec_rows.iloc[chosen], [stores[0].image(int(row)).numpy() for row in chosen], out)
    after = teach(ImageStore.open(copies), np.arange(len(copies))).reshape(-1, LEVELS)
    changes = after - teach(stores[0], chosen)[:, None]
    copies["mos"] = np.concatenate([falling(*pair) for pair in zip(livec_rows["mos"].iloc[chosen], changes)])

    labels = pd.concat([livec_rows, live_rows, copies], ignore_index=True)[list(COLUMNS)]
    labels.to_csv(out / "labels.csv", index=False, float_format="%.4f")
    (out / FILE).write_text(TOML)
    return labels


def falling(mos: float, change: Sequence[float]) -> np.ndarray:
    """Labels (L,) of a photograph's L levels, from its own MOS and the teachers' changes of score at each level.

    The changes are put in falling order, and each level is at least `LEAST_STEP` below the one before it; 0 is the
    least label.
    """
    labels, last = [], mos
    for value in mos + np.sort(change)[::-1]:
        last = min(value, last - LEAST_STEP)
        labels.append(max(last, 0.0))
    return np.array(labels)


def _scores(teacher: Scorer, store: ImageStore, rows: np.ndarray) -> np.ndarray:
    return teacher.to_mos(torch.cat([part.score for part in teacher.predict_rows(store, rows)]))


def _line(mos: pd.Series, scores: np.ndarray) -> np.poly1d:
    """The rising line that gives `mos` the mean and the standard deviation of `scores`."""
    slope = scores.std() / mos.to_numpy().std()
    return np.poly1d([slope, scores.mean() - slope * mos.mean()])


def _copied(table: pd.DataFrame, name: str, out: Path) -> pd.DataFrame:
    """Link or copy a table's images into `out`; returns its rows with their new names."""
    images = [f"images/{name}-{number:04d}{Path(image).suffix}" for number, image in enumerate(table["image"])]
    for old, new in zip(table["image"], images):
        shutil.copyfile(os.path.join(table.attrs["root"], old), out / new)
    return table.assign(image=images, content=f"{name}/" + table["content"].astype(str))


def _distort(rows: pd.DataFrame, photographs: Sequence[np.ndarray], out: Path) -> pd.DataFrame:
    """Write each photograph with one type of distortion at every level; returns a table of the new images."""
    found = []
    for number, (content, photograph) in enumerate(zip(rows["content"], photographs)):
        distortion = ("white noise", *TYPES)[number % (1 + len(TYPES))]
        for level in range(LEVELS):
            rng = np.random.default_rng([zlib.crc32(distortion.encode()), number])  # the same noise at all levels
            image = f"images/distorted-{number:04d}-{level + 1}.png"
            Image.fromarray(DISTORTIONS[distortion](photograph, level, rng)).save(out / image, compress_level=1)
            about = dict(content=content, distortion=distortion, official_split="train")
            found.append(dict(image=image, level=level + 1, **about))
    table = pd.DataFrame(found)
    table["mos"] = np.repeat(rows["mos"].to_numpy(), LEVELS)  # until levels have labels
    table.attrs["root"] = str(out)
    return table


def main(arguments: Sequence[str] | None = None) -> None:
    """The command ``python -m lmcl_core.scoring.mixture``; exits with 0 (success), 1 (failure) or 2 (invalid input)."""
    parser = Parser("lmcl_core.scoring.mixture", "Write the training data of the bundled weights `general`.")
    for name, text in (
        ("livec_run", "finished run of LIVEC's split 0, such as runs/livec/lmcl+clip-b16-frozen/split-00"),
        ("live_run", "finished run of split 0 of LIVE, re-rated"),
        ("livec", "folder that holds LIVEC"),
        ("live", "folder of LIVE, re-rated, with its benchmark.toml"),
        ("out", "new folder"),
    ):
        parser.add_argument(name, help=text)
    with parser.run(arguments) as given:
        labels = write_mixture((given.livec_run, given.live_run), given.livec, given.live, given.out)
        print(f"{given.out}: {labels['official_split'].value_counts().to_dict()}")


if __name__ == "__main__":
    main()
