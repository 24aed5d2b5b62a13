"""What the tests share: a tiny benchmark in LIVEC's official layout, and folders of their own to write to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

LIVEC_NAMES = [f"t{n}.bmp" for n in range(1, 8)] + [
    "10.bmp",
    "100.bmp",
    "3.JPG",
    "4.JPG",
    "5.bmp",
    "6.bmp",
    "7.JPG",
    "8.bmp",
    "9.JPG",
    "11.bmp",
    "12.bmp",
    "13.JPG",
]


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


def write_livec(parent: Path, seed: int = 0) -> Path:
    """ChallengeDB_release: 7 training pictures and 12 rated ones, names and shapes of the .mat files as released."""
    folder = parent / "ChallengeDB_release"
    (folder / "Images" / "trainingImages").mkdir(parents=True)
    (folder / "Data").mkdir()
    rng = np.random.default_rng(seed)
    for n, name in enumerate(LIVEC_NAMES):
        size = (60, 40) if name == "6.bmp" else (48, 48)  # width, height: one picture that is not square
        pixels = rng.integers(0, 256, (size[1] // 4, size[0] // 4, 3), dtype=np.uint8)
        where = folder / "Images" / ("trainingImages" if n < 7 else "") / name
        Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(
            where, "JPEG" if name.endswith("JPG") else "BMP"
        )
    names = np.empty((len(LIVEC_NAMES), 1), dtype=object)
    names[:, 0] = [np.array([name]) for name in LIVEC_NAMES]
    mos = np.concatenate([np.full(7, 1.0), np.linspace(5, 90, len(LIVEC_NAMES) - 7)])
    savemat(folder / "Data" / "AllImages_release.mat", {"AllImages_release": names})
    savemat(folder / "Data" / "AllMOS_release.mat", {"AllMOS_release": mos[None, :]})
    return folder


@pytest.fixture
def livec(tmp_path: Path) -> Path:
    """The parent folder of a tiny, sound copy of LIVEC's layout."""
    write_livec(tmp_path)
    return tmp_path
