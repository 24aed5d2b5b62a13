"""Reading benchmarks, and their splits."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.io import loadmat, savemat

from layouts import LIVEC_NAMES, write_livec
from lmcl_core import BENCHMARKS, InputError, data_hash, load_benchmark, make_split, split_hash
from lmcl_core.benchmarks import COLUMNS, FaultError

SPLIT_0_OF_20 = "df61ba2da9ad"
TEST_0_OF_20 = ["c15", "c16", "c18", "c19"]


def made_up(contents: int = 20, images_each: int = 1) -> pd.DataFrame:
    """A table of pictures that do not exist."""
    rows = [(f"set/c{c:02d}_{n}.png", f"c{c:02d}") for c in range(contents) for n in range(images_each)]
    return pd.DataFrame(rows, columns=["image", "content"]).assign(mos=np.arange(len(rows), dtype=float))


def names(table: pd.DataFrame, rows: np.ndarray) -> set[str]:
    return set(table["image"].iloc[rows])


def write_scores(folder: Path, scores: np.ndarray, variable: str = "AllMOS_release") -> None:
    savemat(folder / "Data" / "AllMOS_release.mat", {variable: scores})


def scores_of(folder: Path) -> np.ndarray:
    return loadmat(folder / "Data" / "AllMOS_release.mat")["AllMOS_release"]


def test_a_table_keeps_the_contract(livec):
    table = load_benchmark("livec", livec)
    assert list(table.columns) == COLUMNS
    assert table["mos"].dtype == np.float64 and table["level"].dtype == "Int64"
    assert all(type(value) is str for column in ("image", "content") for value in table[column])
    assert table[["distortion", "level", "official_split"]].isna().all().all()
    assert table["image"].is_monotonic_increasing and list(table.index) == list(range(12))
    assert set(table.attrs) == {"benchmark", "root", "mos_range", "label_file", "notes"}
    assert table.attrs["benchmark"] == "livec" and table.attrs["mos_range"] == BENCHMARKS["livec"].mos_range
    assert Path(table.attrs["label_file"]).name == "AllMOS_release.mat"


def test_every_image_lies_below_the_root_that_was_given(livec):
    for root in (livec, livec / "ChallengeDB_release"):
        table = load_benchmark("livec", root)
        assert table.attrs["root"] == str(root.resolve())
        assert all((root / image).is_file() for image in table["image"])
    assert load_benchmark("livec", livec)["image"][0] == "ChallengeDB_release/Images/10.bmp"
    assert load_benchmark("livec", livec / "ChallengeDB_release")["image"][0] == "Images/10.bmp"


def test_the_root_may_be_a_text(livec):
    assert load_benchmark("livec", str(livec)).equals(load_benchmark("livec", livec))


def test_the_folder_is_found_whatever_its_case(livec):
    (livec / "ChallengeDB_release").rename(livec / "challengedb_RELEASE")
    assert load_benchmark("livec", livec)["image"][0].startswith("challengedb_RELEASE/Images/")


def test_the_seven_training_pictures_are_left_out_and_scores_stay_with_their_names(livec):
    table = load_benchmark("livec", livec)
    mos = {Path(image).name: score for image, score in zip(table["image"], table["mos"])}
    assert set(mos) == set(LIVEC_NAMES[7:])
    assert [mos[name] for name in LIVEC_NAMES[7:]] == pytest.approx(np.linspace(5, 90, 12))


def test_an_extension_in_another_case_is_the_same_picture(livec):
    before = load_benchmark("livec", livec)
    images = livec / "ChallengeDB_release" / "Images"
    (images / "3.JPG").rename(images / "3.jpg")
    after = load_benchmark("livec", livec)
    row = after[after["image"].str.endswith("/3.jpg")]
    assert len(row) == 1 and row["mos"].item() == before[before["image"].str.endswith("/3.JPG")]["mos"].item()
    for index in range(3):
        old, new = (set(t["content"].iloc[make_split(t, index).test]) for t in (before, after))
        assert old == new


def test_what_archives_leave_behind_is_ignored(livec):
    before = load_benchmark("livec", livec)
    folder = livec / "ChallengeDB_release"
    shutil.copytree(folder / "Images", folder / "__MACOSX" / "Images")
    for name in (".DS_Store", "._10.bmp", "._3.JPG"):
        (folder / "Images" / name).write_bytes(b"\0\5\x16\7")
    assert load_benchmark("livec", livec).equals(before)


@pytest.mark.parametrize("index", [0, 7])
def test_a_split_is_the_same_whichever_root_is_given(livec, index):
    tables = [load_benchmark("livec", root) for root in (livec, livec / "ChallengeDB_release")]
    first, second = (make_split(table, index) for table in tables)
    assert all(np.array_equal(a, b) for a, b in zip(first, second))
    assert split_hash(tables[0], first) == split_hash(tables[1], second)


def test_a_missing_folder_is_named_with_the_folder_to_give(tmp_path):
    with pytest.raises(InputError, match=re.escape(str(tmp_path / "no"))) as caught:
        load_benchmark("livec", tmp_path / "no")
    assert "ChallengeDB_release" in str(caught.value) and caught.value.faults[0].kind == "missing_folder"


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"")
    with pytest.raises(FaultError, match="missing_folder"):
        load_benchmark("livec", tmp_path)


@pytest.mark.parametrize("file", ["AllImages_release.mat", "AllMOS_release.mat"])
def test_a_missing_label_file_is_named(livec, file):
    (livec / "ChallengeDB_release" / "Data" / file).unlink()
    with pytest.raises(FaultError, match=rf"missing_label_file: .*{file}: .*again"):
        load_benchmark("livec", livec)


def test_a_damaged_label_file_is_named(livec):
    (livec / "ChallengeDB_release" / "Data" / "AllMOS_release.mat").write_bytes(b"<html>404</html>")
    with pytest.raises(FaultError, match=r"AllMOS_release\.mat: .*fetch it again"):
        load_benchmark("livec", livec)


def test_a_label_file_without_its_variable_is_refused_by_the_variable_s_name(livec):
    folder = livec / "ChallengeDB_release"
    write_scores(folder, scores_of(folder), "scores")
    with pytest.raises(FaultError, match=r"bad_label_column: .*AllMOS_release\.mat: AllMOS_release: .*again"):
        load_benchmark("livec", livec)


def test_names_and_scores_of_unequal_number_are_refused_with_both_numbers(livec):
    folder = livec / "ChallengeDB_release"
    write_scores(folder, scores_of(folder)[:, :-2])
    with pytest.raises(FaultError, match="bad_label_row: .*17 scores for 19 names"):
        load_benchmark("livec", livec)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_score_that_is_not_finite_is_refused_by_its_image(livec, value):
    folder = livec / "ChallengeDB_release"
    scores = scores_of(folder)
    scores[0, 9] = value
    write_scores(folder, scores)
    with pytest.raises(FaultError, match=r"bad_label_row: .*3\.JPG: 1 scores are not finite"):
        load_benchmark("livec", livec)


def test_a_score_of_a_training_picture_may_be_anything(livec):
    folder = livec / "ChallengeDB_release"
    scores = scores_of(folder)
    scores[0, 0] = np.nan
    write_scores(folder, scores)
    assert len(load_benchmark("livec", livec)) == 12


def test_scores_that_are_text_are_refused_like_other_bad_rows(livec):
    write_scores(livec / "ChallengeDB_release", np.array([["good"] * 19], dtype=object))
    with pytest.raises(InputError, match=r"AllMOS_release\.mat"):
        load_benchmark("livec", livec)


def test_missing_images_are_named_with_their_number(livec):
    images = livec / "ChallengeDB_release" / "Images"
    for name in ("5.bmp", "6.bmp"):
        (images / name).unlink()
    with pytest.raises(FaultError, match=r"missing_image: .*5\.bmp, .*6\.bmp: 2 of 12 .*unpack the archive again"):
        load_benchmark("livec", livec)


@pytest.mark.parametrize("given, meant", [("livc", "livec"), ("Demo", "demo")])
def test_an_unknown_benchmark_is_answered_with_the_nearest(given, meant):
    with pytest.raises(InputError, match=f"unknown benchmark '{given}': did you mean '{meant}'"):
        load_benchmark(given)


def test_an_unknown_benchmark_like_no_other_is_answered_with_all(tmp_path):
    with pytest.raises(InputError, match="choose one of: .*demo.*livec"):
        load_benchmark("zzzz", tmp_path)


def test_only_the_demo_goes_without_a_root():
    with pytest.raises(InputError, match="'livec' needs the folder"):
        load_benchmark("livec")


@pytest.mark.parametrize("index", range(10))
def test_the_parts_are_disjoint_complete_and_share_no_content(index):
    table = made_up(contents=15, images_each=4)
    split = make_split(table, index, test=0.2, val=0.2)
    assert sorted(np.concatenate(list(split))) == list(range(60))
    contents = [set(table["content"].iloc[part]) for part in split]
    assert not contents[0] & contents[1] and not contents[0] & contents[2] and not contents[1] & contents[2]
    assert [len(part) for part in split] == [36, 12, 12] and split.index == index
    assert all(part.dtype == np.int64 for part in split)


@pytest.mark.parametrize(
    "test, val, sizes", [(0.2, 0.0, (80, 0, 20)), (0.2, 0.1, (70, 10, 20)), (0.5, 0.25, (25, 25, 50))]
)
def test_the_shares_are_kept(test, val, sizes):
    assert tuple(len(part) for part in make_split(made_up(100), 0, test=test, val=val)) == sizes


def test_a_validation_share_is_taken_from_training_not_from_test():
    table = made_up(50)
    plain, with_val = make_split(table, 4), make_split(table, 4, val=0.2)
    assert np.array_equal(plain.test, with_val.test)
    assert names(table, plain.train) == names(table, with_val.train) | names(table, with_val.val)


def test_the_ten_splits_all_differ():
    table = made_up(50)
    assert len({frozenset(make_split(table, index).test) for index in range(10)}) == 10


def test_the_order_of_the_rows_does_not_matter():
    table = made_up(20, 3)
    shuffled = table.sample(frac=1, random_state=1)
    first, second = make_split(table, 2, val=0.2), make_split(shuffled, 2, val=0.2)
    assert [names(table, part) for part in first] == [names(shuffled, part) for part in second]
    assert split_hash(table, first) == split_hash(shuffled, second)


def test_the_same_split_comes_out_in_processes_that_hash_differently():
    code = (
        "import pandas as pd; from lmcl_core.splits import make_split, split_hash;"
        "t = pd.DataFrame({'image': [f'{n}.png' for n in range(20)], 'content': [f'c{n}' for n in range(20)]});"
        "print(*(split_hash(t, make_split(t, i, val=0.1)) for i in range(10)))"
    )
    said = []
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
        said.append(done.stdout.split())
    assert said[0] == said[1] and len(set(said[0])) == 10


def test_split_zero_of_twenty_names_never_changes():
    table = made_up(20)
    split = make_split(table, 0)
    assert sorted(table["content"].iloc[split.test]) == TEST_0_OF_20
    assert split_hash(table, split) == SPLIT_0_OF_20


@pytest.mark.parametrize(
    "test, val", [(0, 0), (1, 0), (1.2, 0), (-0.1, 0), (0.2, 1), (0.2, -0.1), (0.6, 0.5), (np.nan, 0)]
)
def test_a_bad_share_is_refused_by_its_value(test, val):
    with pytest.raises(InputError, match=re.escape(f"test={test}, val={val}")):
        make_split(made_up(), 0, test=test, val=val)


@pytest.mark.parametrize("index", [-1, True, 1.0, "0", None])
def test_a_bad_index_is_refused_by_its_value(index):
    with pytest.raises(InputError, match=f"split index is {index!r}"):
        make_split(made_up(), index)


def test_a_numpy_index_is_an_index():
    assert make_split(made_up(), np.int64(3)).index == 3


@pytest.mark.parametrize("contents, shares", [(1, {}), (2, {}), (3, dict(test=0.9)), (5, dict(val=0.05))])
def test_too_few_contents_are_refused_with_their_number(contents, shares):
    with pytest.raises(InputError, match=f"^{contents} contents cannot be split"):
        make_split(made_up(contents, 10), 0, **shares)


def test_the_split_hash_follows_the_parts_not_the_folder():
    table = made_up(20)
    moved = table.assign(image=["elsewhere/" + Path(image).name for image in table["image"]])
    first = make_split(table, 0)
    assert split_hash(table, first) == split_hash(moved, first)
    assert split_hash(table, first) != split_hash(table, make_split(table, 1))
    assert split_hash(table, first) != split_hash(table, make_split(table, 0, val=0.1))


def test_the_data_hash_does_not_depend_on_where_the_data_lie(livec, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    write_livec(elsewhere)
    roots = [livec, livec / "ChallengeDB_release", elsewhere]
    assert len({data_hash(load_benchmark("livec", root)) for root in roots}) == 1


def test_the_data_hash_changes_with_a_file_s_size(livec):
    before = data_hash(load_benchmark("livec", livec))
    with open(livec / "ChallengeDB_release" / "Images" / "5.bmp", "ab") as file:
        file.write(b"\0")
    assert data_hash(load_benchmark("livec", livec)) != before


def test_the_data_hash_changes_with_a_score(livec):
    before = data_hash(load_benchmark("livec", livec))
    folder = livec / "ChallengeDB_release"
    scores = scores_of(folder)
    scores[0, 12] += 1e-6
    write_scores(folder, scores)
    assert data_hash(load_benchmark("livec", livec)) != before


def test_every_benchmark_says_whose_opinion_its_labels_are():
    assert "PROXY" in BENCHMARKS["demo"].label_kind and "people's" in BENCHMARKS["livec"].label_kind
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.name == name and benchmark.count > 0 and benchmark.mos_range[0] < benchmark.mos_range[1]
