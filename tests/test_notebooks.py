"""What every committed notebook must be, before nbval runs it."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
FIXTURES = Path(__file__).parent / "fixtures"
LOADERS = ("load_benchmark", "verify_benchmark", "choose_benchmarks")


def code_cells(path: Path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def tags(cell) -> list[str]:
    return cell.metadata.get("tags", [])


def test_the_first_cell_says_question_inputs_outputs_and_minutes():
    for path in NOTEBOOKS:
        first = nbformat.read(path, as_version=4).cells[0]
        assert first.cell_type == "markdown"
        for word in ("**Question.**", "Inputs", "Outputs", "Minutes", "GPU", "Paper"):
            assert word in first.source


def test_the_second_cell_alone_holds_the_parameters_as_plain_literals():
    for path in NOTEBOOKS:
        cells = nbformat.read(path, as_version=4).cells
        assert [n for n, cell in enumerate(cells) if "parameters" in tags(cell)] == [1]
        for node in ast.parse(cells[1].source).body:
            assert isinstance(node, ast.AnnAssign) and isinstance(ast.literal_eval(node.value), (int, float, str, dict))
        assert all("#" in line for line in cells[1].source.splitlines())


def test_it_was_run_in_order_and_its_outputs_are_checked_and_can_be_read_by_everybody():
    for path in NOTEBOOKS:
        cells = code_cells(path)
        assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
        checked = [cell for cell in cells if "nbval-check-output" in tags(cell)]
        assert checked and all(cell.outputs for cell in checked)
        assert "widgets" not in nbformat.read(path, as_version=4).metadata
        for output in [output for cell in cells for output in cell.outputs]:
            assert output.output_type != "error" and output.get("name") != "stderr", output
            assert "application/vnd.jupyter.widget-view+json" not in output.get("data", {}), "GitHub shows no widgets"
            for kind in {"image/png", "image/jpeg"} & set(output.get("data", {})):
                assert len(output.metadata.get(kind, {}).get("alt", "")) > 20, "no alternative text"


def test_it_defines_no_model_loss_or_metric_and_its_cells_are_short():
    for path in NOTEBOOKS:
        for cell in code_cells(path):
            assert len(cell.source.splitlines()) <= 25
            source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))
            assert not any(isinstance(node, ast.ClassDef) for node in ast.walk(ast.parse(source)))


def test_it_is_small_and_names_no_place_on_a_machine():
    for path in NOTEBOOKS:
        text = path.read_text()
        assert len(text) < 1_000_000
        for word in (*(f"/{top}/" for top in ("home", "root", "tmp")), "site-packages"):
            assert word not in text


def test_the_parameter_benchmark_may_be_a_path_and_is_used_only_to_load():
    """Folders of runs and figures are named after the table's benchmark."""
    for path in NOTEBOOKS:
        loading, used = [], []
        for cell in code_cells(path)[1:]:
            source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))
            for node in ast.walk(ast.parse(source)):
                used += [node] if isinstance(node, ast.Name) and node.id == "benchmark" else []
                if isinstance(node, ast.Call) and getattr(node.func, "attr", "") in LOADERS:
                    loading += [one for one in node.args if isinstance(one, ast.Name)]
        assert set(used) <= set(loading)


def nbval(path: Path) -> int:
    options = ["--nbval-lax", "--nbval-current-env", "-q", "-p", "no:cacheprovider", "-c", "/dev/null"]
    return subprocess.run([sys.executable, "-m", "pytest", *options, str(path)], capture_output=True).returncode


@pytest.mark.slow
def test_a_notebook_whose_stored_output_is_wrong_fails_and_one_whose_output_is_right_passes(tmp_path):
    assert nbval(FIXTURES / "must_fail.ipynb") == 1
    book = nbformat.read(FIXTURES / "must_fail.ipynb", as_version=4)
    book.cells[1].outputs[0].text = "2\n"
    nbformat.write(book, tmp_path / "right.ipynb")
    assert nbval(tmp_path / "right.ipynb") == 0
