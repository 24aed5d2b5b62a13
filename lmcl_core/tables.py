"""The paper's table: finished runs, medians over splits, and published results beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd

from . import records, runs
from .benchmarks import BENCHMARKS, rows_of
from .errors import InputError
from .evaluation import bootstrap_interval, median_interval
from .recipe import Recipe
from .splits import make_split


_BY_SPLIT = [
    *("benchmark", "split", "srcc", "plcc", "plcc_low", "plcc_high", "rmse", "plcc_logistic_optimistic"),
    *("srcc_best_epoch_optimistic", "plcc_best_epoch_optimistic", "n", "seconds"),
]


def finished_splits(
    table: pd.DataFrame,
    recipe: Recipe,
    runs_dir: str | Path,
    splits: Iterable[int],
    recorded: pd.DataFrame | None = None,
) -> list[int]:
    """Which of some numbered splits have a finished run.

    Args:
        table: from `load_benchmark`.
        recipe: the runs' recipe.
        runs_dir: folder of run folders.
        splits: those that are looked for, such as range(10).
        recorded: from `records.read_records`; runs that are not in the folder count where they are recorded there.

    Raises:
        InputError: a folder that holds a run of another recipe, data or split.
    """
    return [index for index in splits if finished_record(table, recipe, runs_dir, index, recorded) is not None]


def finished_record(
    table: pd.DataFrame, recipe: Recipe, runs_dir: str | Path, index: int, recorded: pd.DataFrame | None = None
) -> dict | None:
    """What is known of a finished run, from its folder or, where that holds none, from records.

    Args:
        table: from `load_benchmark`.
        recipe: the run's.
        runs_dir: folder of run folders.
        index: the split's.
        recorded: as in `finished_splits`.

    Returns:
        Benchmark, hashes, seconds, commit and metrics as in ``run.json``; None where there is no such run.

    Raises:
        InputError: as `finished_splits`.
    """
    folder = runs.run_folder(runs_dir, table.attrs["benchmark"], recipe.name, index)
    if recorded is None and not folder.is_dir():  # quickly: a batch asks for many
        return None
    wanted = runs.identity(table, make_split(table, index), recipe)
    record = runs.finished_run(folder, wanted)
    return records.recall(recorded, wanted, index) if record is None and recorded is not None else record


def read_predictions(
    table: pd.DataFrame,
    recipe: Recipe,
    runs_dir: str | Path,
    splits: list[int],
    recorded: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Predictions of finished runs on their test parts.

    Args:
        table: from `load_benchmark`.
        recipe: the runs' recipe.
        runs_dir: folder of run folders.
        splits: which ones, from `finished_splits`.
        recorded: as in `finished_splits`.

    Returns:
        Columns split, image, mos, pred, content, distortion.

    Raises:
        InputError: a split that has no finished run.
    """
    parts = []
    for index in splits:
        folder = runs.run_folder(runs_dir, table.attrs["benchmark"], recipe.name, index)
        record = finished_record(table, recipe, runs_dir, index, recorded)
        if record is None:
            raise InputError(f"{folder} holds no finished run: train it, or leave split {index} out")
        was_recorded = "predictions" in record
        part = records.predictions(record, table, index) if was_recorded else runs.read_predictions(folder)
        parts += [part.assign(split=index)] if len(part) else []
    if not parts:
        return pd.DataFrame(columns=["split", "image", "mos", "pred", "content", "distortion"])
    together = pd.concat(parts, ignore_index=True)
    rows = rows_of(table, together["image"])
    for column in ("content", "distortion"):
        together[column] = table[column].to_numpy()[rows]
    return together


def by_split(
    table: pd.DataFrame,
    recipe: Recipe,
    runs_dir: str | Path,
    splits: list[int],
    recorded: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """One row a finished run: the last epoch, with a bootstrap interval over test contents, and what is optimistic.

    Args:
        table: from `load_benchmark`.
        recipe: the runs' recipe.
        runs_dir: folder of run folders.
        splits: which ones, from `finished_splits`.
        recorded: as in `finished_splits`.

    Returns:
        benchmark, split, srcc, plcc, plcc_low, plcc_high (95 %; NaN below six test contents), rmse (MOS units),
        plcc_logistic_optimistic,
        srcc_best_epoch_optimistic, plcc_best_epoch_optimistic (columns named optimistic looked at the test labels),
        n (test images), seconds.
    """
    predictions, rows = read_predictions(table, recipe, runs_dir, splits, recorded), []
    for index in splits:
        record = finished_record(table, recipe, runs_dir, index, recorded)
        last, best = record["metrics"], record["metrics"]["test_best_optimistic"]
        part, low, high = predictions[predictions["split"] == index], float("nan"), float("nan")
        if len(part):
            low, high = bootstrap_interval(pred=part["pred"], mos=part["mos"], content=part["content"])
        rows.append(
            dict(
                benchmark=table.attrs["benchmark"],
                split=index,
                **{key: last[key] for key in ("srcc", "plcc")},
                plcc_low=low,
                plcc_high=high,
                rmse=last["rmse"],
                plcc_logistic_optimistic=last["plcc_logistic"],
                srcc_best_epoch_optimistic=best["srcc"],
                plcc_best_epoch_optimistic=best["plcc"],
                n=last["n"],
                seconds=record["seconds"],
            )
        )
    return pd.DataFrame(rows, columns=_BY_SPLIT)


def summary(results: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The table over benchmarks: medians of splits, their spread, and an interval; what was not run is empty.

    Args:
        results: from `by_split`, by benchmark.

    Returns:
        One row a benchmark of people's opinions, and the demo where it was run: benchmark, title, splits, then for
        srcc and plcc the median, _min and _max over splits, _low and _high (95 % bootstrap interval of the median;
        empty below six splits), and the medians of the two best-epoch columns and of PLCC after a fitted logistic.
    """
    rows = []
    for name, about in BENCHMARKS.items():
        result = results.get(name)
        if result is None and name == "demo":
            continue
        row = dict(benchmark=name, title=about.title, splits=0 if result is None else len(result))
        if row["splits"]:
            for metric in ("srcc", "plcc"):
                row |= _described(metric, result)
            row["plcc_logistic_optimistic"] = result["plcc_logistic_optimistic"].median()
        rows.append(row)
    return pd.DataFrame(rows)


def published_results() -> pd.DataFrame:
    """Results of the paper and of others: benchmark, method, srcc, plcc (empty: not published), protocol, source."""
    return pd.read_csv(Path(__file__).parent / "published.csv")


def beside_published(name: str, result: pd.DataFrame) -> pd.DataFrame:
    """Our medians beside every published result on a benchmark.

    Args:
        name: of the benchmark.
        result: from `by_split`.

    Returns:
        method, then ours_, published_ and difference_ for srcc and plcc, protocol, source.
    """
    published = published_results().query("benchmark == @name")
    ours = result[["srcc", "plcc"]].median() if len(result) else pd.Series(dict(srcc=float("nan"), plcc=float("nan")))
    columns = {"method": published["method"]}
    for metric in ("srcc", "plcc"):
        columns[f"ours_{metric}"] = ours[metric]
        columns[f"published_{metric}"] = published[metric]
        columns[f"difference_{metric}"] = ours[metric] - published[metric]
    return (
        pd.DataFrame(columns).assign(protocol=published["protocol"], source=published["source"]).reset_index(drop=True)
    )


def paper_table(whole: pd.DataFrame) -> pd.DataFrame:
    """`summary` beside the paper's claims and the strongest published rival, ready to print.

    Args:
        whole: from `summary`.

    Returns:
        One row a benchmark: benchmark (title) and splits; for SRCC and for PLCC the median, its spread (lowest to
        highest split) and interval (95 %, of the median); then, all of them PLCC, best epoch and after a fitted
        logistic (both optimistic), paper (with the version), difference (ours minus that) and strongest rival (with the
        method), and where those two were published. Cells without a value are NA.
    """
    rows = []
    for row in whole.to_dict("records"):
        published = published_results().query("benchmark == @row['benchmark']").dropna(subset=["plcc"])
        is_paper = published["method"].str.startswith("LML-IQA")
        paper, rivals = published[is_paper], published[~is_paper].sort_values("plcc")
        claim = paper["plcc"].iloc[0] if len(paper) else float("nan")
        rows.append(
            {
                "benchmark": row["title"],
                "splits": row["splits"],
                **_printed("srcc", row),
                **_printed("plcc", row),
                "best epoch (optimistic)": row.get("plcc_best_epoch_optimistic"),
                "logistic (optimistic)": row.get("plcc_logistic_optimistic"),
                "paper": f"{claim:.3f} {_version(paper['method'].iloc[0])}" if len(paper) else pd.NA,
                "difference": row.get("plcc", float("nan")) - claim,
                "strongest rival": f"{rivals['plcc'].iloc[-1]:.3f} {rivals['method'].iloc[-1]}"
                if len(rivals)
                else pd.NA,
                "sources": "; ".join(dict.fromkeys([*paper["source"].iloc[:1], *rivals["source"].iloc[-1:]])) or pd.NA,
            }
        )
    return pd.DataFrame(rows)


def to_latex(printed: pd.DataFrame) -> str:
    """A printed table as LaTeX (booktabs); empty cells are dashes.

    Args:
        printed: from `paper_table`.
    """
    body = printed.to_latex(index=False, float_format="%.3f", na_rep="--", escape=True)
    about = "best epoch, logistic, paper, difference and strongest rival are PLCC"
    return f"% needs \\usepackage{{booktabs}}; {about}\n{body}"


def _described(metric: str, result: pd.DataFrame) -> dict[str, float]:
    values, best = result[metric], result[f"{metric}_best_epoch_optimistic"]
    low, high = median_interval(values)
    return {
        metric: values.median(),
        f"{metric}_min": values.min(),
        f"{metric}_max": values.max(),
        f"{metric}_low": low,
        f"{metric}_high": high,
        f"{metric}_best_epoch_optimistic": best.median(),
    }


def _printed(metric: str, row: Mapping[str, float]) -> dict[str, object]:
    name = metric.upper()
    return {
        name: row.get(metric),
        f"{name} spread": _range(row.get(f"{metric}_min"), row.get(f"{metric}_max")),
        f"{name} interval": _range(row.get(f"{metric}_low"), row.get(f"{metric}_high")),
    }


def _version(method: str) -> str:
    """The version of the paper a claim is from, e.g. "v1", of "LML-IQA v1 (the paper)"."""
    return method.removeprefix("LML-IQA ").removesuffix(" (the paper)")


def _range(low: float | None, high: float | None) -> object:
    return pd.NA if low is None or pd.isna(low) else f"{low:.3f} to {high:.3f}"
