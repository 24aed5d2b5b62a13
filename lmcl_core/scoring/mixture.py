"""Data of the bundled weights `general`: ``python -m lmcl_core.scoring.mixture LIVEC_RUN LIVE_RUN LIVEC LIVE OUT``.

The folder OUT becomes a benchmark of own data. Its training part holds the training images of LIVEC's split 0, those of
split 0 of the LIVE images in their re-rated form (scores brought to LIVEC's units), and photographs of LIVEC's training
part distorted at five known levels. Its test part is that of LIVEC's split 0. The two runs are teachers of the frozen
regime, trained on these splits, so no test image has an influence on a label.
"""

from __future__ import annotations

import os
import shutil
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image

from ..common.command import Parser, exit_codes
from ..common.errors import InputError
from ..common.progress import bar
from ..data.benchmarks import load_benchmark
from ..data.distortions import DISTORTIONS, LEVELS
from ..data.own import FILE
from ..data.splits import make_split
from ..data.store import ImageStore
from ..inference import Scorer, load
from ..runs.folder import read_run

TYPES = ("white noise", "blur", "JPEG", "JPEG 2000", "contrast")
#: Each level is labelled at least this many MOS units below the level before it, so that no two levels are equal.
LEAST_STEP = 2.0
#: Photographs below this MOS are not distorted, because further distortion hardly changes them.
LEAST_MOS = 45.0

TOML = """\
name = "general"
title = "LIVEC, LIVE re-rated and distorted photographs"
labels = "labels.csv"
mos_range = [0, 100]
higher_is_better = true
label_kind = "MOS of LIVEC; labels in its units for LIVE, re-rated, and for distorted photographs"
source = "made from LIVEC and LIVE, re-rated, whose terms apply"
"""


def write_mixture(
    runs: tuple[str | Path, str | Path], livec: str | Path, live: str | Path, out: str | Path, photographs: int = 150
) -> pd.DataFrame:
    """Write the folder; returns its labels: image, mos, content, distortion, level, official_split.

    Args:
        runs: finished runs of split 0 of LIVEC and of LIVE re-rated, the teachers.
        livec: folder that holds LIVEC.
        live: folder of LIVE re-rated, with its ``benchmark.toml``.
        out: the new folder.
        photographs: number of LIVEC's photographs to distort, each with one type at all levels.

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
    splits = [make_split(table, 0) for table in tables]
    teachers = [load(run) for run in runs]
    stores = [ImageStore.open(table) for table in tables]
    (out / "images").mkdir(parents=True)

    livec_rows = tables[0].assign(official_split=pd.NA)
    livec_rows.iloc[splits[0].train, livec_rows.columns.get_loc("official_split")] = "train"
    livec_rows.iloc[splits[0].test, livec_rows.columns.get_loc("official_split")] = "test"
    live_train = tables[1].iloc[splits[1].train]
    to_livec = _line(live_train["mos"], _scores(teachers[0], stores[1], splits[1].train))
    live_rows = live_train.assign(mos=to_livec(live_train["mos"]), official_split="train")
    rows = [_copied(part, name, out) for part, name in ((livec_rows, "livec"), (live_rows, "live"))]

    good = splits[0].train[tables[0]["mos"].to_numpy()[splits[0].train] >= LEAST_MOS]
    chosen = np.sort(np.random.default_rng(0).permutation(good)[:photographs])
    before = _scores(teachers[0], stores[0], chosen), to_livec(_scores(teachers[1], stores[0], chosen))
    pairs = enumerate(zip(chosen, *before))
    for number, (row, *scores) in bar(pairs, len(chosen), "distorting photographs"):
        paths = _distorted(stores[0].image(int(row)).numpy(), number, out)
        after = teachers[0].score(paths)["score"], to_livec(teachers[1].score(paths)["score"])
        change = np.mean([new - old for new, old in zip(after, scores)], axis=0)
        mos = falling(float(tables[0]["mos"].iloc[row]), change)
        about = dict(content=f"livec/{tables[0]['content'].iloc[row]}", distortion=TYPES[number % len(TYPES)])
        names = [path.relative_to(out).as_posix() for path in paths]
        levels = range(1, LEVELS + 1)
        rows.append(pd.DataFrame(dict(image=names, mos=mos, level=levels, official_split="train", **about)))
    labels = pd.concat(rows, ignore_index=True)[["image", "mos", "content", "distortion", "level", "official_split"]]
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


def _distorted(photograph: np.ndarray, number: int, out: Path) -> list[Path]:
    """Write a photograph with the type of its number at every level; returns the paths."""
    distortion, paths = TYPES[number % len(TYPES)], []
    for level in range(LEVELS):
        rng = np.random.default_rng([zlib.crc32(distortion.encode()), number])  # the same noise at all levels
        path = out / "images" / f"distorted-{number:04d}-{level + 1}.png"
        Image.fromarray(DISTORTIONS[distortion](photograph, level, rng)).save(path, compress_level=1)
        paths.append(path)
    return paths


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
    arguments = sys.argv[1:] if arguments is None else arguments
    with exit_codes("mixture", "--debug" in arguments):
        given = parser.parse_args(arguments)
        labels = write_mixture((given.livec_run, given.live_run), given.livec, given.live, given.out)
        print(f"{given.out}: {labels['official_split'].value_counts().to_dict()}")


if __name__ == "__main__":
    main()
