"""The dataset doctor finds what is wrong, says where, and how to mend it."""

from __future__ import annotations

import dataclasses
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy.io import loadmat, savemat

from layouts import LABEL_FILES, LAYOUTS
from lmcl_core import BENCHMARKS, Fault, InputError, load_benchmark, verify_benchmark
from lmcl_core.readers_authentic import KONIQ_SETS
from lmcl_core.store import decode
from lmcl_core.verify import picture_fault


@pytest.fixture(autouse=True)
def twelve_images_are_complete(monkeypatch):
    monkeypatch.setitem(BENCHMARKS, "livec", dataclasses.replace(BENCHMARKS["livec"], count=12))


@pytest.fixture
def folder(livec) -> Path:
    return livec / "ChallengeDB_release"


def kinds(root: Path, deep: bool = False, name: str = "livec") -> list[str]:
    return [fault.kind for fault in verify_benchmark(name, root, deep)]


def only_fault(root: Path, deep: bool = False, name: str = "livec") -> Fault:
    faults = verify_benchmark(name, root, deep)
    assert len(faults) == 1, faults
    return faults[0]


def change_scores(folder: Path, change) -> None:
    path = folder / "Data" / "AllMOS_release.mat"
    savemat(path, {"AllMOS_release": change(loadmat(path)["AllMOS_release"])})


def write_demo(folder: Path, **columns) -> Path:
    """A demo of 15 tiny pictures whose scores fall with the level."""
    (folder / "images").mkdir(parents=True)
    rows = [(f"images/{c}.{level}.png", 30.0 - 5 * level, c, "blur", level) for c in "abc" for level in range(1, 6)]
    for row in rows:
        Image.new("RGB", (8, 8)).save(folder / row[0])
    table = pd.DataFrame(rows, columns=["image", "mos", "content", "distortion", "level"]).assign(**columns)
    table.to_csv(folder / "labels.csv", index=False)
    return folder


@pytest.fixture
def small_demo(tmp_path, monkeypatch) -> Path:
    monkeypatch.setitem(BENCHMARKS, "demo", dataclasses.replace(BENCHMARKS["demo"], count=15))
    return write_demo(tmp_path / "demo")


@pytest.mark.parametrize("deep", [False, True])
def test_a_sound_folder_has_no_faults_whichever_root_is_given(livec, folder, deep):
    assert verify_benchmark("livec", livec, deep) == [] == verify_benchmark("livec", str(folder), deep)


def test_nothing_is_changed(livec):
    def state():
        return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in livec.rglob("*")}

    before = state()
    verify_benchmark("livec", livec, deep=True)
    assert state() == before


def test_a_missing_folder_is_one_fault(tmp_path):
    fault = only_fault(tmp_path / "no")
    assert fault.kind == "missing_folder" and str(tmp_path / "no") in fault.where and "ChallengeDB" in fault.fix


@pytest.mark.parametrize("name", ["AllImages_release.mat", "AllMOS_release.mat"])
def test_a_missing_label_file_is_one_fault(livec, folder, name):
    (folder / "Data" / name).unlink()
    fault = only_fault(livec)
    assert fault.kind == "missing_label_file" and fault.where.endswith(name) and fault.fix


def test_a_label_file_with_another_variable_is_a_bad_column(livec, folder):
    savemat(folder / "Data" / "AllMOS_release.mat", {"scores": np.ones((1, 19))})
    fault = only_fault(livec)
    assert fault.kind == "bad_label_column" and "AllMOS_release" in fault.where


def test_a_score_that_is_no_number_is_a_bad_row_named_by_its_image(livec, folder):
    def spoil(scores):
        scores[0, 10] = np.nan
        return scores

    change_scores(folder, spoil)
    fault = only_fault(livec)
    assert fault.kind == "bad_label_row" and "4.JPG" in fault.where


def test_scores_that_are_all_no_numbers_are_reported(livec, folder):
    change_scores(folder, lambda scores: scores * np.nan)
    fault = only_fault(livec)
    assert fault.kind == "bad_label_row" and fault.fix.startswith("12 scores")


def test_scores_that_are_text_are_reported(livec, folder):
    change_scores(folder, lambda scores: np.array([["good"] * scores.size], dtype=object))
    assert only_fault(livec).kind in ("bad_label_row", "bad_label_column")


def test_fewer_scores_than_names_is_a_bad_row(livec, folder):
    change_scores(folder, lambda scores: scores[:, :-1])
    assert only_fault(livec).kind == "bad_label_row"


def test_every_missing_image_is_named(livec, folder):
    for name in ("5.bmp", "3.JPG"):
        (folder / "Images" / name).unlink()
    faults = verify_benchmark("livec", livec)
    assert [(fault.kind, Path(fault.where).name) for fault in faults] == [
        ("missing_image", "3.JPG"),
        ("missing_image", "5.bmp"),
    ]
    assert all("unpack" in fault.fix for fault in faults)


def test_an_image_that_is_not_rated_is_extra(livec, folder):
    shutil.copy(folder / "Images" / "5.bmp", folder / "Images" / "mine.bmp")
    fault = only_fault(livec)
    assert fault.kind == "extra_image" and fault.where.endswith("mine.bmp")


def test_what_archives_leave_behind_is_no_fault(livec, folder):
    shutil.copytree(folder / "Images", folder / "__MACOSX" / "Images")
    for name in (".DS_Store", "._10.bmp", "Thumbs.db"):
        (folder / "Images" / name).write_bytes(b"\0")
    assert kinds(livec) == []


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("name", ["5.bmp", "3.JPG"])
@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[: len(data) // 2], id="cut in half"),
        pytest.param(lambda data: data[:20], id="cut in the header"),
        pytest.param(lambda data: b"", id="empty"),
        pytest.param(lambda data: b"<html>404 Not Found</html>\n" * 40, id="a text"),
    ],
)
def test_an_unreadable_image_is_named(livec, folder, name, damage, deep):
    path = folder / "Images" / name
    path.write_bytes(damage(path.read_bytes()))
    fault = only_fault(livec, deep)
    assert fault.kind == "unreadable_image" and fault.where == str(path.resolve()) and "fetch this file" in fault.fix


@pytest.mark.parametrize("missing", [1, 40])
def test_a_bitmap_that_lacks_its_last_bytes_is_found(livec, folder, missing):
    path = folder / "Images" / "5.bmp"
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(InputError):
        decode(path)
    assert kinds(livec) == ["unreadable_image"]


def test_a_jpeg_damaged_in_the_middle_is_found_by_decoding(livec, folder):
    path = folder / "Images" / "3.JPG"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + b"\xff\xd8" * 50 + data[len(data) // 2 + 100 :])
    assert kinds(livec) == [] and kinds(livec, deep=True) == ["unreadable_image"]


def test_a_png_damaged_in_the_middle_is_found_by_decoding(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 255
    path.write_bytes(data)
    assert picture_fault(path, deep=False) is None and picture_fault(path, deep=True) is not None


def test_a_png_without_its_end_is_found(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (32, 32)).save(path)
    path.write_bytes(path.read_bytes()[:-12])
    assert "truncated" in picture_fault(path, deep=False)


def test_a_pipe_in_place_of_a_picture_is_told_and_not_waited_for(livec, folder):
    path = folder / "Images" / "5.bmp"
    path.unlink()
    os.mkfifo(path)
    (fault,) = verify_benchmark("livec", livec)
    assert "it is no file" in str(fault)


def test_a_picture_that_may_not_be_read_is_not_called_damaged(livec, monkeypatch):
    opened = Image.open

    def guarded(path, *args):
        if path.name == "5.bmp":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *args)

    monkeypatch.setattr(Image, "open", guarded)
    (fault,) = verify_benchmark("livec", livec)
    assert str(fault).endswith("5.bmp: it may not be read: give yourself permission to read it")


def test_a_link_in_a_circle_hides_no_benchmark(livec):
    (livec / "loop").symlink_to("loop")
    assert verify_benchmark("livec", livec) == [] and len(load_benchmark("livec", livec)) == 12


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_what_a_phone_writes_behind_a_picture_is_no_fault(tmp_path, name):
    path = tmp_path / name
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    whole = path.read_bytes()
    path.write_bytes(whole + b"x" * 5000)
    assert picture_fault(path, deep=False) is None
    path.write_bytes(whole[: len(whole) // 2])
    assert "truncated" in picture_fault(path, deep=False)


def test_a_header_that_claims_a_gigantic_picture_is_unreadable(livec, folder):
    path = folder / "Images" / "5.bmp"
    data = bytearray(path.read_bytes())
    data[18:26] = (60000).to_bytes(4, "little") * 2
    path.write_bytes(data)
    assert only_fault(livec).kind == "unreadable_image"


def test_a_picture_of_another_size_is_no_fault(livec, folder):
    Image.new("RGB", (31, 77)).save(folder / "Images" / "5.bmp")
    Image.new("L", (10, 10)).save(folder / "Images" / "3.JPG", "JPEG")
    assert kinds(livec) == [] == kinds(livec, deep=True)


def test_another_number_of_images_is_a_wrong_count(livec, monkeypatch):
    monkeypatch.setitem(BENCHMARKS, "livec", dataclasses.replace(BENCHMARKS["livec"], count=1162))
    fault = only_fault(livec)
    assert fault.kind == "wrong_count" and "12 rated images" in fault.fix and "1162" in fault.fix


@pytest.mark.parametrize("change", [lambda s: s / 20, lambda s: s * 2, lambda s: s - 50, lambda s: s - 3.0])
def test_scores_out_of_range_are_a_wrong_range(livec, folder, change):
    change_scores(folder, change)
    fault = only_fault(livec)
    assert fault.kind == "wrong_range" and "3.42..92.43" in fault.fix


def test_several_faults_are_all_reported(livec, folder):
    (folder / "Images" / "5.bmp").unlink()
    (folder / "Images" / "6.bmp").write_bytes(b"")
    shutil.copy(folder / "Images" / "8.bmp", folder / "Images" / "mine.bmp")
    change_scores(folder, lambda scores: scores * 2)
    assert kinds(livec) == ["missing_image", "extra_image", "unreadable_image", "wrong_range"]


def test_a_fault_reads_as_kind_place_and_fix():
    assert str(Fault("missing_image", "a/b.png", "unpack it again")) == "missing_image: a/b.png: unpack it again"


def test_a_small_demo_is_sound(small_demo):
    assert verify_benchmark("demo", small_demo) == [] and len(load_benchmark("demo", small_demo)) == 15


def test_scores_that_rise_with_the_level_have_the_wrong_direction(small_demo):
    table = pd.read_csv(small_demo / "labels.csv")
    table.assign(mos=table["level"] * 5.0).to_csv(small_demo / "labels.csv", index=False)
    fault = only_fault(small_demo, name="demo")
    assert fault.kind == "wrong_direction" and "fall" in fault.fix


@pytest.mark.parametrize("column", ["image", "mos", "content", "distortion", "level"])
def test_a_missing_column_of_the_demo_is_named(small_demo, column):
    pd.read_csv(small_demo / "labels.csv").drop(columns=column).to_csv(small_demo / "labels.csv", index=False)
    fault = only_fault(small_demo, name="demo")
    assert fault.kind == "bad_label_column" and fault.where.endswith(column)


@pytest.mark.parametrize(
    "text",
    ["", '\0\1\2\n,,,\n"', "image,mos,content,distortion,level\nimages/a.1.png,1,a,blur,high\n"],
    ids=["empty", "garbage", "a level that is no number"],
)
def test_a_damaged_label_file_of_the_demo_is_a_fault_not_a_crash(small_demo, text):
    (small_demo / "labels.csv").write_text(text)
    assert verify_benchmark("demo", small_demo)
    with pytest.raises(InputError):
        load_benchmark("demo", small_demo)


def test_a_text_among_the_demo_s_scores_is_a_bad_row(small_demo):
    table = pd.read_csv(small_demo / "labels.csv").astype({"mos": object})
    table.loc[3, "mos"] = "good"
    table.to_csv(small_demo / "labels.csv", index=False)
    assert only_fault(small_demo, name="demo").kind == "bad_label_row"


def test_an_unknown_benchmark_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(InputError, match="did you mean 'livec'"):
        verify_benchmark("livecc", tmp_path)


def test_only_the_demo_goes_without_a_root():
    with pytest.raises(InputError, match="needs the folder"):
        verify_benchmark("livec", None)


every_layout = pytest.mark.parametrize("name", LAYOUTS)

#: Scores turned round within their range, as the label file holds them.
TURNED = dict(
    live=lambda s: 100 - s, csiq=lambda s: 1 - s, tid2013=lambda s: 7.4 - s, kadid10k=lambda s: round(5.9 - s, 3)
)


def spoil_one() -> object:
    """A change that makes a text of the ninth score, which is a rated picture's in every layout."""
    seen: list[float] = []

    def change(score: float) -> object:
        seen.append(score)
        return "good" if len(seen) == 9 else score

    return change


def a_picture(name: str, root: Path) -> Path:
    return root / load_benchmark(name, root)["image"][1]


@every_layout
def test_fault_missing_folder(tmp_path, small_counts, name):
    shutil.rmtree(LAYOUTS[name](tmp_path))
    fault = only_fault(tmp_path, name=name)
    assert fault.kind == "missing_folder" and f"{BENCHMARKS[name].folder}/" in fault.fix
    LAYOUTS[name](tmp_path)
    assert kinds(tmp_path, name=name) == []


@every_layout
def test_fault_missing_folder_of_pictures_is_one_line(tmp_path, small_counts, name):
    LAYOUTS[name](tmp_path)
    folder = a_picture(name, tmp_path).parent
    if name in ("csiq", "livefb"):
        folder = folder.parent / ("dst_imgs" if name == "csiq" else "voc_emotic_ava")
        folder = folder if folder.is_dir() else folder.parent
    shutil.rmtree(folder)
    found = verify_benchmark(name, tmp_path)
    assert [fault.kind for fault in found] == ["missing_folder"] and BENCHMARKS[name].folder in found[0].where
    with pytest.raises(InputError):
        load_benchmark(name, tmp_path)


@pytest.mark.parametrize("name, file", [(name, file) for name, files in LABEL_FILES.items() for file in files])
def test_fault_missing_label_file(tmp_path, small_counts, name, file):
    path = LAYOUTS[name](tmp_path) / file
    path.rename(tmp_path / "kept")
    fault = only_fault(tmp_path, name=name)
    assert fault.kind == "missing_label_file" and fault.where == str(path.resolve()) and fault.fix
    (tmp_path / "kept").rename(path)
    assert kinds(tmp_path, name=name) == []


@pytest.mark.parametrize(
    "damage", [b"", b"\0\1\2\xff\xfe", b"<html>404 Not Found</html>\n"], ids=["empty", "bytes", "page"]
)
@pytest.mark.parametrize("name, file", [(name, file) for name, files in LABEL_FILES.items() for file in files])
def test_fault_damaged_label_file(tmp_path, small_counts, name, file, damage):
    path = LAYOUTS[name](tmp_path) / file
    path.write_bytes(damage)
    fault = only_fault(tmp_path, name=name)
    assert fault.kind in ("missing_label_file", "bad_label_column") and str(path.resolve()) in fault.where
    assert "\n" not in str(fault)


@every_layout
def test_fault_bad_label_column(tmp_path, small_counts, name):
    LAYOUTS[name](tmp_path, column="elsewhere")
    fault = only_fault(tmp_path, name=name)
    wanted = dict(tid2013="name", live="dmos_new", livec="AllMOS_release", csiq="dmos", kadid10k="dmos", livefb="mos")
    assert fault.kind == "bad_label_column" and fault.where.endswith(f": {wanted.get(name, 'MOS')}")


@every_layout
def test_fault_bad_label_row(tmp_path, small_counts, name):
    LAYOUTS[name](tmp_path, change=spoil_one())
    fault = only_fault(tmp_path, name=name)
    assert fault.kind == "bad_label_row" and fault.fix.startswith("1 scores are not finite")
    with pytest.raises(InputError, match="bad_label_row"):
        load_benchmark(name, tmp_path)


@every_layout
def test_fault_missing_image(tmp_path, small_counts, name):
    LAYOUTS[name](tmp_path)
    path = a_picture(name, tmp_path)
    path.unlink()
    fault = only_fault(tmp_path, name=name)
    assert fault.kind == "missing_image" and Path(fault.where).name.lower() == path.name.lower()


@every_layout
def test_fault_extra_image(tmp_path, small_counts, name):
    LAYOUTS[name](tmp_path)
    path = a_picture(name, tmp_path)
    shutil.copy(path, path.with_stem("mine"))
    fault = only_fault(tmp_path, name=name)
    assert fault.kind == "extra_image" and Path(fault.where).stem == "mine"
    path.with_stem("mine").unlink()
    assert kinds(tmp_path, name=name) == []


@pytest.mark.parametrize("deep", [False, True])
@every_layout
def test_fault_unreadable_image(tmp_path, small_counts, name, deep):
    LAYOUTS[name](tmp_path)
    path = a_picture(name, tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    fault = only_fault(tmp_path, deep, name)
    assert fault.kind == "unreadable_image" and fault.where == str(path.resolve())


@every_layout
def test_fault_wrong_count(tmp_path, monkeypatch, name):
    count = len(load_benchmark(name, LAYOUTS[name](tmp_path)))
    monkeypatch.setitem(BENCHMARKS, name, dataclasses.replace(BENCHMARKS[name], count=9999))
    fault = only_fault(tmp_path, name=name)
    assert fault.kind == "wrong_count" and f"{count} rated images" in fault.fix
    assert "9999" in fault.fix


@pytest.mark.parametrize("change", [lambda s: s * 20 + 5, lambda s: s / 500 + 3], ids=["too wide", "too narrow"])
@every_layout
def test_fault_wrong_range(tmp_path, small_counts, name, change):
    LAYOUTS[name](tmp_path, change=change)
    fault = only_fault(tmp_path, name=name)
    low, high = BENCHMARKS[name].mos_range
    assert fault.kind == "wrong_range" and f"spans {low}..{high}" in fault.fix


@pytest.mark.parametrize("name", TURNED)
def test_fault_wrong_direction(tmp_path, small_counts, name):
    LAYOUTS[name](tmp_path, change=TURNED[name])
    fault = only_fault(tmp_path, name=name)
    assert fault.kind == "wrong_direction" and "official label file" in fault.fix


def test_no_bar_is_drawn_where_stderr_is_no_terminal(tmp_path, small_counts, capfd):
    LAYOUTS["spaq"](tmp_path)
    verify_benchmark("spaq", tmp_path, deep=True)
    assert capfd.readouterr() == ("", "")


def test_a_picture_saved_under_another_extension_is_to_be_renamed_not_thrown_out(livec, folder):
    (folder / "Images" / "4.JPG").rename(folder / "Images" / "4.jpeg")
    fault = only_fault(livec)
    assert fault.kind == "missing_image" and fault.where.endswith("4.JPG") and "rename Images/4.jpeg" in fault.fix
    (folder / "Images" / "4.jpeg").rename(fault.where)
    assert verify_benchmark("livec", livec) == []


def test_a_picture_of_csiq_that_is_there_twice_is_kept_where_it_belongs(tmp_path, small_counts):
    folder = LAYOUTS["csiq"](tmp_path)
    shutil.copy(folder / "dst_imgs/jpeg/1600.JPEG.1.png", folder / "dst_imgs/blur")
    fault = only_fault(tmp_path, name="csiq")
    assert fault.kind == "extra_image" and fault.where.endswith("dst_imgs/blur/1600.JPEG.1.png")
    Path(fault.where).unlink()
    assert verify_benchmark("csiq", tmp_path) == []


def test_a_missing_picture_of_csiq_is_named_where_it_belongs(tmp_path, small_counts):
    folder = LAYOUTS["csiq"](tmp_path)
    (folder / "dst_imgs/blur/1600.BLUR.1.png").unlink()
    fault = only_fault(tmp_path, name="csiq")
    assert fault.kind == "missing_image" and fault.where.endswith("dst_imgs/blur/1600.BLUR.1.png")


def test_a_missing_folder_of_one_distortion_is_one_fault(tmp_path, small_counts):
    shutil.rmtree(LAYOUTS["csiq"](tmp_path) / "dst_imgs" / "blur")
    fault = only_fault(tmp_path, name="csiq")
    assert fault.kind == "missing_folder" and fault.where.endswith("dst_imgs/blur")


def test_all_faults_of_a_label_file_are_told_at_once(tmp_path, small_counts):
    folder = LAYOUTS["koniq10k"](tmp_path)
    path = folder / KONIQ_SETS
    rows = pd.read_csv(path, dtype=str)
    rows.loc[0, "set"], rows.loc[1, "image_name"], rows.loc[2, "MOS"] = "exam", "", "good"
    rows.loc[3, "image_name"] = rows.loc[4, "image_name"]
    rows.to_csv(path, index=False)
    said = "\n".join(fault.fix + fault.where for fault in verify_benchmark("koniq10k", tmp_path))
    for part in ("'exam'", "data row 2", rows.loc[4, "image_name"].lower(), "1 scores are not finite"):
        assert part in said
    with pytest.raises(InputError, match="and 3 more: `lmcl verify` lists them"):
        load_benchmark("koniq10k", tmp_path)
