"""Tables and pictures of what `bench` measured."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from . import bench, result_figures, runs
from .figures import save, save_table
from .files import ensure_writable


class Report:
    """Tables and pictures of one order, kept up to date while its parts are measured.

    ``repetitions.csv`` holds every repetition with what was measured on what; ``costs`` and ``growth``, each as CSV,
    PNG and PDF, what came of them. An order of some parts alone adds their names to the files', so that a whole bench
    is not written over.

    Args:
        order: what is measured.
        folder: where the files go.

    Raises:
        RunError: nothing can be written there.
    """

    def __init__(self, order: bench.Order, folder: str | Path) -> None:
        whole = set(order.parts) == set(bench.PARTS)
        self.folder = Path(folder)
        self.suffix = "" if whole else "_" + "-".join(part for part in bench.PARTS if part in order.parts)
        self.note = bench.machine(order.device)
        commit = runs.provenance()["commit"]
        self.about = dict(benchmark=order.benchmark, images=order.images, machine=self.note, commit=commit or "unknown")
        self.costs, self.growth = pd.DataFrame(), pd.DataFrame()
        ensure_writable(self.folder)

    def write(self, found: pd.DataFrame) -> None:
        """Write everything anew.

        Args:
            found: repetitions so far, as `bench.bench` returns them.
        """
        save_table(found.assign(**self.about), self.folder, f"repetitions{self.suffix}")
        curves = found[found["part"] == "growth"]
        if len(curves) < len(found):
            self.costs = bench.summary(found[found["part"] != "growth"])
            save(result_figures.costs(self.costs), self.costs, self.folder, f"costs{self.suffix}", self.note)
        if len(curves):
            self.growth = bench.exponents(found)
            figure = result_figures.growth(curves, self.growth)
            save(figure, self.growth, self.folder, f"growth{self.suffix}", self.note)
