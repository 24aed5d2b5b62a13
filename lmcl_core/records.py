"""Results of finished runs as one table, so that tables and figures can be made where the runs are not at hand.

A row is a run of a numbered split: what it was a run of, by hashes, where it was made, what came of it, and its
predictions. ``python -m lmcl_core.records BENCHMARK DATA_ROOT [RUNS_DIR [RECORDS]]`` adds the runs of a folder to
``figures/<benchmark>/records.csv`` of the checkout, or to other records; rows that it replaces are told, with what they
said before.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from . import runs
from .arguments import module_command
from .benchmarks import load_benchmark, name_order, rows_of
from .catalogue import BENCHMARKS
from .errors import InputError, counted, unknown
from .files import replacing
from .ledger import KEY, NEEDED, read_rows
from .paths import project_folder, runs_folder
from .recipe import Recipe
from .splits import data_hash, make_split

_METRICS = ("plcc", "srcc", "krcc", "rmse", "plcc_logistic")
COLUMNS = [
    *("benchmark", "name", "split", *_METRICS, "plcc_best", "srcc_best", "n", "seconds", "device", "precision"),
    *("commit", "recipe_hash", "data_hash", "split_hash", "recipe", "predictions"),
]


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
        test part's `benchmarks.name_order`, or empty; what was not recorded is empty.

    Raises:
        InputError: no such file, or no records.
    """
    if not Path(path).is_file():
        where = Path(path).resolve()  # notebooks and commands work in different folders
        raise InputError(f"{where} is not there: name a table of records, or make one: python -m lmcl_core.records")
    return read_rows(path, COLUMNS, "table of records")


def choose(names: str) -> pd.DataFrame | None:
    """The records that a notebook is told to take for runs that are not there.

    Args:
        names: CSV files, and names of benchmarks for the records that come with the project, with commas between them.

    Returns:
        As `read_records`; of rows of the same run the last counts. None where nothing is named.

    Raises:
        InputError: one of them is not there, or no table of records.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    found = [_named(name) for name in wanted]
    return pd.concat(found, ignore_index=True) if found else None


def _named(name: str) -> pd.DataFrame:
    """Records by a benchmark's name or a file's; what is neither, nor ends as a file, is taken for a misspelt name."""
    if name not in BENCHMARKS and not Path(name).suffix and not Path(name).exists():
        known = [benchmark for benchmark in BENCHMARKS if committed(benchmark).is_file()]
        raise unknown("benchmark or table of records", name, known)
    return read_records(committed(name) if name in BENCHMARKS else name)


def told(names: str, known: pd.DataFrame | None, table: pd.DataFrame) -> str:
    """How many of the records that were named can stand in for runs of a table, in words; empty where none were named.

    Args:
        names: as in `choose`.
        known: from `choose`.
        table: the benchmark, from `load_benchmark`.
    """
    if known is None:
        return ""
    same = (known["benchmark"] == table.attrs["benchmark"]) & (known["data_hash"] == data_hash(table))
    return f"records of {names}: {same.sum()} of {counted(len(known), 'run')} are of this data"


def update_records(path: str | Path, runs_dir: str | Path, table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Add the finished runs of a benchmark's numbered splits; rows whose runs are no longer there stay.

    Args:
        path: the records; made where they are missing, unless there is no run.
        runs_dir: folder of run folders.
        table: the benchmark, from `load_benchmark`.

    Returns:
        The rows that were added, and those that they replaced, which another machine or version had made.

    Raises:
        InputError: no records, a damaged run, or one of other data, of another split or of another version.
        RunError: they cannot be saved.
    """
    found = pd.DataFrame([_row(folder, table) for folder in _finished(runs_dir, table)], columns=COLUMNS)
    before = read_records(path) if Path(path).is_file() else found.head(0)
    if found.empty:
        return found, before.head(0)
    again = before.set_index(KEY).index.isin(found.set_index(KEY).index)
    rows = pd.concat([before[~again], found], ignore_index=True) if len(before) else found
    with replacing(Path(path)) as temporary:
        rows.sort_values(["benchmark", "name", "split"]).to_csv(temporary, index=False, float_format="%.6g")
    return found, before[again]


def recall(records: pd.DataFrame, wanted: dict, index: int) -> dict | None:
    """The recorded run of a recipe on a numbered split of certain data.

    Args:
        records: from `read_records`.
        wanted: from `runs.identity`.
        index: the split's.

    Returns:
        The row, with its metrics under ``metrics`` as ``run.json`` has them; None where there is none.
    """
    same = (records[KEY] == [{**wanted, "split": index}[key] for key in KEY]).all(axis=1)
    if not same.any():
        return None
    row = records[same].iloc[-1].to_dict()
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

    Raises:
        InputError: they are damaged.
    """
    test = table.iloc[make_split(table, index).test][["image", "mos"]]
    if not record["predictions"]:
        return test.head(0).assign(pred=[])
    try:
        found = test.iloc[name_order(table, test["image"])].assign(pred=json.loads(record["predictions"])).sort_index()
        plcc = np.corrcoef(found["pred"], found["mos"])[0, 1]
        if not abs(plcc - record["plcc"]) < 1e-3:
            raise ValueError(f"their PLCC is {plcc:.4f}, {record['plcc']:.4f} is recorded")
        return found
    except (TypeError, ValueError) as error:  # no JSON, of another length, no numbers, or in another order
        raise InputError(f"recorded predictions of {record['name']}, split {index}, are damaged ({error})") from error


def _finished(runs_dir: str | Path, table: pd.DataFrame) -> list[Path]:
    """Folders of the finished runs of numbered splits; validation runs are the ledger's."""
    folders = sorted((Path(runs_dir) / table.attrs["benchmark"]).glob("*/split-[0-9]*"))
    folders = [path for path in folders if not path.name.endswith("-val") and (path / "predictions.csv").is_file()]
    return [path for path in folders if runs.read_run(path) is not None]


def _row(folder: Path, table: pd.DataFrame) -> dict[str, object]:
    record = runs.read_run(folder, NEEDED)
    try:
        split = make_split(table, record["split_index"])
        same = runs.identity(table, split, Recipe.from_dict(record["recipe"]))
        if any(record[key] != same[key] for key in runs.IDENTITY):
            raise InputError("it is of other data, or of another version")
        metrics, predicted = record["metrics"], runs.read_predictions(folder)
        places = pd.Series(predicted["pred"].to_numpy(), index=rows_of(table, predicted["image"]))
        test = split.test[name_order(table, table["image"].iloc[split.test])]  # the same in every layout of the folder
        values = [float(f"{value:.6g}") for value in places[test]]
        scores = {key: metrics[key] for key in (*_METRICS, "n")}
        best = {f"{key}_best": metrics["test_best_optimistic"][key] for key in ("plcc", "srcc")}
    except (InputError, KeyError, ValueError) as error:  # of the readers: not text, empty, columns or images missing
        raise InputError(f"{folder} cannot be recorded ({error}): move it out of the folder of runs") from error
    return dict(
        **{key: record[key] for key in ("benchmark", "seconds", "device", "recipe_hash", "data_hash", "split_hash")},
        **scores,
        **best,
        name=record["recipe"]["name"],
        split=record["split_index"],
        precision=record.get("precision", record["recipe"]["precision"]),
        commit=runs.commit_in_words(record),
        recipe=json.dumps(record["recipe"], sort_keys=True),
        predictions=json.dumps(values),
    )


def main(arguments: list[str]) -> None:
    """What ``python -m lmcl_core.records`` does; exit 0 good, 1 failed, 2 wrong use, as `lmcl`."""
    with module_command("records", "BENCHMARK DATA_ROOT [RUNS_DIR [RECORDS]]", arguments, (2, 3, 4)):
        table, folder = load_benchmark(arguments[0], arguments[1] or None), runs_folder(*arguments[2:3])
        path = Path(arguments[3]) if len(arguments) > 3 else committed(arguments[0])
        if path.is_dir():
            raise InputError(f"{path} is a folder: name a CSV file, which is made where it is missing")
        found, replaced = update_records(path, folder, table)
        if found.empty:
            raise InputError(f"{folder} holds no finished run of {arguments[0]}: name the folder of all runs")
        print(f"{path}: {counted(len(read_records(path)), 'row')}, {len(found)} read")
        for old in replaced.to_dict("records"):
            new = found[(found[KEY] == [old[key] for key in KEY]).all(axis=1)].iloc[-1]  # its name may be another
            words = f"PLCC {new['plcc']:.4f} ({new['precision']}), was {old['plcc']:.4f} ({old['precision']})"
            print(f"replaced: {old['name']}, split {old['split']}: {words}")


if __name__ == "__main__":
    main(sys.argv[1:])
