"""Every kind of fault is found in every benchmark, with its place and its fix."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from layouts import COUNTS, LABEL_FILES, LAYOUTS, write_demo
from PIL import Image

from lmcl_core import BENCHMARKS, Fault, InputError, data_hash, load_benchmark, verify_benchmark
from lmcl_core.data.images import decode
from lmcl_core.data.verify import image_fault, write_known_good

pytestmark = pytest.mark.usefixtures("small_counts")
every_layout = pytest.mark.parametrize("name", LAYOUTS)
some_layouts = pytest.mark.parametrize("name", ["live", "csiq", "livefb"])

#: Scores with the opposite direction within their range, as the label file holds them.
REVERSED = dict(
    live=lambda s: 100 - s, csiq=lambda s: 1 - s, tid2013=lambda s: 7.4 - s, kadid10k=lambda s: round(5.9 - s, 3)
)


@pytest.fixture
def images(livec) -> Path:
    return livec.resolve() / "ChallengeDB_release" / "Images"


def kinds(root: Path, deep: bool = False, name: str = "livec") -> list[str]:
    return [fault.kind for fault in verify_benchmark(name, root, deep)]


def only_fault(root: Path, deep: bool = False, name: str = "livec") -> Fault:
    faults = verify_benchmark(name, root, deep)
    assert len(faults) == 1, faults
    return faults[0]


@every_layout
def test_a_sound_folder_has_no_faults_and_is_not_changed(tmp_path, name, capfd):
    def state():
        return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in tmp_path.rglob("*")}

    LAYOUTS[name](tmp_path)
    before = state()
    assert verify_benchmark(name, tmp_path) == [] == verify_benchmark(name, str(tmp_path), deep=True)
    assert state() == before and capfd.readouterr() == ("", "")


@every_layout
def test_a_missing_or_damaged_label_file_is_one_fault(tmp_path, name):
    folder = LAYOUTS[name](tmp_path).resolve()
    for path in (folder / file for file in LABEL_FILES[name]):
        content = path.read_bytes()
        for damage in (b"", b"\0\1\2\xff\xfe", b"<html>404 Not Found</html>\n"):
            path.write_bytes(damage)
            fault = only_fault(tmp_path, name=name)
            assert fault.kind in ("missing_label_file", "bad_label_column") and str(path) in fault.where
            assert "\n" not in str(fault)
        path.unlink()
        fault = only_fault(tmp_path, name=name)
        assert fault.kind == "missing_label_file" and fault.where == str(path) and fault.fix
        path.write_bytes(content)
    assert kinds(tmp_path, name=name) == []


@every_layout
def test_a_missing_column_is_named(tmp_path, name):
    LAYOUTS[name](tmp_path, column="elsewhere")
    fault = only_fault(tmp_path, name=name)
    column = dict(tid2013="name", live="dmos_new", livec="AllMOS_release", csiq="dmos", kadid10k="dmos", livefb="mos")
    assert fault.kind == "bad_label_column" and fault.where.endswith(f": {column.get(name, 'MOS')}")


@every_layout
def test_a_score_that_is_not_a_number_is_a_bad_row(tmp_path, name):
    scores = []

    def spoil_the_ninth(score: float) -> object:
        scores.append(score)
        return "good" if len(scores) == 9 else score

    LAYOUTS[name](tmp_path, change=spoil_the_ninth)
    fault = only_fault(tmp_path, name=name)
    assert fault.kind == "bad_label_row" and fault.fix.startswith("1 scores are not finite")
    with pytest.raises(InputError, match="bad_label_row"):
        load_benchmark(name, tmp_path)


RANGES = [(name, lambda s: s * 20 + 5) for name in LAYOUTS] + [("livec", lambda s: s / 500 + 3)]


@pytest.mark.parametrize("name, change", RANGES, ids=[*LAYOUTS, "too narrow"])
def test_scores_of_another_range_are_reported_with_both_ranges(tmp_path, name, change):
    LAYOUTS[name](tmp_path, change=change)
    fault = only_fault(tmp_path, name=name)
    low, high = BENCHMARKS[name].mos_range
    assert fault.kind == "wrong_range" and f"spans {low}..{high}" in fault.fix


@pytest.mark.parametrize("name", REVERSED)
def test_scores_of_the_wrong_direction_are_reported(tmp_path, name):
    LAYOUTS[name](tmp_path, change=REVERSED[name])
    fault = only_fault(tmp_path, name=name)
    assert fault.kind == "wrong_direction" and "official label file" in fault.fix


@some_layouts
def test_faults_of_images_are_found_one_by_one(tmp_path, monkeypatch, name):
    LAYOUTS[name](tmp_path)
    path = tmp_path.resolve() / load_benchmark(name, tmp_path)["image"][1]
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    for deep in (False, True):
        fault = only_fault(tmp_path, deep, name)
        assert fault.kind == "unreadable_image" and fault.where == str(path) and "download this file" in fault.fix
    path.write_bytes(content)
    shutil.copy(path, path.with_stem("mine"))
    fault = only_fault(tmp_path, name=name)
    assert fault.kind == "extra_image" and fault.where == str(path.with_stem("mine"))
    path.with_stem("mine").unlink()
    path.unlink()
    fault = only_fault(tmp_path, name=name)
    assert fault.kind == "missing_image" and Path(fault.where).name.lower() == path.name.lower()
    path.write_bytes(content)
    monkeypatch.setitem(BENCHMARKS, name, dataclasses.replace(BENCHMARKS[name], count=9999))
    fault = only_fault(tmp_path, name=name)
    assert fault.kind == "wrong_count" and f"{COUNTS[name]} rated images" in fault.fix and "9999" in fault.fix


@pytest.mark.parametrize(
    "name, inner", [("live", "wn"), ("csiq", "dst_imgs"), ("koniq10k", "1024x768"), ("livefb", "voc_emotic_ava")]
)
def test_a_missing_folder_of_images_is_one_fault(tmp_path, name, inner):
    shutil.rmtree(LAYOUTS[name](tmp_path) / inner)
    fault = only_fault(tmp_path, name=name)
    assert fault.kind == "missing_folder" and BENCHMARKS[name].folder in fault.where
    with pytest.raises(InputError):
        load_benchmark(name, tmp_path)


def test_several_faults_are_all_reported(livec, images):
    for name in ("5.bmp", "3.JPG"):
        (images / name).unlink()
    (images / "6.bmp").write_bytes(b"")
    shutil.copy(images / "8.bmp", images / "mine.bmp")
    faults = verify_benchmark("livec", livec)
    assert [(fault.kind, Path(fault.where).name) for fault in faults] == [
        ("missing_image", "3.JPG"),
        ("missing_image", "5.bmp"),
        ("extra_image", "mine.bmp"),
        ("unreadable_image", "6.bmp"),
    ]
    assert str(faults[1]) == f"missing_image: {images}/5.bmp: in the label file but missing: unpack the archive again"


def test_an_image_saved_under_another_extension_is_to_be_renamed(livec, images):
    Image.new("L", (31, 77)).save(images / "5.bmp")  # another size or mode is no fault
    (images / "4.JPG").rename(images / "4.jpeg")
    fault = only_fault(livec)
    assert fault.kind == "missing_image" and fault.where.endswith("4.JPG") and "rename Images/4.jpeg" in fault.fix
    (images / "Images").mkdir()
    (images / "4.jpeg").rename(images / "Images" / "4.JPG")
    assert "it is in Images/Images/, move it up" in only_fault(livec).fix
    (images / "Images" / "4.JPG").rename(fault.where)
    assert verify_benchmark("livec", livec, deep=True) == []


@pytest.mark.parametrize("suffix", [".bmp", ".jpg", ".png"])
def test_a_damaged_file_is_unreadable_but_data_after_the_image_are_no_fault(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(path)
    data = path.read_bytes()
    for damaged in (b"", b"<html>404 Not Found</html>\n" * 40, data[:20], data[: len(data) // 2]):
        path.write_bytes(damaged)
        assert image_fault(path, deep=False) and image_fault(path, deep=True)
        with pytest.raises(InputError):
            decode(path)
    path.write_bytes(data + b"x" * 5000)  # as some phones write it
    assert image_fault(path, deep=False) is None is image_fault(path, deep=True)
    if suffix != ".jpg":
        path.write_bytes(data[: -1 if suffix == ".bmp" else -12])
        assert "truncated" in image_fault(path, deep=False) and "truncated" in image_fault(path, deep=True)
    path.unlink()
    os.mkfifo(path)
    assert image_fault(path, deep=False).startswith("not a regular file")  # and it is not waited for
    path.unlink()
    if suffix != ".bmp":
        path.write_bytes(data[: len(data) // 2] + b"\xff\xd8" * 50 + data[len(data) // 2 + 100 :])
        assert image_fault(path, deep=False) is None and image_fault(path, deep=True)


def test_files_are_compared_with_a_known_good_list(livec, images, tmp_path):
    """A JPEG file with zeros in the middle still decodes."""
    good, path = tmp_path / "good.txt", images / "3.JPG"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)).save(path, quality=90)
    write_known_good(good, "livec", livec)
    assert f"{hashlib.sha256(path.read_bytes()).hexdigest()}  Images/3.JPG" in good.read_text().splitlines()
    assert verify_benchmark("livec", livec, hashes=good) == []
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(200) + content[len(content) // 2 + 200 :])
    assert verify_benchmark("livec", livec, deep=True) == []
    (fault,) = verify_benchmark("livec", livec, hashes=good)
    assert fault.kind == "unreadable_image" and fault.where == str(path) and "SHA-256 differs" in fault.fix
    good.write_text("\n".join(line for line in good.read_text().splitlines() if "/3.JPG" not in line))
    (fault,) = verify_benchmark("livec", livec, hashes=good)
    assert fault.where == str(path) and f"not in {good}" in fault.fix
    with pytest.raises(InputError, match="good.txt exists"):
        write_known_good(good, "livec", livec)
    good.write_text("hash name")
    for bad, message in (
        (good, "line 1 is not a SHA-256"),
        (tmp_path / "none", "cannot be read"),
        (tmp_path, "is not a file"),
    ):
        with pytest.raises(InputError, match=message):
            verify_benchmark("livec", livec, hashes=bad)


@pytest.mark.parametrize(
    "name, inner", [("livec", "Images"), ("live", "wn"), ("koniq10k", "1024x768"), ("csiq", "blur")]
)
def test_a_folder_in_a_folder_of_its_name_is_found(tmp_path, name, inner):
    folder = LAYOUTS[name](tmp_path)
    before = data_hash(load_benchmark(name, tmp_path))
    outer = next(path for path in folder.rglob(inner) if path.is_dir())
    outer.rename(tmp_path / "moved")
    outer.mkdir()
    (tmp_path / "moved").rename(outer / inner)
    after = load_benchmark(name, tmp_path)
    assert verify_benchmark(name, tmp_path) == [] and data_hash(after) == before


def test_an_image_without_read_permission_is_not_called_damaged(livec, monkeypatch):
    opened = Image.open

    def guarded(path, *args):
        if path.name == "5.bmp":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args)

    monkeypatch.setattr(Image, "open", guarded)
    assert str(only_fault(livec)).endswith("5.bmp: no permission to read it: change its permissions")


def test_scores_of_the_demo_must_fall_with_the_level(tmp_path, monkeypatch):
    monkeypatch.setitem(BENCHMARKS, "demo", dataclasses.replace(BENCHMARKS["demo"], count=15))
    path = write_demo(tmp_path) / "labels.csv"
    assert verify_benchmark("demo", tmp_path) == []
    table = pd.read_csv(path)
    table.assign(mos=table["level"] * 5.0).to_csv(path, index=False)
    fault = only_fault(tmp_path, name="demo")
    assert fault.kind == "wrong_direction" and "fall" in fault.fix
