"""Compare results with the committed reference, within tolerances that were measured by repeating the same runs.

Runs that differ only in rounding (precision, number of threads, a learning rate that differs by one millionth) give
slightly different results. `measure_tolerances` estimates this spread, and `compare` uses it.
"""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import stats

from ..common.command import Parser
from ..common.errors import InputError, RunError
from ..common.files import atomic_write
from ..common.paths import reference_folder
from ..runs.folder import write_csv
from .records import read_records, read_rows

#: Names of the quantities that are compared.
KINDS = {
    "plcc": "PLCC",
    "srcc": "SRCC",
    "rmse": "RMSE",
    "hard_pair_share": "share of hard pairs",
    "very_hard_pair_share": "share of very hard pairs",
    "knn_mos_error": "k-nearest-neighbour error",
    "intra_image_spread": "intra-image spread",
    "pairs_in_order": "share of level pairs in order",
}
#: Smallest chance that all quantities of a run that differs only in rounding lie within their tolerances, for as many
#: quantities as the repetitions have.
LEVEL = 0.99
#: Columns of 03_runs.csv that must agree between the results and the reference.
_IDENTITY = ["recipe_hash", "data_hash", "split_hash"]
_COLUMNS = {
    "03_results": ["split", "plcc", "srcc", "rmse"],
    "03_runs": ["split", *_IDENTITY],
    "04_separation": ["recipe", "split", "measure", "value"],
    "04_order_kept": ["recipe", "split", "pairs_in_order"],
    "tolerances": ["kind", "tolerance"],
}
_MACHINE = ["precision", "threads", "processor", "torch", "commit"]
#: Figures of the report, as names without suffix.
_FIGURES = ("02_crops_lmcl_split-00", "03_scores", "04_separation", "04_umap")


def quantities(folder: Path) -> pd.DataFrame:
    """The numbers of a benchmark's folder that are compared: kind (a key of `KINDS`), cell (recipe and split), value.

    The folder holds 03_results.csv, and 04_separation.csv and 04_order_kept.csv if notebook 04 has run. InputError: a
    table is missing or damaged.
    """
    results = _read(folder / "03_results.csv").assign(recipe="lmcl").melt(["recipe", "split"], ["plcc", "srcc", "rmse"])
    parts = [results.rename(columns=dict(variable="kind"))]
    if (folder / "04_separation.csv").is_file():
        kept = _read(folder / "04_order_kept.csv").groupby(["recipe", "split"])["pairs_in_order"].mean().reset_index()
        parts += [
            _read(folder / "04_separation.csv").rename(columns=dict(measure="kind")),
            kept.rename(columns=dict(pairs_in_order="value")).assign(kind="pairs_in_order"),
        ]
    together = pd.concat(parts, ignore_index=True).dropna(subset=["value"])
    cells = [f"{recipe}, split {split}" for recipe, split in zip(together["recipe"], together["split"])]
    return together.assign(cell=cells)[["kind", "cell", "value"]]


def recorded_quantities(path: Path) -> pd.DataFrame:
    """PLCC, SRCC and RMSE of recorded runs, in the columns of `quantities`."""
    records = read_records(path)
    cells = records.assign(cell=records["name"] + ", split " + records["split"].astype(str))
    return cells.melt("cell", ["plcc", "srcc", "rmse"], "kind")


def measure_tolerances(repeats: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """Tolerances from at least two repetitions, tables from `quantities`, that differ only in rounding.

    The standard deviation of a kind is pooled over the cells that all repetitions have. The tolerance is the two-sided
    range of the difference of two such runs; its level, with Bonferroni's correction, is `LEVEL` for all quantities
    together. Returns one row per kind: kind, cells, repeats, sd, tolerance. InputError: fewer than two repetitions, or
    no common cell.
    """
    if any(table.duplicated(["kind", "cell"]).any() for table in repeats):
        raise InputError("a repetition has several rows of one run: name records of one benchmark and data set")
    numbered = pd.concat([table.assign(repeat=n) for n, table in enumerate(repeats)])
    wide = numbered.pivot(index=["kind", "cell"], columns="repeat", values="value").dropna()
    if len(repeats) < 2 or wide.empty:
        raise InputError("tolerances need at least two repetitions with common splits: name more folders or records")
    rows = []
    for kind, part in wide.groupby("kind", sort=False):
        sd = float(np.sqrt(part.var(axis=1).mean()))
        range_of_one = stats.t.ppf(1 - (1 - LEVEL) / 2 / len(wide), len(part) * (len(repeats) - 1))
        tolerance = np.sqrt(2) * sd * range_of_one
        rows.append(dict(kind=kind, cells=len(part), repeats=len(repeats), sd=sd, tolerance=tolerance))
    return pd.DataFrame(rows)


#: What the verdicts mean.
_MEANING = (
    "Within tolerance: runs that differ only by rounding differ by no more, with a chance of at least 99 % "
    "for all quantities together."
)


@dataclass(frozen=True)
class Comparison:
    """Results beside the reference.

    `table` has one row per quantity: quantity, reference, yours, difference, tolerance, verdict ("within", "outside",
    "missing"). `machines` has a row for the reference and one for yours: precision, threads, processor, torch, commit.
    """

    benchmark: str
    table: pd.DataFrame
    machines: pd.DataFrame
    recorded: tuple[int, ...] = ()  #: splits whose results come from records, which hold no version of torch

    @property
    def outside(self) -> int:
        """Number of quantities that are missing or outside their tolerance."""
        return int((self.table["verdict"] != "within").sum())

    @property
    def summary(self) -> str:
        """The count of quantities within tolerance, in words."""
        count = f"{len(self.table) - self.outside} of {len(self.table)} quantities within tolerance"
        return f"{self.benchmark}: {count}{' (rows from records are no reproduction)' if self.recorded else ''}"

    @property
    def note(self) -> str:
        """Which splits were not trained; "" if there are none."""
        if not self.recorded:
            return ""
        splits = ", ".join(map(str, self.recorded))
        return f"from records, nothing was trained: splits {splits}; this repeats the tables, not the training"

    def to_text(self) -> str:
        """Table, machines and summary, for a terminal."""
        table = self.table.to_string(index=False, float_format="%.4f")
        return "\n\n".join([table, self.machines.T.to_string(), _MEANING, *filter(None, [self.note]), self.summary])

    def to_html(self, own: Path, reference: Path) -> str:
        """A self-contained page: summary, figures of both folders side by side, table, machines."""
        rows = "".join(
            f"<h3>{name}</h3><div class=pair>{_image(reference / name, 'reference')}{_image(own / name, 'yours')}</div>"
            for name in _FIGURES
            if any((folder / f"{name}.png").is_file() for folder in (own, reference))
        )
        title = html.escape(self.summary)
        table = self.table.to_html(index=False, float_format="%.4f", border=0)
        machines = self.machines.T.to_html(border=0)
        head = f"{_HEAD}<title>{title}</title><h1>{title}</h1><p>{_MEANING} {html.escape(self.note)}</p>"
        return f"{head}{table}<h2>Machines</h2>{machines}<h2>Figures</h2>{rows}"


def compare(own: Path, reference: Path) -> Comparison:
    """Compare a benchmark's folder of results with a reference folder, on the splits that both hold.

    Quantities without a tolerance are left out. InputError: a table is missing, or the reference belongs to another
    recipe, other data or no common split.
    """
    if not (reference / "03_runs.csv").is_file():
        fix = "the checkout has them for demo and livec"
        raise InputError(f"{reference} holds no reference results (03_runs.csv): {fix}")
    if own.resolve() == reference.resolve():
        raise InputError(f"{own} is the reference itself: name the folder of other results")
    tables = {"reference": reference, "yours": own}
    runs = {side: _read(folder / "03_runs.csv").set_index("split") for side, folder in tables.items()}
    common = runs["reference"].index.intersection(runs["yours"].index)
    if common.empty:
        raise InputError(f"{own} and {reference} have no split in common: run splits {list(runs['reference'].index)}")
    for column in _IDENTITY:
        if (runs["reference"].loc[common, column] != runs["yours"].loc[common, column]).any():
            what = column.replace("_hash", "")
            raise InputError(f"{reference} was made with another {what} than {own}: compare results of one version")
    expected = quantities(reference)
    expected = expected[expected["cell"].str.rpartition(" ")[2].isin(common.astype(str))]
    values = expected.merge(quantities(own), how="left", on=["kind", "cell"], suffixes=("_reference", "_yours"))
    values["tolerance"] = values["kind"].map(read_tolerances(reference))
    values = values.dropna(subset=["tolerance"])
    yours = values["value_yours"].astype(float)
    difference = yours - values["value_reference"]
    is_within = np.where(difference.abs() <= values["tolerance"], "within", "outside")
    columns = dict(quantity=[f"{KINDS[kind]}, {cell}" for kind, cell in zip(values["kind"], values["cell"])])
    columns |= dict(reference=values["value_reference"], yours=yours, difference=difference)
    columns |= dict(tolerance=values["tolerance"], verdict=np.where(yours.isna(), "missing", is_within))
    table = pd.DataFrame(columns)
    facts = {side: {name: _listed(run.loc[common, name]) for name in _MACHINE} for side, run in runs.items()}
    versions = runs["yours"]["torch"].astype(str)
    recorded = tuple(n for n in common if versions[n] in ("", "nan"))
    return Comparison(own.name, table, pd.DataFrame.from_dict(facts, orient="index"), recorded)


def read_tolerances(folder: Path) -> dict[str, float]:
    """Tolerances of a folder of reference results, by kind. InputError: it has none, or they are damaged."""
    return _read(folder / "tolerances.csv").set_index("kind")["tolerance"].to_dict()


def has_reference(folder: Path) -> bool:
    """Whether the checkout holds results of a benchmark that others can be compared with."""
    return all((folder / name).is_file() for name in ("03_runs.csv", "tolerances.csv"))


def discard(own: Path) -> None:
    """Delete the report in a folder of results, if there is one."""
    for name in ("reproduction.csv", "reproduction.html"):
        (own / name).unlink(missing_ok=True)


def report(own: Path, reference: Path, log: Callable[[str], None] = print) -> None:
    """Compare, log the result, and write reproduction.csv and reproduction.html into `own`, the folder of results.

    InputError: as `compare`. RunError: a quantity lies outside its tolerance, or a file cannot be written.
    """
    found = compare(own, reference)
    write_csv(own / "reproduction.csv", found.table, "%.6g")
    with atomic_write(page := own / "reproduction.html") as path:
        path.write_text(found.to_html(own, reference), encoding="utf-8")
    log(found.to_text())
    log(f"report: {page}")
    if found.outside:
        names = found.table.loc[found.table["verdict"] != "within", "quantity"]
        raise RunError(f"{found.benchmark}: missing or outside tolerance: {'; '.join(names)}. See both sides in {page}")


def _read(path: Path) -> pd.DataFrame:
    """Read one table of results; InputError if it is missing or damaged."""
    if not path.is_file():
        fix = "make tolerances" if path.stem == "tolerances" else "lmcl reproduce"
        raise InputError(f"{path} does not exist: run {fix}, or restore the file")
    table = read_rows(path, _COLUMNS[path.stem], "table of results")
    if table.empty:
        raise InputError(f"{path} has no rows: run lmcl reproduce, or restore the file")
    return table


def _listed(values: pd.Series) -> str:
    """Distinct values, as text."""
    listed = ", ".join(dict.fromkeys(values.replace("", None).fillna("not recorded").astype(str)))
    return re.sub(r"\b([0-9a-f]{7})[0-9a-f]{33}\b", r"\1", listed)  # commits


def _image(path: Path, side: str) -> str:
    """One PNG inside the page, with a caption; a sentence if there is no such file."""
    file = path.with_suffix(".png")
    if not file.is_file():
        return f"<p>{side}: no {file.name}</p>"
    data = base64.b64encode(file.read_bytes()).decode()
    return f'<figure><img alt="{file.stem}, {side}" src="data:image/png;base64,{data}"><figcaption>{side}</figure>'


_HEAD = """<!doctype html><meta charset="utf-8"><style>
body { font: 15px/1.5 sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
td, th { padding: .2rem .8rem; text-align: right } td:first-child, th:first-child { text-align: left }
tr:nth-child(even) { background: #f3f4f6 } .pair { display: flex; gap: 1rem } .pair > * { flex: 1; margin: 0 }
img { width: 100% }
</style>"""


def main(arguments: Sequence[str] | None = None) -> None:
    """The command ``python -m lmcl_core.results.reproduction``: write tolerances.csv of a benchmark's reference."""
    parser = Parser("lmcl_core.results.reproduction", "Measure tolerances from repetitions.")
    parser.add_argument("benchmark")
    parser.add_argument("repeats", nargs="+", help="folders of results of that benchmark, or CSV files of records")
    with parser.run(arguments) as given:
        repeats = map(Path, given.repeats)
        tables = [recorded_quantities(path) if path.is_file() else quantities(path) for path in repeats]
        found = measure_tolerances(tables)
        write_csv(reference_folder(given.benchmark) / "tolerances.csv", found, "%.6g")
        print(found.to_string(index=False))


if __name__ == "__main__":
    main()
