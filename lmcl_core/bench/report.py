"""Tables and figures of what `measure.bench` measured."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..common.devices import device_name, resolve_device
from ..results import plots
from ..results.figures import save, save_table


def machine(device: str) -> str:
    """Processor, number of threads and version of torch."""
    return f"{device_name(resolve_device(device))}, {torch.get_num_threads()} CPU threads, torch {torch.__version__}"


def write(found: pd.DataFrame, about: dict[str, object], folder: Path, name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write repetitions<name>.csv, and costs<name> and growth<name> as CSV, PNG and PDF.

    `found` holds all repetitions; `about` holds columns that describe the machine and the options. Returns the results
    of `summary` and `exponents`. RunError: a file cannot be written.
    """
    save_table(found.assign(**about), folder, f"repetitions{name}")
    growing = found["part"] == "growth"
    curves, costs, slopes = found[growing], summary(found[~growing]), exponents(found[growing])
    if len(costs) > 1:
        caption = "Items per second of this package and of what it is compared with. Longer bars are faster."
        save(plots.costs(costs), costs, folder, f"costs{name}", caption, about["machine"])
    elif len(costs):  # one bar is no figure
        save_table(costs, folder, f"costs{name}")
    if len(slopes):
        shown = curves[["contender", "size", "repetition", "seconds"]].merge(slopes)
        caption = "Seconds by size on logarithmic axes. A line of slope 1 is linear growth."
        save(plots.growth(curves, slopes), shown, folder, f"growth{name}", caption, about["machine"])
    (folder / f"repetitions{name}_unfinished.csv").unlink(missing_ok=True)
    return costs, slopes


def summary(found: pd.DataFrame) -> pd.DataFrame:
    """One row per part, contender and size.

    Columns: unit; rate, lowest, highest (median, minimum and maximum items per second); ratio (rate of the part's first
    contender divided by this one's, median over repetitions); peak_mb; waiting (median).
    """
    found = found.assign(rate=found["items"] / found["seconds"])
    first = found.groupby(["part", "size", "repetition"], dropna=False)["rate"].transform("first")
    groups = found.assign(ratio=first / found["rate"]).groupby(["part", "contender", "size"], sort=False, dropna=False)
    columns = dict(unit=("unit", "first"), rate=("rate", "median"), lowest=("rate", "min"), highest=("rate", "max"))
    columns |= dict(ratio=("ratio", "median"), peak_mb=("peak_mb", "first"), waiting=("waiting", "median"))
    return groups.agg(**columns).reset_index()


def exponents(curves: pd.DataFrame) -> pd.DataFrame:
    """One row per curve of the part "growth": contender (what grows), smallest and largest size, and exponent: the
    slope of log median seconds over log size (1: linear)."""
    rows = []
    for name, curve in curves.groupby("contender", sort=False):
        seconds = curve.groupby("size")["seconds"].median()
        slope = np.polyfit(np.log(seconds.index.to_numpy(dtype=float)), np.log(seconds.to_numpy()), 1)[0]
        rows.append(dict(contender=name, smallest=seconds.index.min(), largest=seconds.index.max(), exponent=slope))
    return pd.DataFrame(rows)


def three_digits(value: float) -> str:
    """A number for a printed table: three significant digits, or whole thousands with commas."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
