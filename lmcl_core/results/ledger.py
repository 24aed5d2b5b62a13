"""The search ledger: every configuration that was tried on validation parts, with its split, time and result.

A row is a run on a validation part (`data.splits.validation_split`); the search used no test images. A row also holds
the whole recipe, from which `command` makes the command that repeats the run.
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pandas as pd

from ..common.errors import InputError, unknown
from ..common.paths import project_folder
from ..recipe import Recipe
from .records import read_rows

#: Differences of PLCC below this are within the effect of the seed and of rounding.
NOISE = 0.005

#: What a configuration tries, by the recipe field that it changes; of several fields, the first of these counts.
TOPICS = {
    "freeze_batchnorm": "batch statistics updated in training",
    "probe": "score head initialised by a regression",
    "frozen_stages": "first stages of the backbone frozen",
    "crop_size": "number, size and scales of crops",
    "crops": "number, size and scales of crops",
    "scales": "number, size and scales of crops",
    "epochs": "number of epochs, learning rate",
    "lr": "number of epochs, learning rate",
    "batch_images": "batch size",
    "variant": "manifold loss v2",
    "correlation_weight": "without the extensions beyond the paper",
    "manifold_weight": "weight of the manifold loss",
    "quality_sigma": "negatives not weighted by MOS distance",
}

COLUMNS = [
    *("benchmark", "split", "name", "changes", "plcc", "srcc", "plcc_student", "plcc_teacher", "seconds", "device"),
    *("commit", "recipe_hash", "data_hash", "split_hash", "recipe"),
]


def ledger_path() -> Path:
    """The ledger of the project, ``figures/ledger.csv`` of the checkout."""
    return project_folder() / "figures" / "ledger.csv"


def read_ledger(path: str | Path) -> pd.DataFrame:
    """Read a ledger: a table with the columns `COLUMNS`, empty if there is no file. InputError: it is not a ledger."""
    path = Path(path)
    return read_rows(path, COLUMNS, "ledger", split=str) if path.is_file() else pd.DataFrame(columns=COLUMNS)


def check_ledger(ledger: pd.DataFrame) -> None:
    """Raise `InputError` if a ledger has rows of several benchmarks, or several rows of one run."""
    if len(names := sorted(set(ledger["benchmark"]))) > 1:
        raise InputError(f"the ledger has rows of {' and '.join(names)}: keep those of one benchmark")
    again = ledger[ledger.duplicated(["name", "recipe_hash", "data_hash", "split"])]
    for row in again.head(1).itertuples():
        raise InputError(f"the ledger has several rows of {row.name!r}, split {row.split}: remove all but one")


def summarize(ledger: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """The search in a few rows: what was tried, beside the selected configuration, the baseline.

    Returns one row per topic of `TOPICS` that occurs, the largest difference first: tried, configurations (how many),
    best (the name of the one with the largest difference), difference (of its PLCC from the baseline, mean over shared
    splits, or NaN), decision. The baseline has no row. `ledger` holds rows of one benchmark. InputError: the baseline
    is not in it, or names runs of several recipes or data; or as `check_ledger`.
    """
    check_ledger(ledger)
    base = ledger[ledger["name"] == baseline].set_index("split")
    if base.empty:
        raise unknown("configuration", baseline, set(ledger["name"]))
    if base.index.has_duplicates:
        raise InputError(f"{baseline!r} names several runs of a split in the ledger: keep rows of one recipe and data")
    selected, rows = json.loads(base["recipe"].iloc[0]), []
    compared = ledger.assign(difference=ledger["plcc"] - ledger["split"].map(base["plcc"]))
    others = compared[compared["name"] != baseline].groupby(["name", "recipe_hash", "data_hash"])
    for (name, *_), runs in others:
        recipe = json.loads(runs["recipe"].iloc[0])
        changed = {field for field in recipe.keys() | selected.keys() if recipe.get(field) != selected.get(field)}
        topic = next((text for field, text in TOPICS.items() if field in changed), "other")
        rows.append(dict(tried=topic, best=name, difference=runs["difference"].mean()))
    found = pd.DataFrame(rows, columns=["tried", "best", "difference"]).sort_values("difference", ascending=False)
    first = found.drop_duplicates("tried")
    first.insert(1, "configurations", first["tried"].map(found["tried"].value_counts()))
    return first.assign(decision=[_decision(value) for value in first["difference"]]).reset_index(drop=True)


def _decision(difference: float) -> str:
    """Why a configuration was not selected."""
    if pd.isna(difference):
        return "no shared split"
    if abs(difference) < NOISE:
        return f"not adopted: the difference is below {NOISE}"
    return "not adopted: PLCC is lower" if difference < 0 else "better, not adopted"


def changes(row: pd.Series) -> str:
    """Options of `lmcl train`, quoted for a shell, that turn the preset of a row's benchmark into the row's recipe.

    InputError: the recipe is damaged, or has values that only an earlier version can train.
    """
    try:
        recipe = Recipe.from_dict(json.loads(row["recipe"])).to_dict()
    except (TypeError, ValueError) as error:
        which = f"the recipe of {row.get('name')!r}, split {row.get('split')}, cannot be used ({error})"
        raise InputError(f"{which}: restore the row, or check out commit {row.get('commit')}") from error
    preset = Recipe.for_benchmark(row["benchmark"]).to_dict()
    differing = {field: value for field, value in recipe.items() if value != preset[field]}
    return " ".join(f"--set {shlex.quote(f'{field}={_option(value)}')}" for field, value in differing.items())


def command(row: pd.Series) -> str:
    """The shell command that trains a row again; DIR stands for the folder of the benchmark. Raises as `changes`."""
    index = int(row["split"].removesuffix("-val"))
    start = f"lmcl train --benchmark {row['benchmark']} --data-root DIR --split {index} --validation"
    return f"{start} {changes(row)}".rstrip()


def _option(value: object) -> str:
    """A value as `lmcl train --set` parses it: JSON, or plain text if that is not JSON."""
    try:
        json.loads(str(value))
    except ValueError:
        return value if isinstance(value, str) else json.dumps(value)
    return json.dumps(value)
