"""The demo benchmark, built on the spot: photographs that installed libraries ship, distorted at known levels.

Its labels are a PROXY, the multi-scale structural similarity to the pristine photograph in decibels. They are not
people's opinions and no result on them says anything about people.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from .distortions import DISTORTIONS, LEVELS
from .errors import InputError, save_failed
from .locks import alone
from .paths import cache_folder

VERSION = 2  # part of the cached folder's name; to be raised when pictures or labels change
LABEL_FILE = "labels.csv"
SIDE = 256

_SKIMAGE = ("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "ihc", "motorcycle_left")

#: Photographs by the package that ships them and its import name, as paths inside the package. Left out are pictures
#: that look like noise (grass, gravel, stars) or are mostly smooth (moon, retina): no reference, no telling.
PHOTOGRAPHS = {
    ("scikit-image", "skimage"): [*(f"data/{name}.png" for name in _SKIMAGE), "data/rocket.jpg"],
    ("scikit-learn", "sklearn"): ["datasets/images/china.jpg", "datasets/images/flower.jpg"],
    ("matplotlib", "matplotlib"): ["mpl-data/sample_data/grace_hopper.jpg"],
}


def build_demo(folder: str | Path | None = None) -> Path:
    """Build the demo benchmark, or return it where it already stands whole.

    12 photographs x 6 distortions x 5 levels = 360 pictures of `SIDE` x `SIDE` pixels. Each distortion of a photograph
    is shown on a region of its own, so that a model cannot know a photograph by its layout.

    Args:
        folder: where; in the cache folder if None.

    Returns:
        The folder, holding ``images/`` and `LABEL_FILE`.

    Raises:
        RunError: it cannot be saved.
    """
    folder = Path(folder) if folder is not None else cache_folder() / f"demo-v{VERSION}" / "demo"
    if (folder / LABEL_FILE).is_file():
        return folder
    with alone(folder.with_name(f".{folder.name}.lock")):
        if not (folder / LABEL_FILE).is_file():  # somebody else may just have built it
            _build(folder)
    return folder


def _build(folder: Path) -> None:
    """Build the demo beside its place, then move it there whole."""
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} is not the demo, it lacks {LABEL_FILE}: move it away, or set LMCL_CACHE elsewhere")
    photographs = load_photographs()
    building = folder.with_name(f".{folder.name}-building")
    try:
        if building.exists():  # of a build that was killed
            shutil.rmtree(building)
        building.mkdir()
        try:
            _build_into(building, photographs)
            os.replace(building, folder)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    except OSError as error:
        raise save_failed(folder, error) from error


def load_photographs() -> dict[str, np.ndarray]:
    """The pristine photographs, by name, as (H, W, 3) uint8 RGB of any size.

    Raises:
        InputError: a package that ships some of them is not installed.
    """
    photographs = {}
    for (package, module), paths in PHOTOGRAPHS.items():
        spec = importlib.util.find_spec(module)
        if spec is None:
            raise InputError(f"the demo's photographs of {package} are not installed: run `pip install {package}`")
        base = Path(spec.submodule_search_locations[0])
        for path in paths:
            photographs[Path(path).stem] = np.asarray(Image.open(base / path).convert("RGB"))
    return photographs


def region(photograph: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random square of a photograph, at least 60 % of its short side and `SIDE` pixels wide, brought to `SIDE`.

    Args:
        photograph: (H, W, 3) uint8, at least `SIDE` pixels high and wide.
        rng: draws size and place.

    Returns:
        (SIDE, SIDE, 3) uint8.
    """
    height, width, _ = photograph.shape
    short = min(height, width)
    side = int(rng.integers(max(SIDE, int(0.6 * short)), short + 1))
    top, left = (int(rng.integers(0, extent - side + 1)) for extent in (height, width))
    square = Image.fromarray(photograph[top : top + side, left : left + side])
    return np.asarray(square.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def _build_into(folder: Path, photographs: dict[str, np.ndarray]) -> None:
    (folder / "images").mkdir()

    def make(item: tuple[str, np.ndarray, str]) -> list[dict[str, object]]:
        content, photograph, name = item
        rng = np.random.default_rng([ord(c) for c in f"{content}/{name}"])
        pristine, rows = region(photograph, rng), []
        for level in range(1, LEVELS + 1):
            distorted = DISTORTIONS[name](pristine, level - 1, rng)
            image = f"images/{content}.{name.replace(' ', '_')}.{level}.png"
            Image.fromarray(distorted).save(folder / image, compress_level=1)
            mos = ms_ssim_db(pristine, distorted)
            rows.append(dict(image=image, mos=mos, content=content, distortion=name, level=level))
        return rows

    work = [(*item, name) for item in photographs.items() for name in DISTORTIONS]
    with _same_sums(), ThreadPoolExecutor(os.cpu_count()) as pool:
        rows = [row for rows in pool.map(make, work) for row in rows]
    pd.DataFrame(rows).to_csv(folder / LABEL_FILE, index=False, float_format="%.4f")


@contextmanager
def _same_sums() -> Iterator[None]:
    """Two threads of torch an operation, on whatever machine: with one, six of the labels round otherwise."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def ms_ssim_db(reference: np.ndarray, distorted: np.ndarray) -> float:
    """The proxy label: multi-scale structural similarity in decibels, -10·log10(1 - MS-SSIM), higher is better.

    Args:
        reference: (H, W, 3) uint8.
        distorted: (H, W, 3) uint8.

    Returns:
        dB, at most 40.
    """
    import torch
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim

    a, b = (torch.from_numpy(x.astype(np.float32)).permute(2, 0, 1)[None] for x in (distorted, reference))
    return float(-10 * np.log10(max(1 - float(ms_ssim(a, b, data_range=255.0)), 1e-4)))
