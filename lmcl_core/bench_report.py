"""Tables and pictures of what `bench` measured."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from . import bench, result_figures, runs
from .figures import save, save_table
from .files import ensure_writable


class Report:
    """Tables and pictures of one order, kept up to date while its parts are measured.

    ``repetitions.csv`` holds every repetition with what was measured on what; ``costs`` and ``growth``, each as CSV,
    PNG and PDF, what came of them. An order of some parts alone adds their names to the files', so that a whole bench
    is not written over; one that is not done yet adds "unfinished".

    Args:
        order: what is measured.
        folder: where the files go.

    Raises:
        RunError: nothing can be written there.
    """

    def __init__(self, order: bench.Order, folder: str | Path) -> None:
        self.folder, self.parts = Path(folder), [part for part in bench.PARTS if part in order.parts]
        self.suffix = "" if self.parts == list(bench.PARTS) else "_" + "-".join(self.parts)
        self.note, commit = bench.machine(order.device), runs.commit_in_words(runs.provenance())
        about = dict(benchmark=order.benchmark, images_at_most=order.images, changes=json.dumps(order.changes))
        self.about = about | dict(machine=self.note, commit=commit)
        self.costs, self.growth = pd.DataFrame(), pd.DataFrame()
        self.done = 0
        ensure_writable(self.folder)

    def write(self, found: pd.DataFrame) -> None:
        """Write everything anew, after one more part.

        Args:
            found: repetitions so far, as `bench.bench` returns them.

        Raises:
            RunError: it cannot be written.
        """
        self.done += 1
        whole = self.done == len(self.parts)
        suffix = self.suffix if whole else f"{self.suffix}_unfinished"
        save_table(found.assign(**self.about), self.folder, f"repetitions{suffix}")
        curves = found[found["part"] == "growth"]
        if len(curves) < len(found):
            self.costs = bench.summary(found[found["part"] != "growth"])
            save(result_figures.costs(self.costs), self.costs, self.folder, f"costs{suffix}", self.note)
        if len(curves):
            self.growth = bench.exponents(found)
            shown = curves[["contender", "size", "repetition", "seconds"]].merge(self.growth)
            save(result_figures.growth(curves, self.growth), shown, self.folder, f"growth{suffix}", self.note)
        if whole:
            for name in ("repetitions", "costs", "growth"):
                for left in self.folder.glob(f"{name}{self.suffix}_unfinished.*"):
                    left.unlink(missing_ok=True)
