"""Results beside the reference: tolerances from repetitions, verdicts, the report, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lmcl_core import InputError
from lmcl_core.cli import main
from lmcl_core.results import reproduction
from lmcl_core.results.reproduction import compare, measure_tolerances, quantities, report


def write(folder: Path, plcc: tuple[float, ...] = (0.8, 0.7), first: int = 0, **changed: str) -> Path:
    """A small folder of results."""
    folder.mkdir(parents=True)
    splits = range(first, first + len(plcc))
    pd.DataFrame(dict(split=splits, plcc=plcc, srcc=0.5, rmse=3.0)).to_csv(folder / "03_results.csv", index=False)
    facts = dict(recipe_hash="a", data_hash="b", split_hash="c", precision="32-true", threads=1, processor="P")
    facts |= dict(torch="2.11", commit="d") | changed
    pd.DataFrame([dict(split=n, **facts) for n in splits]).to_csv(folder / "03_runs.csv", index=False)
    measured = dict(recipe="lmcl", split=0)
    pd.DataFrame([dict(measured, measure="knn_mos_error", value=2.0)]).to_csv(folder / "04_separation.csv", index=False)
    order = [dict(measured, distortion=name, pairs_in_order=value) for name, value in (("blur", 1.0), ("noise", 0.5))]
    pd.DataFrame(order).to_csv(folder / "04_order_kept.csv", index=False)
    return folder


def reference(folder: Path, **changed: str) -> Path:
    write(folder, **changed)
    kinds = ["plcc", "srcc", "rmse", "knn_mos_error", "pairs_in_order"]
    pd.DataFrame(dict(kind=kinds, tolerance=0.05)).to_csv(folder / "tolerances.csv", index=False)
    return folder


def test_every_number_of_the_tables_is_a_quantity(tmp_path):
    found = quantities(write(tmp_path / "demo")).set_index(["kind", "cell"])["value"]
    assert len(found) == 2 * 3 + 2
    assert found["plcc", "lmcl, split 1"] == 0.7
    assert found["pairs_in_order", "lmcl, split 0"] == 0.75
    assert set(found.index.get_level_values("kind")) <= set(reproduction.KINDS)


def test_tolerances_hold_for_repetitions_of_the_same_spread():
    rng = np.random.default_rng(0)

    def repetition() -> pd.DataFrame:
        cells = [f"lmcl, split {n}" for n in range(5)]
        return pd.DataFrame(dict(kind="plcc", cell=cells, value=0.8 + 0.01 * rng.standard_normal(5)))

    found = measure_tolerances([repetition() for _ in range(8)]).iloc[0]
    assert found["sd"] == pytest.approx(0.01, rel=0.3) and (found["cells"], found["repeats"]) == (5, 8)
    pairs = 0.01 * rng.standard_normal((1000, 2, 5))
    assert (abs(pairs[:, 0] - pairs[:, 1]) <= found["tolerance"]).all(axis=1).mean() > 0.97
    assert found["tolerance"] < 0.08  # and not by being huge


def test_a_difference_above_the_tolerance_is_outside(tmp_path):
    base = reference(tmp_path / "reference" / "demo")
    found = compare(write(tmp_path / "own" / "demo", plcc=(0.84, 0.6), precision="bf16-mixed"), base)
    verdicts = found.table.set_index("quantity")["verdict"]
    assert verdicts["PLCC, lmcl, split 0"] == "within" and verdicts["PLCC, lmcl, split 1"] == "outside"
    assert found.summary == "demo: 7 of 8 quantities within tolerance"
    assert found.machines["precision"].to_dict() == {"reference": "32-true", "yours": "bf16-mixed"}


def test_the_report_is_one_page_that_shows_both_sides(tmp_path):
    base, own, lines = reference(tmp_path / "reference" / "demo"), write(tmp_path / "own" / "demo"), []
    for folder in (base, own):
        (folder / "03_scores.png").write_bytes(b"png of " + folder.parent.name.encode())
    report(own, base, lines.append)
    page = (own / "reproduction.html").read_text()
    assert page.count("data:image/png;base64,") == 2 and "http" not in page
    assert "8 of 8 quantities within tolerance" in page and "04_umap" not in page
    assert len(pd.read_csv(own / "reproduction.csv")) == 8
    assert "8 of 8" in lines[0] and lines[1].endswith("reproduction.html")


def test_rows_from_records_are_told_apart_from_a_reproduction(tmp_path):
    base, own, lines = reference(tmp_path / "reference" / "demo"), write(tmp_path / "own" / "demo", torch=""), []
    report(own, base, lines.append)
    assert "from records, nothing was trained: splits 0, 1" in lines[0]
    assert lines[0].endswith("8 of 8 quantities within tolerance (rows from records are no reproduction)")
    assert "nothing was trained: splits 0, 1" in (own / "reproduction.html").read_text()


@pytest.mark.parametrize(
    "changed, message", [(dict(recipe_hash="x"), "made with another recipe"), (dict(first=2), "no split in common")]
)
def test_results_of_another_version_are_not_compared(tmp_path, changed, message):
    base = reference(tmp_path / "reference" / "demo")
    with pytest.raises(InputError, match=message):
        compare(write(tmp_path / "own" / "demo", **changed), base)


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """A function that runs ``lmcl compare`` on a folder of runs, and returns its exit code and what it printed."""
    monkeypatch.delenv("LMCL_FIGURES")

    def run() -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(["compare", "--runs-dir", str(tmp_path / "runs"), "--reference", str(tmp_path / "reference")])
        return stopped.value.code, *capsys.readouterr()

    return run


@pytest.mark.parametrize("content", [None, "", "kind,tolerance\nplcc,abc\n"])
def test_the_command_tells_a_missing_or_damaged_table(tmp_path, command, content):
    base = reference(tmp_path / "reference" / "demo")
    write(tmp_path / "runs" / "figures" / "demo")
    (base / "tolerances.csv").unlink()
    if content is not None:
        (base / "tolerances.csv").write_text(content)
    code, _, said = command()
    assert code == 2 and "tolerances.csv" in said and said.count("\n") == 1


def test_the_command_finds_the_figures_of_a_folder_of_runs_and_exits_with_the_verdict(tmp_path, command):
    reference(tmp_path / "reference" / "demo")
    own = write(tmp_path / "runs" / "figures" / "demo")
    code, printed, _ = command()
    assert code == 0 and "8 of 8" in printed
    shutil.rmtree(own)
    write(own, plcc=(0.8, 0.1))
    code, printed, said = command()
    assert code == 1 and "7 of 8" in printed and "missing or outside tolerance: PLCC, lmcl, split 1." in said


def test_a_quantity_that_is_missing_or_no_number_is_outside(tmp_path):
    base, own = reference(tmp_path / "reference" / "demo"), write(tmp_path / "own" / "demo")
    (own / "04_separation.csv").unlink()
    found = compare(own, base)
    assert found.outside == 2 and len(found.table) == 8  # the neighbours' error and the order of levels
    assert set(found.table["verdict"]) == {"within", "missing"} and "nan" in found.to_text().lower()


def test_only_common_splits_are_expected(tmp_path):
    base = reference(tmp_path / "reference" / "demo")
    found = compare(write(tmp_path / "own" / "demo", plcc=(0.7,), first=1), base)
    assert found.outside == 0 and [name for name in found.table["quantity"] if "split 0" in name] == []
