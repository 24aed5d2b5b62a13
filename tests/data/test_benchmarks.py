"""A benchmark is found by its contents at or below any root and loads as one table."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from layouts import COUNTS, LAYOUTS, LIVEC_NAMES, write_demo, write_live, write_livec, write_spaq
from scipy.io import loadmat, savemat

from lmcl_core import BENCHMARKS, InputError, data_hash, load_benchmark, make_split, split_hash, verify_benchmark
from lmcl_core.data import benchmarks
from lmcl_core.data.benchmarks import COLUMNS, choose_benchmarks
from lmcl_core.data.faults import Fault, FaultError

every_layout = pytest.mark.parametrize("name", LAYOUTS)
some_layouts = pytest.mark.parametrize("name", ["csiq", "livec", "livefb"])


@pytest.fixture(scope="module")
def all_layouts(tmp_path_factory) -> Path:
    """A folder of all small layouts; tests must not change it."""
    root = tmp_path_factory.mktemp("all")
    for write in LAYOUTS.values():
        write(root)
    return root.resolve()


def official_folder(root: Path, name: str) -> Path:
    return root / BENCHMARKS[name].folder


def edit_scores(folder: Path, change) -> None:
    path = folder / "Data" / "AllMOS_release.mat"
    savemat(path, {"AllMOS_release": change(loadmat(path)["AllMOS_release"])})


@every_layout
def test_every_benchmark_loads_as_the_contract_says(all_layouts, name):
    table = load_benchmark(name, all_layouts)
    assert list(table.columns) == COLUMNS and len(table) == COUNTS[name]
    assert table["mos"].dtype == np.float64 and table["level"].dtype == "Int64"
    assert all(type(value) is str for column in ("image", "content") for value in table[column])
    assert table["image"].is_monotonic_increasing and table["image"].is_unique
    assert list(table.index) == [*range(len(table))]
    assert all((all_layouts / image).is_file() for image in table["image"])
    assert set(table.attrs) == {"benchmark", "root", "mos_range", "label_kind", "label_file", "notes", "about"}
    assert table.attrs["benchmark"] == name and table.attrs["root"] == str(all_layouts)
    assert table.attrs["mos_range"] == BENCHMARKS[name].mos_range and type(table.attrs["notes"]) is list
    assert table.attrs["label_kind"] == BENCHMARKS[name].label_kind and Path(table.attrs["label_file"]).is_file()
    if name in ("live", "csiq", "tid2013", "kadid10k"):  # images share the content of their reference
        assert table["content"].nunique() == 2 and table["distortion"].notna().all()
    else:  # every photograph is its own content
        assert [c.lower() for c in table["content"]] == [Path(image).name.lower() for image in table["image"]]
        assert table[["distortion", "level"]].isna().all().all()


@some_layouts
def test_a_table_does_not_depend_on_the_root_except_for_the_prefix_of_its_paths(all_layouts, name):
    folder = official_folder(all_layouts, name)
    outer, inner = load_benchmark(name, all_layouts), load_benchmark(name, str(folder))
    assert list(outer["image"]) == [f"{folder.name}/{image}" for image in inner["image"]]
    assert outer.drop(columns="image").equals(inner.drop(columns="image"))
    assert data_hash(outer) == data_hash(inner)
    assert split_hash(outer, make_split(outer, 3, test=0.5)) == split_hash(inner, make_split(inner, 3, test=0.5))


@some_layouts
def test_a_folder_inside_the_official_one_is_answered_with_the_official_one(all_layouts, name):
    inside = all_layouts / Path(load_benchmark(name, all_layouts)["image"][0]).parent
    (fault,) = verify_benchmark(name, inside)
    assert fault.kind == "missing_folder"
    assert fault.fix == f"it is a part of {official_folder(all_layouts, name)}: name that folder"


@pytest.mark.parametrize("given", LAYOUTS)
def test_the_folder_of_another_benchmark_is_recognised_even_under_the_wanted_name(tmp_path, all_layouts, given):
    for asked in LAYOUTS:
        if asked != given:
            root = tmp_path / asked
            shutil.copytree(official_folder(all_layouts, given), root / BENCHMARKS[asked].folder)
            for place in (official_folder(all_layouts, given), root):
                (fault,) = verify_benchmark(asked, place)
                assert fault.kind == "missing_folder" and fault.where == str(place)
                titles = BENCHMARKS[given].title, BENCHMARKS[asked].title
                assert f"/ is {titles[0]} (benchmark '{given}'), not {titles[1]}" in fault.fix


@pytest.mark.usefixtures("small_counts")
def test_a_folder_is_found_under_any_name_in_any_case_and_in_the_wrapper_of_an_archive(tmp_path):
    folder = write_livec(tmp_path / "archive")
    for place in (folder.with_name("challengedb_RELEASE"), folder.with_name("mine")):
        folder = folder.rename(place)
        assert load_benchmark("livec", tmp_path)["image"][0] == f"archive/{folder.name}/Images/10.bmp"
    assert verify_benchmark("livec", folder) == []
    assert list(load_benchmark("livec", folder)["image"])[0] == "Images/10.bmp"


def test_of_two_folders_the_one_nearest_to_the_root_or_of_the_official_name_is_used(tmp_path):
    write_spaq(tmp_path)
    shutil.copytree(tmp_path / "SPAQ", tmp_path / "backup" / "SPAQ")
    shutil.copytree(tmp_path / "SPAQ", tmp_path / "copy")
    assert load_benchmark("spaq", tmp_path)["image"][0].startswith("SPAQ/")
    shutil.rmtree(tmp_path / "SPAQ")
    shutil.copytree(tmp_path / "copy", tmp_path / "copy2")
    with pytest.raises(InputError, match="found 2 copies of SPAQ: .*copy.*copy2.*: name the one to use"):
        load_benchmark("spaq", tmp_path)


def test_a_folder_without_its_marks_is_found_by_its_name_unless_the_name_is_generic(tmp_path):
    for name in ("SPAQ", "database"):
        (tmp_path / name).mkdir()
    with pytest.raises(FaultError, match="missing_label_file: .*SPAQ"):
        load_benchmark("spaq", tmp_path)
    with pytest.raises(FaultError, match="missing_folder"):
        load_benchmark("livefb", tmp_path)


@pytest.mark.usefixtures("small_counts")
def test_links_that_form_a_loop_and_folders_of_archives_hide_no_benchmark(livec):
    before = load_benchmark("livec", livec)
    (livec / "loop").symlink_to("loop")
    images = livec / "ChallengeDB_release" / "Images"
    shutil.copytree(livec / "ChallengeDB_release", livec / "__MACOSX" / "ChallengeDB_release")
    for name in (".DS_Store", "._10.bmp", "Thumbs.db"):
        (images / name).write_bytes(b"\0\5\x16\7")
    assert load_benchmark("livec", livec).equals(before) and verify_benchmark("livec", livec) == []


def test_a_root_without_the_benchmark_is_refused_with_the_folder_to_name(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    for root, seen in (
        (tmp_path / "no", "there is no such folder; "),
        (tmp_path / "file", "this is a file; "),
        (tmp_path, ""),
    ):
        with pytest.raises(FaultError) as caught:
            load_benchmark("livec", root)
        fix = f"{seen}name the LIVEC folder ChallengeDB_release/ or its parent"
        assert caught.value.faults == (Fault("missing_folder", str(root.resolve()), fix),)


def test_images_and_scores_stay_together_and_the_training_images_are_left_out(livec):
    table = load_benchmark("livec", livec)
    mos = {Path(image).name: score for image, score in zip(table["image"], table["mos"])}
    assert [mos.pop(name) for name in LIVEC_NAMES[7:]] == pytest.approx(np.linspace(5, 90, 12)) and not mos
    edit_scores(livec / "ChallengeDB_release", lambda scores: np.where(np.arange(19) < 7, np.nan, scores))
    assert load_benchmark("livec", livec).equals(table)
    for name in ("5.bmp", "6.bmp"):
        (livec / "ChallengeDB_release" / "Images" / name).unlink()
    with pytest.raises(FaultError, match=r"missing_image: .*5\.bmp, .*6\.bmp: 2 of 12 .*unpack the archive again"):
        load_benchmark("livec", livec)


@every_layout
def test_the_case_of_file_names_changes_neither_scores_nor_splits_nor_hashes(tmp_path, name):
    folder = LAYOUTS[name](tmp_path)
    before = load_benchmark(name, folder)
    known = data_hash(before)
    for image in before["image"][:5]:
        (folder / image).rename((folder / image).with_name(Path(image).name.swapcase()))
    after = load_benchmark(name, folder)
    assert dict(zip(before["image"].str.lower(), before["mos"])) == dict(zip(after["image"].str.lower(), after["mos"]))
    assert known == data_hash(after)
    assert split_hash(before, make_split(before, 0, test=0.5)) == split_hash(after, make_split(after, 0, test=0.5))


def test_the_catalogue_is_complete():
    assert list(BENCHMARKS) == [*LAYOUTS, "demo"] == list(benchmarks.READERS) and set(COUNTS) == set(LAYOUTS)
    for name, about in BENCHMARKS.items():
        assert about.name == name and about.count > 0 and about.mos_range[0] < about.mos_range[1] and about.source
    assert "PROXY" in BENCHMARKS["demo"].label_kind and "people's" in BENCHMARKS["livec"].label_kind
    shared = {name: about.shared_source for name, about in BENCHMARKS.items() if about.shared_source}
    assert shared == dict(live="Kodak", tid2013="Kodak")


def test_several_are_loaded_and_all_gives_the_reason_for_others(all_layouts, livec, tmp_path, monkeypatch):
    monkeypatch.setattr("lmcl_core.data.demo.build_demo", lambda: write_demo(tmp_path / "cache"))
    tables, missing = choose_benchmarks("livec, demo", livec)
    assert list(tables) == ["livec", "demo"] and missing == {}
    assert tables["demo"].attrs["root"] == str((tmp_path / "cache" / "demo").resolve()), "it needs no folder"
    shutil.rmtree(tmp_path / "cache")
    assert list(choose_benchmarks("all", all_layouts)[0]) == list(LAYOUTS)
    tables, missing = choose_benchmarks("all", livec)
    assert list(tables) == ["livec"] and list(missing) == [name for name in LAYOUTS if name != "livec"]
    assert all(reason.startswith("missing_folder") for reason in missing.values())


@pytest.mark.parametrize(
    "names, root, message",
    [
        ("", None, "write one name"),
        ("demo,demo", None, "different names"),
        ("all,livec", None, "different names with commas, or all"),
        ("livc", None, "unknown benchmark 'livc': did you mean 'livec'"),
        ("zzzz", None, "choose one of: .*demo.*livec"),
        ("livec", None, "'livec' needs the folder"),
        ("all", None, "needs the folder of all benchmarks"),
        ("all", "empty", "no benchmark can be read"),
        ("livec,kadid10k", "empty", "missing_folder"),
    ],
)
def test_a_choice_that_cannot_be_loaded_is_refused(tmp_path, names, root, message):
    with pytest.raises(InputError, match=message):
        choose_benchmarks(names, root and tmp_path)


def test_an_error_keeps_its_faults_when_it_comes_from_another_process(tmp_path):
    (write_live(tmp_path) / "dmos_realigned.mat").unlink()
    with pytest.raises(FaultError) as caught:
        load_benchmark("live", tmp_path)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert copy.faults == caught.value.faults and str(copy) == str(caught.value)
