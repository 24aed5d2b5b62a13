"""The demo benchmark: built once and whole, honest about its labels, distorted by degrees."""

from __future__ import annotations

import errno
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from lmcl_core import BENCHMARKS, InputError, RunError, data_hash, load_benchmark, make_split, verify_benchmark
from lmcl_core import demo
from lmcl_core.paths import project_folder
from lmcl_core.demo import (
    DISTORTIONS,
    LABEL_FILE,
    LEVELS,
    SIDE,
    VERSION,
    build_demo,
    load_photographs,
    ms_ssim_db,
    region,
)

every_distortion = pytest.mark.parametrize("name", list(DISTORTIONS))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The demo in the cache folder that all tests of a session share."""
    return build_demo(tmp_path_factory.getbasetemp() / "cache" / f"demo-v{VERSION}" / "demo")


@pytest.fixture(scope="module")
def table(folder) -> pd.DataFrame:
    return load_benchmark("demo", folder)


@pytest.fixture(scope="module")
def photographs() -> dict[str, np.ndarray]:
    return load_photographs()


def distort(name: str, photograph: np.ndarray, level: int, seed: int = 0) -> np.ndarray:
    return DISTORTIONS[name](photograph, level, np.random.default_rng(seed))


def quick_build(folder: Path, photographs: object = None) -> None:
    """Stands for the slow part of a build."""
    (folder / "images").mkdir()
    (folder / LABEL_FILE).write_text("new")


def test_all_pictures_are_there(table, folder):
    assert len(table) == BENCHMARKS["demo"].count == 360
    assert table["content"].nunique() == 12 and table["distortion"].nunique() == 6
    assert sorted(table["level"].unique()) == list(range(1, LEVELS + 1))
    assert (table.groupby(["content", "distortion", "level"]).size() == 1).all()
    assert sorted(path.name for path in folder.iterdir()) == ["images", LABEL_FILE]


def test_the_distortions_are_those_of_csiq():
    assert set(DISTORTIONS) == {"white noise", "JPEG", "JPEG 2000", "blur", "contrast", "pink noise"}


def test_the_table_keeps_the_contract(table):
    assert list(table.columns) == ["image", "mos", "content", "distortion", "level", "official_split"]
    assert table["mos"].dtype == np.float64 and table["level"].dtype == "Int64"
    assert table["official_split"].isna().all() and table["image"].is_monotonic_increasing
    assert table.attrs["benchmark"] == "demo" and Path(table.attrs["label_file"]).name == LABEL_FILE


def test_labels_are_finite_and_in_range(table):
    low, high = table.attrs["mos_range"]
    assert np.isfinite(table["mos"]).all() and table["mos"].between(low, high).all()
    assert table["mos"].nunique() > 300


@every_distortion
def test_quality_falls_with_every_level(table, name):
    means = table[table["distortion"] == name].groupby("level")["mos"].mean()
    assert (means.diff().dropna() < -0.5).all()


def test_quality_falls_from_the_first_to_the_last_level_of_every_picture(table):
    ends = table.pivot(index=["content", "distortion"], columns="level", values="mos")
    assert (ends[1] > ends[LEVELS]).all()


def test_the_labels_are_called_a_proxy():
    benchmark = BENCHMARKS["demo"]
    assert "PROXY" in benchmark.label_kind and "not people" in benchmark.label_kind and "proxy" in benchmark.title


def test_every_picture_has_the_agreed_side(table):
    for image in table["image"][::24]:
        with Image.open(Path(table.attrs["root"]) / image) as picture:
            assert picture.size == (SIDE, SIDE) and picture.mode == "RGB"


@pytest.mark.parametrize("row", [0, 17, 250, 359])
def test_a_picture_and_its_label_can_be_made_again(table, photographs, row):
    entry = table.iloc[row]
    rng = np.random.default_rng([ord(letter) for letter in f"{entry.content}/{entry.distortion}"])
    pristine = region(photographs[entry.content], rng)
    for level in range(entry.level):
        pixels = DISTORTIONS[entry.distortion](pristine, level, rng)
    assert np.array_equal(np.asarray(Image.open(Path(table.attrs["root"]) / entry.image)), pixels)
    assert ms_ssim_db(pristine, pixels) == pytest.approx(entry.mos, abs=1e-3)


@every_distortion
def test_a_distortion_is_the_same_for_the_same_seed(photographs, name):
    photograph = photographs["coffee"]
    before = photograph.copy()
    pixels = distort(name, photograph, 2)
    assert np.array_equal(pixels, distort(name, photograph, 2)) and np.array_equal(photograph, before)
    assert pixels.shape == photograph.shape and pixels.dtype == np.uint8 and not np.array_equal(pixels, photograph)
    assert np.array_equal(pixels, distort(name, photograph, 2, seed=1)) == ("noise" not in name)


def test_pink_noise_is_coarser_than_white_noise():
    grey = np.full((128, 128, 3), 128, dtype=np.uint8)

    def between_neighbours(name: str) -> float:
        pixels = distort(name, grey, 2)[..., 0].astype(float)
        return np.corrcoef(pixels[:, :-1].ravel(), pixels[:, 1:].ravel())[0, 1]

    assert between_neighbours("pink noise") > 0.5 and abs(between_neighbours("white noise")) < 0.1


def test_the_proxy_is_capped_for_an_untouched_picture(photographs):
    photograph = photographs["coffee"]
    assert ms_ssim_db(photograph, photograph) == pytest.approx(40)


def test_the_doctor_finds_it_sound(folder):
    assert verify_benchmark("demo", folder, deep=True) == [] == verify_benchmark("demo", folder.parent)


def test_the_doctor_sees_labels_turned_round(folder, tmp_path):
    (tmp_path / "images").symlink_to(folder / "images")
    labels = pd.read_csv(folder / LABEL_FILE)
    labels.assign(mos=40 - labels["mos"]).to_csv(tmp_path / LABEL_FILE, index=False)
    assert "wrong_direction" in {fault.kind for fault in verify_benchmark("demo", tmp_path)}


@pytest.mark.parametrize("index", range(10))
def test_no_photograph_is_shared_by_the_parts_of_a_split(table, index):
    split = make_split(table, index, val=0.2)
    train, val, test = (set(table["content"].iloc[part]) for part in split)
    assert (len(train), len(val), len(test)) == (8, 2, 2) and len(train | val | test) == 12


def test_without_a_root_the_one_in_the_cache_is_taken(folder, table):
    found = load_benchmark("demo")
    assert found.attrs["root"] == str(folder) and found.equals(table) and data_hash(found) == data_hash(table)


def test_a_whole_demo_is_not_built_again(folder, monkeypatch):
    monkeypatch.setattr(demo, "_build_into", None)
    assert build_demo(folder) == folder == build_demo()


def test_a_folder_without_labels_is_not_trusted(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_build_into", quick_build)
    (tmp_path / "demo" / "images").mkdir(parents=True)
    with pytest.raises(InputError, match="lacks labels.csv: move it away"):
        build_demo(tmp_path / "demo")
    (tmp_path / "demo" / "images").rmdir()
    assert (build_demo(tmp_path / "demo") / LABEL_FILE).read_text() == "new"


def test_what_a_killed_build_left_is_neither_trusted_nor_kept(tmp_path, monkeypatch):
    def killed(folder: Path, photographs: object) -> None:
        (folder / LABEL_FILE).write_text("old")
        os._exit(9)

    monkeypatch.setattr(demo, "_build_into", killed)
    child = multiprocessing.get_context("fork").Process(target=build_demo, args=[tmp_path / "demo"])
    child.start()
    child.join()
    assert child.exitcode == 9 and list(tmp_path.rglob(LABEL_FILE)) and not (tmp_path / "demo").exists()
    monkeypatch.setattr(demo, "_build_into", quick_build)
    assert (build_demo(tmp_path / "demo") / LABEL_FILE).read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["demo"]


def test_a_build_that_is_stopped_leaves_nothing(tmp_path, monkeypatch):
    def stopped(folder: Path, photographs: object) -> None:
        (folder / "images").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "_build_into", stopped)
    with pytest.raises(KeyboardInterrupt):
        build_demo(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch):
    def full(folder: Path, photographs: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(demo, "_build_into", full)
    with pytest.raises(RunError, match=r"disk full while saving .*demo"):
        build_demo(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_of_someone_s_own_files_is_not_deleted(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_build_into", quick_build)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "thesis.tex").write_text("years of work")
    try:
        build_demo(tmp_path / "demo")
    except (InputError, RunError) as error:
        assert str(tmp_path / "demo") in str(error)
    assert (tmp_path / "demo" / "thesis.tex").read_text() == "years of work"


def test_who_comes_while_the_demo_is_built_waits_for_it(tmp_path, monkeypatch):
    begun, built = threading.Event(), []

    def slow(folder: Path, photographs: object) -> None:
        begun.set()
        time.sleep(0.3)
        quick_build(folder)
        built.append(folder)

    monkeypatch.setattr(demo, "_build_into", slow)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(build_demo, tmp_path / "demo")
        begun.wait()
        second = pool.submit(build_demo, tmp_path / "demo")
        assert (second.result() / LABEL_FILE).is_file() and first.result() == second.result()
    assert len(built) == 1 and [path.name for path in tmp_path.iterdir()] == ["demo"]


@pytest.mark.parametrize("package", ["scikit-image", "scikit-learn", "matplotlib"])
def test_a_missing_package_is_named(monkeypatch, package):
    import importlib.util

    missing = {"scikit-image": "skimage", "scikit-learn": "sklearn"}.get(package, package)
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == missing else find(name, *rest))
    with pytest.raises((InputError, RunError), match=f"pip install {package}"):
        load_photographs()


def test_the_recipe_of_pictures_does_not_depend_on_the_process(photographs):
    code = (
        "import numpy as np, zlib; from lmcl_core.demo import DISTORTIONS;"
        "p = np.arange(64 * 64 * 3, dtype=np.uint8).reshape(64, 64, 3);"
        "print([zlib.crc32(f(p, 1, np.random.default_rng(5)).tobytes()) for f in DISTORTIONS.values()])"
    )
    said = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(said) == 1


def test_labels_do_not_depend_on_how_many_threads_there_are(tmp_path):
    """They are those that notebook 01 shows; else results on record would be of other data."""
    shown = pd.read_csv(project_folder() / "figures" / "demo" / "01_mos_histogram.csv").set_index("image")["mos"]
    photographs = {"astronaut": demo.load_photographs()["astronaut"]}
    before = torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            folder = tmp_path / str(threads)
            folder.mkdir()
            demo._build_into(folder, photographs)
            assert torch.get_num_threads() == threads
            found = pd.read_csv(folder / demo.LABEL_FILE).set_index("image")["mos"]
            assert len(found) == 30 and (found == shown[found.index]).all()
    finally:
        torch.set_num_threads(before)
