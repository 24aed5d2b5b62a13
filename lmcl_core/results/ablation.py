"""Ablation: runs whose recipes differ in one part of the method, compared split by split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from .. import evaluation
from ..common.errors import InputError, unknown
from ..common.paths import DEFAULT_NETWORK
from ..data.splits import TEST_SHARE, VAL_SHARE, make_split, subsample
from ..recipe import VARIANTS, Recipe, check_changes, variants_of
from ..runs.provenance import commit_in_words
from .ledger import check_ledger
from .records import RunSet
from .words import Table, interval, verdict

#: Variants that differ only in the amount of training data.
BY_SHARE = ("train-20", "train-40", "train-60", "lmcl")

#: A difference of PLCC with an interval that contains 0 and reaches beyond this is undecided.
LIMIT = 0.05

#: The same for other measures, as a share of the first variant's mean.
RELATIVE_LIMIT = 0.1

#: Variants with which the others are compared.
BASELINES = ("quality", "lmcl")

_COLUMNS = ["recipe", "title", "split", "srcc", "plcc", "rmse", "n_train", "n_test", "share", "seconds", "commit"]


def choose_variants(
    benchmark: str | pd.DataFrame, variants: str, changes: Mapping[str, Any], network: str = DEFAULT_NETWORK
) -> dict[str, Recipe]:
    """Recipes of chosen variants and of both baselines by name, in the order of `VARIANTS`.

    `benchmark` and `network` are as in `Recipe.for_benchmark`. `variants` are keys of `VARIANTS` separated by commas,
    or "all", which leaves out a variant that equals the preset. `changes` are recipe fields to change in every variant.
    InputError: an unknown variant or field, a variant that equals the preset, or a change of a field that defines one.
    """
    names = [name.strip() for name in variants.split(",") if name.strip()]
    everything = names == ["all"]
    if "all" in names and not everything:
        raise InputError(f"variants is {variants!r}: write all by itself, or names separated by commas")
    names = list(VARIANTS) if everything else names
    for name in names:
        if name not in VARIANTS:
            raise unknown("variant", name, [*VARIANTS, "all"])
    names += BASELINES
    check_changes(changes, names)
    different = variants_of(benchmark, network)
    if not everything and (equal := set(names) - set(different)):
        raise InputError(f"variant {min(equal)!r} equals the benchmark's preset, which is called 'lmcl': remove it")
    chosen = [name for name in different if name in names]
    return {name: Recipe.for_benchmark(benchmark, name, network=network, **changes) for name in chosen}


def results(run_sets: Mapping[str, RunSet], splits: Iterable[int]) -> pd.DataFrame:
    """Results of the last epoch of every finished run of every variant on numbered splits.

    Returns columns recipe, title, split, srcc, plcc, rmse (MOS units), n_train, n_test (images), share (percentage of
    the benchmark's images that the run was trained on), seconds, commit, in the order of `run_sets`. Raises as
    `RunSet.record`.
    """
    rows, splits = [], list(splits)
    for name, run_set in run_sets.items():
        table = run_set.table
        for index, record in run_set.records(splits):
            n_train = len(subsample(table, make_split(table, index), run_set.recipe.train_share))
            row = dict(recipe=name, title=VARIANTS[name].title, split=index, **record["metrics"])
            counts = dict(n_train=n_train, n_test=record["metrics"]["n"], share=100 * n_train / len(table))
            rows.append(row | counts | dict(seconds=record["seconds"], commit=commit_in_words(record)))
    return pd.DataFrame(rows, columns=_COLUMNS)


def average_seeds(parts: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The mean of `results` of several seeds, for every recipe and split that all seeds have; commits of the first."""
    if len(parts) == 1:
        return parts[0]
    same = pd.concat(parts).groupby(["recipe", "title", "split"], sort=False)
    numbers = same.mean(numeric_only=True)[same.size() == len(parts)].astype({"n_train": int, "n_test": int})
    return numbers.join(same["commit"].first()).reset_index()[_COLUMNS]


def compare_variants(found: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Compare the PLCC of every variant in a table of `results` with a baseline, on the splits that both were run on.

    Returns one row per variant, in the order of `found`: recipe, title, splits, median (over all its splits), pairs
    (splits shared with the baseline), then difference, low, high, p_wilcoxon from `paired_difference` (NaN for the
    baseline), with the ratio of test to training images of the variant with the smaller training part. InputError: the
    baseline has no finished run.
    """
    base = found[found["recipe"] == baseline].set_index("split")
    if base.empty:
        raise InputError(f"no finished run of {baseline!r} to compare with: train it, or choose another baseline")
    rows = []
    for name, part in found.groupby("recipe", sort=False):
        part = part.set_index("split")
        both = part.index.intersection(base.index) if name != baseline else part.index[:0]
        row = dict(recipe=name, title=part["title"].iloc[0], splits=len(part), median=part["plcc"].median())
        n_train = np.minimum(part["n_train"][both], base["n_train"][both])
        ratio = (part["n_test"][both] / n_train).mean() if len(both) else 0.25
        difference = paired_difference(part["plcc"][both] - base["plcc"][both], ratio)
        rows.append(row | dict(pairs=len(both)) | difference)
    return pd.DataFrame(rows)


def paired_difference(differences: Sequence[float], test_to_train: float = 0.25) -> dict[str, float]:
    """Mean of (n,) paired differences over random splits, with an interval and Wilcoxon's signed-rank test.

    Training parts of random splits overlap, so the usual standard error, for independent samples, is too small. The
    interval, of coverage 0.95, is a Student interval with the corrected variance of Nadeau and Bengio (Machine
    Learning 52, 2003): the factor 1/n becomes 1/n + `test_to_train`, the ratio of test to training images. Wilcoxon's
    test has no such correction, so its p is too small; with fewer than six splits it cannot fall below .05.

    Returns difference, low, high, p_wilcoxon; low and high are NaN for n < 2, all are NaN for n = 0.
    """
    values, half = np.asarray(differences, dtype=float), np.nan
    n = len(values)
    if n == 0:
        return dict.fromkeys(("difference", "low", "high", "p_wilcoxon"), np.nan)
    if n > 1:
        half = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) * np.sqrt(1 / n + test_to_train)
    p = float(stats.wilcoxon(values).pvalue) if values.any() else 1.0
    return dict(difference=values.mean(), low=values.mean() - half, high=values.mean() + half, p_wilcoxon=p)


def variants_in_words(compared: pd.DataFrame) -> Table:
    """The result of `compare_variants` for reading, with a verdict on the PLCC of every variant but the baseline."""
    rows = compared[compared["pairs"] > 0]
    ends = list(zip(rows["low"], rows["high"]))
    columns = {"variant": rows["title"], "splits": rows["pairs"], "median PLCC": rows["median"]}
    columns |= {"difference": rows["difference"], "95 % interval": [interval(*pair) for pair in ends]}
    verdicts = [verdict(*pair, LIMIT, "higher PLCC", "lower PLCC") for pair in ends]
    return Table(pd.DataFrame({**columns, "verdict": verdicts}))


def measures_in_words(compared: pd.DataFrame, titles: Mapping[str, str], higher_is_better: bool = False) -> Table:
    """The result of `compare_measures` for reading: does a measure favour the second variant, the one with the loss?

    `titles` gives the names of measures for reading; a measure that is not in it keeps its name.
    """
    by, first, second = compared.columns[:3]
    words = ("for the loss", "against the loss") if higher_is_better else ("against the loss", "for the loss")
    columns = {by.replace("_", " "): [titles.get(name, name) for name in compared[by]]}
    columns |= {"without": compared[first], "with": compared[second], "difference": compared["difference"]}
    ends = list(zip(compared["low"], compared["high"]))
    columns["95 % interval"] = [interval(*pair) for pair in ends]
    limits = RELATIVE_LIMIT * compared[first].abs()
    columns["verdict"] = [verdict(*pair, limit, *words) for pair, limit in zip(ends, limits)]
    return Table(pd.DataFrame(columns))


def compare_measures(
    rows: pd.DataFrame, by: str, value: str, first: str = "no-manifold", second: str = "lmcl"
) -> pd.DataFrame:
    """Compare the variant `second` with the baseline `first` in several measures, on the splits on which both were run.

    `rows` has the columns recipe, split, `by` (name of the measure) and `value` (its value). Returns one row per
    measure, in the order of `rows`: `by`, the means of both variants, splits (number of shared splits), lower (splits
    on which the second variant has the lower value), and `paired_difference` of second minus first with the default
    ratio of test to training images.
    """
    wide = rows.pivot_table(index=[by, "split"], columns="recipe", values=value, sort=False)[[first, second]].dropna()
    found = []
    for measure, part in wide.groupby(by, sort=False):
        difference = part[second] - part[first]
        counts = dict(splits=len(part), lower=int((difference < 0).sum()))
        found.append({by: measure} | part.mean().to_dict() | counts | paired_difference(difference))
    return pd.DataFrame(found)


def by_distortion(run_sets: Mapping[str, RunSet], splits: Iterable[int]) -> pd.DataFrame:
    """PLCC within each type of distortion: recipe, split, distortion, plcc, on splits that all recipes have run.

    A type with fewer than three test images in a split has no row there. Raises as `results`.
    """
    splits = [index for index in splits if all(run_set.finished([index]) for run_set in run_sets.values())]
    rows = []
    for name, run_set in run_sets.items():
        for index in splits:
            found = evaluation.by_distortion(run_set.predictions([index]))
            rows.append(found[["distortion", "plcc"]].assign(recipe=name, split=index))
    empty = pd.DataFrame(columns=["distortion", "plcc", "recipe", "split"])
    return pd.concat([part for part in rows if len(part)], ignore_index=True) if any(map(len, rows)) else empty


def on_validation_parts(ledger: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """Compare the configurations of a ledger that share at least two validation parts with a baseline, with intervals.

    `ledger` holds rows of one benchmark. Returns one row per configuration, the highest mean first: name, the PLCC on
    each split of the baseline (one column per split), and `paired_difference` from the baseline (NaN for the baseline),
    with the ratio of validation to training images of `splits.validation_split`. InputError: the ledger has no baseline
    of this name, or several, with different recipes or data; or as `ledger.check_ledger`.
    """
    check_ledger(ledger)
    wide = ledger.pivot(index=["name", "recipe_hash", "data_hash"], columns="split", values="plcc")
    wide = wide.droplevel(["recipe_hash", "data_hash"])
    if list(wide.index).count(baseline) > 1:
        problem = f"{baseline!r} names several recipes in the ledger, or several data sets"
        raise InputError(f"{problem}: keep the rows of only one")
    if baseline not in wide.index:
        raise unknown("configuration", baseline, set(wide.index))
    wide = wide.loc[:, wide.loc[baseline].notna()]
    wide = wide[(wide.notna().sum(axis=1) > 1) | (wide.index == baseline)]
    wide = wide.iloc[(-wide.mean(axis=1)).argsort()]
    differences = wide - wide.loc[baseline]
    differences.loc[baseline] = np.nan
    ratio = VAL_SHARE / (1 - TEST_SHARE - VAL_SHARE)
    found = [paired_difference(row.dropna(), ratio) for _, row in differences.iterrows()]
    return pd.concat([wide.reset_index(), pd.DataFrame(found)], axis=1).rename_axis(columns=None)


def by_share(found: pd.DataFrame) -> pd.DataFrame:
    """Results by share (percentage) of the training data, on the splits on which all shares in `found` were run."""
    part = found[found["recipe"].isin(BY_SHARE)]
    part = part[part.groupby("split")["recipe"].transform("nunique") == part["recipe"].nunique()]
    return part.astype({"share": float}).round({"share": 0})[["share", "split", "srcc", "plcc"]].reset_index(drop=True)
