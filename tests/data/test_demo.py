"""The demo benchmark is built once and completely, is the same everywhere, and calls its labels a proxy."""

from __future__ import annotations

import errno
import multiprocessing
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from lmcl_core import BENCHMARKS, InputError, RunError, data_hash, load_benchmark, verify_benchmark
from lmcl_core.common.paths import project_folder
from lmcl_core.data import demo
from lmcl_core.data.demo import LABEL_FILE, SIDE, VERSION, build_demo, load_photographs, ms_ssim_db
from lmcl_core.data.distortions import LEVELS


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The demo in the cache folder that all tests of a session share."""
    return build_demo(tmp_path_factory.getbasetemp() / "cache" / f"demo-v{VERSION}" / "demo")


@pytest.fixture(scope="module")
def table(folder) -> pd.DataFrame:
    return load_benchmark("demo", folder)


def quick_build(folder: Path, photographs: object = None) -> None:
    """Replaces the slow part of a build."""
    (folder / "images").mkdir()
    (folder / LABEL_FILE).write_text("new")


@pytest.mark.slow
def test_all_images_are_there_and_the_table_keeps_the_contract(table, folder):
    assert len(table) == BENCHMARKS["demo"].count == 360
    assert sorted(path.name for path in folder.iterdir()) == ["images", LABEL_FILE]
    assert table["content"].nunique() == 12 and table["distortion"].nunique() == 6
    assert sorted(table["level"].unique()) == list(range(1, LEVELS + 1))
    assert (table.groupby(["content", "distortion", "level"]).size() == 1).all()
    assert list(table.columns) == ["image", "mos", "content", "distortion", "level", "official_split"]
    assert table["mos"].dtype == np.float64 and table["level"].dtype == "Int64"
    assert table["official_split"].isna().all() and table["image"].is_monotonic_increasing
    assert table["mos"].between(*table.attrs["mos_range"]).all() and table["mos"].nunique() > 300
    assert table.attrs["benchmark"] == "demo" and Path(table.attrs["label_file"]).name == LABEL_FILE
    for image in table["image"][::24]:
        with Image.open(folder / image) as opened:
            assert opened.size == (SIDE, SIDE) and opened.mode == "RGB"


@pytest.mark.slow
def test_the_demo_is_that_of_the_recorded_results_and_quality_falls_with_every_level(table):
    recorded = pd.read_csv(project_folder() / "figures" / "demo" / "records.csv", usecols=["data_hash"])
    assert set(recorded["data_hash"]) == {data_hash(table)}
    means = table.groupby(["distortion", "level"])["mos"].mean().unstack()
    assert (means.diff(axis=1).iloc[:, 1:] < -0.5).all(axis=None)
    ends = table.pivot(index=["content", "distortion"], columns="level", values="mos")
    assert (ends[1] > ends[LEVELS]).all()


@pytest.mark.slow
def test_the_proxy_of_an_undistorted_image_is_40_decibels():
    photograph = load_photographs()["coffee"]
    assert ms_ssim_db(photograph, photograph) == pytest.approx(40)


@pytest.mark.slow
def test_verify_finds_the_demo_sound_and_inverted_labels_faulty(folder, tmp_path):
    assert verify_benchmark("demo", folder, deep=True) == [] == verify_benchmark("demo", folder.parent)
    (tmp_path / "images").symlink_to(folder / "images")
    labels = pd.read_csv(folder / LABEL_FILE)
    labels.assign(mos=40 - labels["mos"]).to_csv(tmp_path / LABEL_FILE, index=False)
    assert "wrong_direction" in {fault.kind for fault in verify_benchmark("demo", tmp_path)}


@pytest.mark.slow
def test_a_finished_demo_is_found_in_the_cache_and_not_built_again(folder, table, monkeypatch):
    monkeypatch.setattr(demo, "_build_into", None)
    assert build_demo(folder) == folder == build_demo()
    found = load_benchmark("demo")
    assert found.attrs["root"] == str(folder) and found.equals(table)


def test_a_folder_with_other_files_is_refused_and_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_build_into", quick_build)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=f"{tmp_path / 'demo'} is not the demo, it lacks labels.csv: move it away"):
        build_demo(tmp_path / "demo")
    assert (tmp_path / "demo" / "thesis.tex").read_text() == "years of work"
    (tmp_path / "demo" / "thesis.tex").unlink()
    assert (build_demo(tmp_path / "demo") / LABEL_FILE).read_text() == "new"


def test_leftovers_of_a_killed_build_are_neither_used_nor_kept(tmp_path, monkeypatch):
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


def test_a_build_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def fail(folder: Path, photographs: object) -> None:
        (folder / "images").mkdir()
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(demo, "_build_into", fail)
    with pytest.raises(RunError, match=r"disk full while saving .*demo"):
        build_demo(tmp_path / "demo")
    assert list(tmp_path.iterdir()) == []


def test_a_second_caller_waits_for_a_build_in_progress(tmp_path, monkeypatch):
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


@pytest.mark.slow
def test_labels_are_those_on_record_for_any_number_of_threads(tmp_path):
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
