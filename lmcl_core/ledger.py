"""The search ledger: every configuration that was tried on validation parts, with split, seconds and result.

A row is a validation run (`splits.validation_split`); its test part was never looked at. The recipe is stored whole,
and the command that runs it again is made from it.
"""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from . import runs
from .arguments import module_command
from .catalogue import BENCHMARKS
from .errors import InputError, counted, unknown
from .recipe import Recipe
from .files import replacing
from .paths import project_folder, runs_folder

#: What makes two rows the same run.
KEY = ["benchmark", "split", "recipe_hash", "data_hash", "split_hash"]
COLUMNS = [
    *("benchmark", "split", "name", "changes", "plcc", "srcc", "plcc_student", "plcc_teacher", "seconds", "device"),
    *("commit", "recipe_hash", "data_hash", "split_hash", "recipe"),
]
_TEXTS = (
    *("benchmark", "name", "changes", "device", "precision", "commit", "recipe_hash", "data_hash", "split_hash"),
    *("recipe", "predictions"),
)
NEEDED = (*runs.IDENTITY, "split_index", "seconds", "device", "commit", "dirty", "recipe", "metrics")  # of a record


def committed() -> Path:
    """The ledger that comes with the project, ``figures/ledger.csv`` of the checkout."""
    return project_folder() / "figures" / "ledger.csv"


def read_ledger(path: str | Path) -> pd.DataFrame:
    """Read a ledger.

    Args:
        path: CSV file; an empty ledger where it does not exist.

    Returns:
        Columns `COLUMNS`.

    Raises:
        InputError: not a ledger.
    """
    path = Path(path)
    return read_rows(path, COLUMNS, "ledger", split=str) if path.is_file() else pd.DataFrame(columns=COLUMNS)


def read_rows(path: str | Path, columns: Sequence[str], kind: str, **types: type) -> pd.DataFrame:
    """Read a table of runs; texts that are not there are empty, numbers are NaN.

    Args:
        path: CSV file.
        columns: which it must have.
        kind: what it is called in messages.
        **types: of columns that would else be read as something else.

    Returns:
        The table, with all its columns.

    Raises:
        InputError: not such a table.
    """
    empty = {column: [""] for column in columns if column not in _TEXTS}
    try:
        rows = pd.read_csv(path, dtype=dict.fromkeys(_TEXTS, str) | types, keep_default_na=False, na_values=empty)
    except ValueError as error:  # of the reader: not text, empty, rows of unequal length
        raise InputError(f"{path} is no {kind} ({error}): name another file, or restore it") from error
    missing = [column for column in columns if column not in rows]
    if missing:
        raise InputError(f"{path} is no {kind}, it lacks {', '.join(missing)}: name another file")
    return rows


def update_ledger(path: str | Path, runs_dir: str | Path, benchmark: str) -> pd.DataFrame:
    """Add the validation runs of a runs folder to a ledger; rows whose runs are no longer there stay.

    Args:
        path: the ledger; made where it is missing.
        runs_dir: folder of run folders.
        benchmark: its name.

    Returns:
        The ledger as written, best PLCC of a split first.

    Raises:
        InputError: a damaged run, or no ledger.
        RunError: it cannot be saved.
    """
    found = [_row(record) for record in _validation_runs(Path(runs_dir) / benchmark)]
    rows = pd.concat([read_ledger(path), pd.DataFrame(found, columns=COLUMNS)], ignore_index=True)
    rows["recipe_hash"] = [_hash_today(row) for _, row in rows.iterrows()]  # an older version may have hashed otherwise
    rows = rows.drop_duplicates(KEY, keep="last").astype({"plcc": float})
    rows["changes"] = [_changes_today(row) for _, row in rows.iterrows()]  # presets may have moved since
    rows = rows.sort_values(["benchmark", "split", "plcc", "name"], ascending=[True, True, False, True])
    with replacing(Path(path)) as temporary:
        rows.to_csv(temporary, index=False, float_format="%.6g")
    return read_ledger(path)


def compare(ledger: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Every configuration beside a baseline on the splits that both were run on.

    Args:
        ledger: from `read_ledger`, of one benchmark.
        baseline: its name there.

    Returns:
        One row a configuration: name, changes, splits (how many), plcc, srcc (means over its splits), difference (mean
        PLCC less that of the baseline on the same splits; NaN where there is none), seconds (mean); those of most
        splits first, and among them the best mean.

    Raises:
        InputError: the baseline is not in the ledger, or names runs of several benchmarks, recipes or copies of data.
    """
    base = ledger[ledger["name"] == baseline].set_index("split")["plcc"]
    if base.empty:
        raise InputError(f"no {baseline!r} in the ledger: choose one of {', '.join(sorted(set(ledger['name'])))}")
    if ledger["benchmark"].nunique() > 1 or base.index.has_duplicates:
        raise InputError(
            f"{baseline!r} names several runs of one split: keep the rows of one benchmark, recipe and data"
        )
    rows = []
    for (name, *_), group in ledger.groupby(["name", "recipe_hash", "data_hash"], sort=False):
        plcc = group.set_index("split")["plcc"]
        rows.append(
            dict(
                name=name,
                changes=group["changes"].iloc[0],
                splits=len(group),
                plcc=plcc.mean(),
                srcc=group["srcc"].mean(),
                difference=(plcc - base).mean(),
                seconds=group["seconds"].mean(),
            )
        )
    return pd.DataFrame(rows).sort_values(["splits", "plcc"], ascending=False, ignore_index=True)


def changes(row: pd.Series) -> str:
    """The options of `lmcl train` in which a row's recipe differs from today's preset of its benchmark.

    Args:
        row: of a ledger.

    Returns:
        Options, quoted for a shell; empty where nothing differs.

    Raises:
        InputError: the recipe is of a version whose fields are no longer there.
    """
    preset = Recipe.for_benchmark(row["benchmark"]).to_dict()
    recipe = Recipe.from_dict(_fields(row)).to_dict()
    differing = {field: value for field, value in recipe.items() if value != preset[field]}
    return " ".join(f"--set {shlex.quote(f'{field}={_plain(value)}')}" for field, value in differing.items())


def _changes_today(row: pd.Series) -> str:
    """`changes`; as they were written where the recipe has a field that is no longer there."""
    known = set(Recipe().to_dict())
    return changes(row) if set(_fields(row)) <= known else row["changes"]


def _hash_today(row: pd.Series) -> str:
    """Today's hash of a row's recipe; as it was written where the recipe has a field that is no longer there."""
    fields = _fields(row)
    return Recipe.from_dict(fields).hash if set(fields) <= set(Recipe().to_dict()) else row["recipe_hash"]


def _fields(row: pd.Series) -> dict[str, object]:
    """A row's recipe as fields and values."""
    try:
        return dict(json.loads(row["recipe"]))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the recipe of {row.get('name')!r}, split {row.get('split')}, is damaged ({error}): restore the row"
        ) from error


def command(row: pd.Series) -> str:
    """The command that makes a row again; DIR stands for the folder of the benchmark.

    Args:
        row: of a ledger.

    Returns:
        One line for a shell.

    Raises:
        InputError: as `changes`.
    """
    index = int(row["split"].removesuffix("-val"))
    start = f"lmcl train --benchmark {row['benchmark']} --data-root DIR --split {index} --validation"
    return f"{start} {changes(row)}".rstrip()


def _plain(value: object) -> str:
    """A value as `lmcl train --set` reads it: words stand as they are where they are no JSON."""
    if not isinstance(value, str):
        return json.dumps(value)
    try:
        json.loads(value)
    except ValueError:
        return value
    return json.dumps(value)


def _validation_runs(folder: Path) -> list[dict]:
    found = {path: runs.read_run(path, NEEDED) for path in sorted(folder.glob("*/split-*-val"))}
    for path, record in found.items():
        if record is not None and not {"plcc", "srcc", "student", "teacher"} <= set(record["metrics"]):
            raise InputError(
                f"{path}: its metrics are damaged or of another version: move it out of the folder of runs"
            )
    return [record for record in found.values() if record is not None]


def _row(record: dict) -> dict[str, object]:
    metrics = record["metrics"]
    return dict(
        **{column: record[column] for column in ("benchmark", "seconds", "device")},
        commit=runs.commit_in_words(record),
        **{column: record[column] for column in ("recipe_hash", "data_hash", "split_hash")},
        split=record["split_index"],
        name=record["recipe"]["name"],
        changes="",
        plcc=metrics["plcc"],
        srcc=metrics["srcc"],
        plcc_student=metrics["student"]["plcc"],
        plcc_teacher=metrics["teacher"]["plcc"],
        recipe=json.dumps(record["recipe"], sort_keys=True),
    )


def main(arguments: list[str]) -> None:
    """``python -m lmcl_core.ledger BENCHMARK [RUNS_DIR]`` adds the validation runs there to the ledger of the project.

    Exit 0 good, 1 failed, 2 wrong use, as `lmcl`.
    """
    with module_command("ledger", "BENCHMARK [RUNS_DIR]", arguments, (1, 2)):
        if arguments[0] not in BENCHMARKS:
            raise unknown("benchmark", arguments[0], BENCHMARKS)
        folder = runs_folder(*arguments[1:])
        read = len(_validation_runs(folder / arguments[0]))
        if not read:
            raise InputError(f"{folder} holds no validation run of {arguments[0]}: name the folder of all runs")
        rows = update_ledger(committed(), folder, arguments[0])
        print(f"{committed()}: {counted(len(rows), 'row')}, {read} read")


if __name__ == "__main__":
    main(sys.argv[1:])
