"""What the tests share: a tiny benchmark in LIVEC's official layout, and folders of their own to write to."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, settings
from layouts import COUNTS, write_livec, write_own
from mutations import tried
from offline.fixture import no_network  # noqa: F401

from lmcl_core import BENCHMARKS, QualityModel, Recipe, Split
from lmcl_core.runs.model_file import save_model

# Fuzz tests try the same few inputs each time; `make fuzz` tries many others.
FUZZ = dict(deadline=None, database=None, print_blob=True, suppress_health_check=list(HealthCheck))
settings.register_profile("check", max_examples=8, derandomize=True, **FUZZ)
settings.register_profile("fuzz", max_examples=int(os.environ.get("EXAMPLES", 1500)), **FUZZ)
settings.load_profile("check")


OFFLINE = str(Path(__file__).parent / "offline")  # Python imports the module sitecustomize from there when it starts
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [OFFLINE, os.environ.get("PYTHONPATH")]))


def pytest_runtest_teardown(item):
    """Hand the number of inputs that a fuzz test has tried to the process that reports."""
    item.user_properties += tried.items()
    tried.clear()


def pytest_terminal_summary(terminalreporter, config):
    """`make fuzz` ends with the number of inputs and results of each kind."""
    counts = Counter()
    for report in [one for reports in terminalreporter.stats.values() for one in reports if hasattr(one, "when")]:
        counts.update(dict(report.user_properties) if report.when == "teardown" else {})
    if counts and config.getoption("--hypothesis-profile", None) == "fuzz":
        terminalreporter.write_line(
            f"inputs and results: {', '.join(f'{n} {kind}' for kind, n in sorted(counts.items()))}"
        )


def pytest_collection_modifyitems(items):
    """The longest module comes first, so that no process waits for another one at the end: `make test` hands modules
    out whole, in this order."""
    items.sort(key=lambda item: item.path.name != "test_reproduce.py")


@pytest.fixture(autouse=True)
def own_folders(tmp_path_factory, monkeypatch):
    """Caches, runs and figures of a test never touch the user's."""
    monkeypatch.setenv("LMCL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.setenv("LMCL_RUNS", str(tmp_path_factory.getbasetemp() / "runs"))
    monkeypatch.setenv("LMCL_FIGURES", str(tmp_path_factory.getbasetemp() / "figures"))


@pytest.fixture(autouse=True)
def unchanged_global_randomness():
    """No part of the package may draw from, or seed, torch's global generator."""
    before = torch.random.get_rng_state()
    yield
    assert torch.equal(before, torch.random.get_rng_state()), "the global generator of torch was used"


@pytest.fixture
def livec(tmp_path: Path) -> Path:
    """The parent folder of a tiny, sound copy of LIVEC's layout."""
    write_livec(tmp_path)
    return tmp_path


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A folder with a benchmark.toml, twelve small images and their labels."""
    return write_own(tmp_path / "data" / "some folder")


@pytest.fixture
def small_counts(monkeypatch):
    """The small layouts are as complete as the benchmarks they stand for."""
    for name, count in COUNTS.items():
        monkeypatch.setitem(BENCHMARKS, name, dataclasses.replace(BENCHMARKS[name], count=count))


@pytest.fixture(scope="session")
def weights(tmp_path_factory) -> Path:
    """A model file with random weights, 3 test crops of 32 pixels, and a largest short side of 120 pixels."""
    table = pd.DataFrame({"mos": np.arange(0, 101, dtype=float)})
    table.attrs.update(benchmark="livec", mos_range=(0.0, 100.0))
    path = tmp_path_factory.mktemp("run") / "model.safetensors"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = QualityModel(pretrained=False, crop_size=32).eval()
    split = Split(np.arange(0, 81), np.array([], dtype=int), np.arange(81, 101), 0)
    recipe = Recipe(pretrained=False, crop_size=32, test_crops=3, precision="32-true")
    save_model(path, model, recipe.to_dict(), table, split, mos_mean=55.0, mos_std=12.0, largest_short_side=120)
    return path
