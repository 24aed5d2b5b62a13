"""What each part of the method is worth: runs that differ in one thing, compared split by split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from . import runs, tables
from .errors import InputError, unknown
from .recipe import Recipe, check_changes, variants_of
from .splits import TESTED, VALIDATED, make_split, thinned

#: What a recipe of `recipe.VARIANTS` is called in tables; "lmcl" depends on its own variant of the loss.
TITLES = {
    "quality": "quality loss alone",
    "inter": "+ inter-image term",
    "intra-v1": "+ intra-image negatives, v1",
    "intra-v2": "+ intra-image negatives, v2",
    "lmcl": "the method",
    "lmcl-v2": "the method, v2",
    "no-manifold": "without the manifold loss",
    "uniform-pooling": "crops weighed alike",
    "quality-aware": "quality-aware negatives",
    "equal-negatives": "all negatives alike",
    "no-correlation": "without the correlation loss",
    "paper": "nothing beyond the paper",
    "crops-2": "2 crops an image",
    "crops-8": "8 crops an image",
    "train-20": "20 % of the data to train",
    "train-40": "40 % of the data to train",
    "train-60": "60 % of the data to train",
}

#: The recipes that differ in the amount of training data alone.
BY_SHARE = ("train-20", "train-40", "train-60", "lmcl")

#: What others are compared with.
BASELINES = ("quality", "lmcl")

_COLUMNS = ["recipe", "title", "split", "srcc", "plcc", "rmse", "n_train", "n_test", "share", "seconds", "commit"]


def choose(benchmark: str, variants: str, changes: Mapping[str, Any]) -> dict[str, Recipe]:
    """The recipes of chosen variants and of both baselines, in the order of `TITLES`.

    Of "all", a variant that is the benchmark's preset itself, such as "quality-aware" where that is on, is left out.

    Args:
        benchmark: a key of `BENCHMARKS`.
        variants: keys of `TITLES` with commas between them, or "all".
        changes: recipe fields that differ from the preset, in every variant.

    Returns:
        Recipes by name.

    Raises:
        InputError: an unknown variant or field, a variant that is the preset itself, or a change that one would undo.
    """
    names = [name.strip() for name in variants.split(",") if name.strip()] if variants != "all" else list(TITLES)
    if "all" in names and len(names) > 1:
        raise InputError(f"variants is {variants!r}: write all alone, or names with commas")
    for name in names:
        if name not in TITLES:
            raise unknown("variant", name, [*TITLES, "all"])
    names += BASELINES
    check_changes(changes, names)
    there = variants_of(benchmark)
    for name in set(names) - set(there) if variants != "all" else ():
        raise InputError(f"variant {name!r} is the preset of {benchmark} itself, which is called 'lmcl': leave it out")
    return {
        name: Recipe.for_benchmark(benchmark, name, **changes) for name in TITLES if name in names and name in there
    }


def results(
    table: pd.DataFrame,
    recipes: Mapping[str, Recipe],
    runs_dir: str | Path,
    splits: Iterable[int],
    recorded: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """The last epoch of every finished run of every variant.

    Args:
        table: from `load_benchmark`.
        recipes: by name, as in `recipe.VARIANTS`.
        runs_dir: folder of run folders.
        splits: the numbered splits that are looked for, such as range(10).
        recorded: from `records.read_records`; runs that are not in the folder count where they are recorded there.

    Returns:
        Columns recipe, title, split, srcc, plcc, rmse (MOS units), n_train, n_test (images), share (percent of the
        benchmark's images that were trained on), seconds, commit, in the order of `recipes`.

    Raises:
        InputError: a folder that holds a run of another recipe, data or split.
    """
    rows, splits = [], list(splits)
    for name, recipe in recipes.items():
        for index in splits:
            record = tables.finished_record(table, recipe, runs_dir, index, recorded)
            if record is None:
                continue
            trained = len(thinned(table, make_split(table, index), recipe.train_share))
            row = dict(recipe=name, title=TITLES[name], split=index, n_train=trained, n_test=record["metrics"]["n"])
            row |= {key: record["metrics"][key] for key in ("srcc", "plcc", "rmse")}
            row |= dict(share=100 * trained / len(table), seconds=record["seconds"])
            rows.append(row | dict(commit=runs.commit_in_words(record)))
    return pd.DataFrame(rows, columns=_COLUMNS)


def compare(found: pd.DataFrame, baseline: str, metric: str = "plcc") -> pd.DataFrame:
    """Every variant beside a baseline, on the splits that both were run on.

    Args:
        found: from `results`.
        baseline: name of a recipe.
        metric: "plcc" or "srcc".

    Returns:
        One row a recipe, in the order of `found`: recipe, title, splits, median (of all its splits), pairs (splits
        shared with the baseline), then difference, low, high, p_wilcoxon of `paired_difference` (NaN in the baseline's
        own row), whose ratio is that of the one of the two with the fewer training images.

    Raises:
        InputError: the baseline has no finished run.
    """
    base = found[found["recipe"] == baseline].set_index("split")
    if base.empty:
        raise InputError(f"no finished run of {baseline!r} to compare with: train it, or choose another baseline")
    rows = []
    for name, part in found.groupby("recipe", sort=False):
        part = part.set_index("split")
        both = part.index.intersection(base.index) if name != baseline else part.index[:0]
        row = dict(recipe=name, title=part["title"].iloc[0], splits=len(part), median=part[metric].median())
        trained = np.minimum(part["n_train"][both], base["n_train"][both])
        ratio = (part["n_test"][both] / trained).mean() if len(both) else 0.25
        difference = paired_difference(part[metric][both] - base[metric][both], ratio)
        rows.append(row | dict(pairs=len(both)) | difference)
    return pd.DataFrame(rows)


def paired_difference(
    differences: Sequence[float], test_to_train: float = 0.25, level: float = 0.95
) -> dict[str, float]:
    """Mean of paired differences over random splits, how sure it is, and Wilcoxon's signed-rank test.

    The training parts of random splits overlap, so that the plain standard error is too small; the interval is
    Student's with the variance of Nadeau and Bengio, Machine Learning 52 (2003), factor 1/n + test_to_train. Wilcoxon's
    test makes no such correction: its p is a lower bound of the doubt, and with fewer than six splits it cannot fall
    below .05.

    Args:
        differences: (n,) of one metric, one a split.
        test_to_train: images tested over images trained on in one split.
        level: coverage of the interval in (0, 1).

    Returns:
        difference, low, high, p_wilcoxon; NaN where n is too small (interval: below 2, the others: 0).
    """
    values = np.asarray(differences, dtype=float)
    n, nothing = len(values), float("nan")
    if n == 0:
        return dict(difference=nothing, low=nothing, high=nothing, p_wilcoxon=nothing)
    half = nothing
    if n > 1:
        error = values.std(ddof=1) * np.sqrt(1 / n + test_to_train)
        half = stats.t.ppf((1 + level) / 2, n - 1) * error
    p = stats.wilcoxon(values).pvalue if np.any(values) else 1.0
    return dict(difference=values.mean(), low=values.mean() - half, high=values.mean() + half, p_wilcoxon=float(p))


def paired(rows: pd.DataFrame, by: str, value: str, first: str = "no-manifold", second: str = "lmcl") -> pd.DataFrame:
    """Two recipes' values of several measures, compared split by split.

    Args:
        rows: columns recipe, split, `by` and `value`, one row each.
        by: the column that tells measures apart.
        value: the column of numbers.
        first: name of the recipe that the other is compared with.
        second: name of the other.

    Returns:
        One row a measure, in the order of `rows`: `by`, the means of both, splits (that both were run on), lower
        (splits in which the second has the lower value), and `paired_difference` of the second less the first, with
        the protocol's ratio of test to training images.
    """
    wide = rows.pivot_table(index=[by, "split"], columns="recipe", values=value, sort=False)[[first, second]].dropna()
    found = []
    for measure, part in wide.groupby(by, sort=False):
        change = part[second] - part[first]
        counts = dict(splits=len(part), lower=int((change < 0).sum()))
        found.append({by: measure} | part.mean().to_dict() | counts | paired_difference(change))
    return pd.DataFrame(found)


def on_validation_parts(tried: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Configurations that were run on the validation parts of several splits, beside a baseline, split by split.

    Args:
        tried: of a ledger, rows of one benchmark.
        baseline: its name there.

    Returns:
        One row a configuration, best mean first: name, the PLCC on each of the splits that the baseline was run on (a
        column each), and `paired_difference` from the baseline (NaN in its own row), with the shares of
        `splits.validation_split`.

    Raises:
        InputError: the baseline is not among them, or is the name of several recipes or copies of the data.
    """
    wide = tried.pivot(index=["name", "recipe_hash", "data_hash"], columns="split", values="plcc")
    wide = wide.droplevel(["recipe_hash", "data_hash"])
    if list(wide.index).count(baseline) > 1:
        raise InputError(f"{baseline!r} names several recipes, or copies of the data, of the ledger: keep rows of one")
    if baseline not in wide.index:
        raise unknown("configuration", baseline, set(wide.index))
    wide = wide.loc[:, wide.loc[baseline].notna()]
    wide = wide[(wide.notna().sum(axis=1) > 1) | (wide.index == baseline)]
    wide = wide.iloc[(-wide.mean(axis=1)).argsort()]
    change = wide - wide.loc[baseline]
    change.loc[baseline] = np.nan
    ratio = VALIDATED / (1 - TESTED - VALIDATED)
    found = [paired_difference(row.dropna(), ratio) for _, row in change.iterrows()]
    return pd.concat([wide.reset_index(), pd.DataFrame(found)], axis=1).rename_axis(columns=None)


def by_share(found: pd.DataFrame) -> pd.DataFrame:
    """Agreement by share of the data that was trained on, on the splits that every share was run on: splits differ more
    than shares do.

    Args:
        found: from `results`.

    Returns:
        share (percent), split, srcc, plcc.
    """
    part = found[found["recipe"].isin(BY_SHARE)]
    part = part[part.groupby("split")["recipe"].transform("nunique") == part["recipe"].nunique()]
    return part.astype({"share": float}).round({"share": 0})[["share", "split", "srcc", "plcc"]].reset_index(drop=True)
