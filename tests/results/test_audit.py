"""The audit passes on the committed results, and finds what was altered."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from lmcl_core.results import audit

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A copy of the committed pages and tables that the audit reads; the images of LIVEC are not at hand."""
    keep = shutil.ignore_patterns("*.png", "*.pdf", "__pycache__", "*.safetensors")
    for name in ("figures", "notebooks", "lmcl_core"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=keep)
    shutil.copy(ROOT / "README.md", tmp_path)
    monkeypatch.setattr(audit, "project_folder", lambda: tmp_path)
    return tmp_path


def test_committed_results_agree_with_each_other(checkout):
    lines = []
    assert audit.audit(log=lines.append) == []
    assert any(line.startswith("livec/records.csv: ") and line.endswith("images not at hand") for line in lines)


@pytest.mark.parametrize(
    "check, file, old, new, problem",
    [
        (audit._check_rows, "livec/05_results.csv", "0.826321", "0.926321", "PLCC 0.926321: no such run"),
        (audit._check_derived, "livec/05_against_quality.csv", "quality loss alone", "quality", "title: quality, and"),
        (audit._check_derived, "livec/03_published.csv", "0.8", "0.9", ": 0.9.*, and 0.8.* when computed from"),
        (audit._check_pages, "../README.md", "# ", "PLCC is 0.98765. # ", "README.md: 0.98765 is in no table"),
    ],
)
def test_what_was_altered_is_found(check, file, old, new, problem, checkout):
    path = checkout / "figures" / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    found = list(check(checkout / "figures" if check is audit._check_pages else path.parent))
    assert any(re.search(problem, str(line)) for line in found), found[:5]


def test_recipes_and_predictions_of_records_are_computed_again(checkout):
    path = checkout / "figures" / "livec" / "records.csv"
    path.write_text(path.read_text().replace('""epochs"": 7', '""epochs"": 8', 1))
    found = [problem for _, problem in audit._check_records(path.parent, "", lambda line: None)]
    assert len(found) == 1 and "recipe_hash is" in found[0]
