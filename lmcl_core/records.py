"""Results of finished runs as one table, so that tables and figures can be made where the runs are not at hand.

A row is a run of a numbered split: what it was a run of, by hashes, where it was made, what came of it, and its
predictions. Training that run again checks the row. ``python -m lmcl_core.records BENCHMARK DATA_ROOT [RUNS_DIR]`` adds
the runs of a folder to ``figures/<benchmark>/records.csv`` of the checkout.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from . import runs
from .benchmarks import load_benchmark, rows_of
from .catalogue import BENCHMARKS
from .errors import InputError, RunError
from .files import replacing
from .ledger import read_rows
from .paths import project_folder, runs_folder
from .recipe import Recipe
from .splits import make_split

#: What makes two rows the same run.
KEY = ["benchmark", "split", "recipe_hash", "data_hash", "split_hash"]
_METRICS = ("plcc", "srcc", "krcc", "rmse", "plcc_logistic")
COLUMNS = [
    *("benchmark", "name", "split", *_METRICS, "plcc_best", "srcc_best", "n", "seconds", "device", "precision"),
    *("commit", "recipe_hash", "data_hash", "split_hash", "recipe", "predictions"),
]
_NEEDED = (*runs.IDENTITY, "split_index", "seconds", "device", "commit", "dirty", "recipe", "metrics")  # of a record


def committed(benchmark: str) -> Path:
    """The records that come with the project, ``figures/<benchmark>/records.csv`` of the checkout."""
    return project_folder() / "figures" / benchmark / "records.csv"


def read_records(path: str | Path) -> pd.DataFrame:
    """Read records.

    Args:
        path: CSV file.

    Returns:
        Columns `COLUMNS`: metrics are those of the last epoch but for plcc_best and srcc_best, of the epoch with the
        best test PLCC (optimistic); recipe is JSON, predictions are a JSON list in MOS units, in the order of the
        split's test part, or empty; what was not recorded is empty.

    Raises:
        InputError: no such file, or no records.
    """
    if not Path(path).is_file():
        raise InputError(f"{path} is not there: name a table of records, or make one: python -m lmcl_core.records")
    return read_rows(path, COLUMNS, "table of records")


def update_records(path: str | Path, runs_dir: str | Path, table: pd.DataFrame) -> int:
    """Add the finished runs of a benchmark's numbered splits; rows whose runs are no longer there stay.

    Args:
        path: the records; made where they are missing.
        runs_dir: folder of run folders.
        table: the benchmark, from `load_benchmark`.

    Returns:
        How many runs were read.

    Raises:
        InputError: no records, a damaged run, or one of other data or of another split.
        RunError: they cannot be saved.
    """
    found = pd.DataFrame([_row(folder, table) for folder in _finished(runs_dir, table)], columns=COLUMNS)
    before = read_records(path) if Path(path).is_file() else pd.DataFrame(columns=COLUMNS)
    rows = pd.concat([part for part in (before, found) if len(part)] or [before], ignore_index=True)
    rows = rows.drop_duplicates(KEY, keep="last").sort_values(["benchmark", "name", "split"])
    with replacing(Path(path)) as temporary:
        rows.to_csv(temporary, index=False, float_format="%.6g")
    return len(found)


def recall(records: pd.DataFrame, table: pd.DataFrame, recipe: Recipe, index: int) -> dict | None:
    """The recorded run of a recipe on a numbered split of these very data.

    Args:
        records: from `read_records`.
        table: the benchmark, from `load_benchmark`.
        recipe: the run's.
        index: the split's.

    Returns:
        What ``run.json`` would say of benchmark, hashes, seconds, commit and metrics, or None where there is none.
    """
    wanted = {**runs.identity(table, make_split(table, index), recipe), "split": index}
    rows = records[(records[KEY] == [wanted[key] for key in KEY]).all(axis=1)]
    if rows.empty:
        return None
    row = rows.iloc[-1].to_dict()
    best = dict(plcc=row["plcc_best"], srcc=row["srcc_best"])
    return dict(row, metrics={**{key: row[key] for key in (*_METRICS, "n")}, "test_best_optimistic": best})


def predictions(record: dict, table: pd.DataFrame, index: int) -> pd.DataFrame:
    """A recorded run's predictions as its ``predictions.csv`` has them.

    Args:
        record: from `recall`.
        table: the benchmark.
        index: the split's.

    Returns:
        Columns image, mos, pred (MOS units); no row where predictions were not recorded.
    """
    test = table.iloc[make_split(table, index).test]
    values = json.loads(record["predictions"] or "[]")
    return pd.DataFrame(dict(image=test["image"], mos=test["mos"])).head(len(values)).assign(pred=values)


def _finished(runs_dir: str | Path, table: pd.DataFrame) -> list[Path]:
    """Folders of the finished runs of numbered splits; validation runs are the ledger's."""
    folders = sorted((Path(runs_dir) / table.attrs["benchmark"]).glob("*/split-[0-9]*"))
    return [path for path in folders if not path.name.endswith("-val") and runs.read_run(path) is not None]


def _row(folder: Path, table: pd.DataFrame) -> dict[str, object]:
    record = runs.read_run(folder, _NEEDED)
    split = make_split(table, record["split_index"])
    runs.check_same(record, {**record, **runs.identity(table, split, Recipe.from_dict(record["recipe"]))}, folder)
    metrics, predicted = record["metrics"], pd.read_csv(folder / "predictions.csv")
    places = pd.Series(predicted["pred"].to_numpy(), index=rows_of(table, predicted["image"]))
    return dict(
        **{key: record[key] for key in ("benchmark", "seconds", "device", "recipe_hash", "data_hash", "split_hash")},
        name=record["recipe"]["name"],
        split=record["split_index"],
        **{key: metrics[key] for key in (*_METRICS, "n")},
        plcc_best=metrics["test_best_optimistic"]["plcc"],
        srcc_best=metrics["test_best_optimistic"]["srcc"],
        precision=record.get("precision", record["recipe"]["precision"]),
        commit=f"{record['commit']}{' with changes' if record['dirty'] else ''}",
        recipe=json.dumps(record["recipe"], sort_keys=True),
        predictions=json.dumps(np.round(places[split.test], 4).tolist()),
    )


def main(arguments: list[str]) -> None:
    """``python -m lmcl_core.records BENCHMARK DATA_ROOT [RUNS_DIR]``; exit 0 good, 1 failed, 2 wrong use, as `lmcl`."""
    try:
        if len(arguments) not in (2, 3) or arguments[0] not in BENCHMARKS:
            raise InputError("use: python -m lmcl_core.records BENCHMARK DATA_ROOT [RUNS_DIR]")
        table, folder = load_benchmark(arguments[0], arguments[1] or None), runs_folder(*arguments[2:])
        path = committed(arguments[0])
        if not update_records(path, folder, table):
            raise InputError(f"{folder} holds no finished run of {arguments[0]}: name the folder of all runs")
        print(f"{path}: {len(read_records(path))} rows")
    except (InputError, RunError) as error:
        print(f"records: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)


if __name__ == "__main__":
    main(sys.argv[1:])
