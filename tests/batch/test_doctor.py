"""What `lmcl doctor` reports, and when it counts as a fault."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

from lmcl_core.batch import doctor
from lmcl_core.common import paths


def levels(findings, word: str) -> list[str]:
    return [level for level, text in findings if word in text]


def test_a_missing_package_is_a_fault_and_another_version_a_note(monkeypatch):
    real = metadata.version

    def version(name):
        if name == "papermill":
            raise metadata.PackageNotFoundError(name)
        return {"timm": "0.1", "numpy": real("numpy") + "+local"}.get(name) or real(name)

    monkeypatch.setattr(metadata, "version", version)
    found = list(doctor._packages())
    assert levels(found, "papermill is not installed: run `rm -f .venv/ready") == ["fault"]
    assert levels(found, "timm is 0.1, environment.yml has ==") == ["note"] and not levels(found, "numpy")


def test_without_a_checkout_the_lower_bounds_of_the_package_count(monkeypatch, tmp_path):
    monkeypatch.setattr(paths, "__file__", str(tmp_path / "lmcl_core" / "common" / "paths.py"))
    lines = ["torch>=2.11", "numpy>=99", 'papermill>=99; extra == "batch"']
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    found = list(doctor._packages())
    assert len(found) == 1 and levels(found, ">=99: ") == ["note"]
    monkeypatch.delenv("LMCL_RUNS")
    assert levels(doctor._disks(), "work from a checkout") == ["fault"]


def test_benchmarks_in_a_folder_are_named(livec, tmp_path):
    assert levels(doctor._data(str(livec)), "livec: 12 images") == ["ok"]
    (livec / "ChallengeDB_release" / "Images" / "5.bmp").unlink()
    assert levels(doctor._data(str(livec)), "no benchmark can be read") == ["note"]


@pytest.mark.slow
def test_a_broken_torch_is_a_fault_and_the_other_checks_go_on(tmp_path):
    (tmp_path / "torch.py").write_text("raise ImportError('libgomp is missing')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from lmcl_core.cli import main; main(['doctor'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "fault torch cannot be imported" in done.stdout, done.stderr
    assert "free for runs" in done.stdout and "lmcl: 2 faults found" in done.stderr
