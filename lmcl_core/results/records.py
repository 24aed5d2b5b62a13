"""Finished runs, from their folders or from records: one table, from which results follow without the run folders.

A row is a run on a numbered split: hashes of its recipe, data and split, where it ran, its metrics and its predictions.
``python -m lmcl_core.results.records BENCHMARK DATA_ROOT [RUNS_DIR [RECORDS]]`` adds the finished runs of a folder to
``figures/<benchmark>/records.csv`` of the checkout, or to another file, and lists the rows that it replaces.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..common.command import Parser
from ..common.errors import InputError, counted, unknown
from ..common.paths import reference_folder, runs_folder
from ..data.benchmarks import load_benchmark
from ..data.catalogue import BENCHMARKS
from ..data.identity import data_hash, name_order, rows_of
from ..data.splits import make_split
from ..recipe import Recipe
from ..runs import folder as runs
from ..runs import schema
from ..runs.provenance import commit_in_words

#: Two rows that agree in these columns are the same run.
KEY = ["split", *runs.IDENTITY]
#: Keys that a run.json must have to be recorded.
_NEEDED = (*runs.IDENTITY, "split_index", "seconds", "device", "commit", "dirty", "recipe", "metrics")
_METRICS = ("plcc", "srcc", "krcc", "rmse", "plcc_logistic")
_HASHES = ("recipe_hash", "data_hash", "split_hash")
COLUMNS = [
    *("benchmark", "name", "split", *_METRICS, "plcc_best", "srcc_best", "n", "seconds", "device", "precision"),
    *("commit", *_HASHES, "recipe", "predictions"),
]
_TEXTS = ("benchmark", "name", "changes", "device", "precision", "commit", *_HASHES, "recipe", "predictions")


def records_path(benchmark: str) -> Path:
    """The records of the project, ``figures/<benchmark>/records.csv`` of the checkout."""
    return reference_folder(benchmark) / "records.csv"


def read_rows(path: str | Path, columns: Sequence[str], kind: str, **types: type) -> pd.DataFrame:
    """Read a CSV table of runs; missing texts become "", missing numbers NaN.

    `types` gives the types of columns that pandas would guess wrongly; `kind` says in error messages what the file
    should be, such as "ledger". InputError: the file is not readable, lacks one of `columns`, or a cell is of the wrong
    kind.
    """
    missing_values = {column: [""] for column in columns if column not in _TEXTS}
    types = dict.fromkeys(_TEXTS, str) | types
    try:
        rows = pd.read_csv(path, dtype=types, keep_default_na=False, na_values=missing_values)
    except ValueError as error:  # pandas raises ValueErrors for binary, empty and ragged files
        raise InputError(f"{path} is not a {kind} ({error}): name another file, or restore it") from error
    if missing := [column for column in columns if column not in rows]:
        raise InputError(f"{path} is not a {kind}, it lacks {', '.join(missing)}: name another file")
    schema.check_rows(rows[[name for name in rows if types.get(name) is not str]], str(path), "restore the file")
    return rows


def read_records(path: str | Path) -> pd.DataFrame:
    """Read records of runs: a table with the columns `COLUMNS`.

    Metrics are those of the last epoch; plcc_best and srcc_best are those of the epoch with the highest test PLCC
    (optimistic). The recipe is JSON; predictions are a JSON list in MOS units, in the `identity.name_order` of the test
    part, or empty. InputError: there is no such file, or it holds no records.
    """
    if not Path(path).is_file():
        advice = "name a table of records, or make one with python -m lmcl_core.results.records"
        raise InputError(f"{Path(path).resolve()} does not exist: {advice}")
    return read_rows(path, COLUMNS, "table of records")


def load_records(names: str) -> pd.DataFrame | None:
    """Read the records that a notebook may use in place of missing runs; None if no names are given.

    `names` are CSV files, or benchmarks for the records of the project, separated by commas; of two rows of the same
    run the last one counts. InputError: a name is neither a benchmark nor a table of records.
    """
    tables = []
    for name in filter(None, map(str.strip, names.split(","))):
        is_name = name in BENCHMARKS or records_path(name).is_file()
        if not is_name and not Path(name).suffix and not Path(name).exists():
            known = [path.parent.name for path in records_path("").parent.glob("*/records.csv")]
            raise unknown("benchmark or table of records", name, known)
        tables.append(read_records(records_path(name) if is_name else name))
    return pd.concat(tables, ignore_index=True) if tables else None


def describe_records(names: str, records: pd.DataFrame | None, table: pd.DataFrame) -> str:
    """How many of the records from `load_records(names)` a benchmark can use, in words; "" without records."""
    if records is None:
        return ""
    same = (records["benchmark"] == table.attrs["benchmark"]) & (records["data_hash"] == data_hash(table))
    ignored = "" if same.any() else "; all are ignored: name records of this data set"
    count = f"{same.sum()} of {counted(len(records), 'run')}"
    return f"{table.attrs['benchmark']}: {count} in the records of {names} used this data set{ignored}"


def update_records(path: str | Path, runs_dir: str | Path, table: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Add the finished runs of a benchmark's numbered splits to the records in `path`; rows of other runs stay.

    Returns the added rows, and the rows that they replaced. InputError: the file holds no records; a run is damaged, or
    belongs to other data or another version. RunError: the records cannot be saved.
    """
    folders = sorted((Path(runs_dir) / table.attrs["benchmark"]).glob("*/split-[0-9]*"))
    folders = [path for path in folders if not path.name.endswith("-val") and (path / "predictions.csv").is_file()]
    added = [_row(path, table) for path in folders if (path / "run.json").is_file()]
    added = pd.DataFrame(added, columns=COLUMNS)
    before = read_records(path) if Path(path).is_file() else added.head(0)
    if added.empty:
        return added, before.head(0)
    replaced = before.set_index(KEY).index.isin(added.set_index(KEY).index)
    rows = pd.concat([before[~replaced], added], ignore_index=True) if len(before) else added
    runs.write_csv(Path(path), rows.sort_values(["benchmark", "name", "split"]), "%.6g")
    return added, before[replaced]


def find_record(records: pd.DataFrame, wanted: dict, index: int) -> dict | None:
    """The last record of the run on split `index` whose identity (`Recipe.identity`) is `wanted`, or None.

    The record is a row of `records`, with its metrics under ``metrics`` as in ``run.json``.
    """
    same = (records[KEY] == [{**wanted, "split": index}[key] for key in KEY]).all(axis=1)
    if not same.any():
        return None
    row = records[same].iloc[-1].to_dict()
    best = dict(plcc=row["plcc_best"], srcc=row["srcc_best"])
    return dict(row, metrics={**{key: row[key] for key in (*_METRICS, "n")}, "test_best_optimistic": best})


def recorded_predictions(record: dict, table: pd.DataFrame, index: int) -> pd.DataFrame:
    """Predictions of a record from `find_record`, as the run's ``predictions.csv`` had them: image, mos, pred.

    There are no rows if the predictions were not recorded. InputError: the recorded predictions are damaged.
    """
    test = table.iloc[make_split(table, index).test][["image", "mos"]]
    if not record["predictions"]:
        return test.head(0).assign(pred=[])
    try:
        found = test.iloc[name_order(table, test["image"])].assign(pred=json.loads(record["predictions"])).sort_index()
        plcc = np.corrcoef(found["pred"], found["mos"])[0, 1]
        if not abs(plcc - record["plcc"]) < 1e-3:
            raise ValueError(f"their PLCC is {plcc:.4f}, but {record['plcc']:.4f} is recorded")
        return found
    except (TypeError, ValueError) as error:  # not JSON, another length, not numbers, or another order
        which = f"recorded predictions of {record['name']}, split {index}"
        raise InputError(f"{which}, are damaged ({error}): restore the row") from error


@dataclass(frozen=True, eq=False)
class RunSet:
    """The runs of one recipe on the numbered splits of one benchmark.

    `runs_dir` holds the run folders; `recorded`, from `records.read_records`, replaces runs that are missing there.
    """

    table: pd.DataFrame
    recipe: Recipe
    runs_dir: str | Path
    recorded: pd.DataFrame | None = None

    def folder(self, index: int) -> Path:
        """The run folder of a split."""
        return runs.run_folder(self.runs_dir, self.table.attrs["benchmark"], self.recipe.name, index)

    def record(self, index: int) -> dict | None:
        """The finished run on a split: benchmark, hashes, seconds, commit and metrics as in ``run.json``; or None.

        InputError: the folder holds a run of another recipe, data or split, or is damaged.
        """
        if self.recorded is None and not self.folder(index).is_dir():  # saves computing the hashes
            return None
        split = make_split(self.table, index)
        wanted = self.recipe.identity(self.table, split)
        record = runs.finished_run(self.folder(index), wanted, self.table, split)
        return find_record(self.recorded, wanted, index) if record is None and self.recorded is not None else record

    def facts(self, splits: Iterable[int]) -> pd.DataFrame:
        """What the results of finished runs depend on, one row per split: hashes, machine, torch version and commit.

        Facts that a record lacks are NA. Raises as `record`.
        """
        columns = ["split", "recipe_hash", "data_hash", "split_hash", "precision", "threads", "processor", "torch"]
        rows = []
        for index, record in self.records(splits):
            torch = record.get("versions", {}).get("torch", pd.NA)
            rows.append(record | dict(split=index, torch=torch, commit=commit_in_words(record)))
        return pd.DataFrame(rows).reindex(columns=[*columns, "commit"])

    def records(self, splits: Iterable[int]) -> Iterator[tuple[int, dict]]:
        """Those of some splits that have a finished run, with their `record`."""
        for index in splits:
            if (record := self.record(index)) is not None:
                yield index, record

    def finished(self, splits: Iterable[int]) -> list[int]:
        """Those of some splits that have a finished run; raises as `record`."""
        return [index for index, _ in self.records(splits)]

    def predictions(self, splits: Iterable[int]) -> pd.DataFrame:
        """Predictions of finished runs on their test parts: split, image, mos, pred, content, distortion.

        Records without predictions have no rows. InputError: a split has no finished run.
        """
        parts = []
        for index in splits:
            record = self.record(index)
            if record is None:
                raise InputError(f"{self.folder(index)} holds no finished run: train it, or leave split {index} out")
            if "predictions" in record:  # a row of the records
                part = recorded_predictions(record, self.table, index)
            else:
                part = runs.read_predictions(self.folder(index))
            parts += [part.assign(split=index)] if len(part) else []
        if not parts:
            return pd.DataFrame(columns=["split", "image", "mos", "pred", "content", "distortion"])
        together = pd.concat(parts, ignore_index=True)
        rows = rows_of(self.table, together["image"])
        return together.assign(**{name: self.table[name].to_numpy()[rows] for name in ("content", "distortion")})


def _row(folder: Path, table: pd.DataFrame) -> dict[str, object]:
    try:
        record = runs.read_run(folder, _NEEDED)
        split = make_split(table, record["split_index"])
        identity = Recipe.from_dict(record["recipe"]).identity(table, split)
        if any(record[key] != identity[key] for key in runs.IDENTITY):
            raise InputError("it was made with other data, or with another version of the code")
        metrics, predicted = record["metrics"], runs.check_results(folder, record, table, split)
        pred = pd.Series(predicted["pred"].to_numpy(), index=rows_of(table, predicted["image"]))
        test = split.test[name_order(table, table["image"].iloc[split.test])]  # the same order in every folder layout
        values = [float(f"{value:.6g}") for value in pred[test]]
        scores = {key: metrics[key] for key in (*_METRICS, "n")}
        scores |= {f"{key}_best": metrics["test_best_optimistic"][key] for key in ("plcc", "srcc")}
    except (InputError, KeyError, ValueError) as error:  # an unreadable file; missing columns, metrics or images
        raise InputError(f"{folder} cannot be recorded ({error}): move it out of the folder of runs") from error
    recipe = record["recipe"]
    return {key: record[key] for key in (*runs.IDENTITY, "seconds", "device")} | dict(
        **scores,
        name=recipe["name"],
        split=record["split_index"],
        precision=record.get("precision", recipe["precision"]),
        commit=commit_in_words(record),
        recipe=json.dumps(recipe, sort_keys=True),
        predictions=json.dumps(values),
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """The command ``python -m lmcl_core.results.records``; exits with 0 (success), 1 (failure) or 2 (invalid input)."""
    parser = Parser("lmcl_core.results.records", "Add the finished runs of a folder to a table of records.")
    parser.add_argument("benchmark", help="name, or the path of a folder with a benchmark.toml")
    parser.add_argument("data_root", help="folder of the benchmark; empty for the demo or a path")
    parser.add_argument("runs_dir", nargs="?", default="", help="default: runs/ of the checkout")
    parser.add_argument("records", nargs="?", help="CSV file; default: figures/BENCHMARK/records.csv of the checkout")
    with parser.run(arguments) as given:
        if given.records == "":
            raise InputError("RECORDS is empty: name a CSV file, or leave it out")
        table, folder = load_benchmark(given.benchmark, given.data_root or None), runs_folder(given.runs_dir)
        path = Path(given.records or records_path(table.attrs["benchmark"]))
        if path.is_dir():
            raise InputError(f"{path} is a folder: name a CSV file, which is created if missing")
        added, replaced = update_records(path, folder, table)
        if added.empty:
            raise InputError(f"{folder} holds no finished run of {given.benchmark}: name the folder of all runs")
        print(f"{path}: {counted(len(read_records(path)), 'row')}, {len(added)} added or replaced")
        pairs = replaced.merge(added, on=KEY, suffixes=("", "_new"))  # the name of a run may differ
        for row in pairs.itertuples():
            values = f"PLCC {row.plcc_new:.4f} ({row.precision_new}), was {row.plcc:.4f} ({row.precision})"
            print(f"replaced: {row.name}, split {row.split}: {values}")


if __name__ == "__main__":
    main()
