"""The summary table: medians of finished runs over splits, with published results beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from ..common.errors import InputError
from ..data.benchmarks import BENCHMARKS, benchmark
from ..data.identity import rows_of
from ..data.splits import make_split
from ..evaluation import bootstrap_interval, median_interval
from ..recipe import Recipe
from ..runs import folder as runs
from ..runs.provenance import commit_in_words
from .records import find_record, recorded_predictions
from .words import NOTHING, Table, interval, number_sources

_BY_SPLIT = [
    *("benchmark", "split", "srcc", "plcc", "plcc_low", "plcc_high", "rmse", "plcc_logistic_optimistic"),
    *("srcc_best_epoch_optimistic", "plcc_best_epoch_optimistic", "n", "seconds"),
]


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
        wanted = self.recipe.identity(self.table, make_split(self.table, index))
        record = runs.finished_run(self.folder(index), wanted)
        return find_record(self.recorded, wanted, index) if record is None and self.recorded is not None else record

    def facts(self, splits: Iterable[int]) -> pd.DataFrame:
        """What the results of finished runs depend on, one row per split: hashes, machine, torch version and commit.

        Facts that a record lacks are NA. Raises as `record`.
        """
        columns = ["split", "recipe_hash", "data_hash", "split_hash", "precision", "threads", "processor", "torch"]
        rows = []
        for index, record in ((index, self.record(index)) for index in splits):
            if record is None:
                continue
            torch = record.get("versions", {}).get("torch", pd.NA)
            rows.append(record | dict(split=index, torch=torch, commit=commit_in_words(record)))
        return pd.DataFrame(rows).reindex(columns=[*columns, "commit"])

    def finished(self, splits: Iterable[int]) -> list[int]:
        """Those of some splits that have a finished run; raises as `record`."""
        return [index for index in splits if self.record(index) is not None]

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


def by_split(run_set: RunSet, splits: Iterable[int]) -> pd.DataFrame:
    """Results of finished runs, one row per split: the last epoch, and values that are optimistic.

    Returns:
        benchmark, split, srcc, plcc, plcc_low, plcc_high (95 % bootstrap interval over test contents; NaN below six
        contents), rmse (MOS units), plcc_logistic_optimistic, srcc_best_epoch_optimistic, plcc_best_epoch_optimistic
        (optimistic: chosen or fitted on the test labels), n (test images), seconds. ``.attrs`` holds the title of the
        benchmark.
    """
    predictions, rows = run_set.predictions(splits), []
    for index in splits:
        record = run_set.record(index)
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

    Returns:
        One row per benchmark (the demo and own data only if they are in `results`): benchmark, title, splits, then for
        srcc and plcc the median, _min and _max over splits, _low and _high (95 % bootstrap interval of the median; NaN
        below six splits) and the median of _best_epoch_optimistic, and the median of plcc_logistic_optimistic. Cells of
        benchmarks without results are NaN.
    """
    rows = []
    for name in dict.fromkeys([*(name for name in BENCHMARKS if name != "demo"), *results]):
        result = results.get(name)
        title = BENCHMARKS[name].title if name in BENCHMARKS else result.attrs["title"]
        row = dict(benchmark=name, title=title, splits=0 if result is None else len(result))
        for metric in ("srcc", "plcc") if row["splits"] else ():
            values = result[metric]
            row |= {metric: values.median(), f"{metric}_min": values.min(), f"{metric}_max": values.max()}
            row[f"{metric}_low"], row[f"{metric}_high"] = median_interval(values)
            row[f"{metric}_best_epoch_optimistic"] = result[f"{metric}_best_epoch_optimistic"].median()
        if row["splits"]:
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


def paper_table(summary: pd.DataFrame) -> Table:
    """The paper's claims, our medians from `summarize_splits` and the best published result, for reading.

    Returns:
        One row per benchmark with runs: benchmark (title), splits; paper (PLCC claimed, and its version), ours (median
        PLCC), difference, range (lowest to highest split), SRCC (our median), best published (PLCC and method). Notes
        below: intervals and optimistic results, sources, and the benchmarks that were not run.
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
