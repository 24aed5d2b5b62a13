"""The demo benchmark: photographs shipped with installed libraries, distorted at known levels.

Its labels are a PROXY, the multi-scale structural similarity to the pristine photograph in decibels. They are not
opinion scores, and results on them say nothing about human judgement.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from ..common.errors import InputError, save_failed
from ..common.files import file_lock
from ..common.paths import cache_folder
from ..common.progress import bar
from .distortions import DISTORTIONS, LEVELS

VERSION = 2  # part of the cached folder's name; raise it when images or labels change
LABEL_FILE = "labels.csv"
SIDE = 256

_SKIMAGE = ("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "ihc", "motorcycle_left")

#: Photographs by package and import name, as paths inside the package. Images that look like noise (grass, gravel,
#: stars) or are mostly smooth (moon, retina) are left out: their quality cannot be judged without a reference.
PHOTOGRAPHS = {
    ("scikit-image", "skimage"): [*(f"data/{name}.png" for name in _SKIMAGE), "data/rocket.jpg"],
    ("scikit-learn", "sklearn"): ["datasets/images/china.jpg", "datasets/images/flower.jpg"],
    ("matplotlib", "matplotlib"): ["mpl-data/sample_data/grace_hopper.jpg"],
}


def build_demo(folder: str | Path | None = None) -> Path:
    """Build the demo benchmark in a folder, by default one in the cache, unless it is there; returns the folder.

    12 photographs x 6 distortions x 5 levels make 360 images of `SIDE` x `SIDE` pixels. Each distortion of a photograph
    uses another region, so that a model cannot recognise a photograph by its layout. InputError: the folder holds other
    files, or a package with photographs is not installed. RunError: the demo cannot be saved.
    """
    folder = Path(folder) if folder is not None else cache_folder() / f"demo-v{VERSION}" / "demo"
    if not (folder / LABEL_FILE).is_file():
        with file_lock(folder.with_name(f".{folder.name}.lock")):
            if not (folder / LABEL_FILE).is_file():  # another process may have built it meanwhile
                _build(folder)
    return folder


def _build(folder: Path) -> None:
    """Build the demo in a temporary folder and rename it when it is complete."""
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"{folder} is not the demo, it lacks {LABEL_FILE}: move it away, or set LMCL_CACHE elsewhere")
    photographs = load_photographs()
    temporary = folder.with_name(f".{folder.name}-building")
    try:
        shutil.rmtree(temporary, ignore_errors=True)  # left by a killed process
        temporary.mkdir()
        _build_into(temporary, photographs)
        os.replace(temporary, folder)
    except OSError as error:
        raise save_failed(folder, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def load_photographs() -> dict[str, np.ndarray]:
    """The pristine photographs by name, as (H, W, 3) uint8 RGB of different sizes."""
    photographs = {}
    for (package, module), paths in PHOTOGRAPHS.items():
        spec = importlib.util.find_spec(module)
        if spec is None:
            raise InputError(f"the demo needs the photographs of {package}: run `pip install {package}`")
        base = Path(spec.submodule_search_locations[0])
        for path in paths:
            photographs[Path(path).stem] = np.asarray(Image.open(base / path).convert("RGB"))
    return photographs


def region(photograph: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a square of at least `SIDE` pixels and 60 % of the short side of a photograph, resized to `SIDE`."""
    height, width, _ = photograph.shape
    short = min(height, width)
    side = int(rng.integers(max(SIDE, int(0.6 * short)), short + 1))
    top, left = (int(rng.integers(0, extent - side + 1)) for extent in (height, width))
    square = Image.fromarray(photograph[top : top + side, left : left + side])
    return np.asarray(square.resize((SIDE, SIDE), Image.Resampling.LANCZOS))


def _build_into(folder: Path, photographs: dict[str, np.ndarray]) -> None:
    """Write all images and the label file."""
    import torch

    (folder / "images").mkdir()
    threads = torch.get_num_threads()
    torch.set_num_threads(2)  # a fixed number: the rounding of the labels depends on it
    try:
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            work = [(folder, content, photographs[content], name) for content in photographs for name in DISTORTIONS]
            distorted = bar(pool.map(_distort, *zip(*work)), len(work), "building the demo")
            rows = [row for rows in distorted for row in rows]
    finally:
        torch.set_num_threads(threads)
    pd.DataFrame(rows).to_csv(folder / LABEL_FILE, index=False, float_format="%.4f")


def _distort(folder: Path, content: str, photograph: np.ndarray, name: str) -> list[dict[str, object]]:
    """Write one photograph with one distortion at all levels; returns its rows of the label file."""
    rng = np.random.default_rng([ord(letter) for letter in f"{content}/{name}"])
    pristine, rows = region(photograph, rng), []
    for level in range(1, LEVELS + 1):
        distorted = DISTORTIONS[name](pristine, level - 1, rng)
        image = f"images/{content}.{name.replace(' ', '_')}.{level}.png"
        Image.fromarray(distorted).save(folder / image, compress_level=1)
        mos = ms_ssim_db(pristine, distorted)
        rows.append(dict(image=image, mos=mos, content=content, distortion=name, level=level))
    return rows


def ms_ssim_db(reference: np.ndarray, distorted: np.ndarray) -> float:
    """The proxy label, -10·log10(1 - MS-SSIM) of two (H, W, 3) uint8 images: decibels, higher is better, at most 40."""
    import torch
    from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim

    a, b = (torch.from_numpy(x.astype(np.float32)).permute(2, 0, 1)[None] for x in (distorted, reference))
    return float(-10 * np.log10(max(1 - float(ms_ssim(a, b, data_range=255.0)), 1e-4)))
