"""The wheel contains every module and every data file that the package reads."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.slow
def test_the_wheel_contains_all_sub_packages_and_data_files(tmp_path):
    pytest.importorskip("setuptools")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "lmcl_core", tmp_path / "lmcl_core", ignore=ignored)
    for name in ("pyproject.toml", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    build = "from setuptools import build_meta; build_meta.build_wheel('wheel')"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "wheel").glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    wanted = [
        *(ROOT / "lmcl_core").rglob("*.py"),
        *(ROOT / "lmcl_core" / "scoring" / "bundled").iterdir(),
        ROOT / "lmcl_core" / "results" / "published.csv",
    ]
    assert {path.relative_to(ROOT).as_posix() for path in wanted} <= packed
