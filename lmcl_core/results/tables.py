"""The summary table: medians of finished runs over splits, with published results beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from ..data.benchmarks import BENCHMARKS, benchmark
from ..evaluation import bootstrap_interval, median_interval
from .records import RunSet
from .words import NOTHING, Table, interval, number_sources

_BY_SPLIT = [
    *("benchmark", "split", "srcc", "plcc", "plcc_low", "plcc_high", "rmse", "plcc_logistic_optimistic"),
    *("srcc_best_epoch_optimistic", "plcc_best_epoch_optimistic", "n", "seconds"),
]


def by_split(run_set: RunSet, splits: Iterable[int]) -> pd.DataFrame:
    """Results of finished runs, one row per split: the last epoch, and values that are optimistic.

    Returns benchmark, split, srcc, plcc, plcc_low, plcc_high (95 % bootstrap interval over test contents; NaN below six
    contents), rmse (MOS units), plcc_logistic_optimistic, srcc_best_epoch_optimistic, plcc_best_epoch_optimistic
    (optimistic: chosen or fitted on the test labels), n (test images), seconds. ``.attrs`` holds the title of the
    benchmark.
    """
    predictions, rows = run_set.predictions(splits), []
    for index, record in run_set.records(splits):
        row = record["metrics"] | dict(benchmark=run_set.table.attrs["benchmark"], split=index)
        row |= dict(seconds=record["seconds"], plcc_logistic_optimistic=record["metrics"]["plcc_logistic"])
        part = predictions[predictions["split"] == index]
        if len(part):
            low, high = bootstrap_interval(pred=part["pred"], mos=part["mos"], content=part["content"])
            row |= dict(plcc_low=low, plcc_high=high)
        row |= {f"{key}_best_epoch_optimistic": value for key, value in row["test_best_optimistic"].items()}
        rows.append(row)
    found = pd.DataFrame(rows, columns=_BY_SPLIT)
    found.attrs = dict(title=benchmark(run_set.table).title)
    return found


def summarize_splits(results: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Medians over splits, their range and an interval, of results from `by_split` by benchmark.

    Returns one row per benchmark (the demo and own data only if they are in `results`): benchmark, title, splits, then
    for srcc and plcc the median, _min and _max over splits, _low and _high (95 % bootstrap interval of the median; NaN
    below six splits) and the median of _best_epoch_optimistic, and the median of plcc_logistic_optimistic. Cells of
    benchmarks without results are NaN.
    """
    rows = []
    for name in dict.fromkeys([*(name for name in BENCHMARKS if name != "demo"), *results]):
        result = results.get(name, pd.DataFrame())
        title = BENCHMARKS[name].title if name in BENCHMARKS else result.attrs["title"]
        row = dict(benchmark=name, title=title, splits=len(result))
        for metric in ("srcc", "plcc") if len(result) else ():
            values = result[metric]
            row |= {metric: values.median(), f"{metric}_min": values.min(), f"{metric}_max": values.max()}
            row[f"{metric}_low"], row[f"{metric}_high"] = median_interval(values)
            row[f"{metric}_best_epoch_optimistic"] = result[f"{metric}_best_epoch_optimistic"].median()
        if len(result):
            row["plcc_logistic_optimistic"] = result["plcc_logistic_optimistic"].median()
        rows.append(row)
    return pd.DataFrame(rows)


def published_results() -> pd.DataFrame:
    """Results of the paper and of others: benchmark, method, srcc, plcc (NaN: not published), protocol, source."""
    return pd.read_csv(Path(__file__).parent / "published.csv")


def beside_published(name: str, result: pd.DataFrame) -> pd.DataFrame:
    """Our medians, of a result from `by_split`, beside every published result on the benchmark `name`.

    The columns are method, then ours_, published_ and difference_ for srcc and plcc, protocol, source.
    """
    published = published_results().query("benchmark == @name").reset_index(drop=True)
    columns = {"method": published["method"]}
    for metric in ("srcc", "plcc"):
        ours = result[metric].median() if len(result) else float("nan")
        columns[f"ours_{metric}"] = ours
        columns[f"published_{metric}"] = published[metric]
        columns[f"difference_{metric}"] = ours - published[metric]
    return pd.DataFrame({**columns, "protocol": published["protocol"], "source": published["source"]})


def slope(predictions: pd.DataFrame) -> tuple[float, str]:
    """Slope of the line fitted to MOS over prediction, as the median over splits, and what it means.

    `predictions` has the columns split, mos, pred. Where predictions shrink towards the mean, MOS vary more than they
    do: the slope is above 1, and the band of points is steep.
    """
    slopes = [np.polyfit(part["pred"], part["mos"], 1)[0] for _, part in predictions.groupby("split")]
    value = float(np.median(slopes))
    if abs(value - 1) < 0.05:
        return value, "predictions are spread as far as they should be"
    return value, f"predictions are {'shrunk towards the mean' if value > 1 else 'spread too far'}"


def splits_in_words(result: pd.DataFrame) -> Table:
    """The result of `by_split` for reading."""
    ends = zip(result["plcc_low"], result["plcc_high"])
    columns = {"split": result["split"], "SRCC": result["srcc"], "PLCC": result["plcc"]}
    columns |= {"95 % interval of PLCC": [interval(*pair) for pair in ends], "RMSE": result["rmse"]}
    columns |= {"best epoch*": result["plcc_best_epoch_optimistic"], "logistic*": result["plcc_logistic_optimistic"]}
    note = "\\* optimistic PLCC: chosen or fitted with the test labels"
    return Table(pd.DataFrame({**columns, "images": result["n"]}), notes=[note])


def published_in_words(beside: pd.DataFrame) -> Table:
    """The result of `beside_published` for reading: published results and how far ours are above them."""
    marks, notes = number_sources(beside["source"])
    columns = {"method": [f"{row.method} {marks[row.source]}" for row in beside.itertuples()]}
    for metric in ("srcc", "plcc"):
        name = metric.upper()
        columns |= {name: beside[f"published_{metric}"], f"{name} difference": beside[f"difference_{metric}"]}
    return Table(pd.DataFrame({**columns, "protocol": beside["protocol"]}), notes=["; ".join(notes)])


def reporting_habits(result: pd.DataFrame) -> pd.DataFrame:
    """The headline PLCC of the same runs, a result from `by_split` with n >= 4 splits, under habits of reporting.

    A column plcc_random_crops, such as from `features.plcc_of_random_crops`, adds a row.
    Returns one row per habit: habit, plcc (the headline), difference (from the median of the last epochs), expected
    (the difference that order statistics of a normal distribution, with the splits' standard deviation, predict for
    reporting the best half of the splits; else NaN).
    """
    kept, last, best = len(result) // 2, result["plcc"], result["plcc_best_epoch_optimistic"]
    half = f"the best {kept} of {len(result)} splits"
    upper = stats.norm.ppf((np.arange(len(result) - kept, len(result)) + 0.625) / (len(result) + 0.25))  # Blom's scores
    expected = np.median(upper) * last.std()
    rows = [
        ("last epoch, all splits", last.median(), np.nan),
        ("best epoch on the test part", best.median(), np.nan),
        ("logistic fitted on the test part", result["plcc_logistic_optimistic"].median(), np.nan),
        (half, last.nlargest(kept).median(), expected),
        (f"best epoch, and {half}", best.nlargest(kept).median(), np.nan),
    ]
    if "plcc_random_crops" in result:
        rows.append(("random test crops", result["plcc_random_crops"].median(), np.nan))
    found = pd.DataFrame(rows, columns=["habit", "plcc", "expected"])
    found.insert(2, "difference", found["plcc"] - last.median())
    return found


def paper_table(summary: pd.DataFrame) -> Table:
    """The paper's claims, our medians from `summarize_splits` and the best published result, for reading.

    Returns one row per benchmark with runs: benchmark (title), splits; paper (PLCC claimed, and its version), ours
    (median PLCC), difference, range (lowest to highest split), SRCC (our median), best published (PLCC and method).
    Notes below: intervals and optimistic results, sources, and the benchmarks that were not run.
    """
    rows, notes, sources = [], [], []
    everything = published_results().dropna(subset=["plcc"])
    for row in summary[summary["splits"] > 0].to_dict("records"):
        published = everything[everything["benchmark"] == row["benchmark"]]
        is_paper = published["method"].str.startswith("LML-IQA")
        paper, rivals = published[is_paper].head(1), published[~is_paper].sort_values("plcc").tail(1)
        sources += [*paper["source"], *rivals["source"]]
        rows.append(_summary_row(row, paper, rivals, number_sources(sources)[0]))
        notes.append(_optimistic(row))
    notes += number_sources(sources)[1]
    if missing := summary["title"][summary["splits"] == 0].tolist():
        notes.append(f"Not run: {', '.join(missing)}.")
    return Table(pd.DataFrame(rows), notes=notes)


def to_latex(printed: Table) -> str:
    """The table of `paper_table` as LaTeX (booktabs), with its notes below."""
    cells = printed.cells().replace(NOTHING, "--")
    notes = [note.translate(str.maketrans({c: f"\\{c}" for c in "_%&#$"})) for note in printed.notes]
    body = [cells.to_latex(index=False, escape=True)] if len(cells) else []
    return "\n".join(["% needs \\usepackage{booktabs}", *body, *notes, ""])


def _summary_row(row: dict, paper: pd.DataFrame, rivals: pd.DataFrame, marks: dict[str, str]) -> dict[str, object]:
    claim = paper["plcc"].iloc[0] if len(paper) else float("nan")
    version = "".join(paper["method"]).removeprefix("LML-IQA ").removesuffix(" (the paper)")
    return {
        "benchmark": row["title"],
        "splits": row["splits"],
        "paper": f"{claim:.3f} ({version}) {marks[paper['source'].iloc[0]]}" if len(paper) else NOTHING,
        "ours": row["plcc"],
        "difference": row["plcc"] - claim,
        "range": interval(row["plcc_min"], row["plcc_max"]),
        "SRCC": row["srcc"],
        "best published": "".join(f"{r.plcc:.3f} {r.method} {marks[r.source]}" for r in rivals.itertuples()),
    }


def _optimistic(row: dict) -> str:
    """A note on the interval of a benchmark's PLCC, and on the results that use test labels."""
    known = pd.notna(row["plcc_low"])
    between = f"95 % interval of the median PLCC {interval(row['plcc_low'], row['plcc_high'])}; " if known else ""
    results = f"{row['plcc_best_epoch_optimistic']:.3f} at the best epoch on test, "
    results += f"{row['plcc_logistic_optimistic']:.3f} after a fitted logistic"
    return f"{row['title']}: {between}optimistic PLCC, which uses the test labels: {results}."
