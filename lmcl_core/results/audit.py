"""Audit of the committed results: tables against records, records against data, and numbers of pages against tables.

A table that follows from another one is computed again. A row of results must be in the records, or in ``03_runs.csv``
with hashes and commit. Recorded metrics are computed again from the recorded predictions where the images are at hand.
A number of a page with two or more decimals must be a value of a table in ``figures/``, or a median, mean, extreme,
standard deviation, sum or count of one of its columns, rounded as on the page. This finds slips of the pen and stale
numbers, but not a number that stands in the wrong place.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd

from ..common.errors import InputError, counted
from ..common.paths import project_folder
from ..data.benchmarks import load_benchmark
from ..data.identity import data_hash
from ..evaluation import metrics
from ..recipe import Recipe
from . import ablation, redistortion, tables
from .records import COLUMNS, read_records, recorded_predictions

#: A table -> the table it follows from, and how.
DERIVED: dict[str, tuple[str, Callable[[pd.DataFrame, str], pd.DataFrame]]] = {
    "03_habits": ("03_results", lambda source, name: tables.reporting_habits(source)),
    "03_published": ("03_results", lambda source, name: tables.beside_published(name, source)),
    "04_compared": ("04_separation", lambda source, name: ablation.compare_measures(source, "measure", "value")),
    "04_order_compared": (
        "04_order_kept",
        lambda source, name: ablation.compare_measures(source, "distortion", "pairs_in_order"),
    ),
    "04_order_kept": ("04_redistorted", lambda source, name: redistortion.order_kept(source)),
    "05_against_method": ("05_results", lambda source, name: ablation.compare_variants(source, "lmcl")),
    "05_against_quality": ("05_results", lambda source, name: ablation.compare_variants(source, "quality")),
    "05_share": ("05_results", lambda source, name: ablation.by_share(source)),
}
_NUMBER = re.compile(r"(?<![\w.@/-])[+\-−]?\d*\.\d{2,}(?!\w|\.\d)")
_NOT_RESULTS = re.compile(
    r"```.*?```|`[^`]*`|\]\([^)]*\)|\$\$.*?\$\$|\$[^$]*\$|arXiv[ :]\d+\.\d+\w*|<[^>]*>", re.DOTALL
)
_RELATIVE, _ABSOLUTE = 1e-4, 5e-5  # tables are written with six digits, and derived ones come from rounded ones


def audit(data_root: str = "", log: Callable[[str], None] = print) -> list[str]:
    """Check all committed results of the checkout; return one line per difference or number that traces to nothing.

    `data_root` is the folder of the benchmarks, own data included; those that are not in it are checked without images.
    `log` is called with one line per folder of results.
    """
    figures, problems = project_folder() / "figures", []
    folders = sorted({path.parent for path in figures.rglob("*.csv")} - {figures})
    for folder in folders:
        found = [*_check_records(folder, data_root, log), *_check_rows(folder), *_check_derived(folder)]
        problems += [f"{path.relative_to(figures.parent)}: {problem}" for path, problem in found]
    problems += _check_pages(figures)
    return problems


def _check_records(folder: Path, data_root: str, log: Callable[[str], None]) -> Iterator[tuple[Path, str]]:
    """Recipes against their hashes; metrics against the recorded predictions."""
    for path in sorted(folder.glob("records*.csv")):
        records, checked, table = read_records(path), 0, None
        name = records["benchmark"].iloc[0]
        with suppress(InputError):  # its images are not at hand
            table = load_benchmark(name, None if name == "demo" else data_root or None)
        for row in records.to_dict("records"):
            which = f"{row['name']}, split {row['split']}"
            if missing := [key for key in ("commit", "data_hash", "split_hash", "precision") if not row[key]]:
                yield path, f"{which}: no {', '.join(missing)}"
            if (found := Recipe.from_dict(json.loads(row["recipe"])).hash) != row["recipe_hash"]:
                yield path, f"{which}: recipe_hash is {row['recipe_hash']}, the recipe's hash is {found}"
            if table is None or not row["predictions"] or row["data_hash"] != data_hash(table):
                continue
            try:
                pairs = recorded_predictions(row, table, int(row["split"]))
            except InputError as error:
                yield path, str(error)
                continue
            checked += 1
            again = metrics(pred=pairs["pred"], mos=pairs["mos"])
            for key in ("plcc", "srcc", "rmse"):
                if not np.isclose(row[key], again[key], rtol=_RELATIVE):
                    yield path, f"{which}: {key} is {row[key]:.6g}, and {again[key]:.6g} when computed again"
        where = "" if table is not None else ", images not at hand"
        count = f"{counted(len(records), 'record')}, {checked} computed again from predictions{where}"
        log(f"{path.parent.name}/{path.name}: {count}")


def _check_rows(folder: Path) -> Iterator[tuple[Path, str]]:
    """Rows of results against the records, or the hashes of the runs beside them."""
    places = [place for place in (folder, *folder.parents) if place.is_relative_to(project_folder() / "figures")]
    kept = [read_records(path) for place in places for path in sorted(place.glob("records*.csv"))]
    known = pd.concat(kept) if kept else pd.DataFrame(columns=COLUMNS)
    same = known.assign(name=known["name"].str.split("@").str[0]).groupby(["name", "split"])  # all seeds of a variant
    means = same[["plcc", "srcc"]].mean().reset_index()
    rows = [*known.itertuples(), *means.itertuples()]
    recorded = {(int(row.split), f"{row.plcc:.4g}", f"{row.srcc:.4g}") for row in rows}
    runs = folder / "03_runs.csv"
    identified = set(pd.read_csv(runs).dropna(subset=["recipe_hash", "commit"])["split"]) if runs.is_file() else set()
    for name in ("03_results", "05_results"):
        path = folder / f"{name}.csv"
        for row in pd.read_csv(path).itertuples() if path.is_file() else []:
            traced = (row.split, f"{row.plcc:.4g}", f"{row.srcc:.4g}") in recorded
            if not traced and not (name == "03_results" and row.split in identified):
                yield path, f"split {row.split}, PLCC {row.plcc:.6g}: no such run in the records"


def _check_derived(folder: Path) -> Iterator[tuple[Path, str]]:
    """Tables that follow from others, computed again."""
    for name, (source, compute) in DERIVED.items():
        path, origin = folder / f"{name}.csv", folder / f"{source}.csv"
        if not path.is_file() or not origin.is_file():
            continue
        kept = pd.read_csv(path)
        again = compute(pd.read_csv(origin), folder.relative_to(project_folder() / "figures").parts[0])
        shared = [column for column in kept if column in again and column != "p_wilcoxon"]  # ranks depend on rounding
        if len(kept) != len(again):
            yield path, f"{len(kept)} rows, and {len(again)} when computed from {origin.name}"
            continue
        for column in shared:
            for number, (a, b) in enumerate(zip(kept[column], again[column])):
                if not _same(a, b):
                    yield path, f"row {number + 2}, {column}: {a}, and {b} when computed from {origin.name}"


def _same(a: object, b: object) -> bool:
    if isinstance(a, (int, float, np.number)) and isinstance(b, (int, float, np.number)):
        return bool(np.isclose(float(a), float(b), rtol=_RELATIVE, atol=_ABSOLUTE, equal_nan=True))
    return a == b or bool(pd.isna(a) and pd.isna(b))


def _check_pages(figures: Path) -> list[str]:
    """Numbers of README pages and of the notebooks' text that are in no table."""
    root, problems, rounded = figures.parent, [], {}
    everywhere = _values([*figures.rglob("*.csv"), *(root / "lmcl_core").rglob("*.csv")])
    pages = [root / "README.md", *sorted(figures.rglob("README.md")), *sorted((root / "notebooks").glob("*.ipynb"))]
    for page in pages:
        text = page.read_text()
        if page.suffix == ".ipynb":
            cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
            text = "\n".join("".join(cell["source"]) for cell in cells)
        for number in dict.fromkeys(_NUMBER.findall(_NOT_RESULTS.sub(" ", text))):
            digits, value = len(number.split(".")[1]), abs(float(number.replace("−", "-")))
            if digits not in rounded:
                rounded[digits] = {round(float(one), digits) for one in everywhere}
            if round(value, digits) not in rounded[digits]:
                problems.append(f"{page.relative_to(root)}: {number} is in no table of figures/")
    return problems


def _values(paths: list[Path]) -> np.ndarray:
    """All numbers of CSV tables, and statistics of their columns, without sign; as fractions and as percentages."""
    found, statistics = [], ["median", "mean", "min", "max", "std", "sum", "count"]
    for table in map(pd.read_csv, paths):
        numbers = table.select_dtypes("number").replace([np.inf, -np.inf], np.nan)
        by = [name for name in ("recipe", "name", "benchmark", "measure", "distortion") if name in table]
        for part in (numbers, numbers.agg(statistics), *(numbers.groupby(table[n]).agg(statistics) for n in by)):
            found.append(np.abs(part.to_numpy(dtype=float)).ravel())
    values = np.concatenate(found)
    values = values[np.isfinite(values)]
    return np.unique(np.concatenate([values, 100 * values]))
