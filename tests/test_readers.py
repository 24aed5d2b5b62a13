"""Each reader on its official layout: names, scores, contents, levels, and the traps of that benchmark."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from layouts import COUNTS, KONIQ_FILES, LAYOUTS, LIVE_WHOLE, write_book, write_csiq, write_kadid10k, write_koniq10k
from layouts import write_live, write_livec, write_livefb, write_rows, write_spaq, write_tid2013
from lmcl_core import BENCHMARKS, InputError, data_hash, load_benchmark, make_split, split_hash, verify_benchmark
from lmcl_core.benchmarks import COLUMNS, FaultError, rows_of
from lmcl_core.choice import choose_benchmarks

every_layout = pytest.mark.parametrize("name", LAYOUTS)
synthetic = pytest.mark.parametrize("name", ["live", "csiq", "tid2013", "kadid10k"])
authentic = pytest.mark.parametrize("name", ["livec", "koniq10k", "livefb", "spaq"])
pytestmark = pytest.mark.usefixtures("small_counts")


def mos_of(table: pd.DataFrame) -> dict[str, float]:
    return {Path(image).name.lower(): mos for image, mos in zip(table["image"], table["mos"])}


def test_every_benchmark_but_the_demo_has_a_layout_here():
    assert [*LAYOUTS, "demo"] == list(BENCHMARKS) and set(COUNTS) == set(LAYOUTS)


@every_layout
def test_a_layout_is_read_as_the_contract_says(tmp_path, name):
    LAYOUTS[name](tmp_path)
    table = load_benchmark(name, tmp_path)
    assert list(table.columns) == COLUMNS and len(table) == COUNTS[name]
    assert table["mos"].dtype == np.float64 and table["level"].dtype == "Int64"
    assert all(type(value) is str for column in ("image", "content") for value in table[column])
    assert all((tmp_path / image).is_file() for image in table["image"]) and table["image"].is_unique
    assert table["image"].is_monotonic_increasing and type(table.attrs["notes"]) is list
    assert Path(table.attrs["label_file"]).is_file() and table.attrs["mos_range"] == BENCHMARKS[name].mos_range


@every_layout
def test_a_layout_is_sound(tmp_path, name):
    LAYOUTS[name](tmp_path)
    assert verify_benchmark(name, tmp_path) == [] == verify_benchmark(name, tmp_path, deep=True)


@every_layout
def test_splits_and_hashes_do_not_depend_on_the_root_that_was_given(tmp_path, name):
    wrapper = tmp_path / "archive"
    folder = LAYOUTS[name](wrapper)
    tables = [load_benchmark(name, root) for root in (folder, wrapper, tmp_path)]
    assert len({data_hash(table) for table in tables}) == 1
    assert len({split_hash(table, make_split(table, 3, test=0.5)) for table in tables}) == 1
    assert [list(rows_of(tables[0], table["image"])) for table in tables] == [list(range(COUNTS[name]))] * 3


@every_layout
def test_contents_are_file_names_whose_case_on_the_disk_does_not_matter(tmp_path, name):
    folder = LAYOUTS[name](tmp_path)
    before = load_benchmark(name, folder)
    hashed = data_hash(before)
    for image in before["image"][:5]:
        (folder / image).rename((folder / image).with_name(Path(image).name.swapcase()))
    after = load_benchmark(name, folder)
    assert set(before["content"]) == set(after["content"]) and not before["content"].str.contains("/").any()
    assert {i.lower() for i in before["image"]} == {i.lower() for i in after["image"]}
    assert hashed == data_hash(after)


@synthetic
def test_pictures_of_a_reference_share_its_name_as_content(tmp_path, name):
    LAYOUTS[name](tmp_path)
    table = load_benchmark(name, tmp_path)
    assert table["content"].nunique() == 2 and table["distortion"].notna().all() and BENCHMARKS[name].synthetic
    split = make_split(table, 0, test=0.5)
    assert not set(table["content"].iloc[split.train]) & set(table["content"].iloc[split.test])


@authentic
def test_pictures_as_people_took_them_are_contents_of_their_own(tmp_path, name):
    LAYOUTS[name](tmp_path)
    table = load_benchmark(name, tmp_path)
    assert table["content"].is_unique and table[["distortion", "level"]].isna().all().all()
    assert not BENCHMARKS[name].synthetic
    assert [c.lower() for c in table["content"]] == [Path(i).name.lower() for i in table["image"]]


@every_layout
def test_the_folder_is_known_by_what_it_holds_under_any_name(tmp_path, name):
    folder = LAYOUTS[name](tmp_path / "a")
    moved = folder.rename(tmp_path / "mine")
    assert len(load_benchmark(name, moved)) == COUNTS[name] == len(load_benchmark(name, tmp_path))


@every_layout
def test_two_copies_side_by_side_are_not_chosen_from(tmp_path, name):
    for place in ("old", "new"):
        LAYOUTS[name](tmp_path / place)
    with pytest.raises(InputError, match="there are 2 copies of .*new.*old.*: name the one that is meant"):
        load_benchmark(name, tmp_path)
    assert len(load_benchmark(name, tmp_path / "new")) == COUNTS[name]


@every_layout
def test_the_right_folder_is_found_among_all_benchmarks(tmp_path, name):
    for write in LAYOUTS.values():
        write(tmp_path)
    table = load_benchmark(name, tmp_path)
    assert len(table) == COUNTS[name] and verify_benchmark(name, tmp_path) == []
    assert list(choose_benchmarks("all", tmp_path)[0]) == list(LAYOUTS)


@every_layout
def test_a_folder_inside_the_official_one_is_answered_with_the_official_one(tmp_path, name):
    folder = LAYOUTS[name](tmp_path / "a")
    inside = folder / Path(load_benchmark(name, folder)["image"][0]).parent
    (fault,) = verify_benchmark(name, inside)
    assert fault.kind == "missing_folder" and fault.fix == f"it is a part of {folder.resolve()}: name that"


def test_a_generic_folder_name_alone_is_no_benchmark(tmp_path):
    (tmp_path / "database").mkdir()
    with pytest.raises(FaultError, match="missing_folder"):
        load_benchmark("livefb", tmp_path)


@pytest.mark.parametrize("renamed", [False, True])
@pytest.mark.parametrize("asked", LAYOUTS)
@pytest.mark.parametrize("given", LAYOUTS)
def test_mixed_up_folders_are_recognised(tmp_path, given, asked, renamed):
    if given == asked:
        return
    folder = LAYOUTS[given](tmp_path / "a")
    if renamed:
        folder = folder.rename(folder.with_name(BENCHMARKS[asked].folder))
    for root in (folder, folder.parent):
        (fault,) = verify_benchmark(asked, root)
        assert fault.kind == "missing_folder" and fault.where == str(root.resolve())
        assert f"{folder.name}/ is {BENCHMARKS[given].title} (benchmark '{given}')" in fault.fix
        assert f"not {BENCHMARKS[asked].title}" in fault.fix


def test_live_is_read_in_the_order_of_its_five_folders_and_without_copies_of_references(tmp_path):
    folder = write_live(tmp_path, files=LIVE_WHOLE)
    table = load_benchmark("live", folder)
    copies = sum((count + 4) // 5 for count in LIVE_WHOLE.values())
    assert len(table) == 982 - copies and sum(LIVE_WHOLE.values()) == 982
    mos = dict(zip(table["image"], table["mos"]))
    assert "jp2k/img1.bmp" not in mos and mos["jp2k/img2.bmp"] == 60 and mos["fastfading/img174.bmp"] == 20
    assert mos["wn/img3.bmp"] == 40 and table.set_index("image")["distortion"]["wn/img3.bmp"] == "white noise"
    (folder / "fastfading" / "img174.bmp").unlink()
    found = [fault for fault in verify_benchmark("live", folder) if fault.kind == "missing_image"]
    assert [Path(fault.where).name for fault in found] == ["img174.bmp"]


def test_a_part_of_live_that_lacks_a_last_picture_is_incomplete(tmp_path):
    folder = write_live(tmp_path)
    (folder / "wn" / "img5.bmp").unlink()
    (fault,) = verify_benchmark("live", folder)
    assert fault.kind == "missing_image" and fault.fix.startswith("24 pictures for 25 scores")
    (folder / "wn" / "img7.bmp").write_bytes(b"")
    (fault,) = verify_benchmark("live", folder)
    assert fault.kind == "bad_label_row" and fault.fix.startswith("25 scores for 27 pictures")


def test_live_without_its_realigned_scores_says_where_they_are_and_that_plain_ones_are_others(tmp_path):
    folder = write_live(tmp_path)
    (folder / "dmos_realigned.mat").unlink()
    (fault,) = verify_benchmark("live", folder)
    assert fault.kind == "missing_label_file" and "https://live.ece.utexas.edu" in fault.fix
    assert "dmos.mat holds other scores" in fault.fix
    shutil.copy(folder / "dmos.mat", folder / "dmos_realigned.mat")
    (fault,) = verify_benchmark("live", folder)
    assert fault.kind == "bad_label_column" and "dmos_new" in fault.where and "do not rename" in fault.fix


def test_live_with_its_blur_folder_named_shortly_is_the_same(tmp_path):
    folder = write_live(tmp_path)
    before = load_benchmark("live", folder)
    (folder / "gblur").rename(folder / "blur")
    after = load_benchmark("live", folder)
    assert sorted(before["mos"]) == sorted(after["mos"]) and verify_benchmark("live", folder) == []


def test_live_s_split_hash_tells_pictures_of_one_file_name_apart(tmp_path):
    table = load_benchmark("live", write_live(tmp_path))
    split = make_split(table, 0, test=0.5)
    swapped = table.assign(
        image=table["image"].str.replace("jp2k", "x").str.replace("wn", "jp2k").str.replace("x", "wn")
    )
    assert split_hash(table, split) != split_hash(swapped.iloc[::-1].reset_index(drop=True), split)


@pytest.mark.parametrize("options", [dict(text=True), dict(flat="dst_imgs_all"), dict(flat="dst_imgs", text=True)])
def test_csiq_s_arrangements_are_the_same_benchmark(tmp_path, options):
    official = load_benchmark("csiq", write_csiq(tmp_path / "a"))
    folder = write_csiq(tmp_path / "b", **options)
    table = load_benchmark("csiq", folder)
    assert verify_benchmark("csiq", folder) == [] and mos_of(table) == pytest.approx(mos_of(official))
    assert split_hash(table, make_split(table, 1, test=0.5)) == split_hash(official, make_split(official, 1, test=0.5))


def test_csiq_is_turned_round_and_its_spellings_are_matched(tmp_path):
    table = load_benchmark("csiq", write_csiq(tmp_path)).set_index("image")
    row = table.loc["dst_imgs/jpeg2000/1600.jpeg2000.2.png"]
    assert row["mos"] == pytest.approx(1 - 0.3) and row["level"] == 2 and row["distortion"] == "JPEG 2000"
    assert row["content"] == "1600.png"
    assert table.loc["dst_imgs/awgn/aerial_city.AWGN.5.png", "distortion"] == "white noise"


def test_csiq_s_contrast_pictures_that_nobody_rated_are_no_fault(tmp_path):
    folder = write_csiq(tmp_path)
    place = folder / "dst_imgs" / "contrast"
    shutil.copy(place / "1600.contrast.1.png", place / "1600.contrast.5.png")
    assert verify_benchmark("csiq", folder) == []
    shutil.copy(place / "1600.contrast.1.png", place / "1600.contrast.6.png")
    assert [fault.kind for fault in verify_benchmark("csiq", folder)] == ["extra_image"]


def test_csiq_s_unknown_distortion_is_named(tmp_path):
    folder = write_csiq(tmp_path)
    rows = [["image", "dst_type", "dst_lev", "dmos"], [1600, "fog", 1, 0.2]]
    write_book(folder / "csiq.DMOS.xlsx", all=rows)
    (fault,) = verify_benchmark("csiq", folder)
    assert fault.kind == "bad_label_row" and "'fog'" in fault.where


def test_tid2013_s_names_are_matched_without_case(tmp_path):
    table = load_benchmark("tid2013", write_tid2013(tmp_path)).set_index("image")
    assert {"distorted_images/i25_01_1.bmp", "distorted_images/I25_01_3.BMP"} <= set(table.index)
    row = table.loc["distorted_images/i25_24_2.bmp"]
    assert row["content"] == "i25.bmp" and row["level"] == 2 and row["distortion"] == "sparse sampling"
    assert row["mos"] == pytest.approx(5.8)


def test_tid2013_s_distortion_that_does_not_exist_is_named(tmp_path):
    folder = write_tid2013(tmp_path)
    (folder / "mos_with_names.txt").write_text("5.0 i01_25_1.bmp\n")
    (fault,) = verify_benchmark("tid2013", folder)
    assert fault.kind == "bad_label_row" and "distortion 25" in fault.where


@pytest.mark.parametrize("sorted_out", [False, True])
def test_kadid10k_s_dmos_is_higher_for_better_and_its_references_are_not_rated(tmp_path, sorted_out):
    folder = write_kadid10k(tmp_path, sorted_out=sorted_out)
    table = load_benchmark("kadid10k", folder)
    assert verify_benchmark("kadid10k", folder) == [] and "i01.png" not in mos_of(table)
    assert mos_of(table)["i81_25_01.png"] == pytest.approx(4.7) and mos_of(table)["i81_25_05.png"] < 2
    row = table[table["image"].str.endswith("I81_25_01.png")].iloc[0]
    assert row["content"] == "i81.png" and row["level"] == 1 and row["distortion"] == "contrast change"


def test_koniq10k_s_two_label_files_give_the_same_scores(tmp_path):
    sets = load_benchmark("koniq10k", write_koniq10k(tmp_path / "a", files=["sets"]))
    scores = load_benchmark("koniq10k", write_koniq10k(tmp_path / "b", files=["scores"]))
    both = load_benchmark("koniq10k", write_koniq10k(tmp_path / "c", files=["sets", "scores"]))
    assert list(sets["mos"]) == list(scores["mos"]) == list(both["mos"])
    assert sets.equals(both) and scores["official_split"].isna().all()
    assert KONIQ_FILES["sets"] in scores.attrs["notes"][0]


@pytest.mark.parametrize("sizes, used", [(["512x384"], "512x384"), (["512x384", "1024x768"], "1024x768")])
def test_koniq10k_s_pictures_of_either_size_are_taken(tmp_path, sizes, used):
    folder = write_koniq10k(tmp_path, sizes=sizes)
    assert verify_benchmark("koniq10k", folder) == []
    table = load_benchmark("koniq10k", folder)
    assert table["image"].str.startswith(used).all() and f"pictures of {used}/" in table.attrs["notes"]


def test_koniq10k_takes_the_complete_size(tmp_path):
    folder = write_koniq10k(tmp_path, sizes=["512x384", "1024x768"])
    (folder / "1024x768" / "1003.jpg").unlink()
    assert load_benchmark("koniq10k", folder)["image"].str.startswith("512x384").all()


def test_koniq10k_s_other_scale_is_refused_with_its_name(tmp_path):
    folder = write_koniq10k(tmp_path, files=["scores"], column="z")
    (fault,) = verify_benchmark("koniq10k", folder)
    assert fault.kind == "bad_label_column" and fault.where.endswith("MOS_zscore") and "1 to 5" in fault.fix


def test_livefb_keeps_its_zero_and_its_capitals_and_leaves_patches_out(tmp_path):
    folder = write_livefb(tmp_path)
    table = load_benchmark("livefb", folder)
    assert mos_of(table)["ava__4.jpg"] == 0.0 and "blur_dataset/out_of_focus0079.JPG" in set(table["image"])
    assert not table["image"].str.contains("patches").any() and len(table) == 15 and table.attrs["notes"] == []


@pytest.mark.parametrize("empty", [False, True])
def test_livefb_without_its_three_rows_says_so_and_is_sound(tmp_path, empty):
    folder = write_livefb(tmp_path)
    shutil.rmtree(folder / "EE371R")
    if empty:
        (folder / "EE371R").mkdir()
    table = load_benchmark("livefb", folder)
    assert len(table) == 12 and verify_benchmark("livefb", folder) == []
    assert table.attrs["notes"] == ["3 rows of EE371R/ are left out: their pictures are not here"]
    (write_livefb(tmp_path / "b") / "EE371R" / "rq59.jpg").unlink()
    assert [fault.kind for fault in verify_benchmark("livefb", tmp_path / "b")] == ["missing_image"]


def test_livefb_s_official_parts_come_from_its_two_lists(tmp_path):
    table = load_benchmark("livefb", write_livefb(tmp_path / "a"))
    split = make_split(table, "official")
    assert [len(part) for part in split] == [7, 3, 2] and table["official_split"].isna().sum() == 3
    assert all(part is pd.NA or isinstance(part, str) for part in table["official_split"])
    table = load_benchmark("livefb", write_livefb(tmp_path / "b", padded=False))
    assert [len(part) for part in make_split(table, "official")] == [10, 0, 2] and "padded" in table.attrs["notes"][0]


def test_livefb_s_list_of_other_values_is_refused(tmp_path):
    folder = write_livefb(tmp_path)
    write_rows(folder / "labels=640_padded.csv", [["name_image", "is_valid"], ["voc_emotic_ava/AVA__3.jpg", "perhaps"]])
    (fault,) = verify_benchmark("livefb", folder)
    assert fault.kind == "bad_label_row" and "'perhaps'" in fault.where


def test_spaq_is_read_from_a_spreadsheet_or_a_csv_in_either_place(tmp_path):
    book, text = write_spaq(tmp_path / "a"), write_spaq(tmp_path / "b", ending=".csv")
    assert list(load_benchmark("spaq", book)["mos"]) == list(load_benchmark("spaq", text)["mos"])
    name = "MOS and Image attribute scores.csv"
    (text / "Annotations" / name).rename(text / name)
    assert verify_benchmark("spaq", text) == []


def test_a_picture_with_two_rows_is_refused(tmp_path):
    folder = write_kadid10k(tmp_path)
    path = folder / "dmos.csv"
    path.write_text(path.read_text() + "i01_01_01.PNG,I01.png,2.0,0.5\n")
    (fault,) = verify_benchmark("kadid10k", folder)
    assert fault.kind == "bad_label_row" and "i01_01_01.png" in fault.where


@pytest.mark.parametrize("name", ["live", "csiq", "tid2013", "kadid10k", "livec", "spaq"])
def test_a_benchmark_without_an_official_split_says_so(tmp_path, name):
    LAYOUTS[name](tmp_path)
    with pytest.raises(InputError, match=f"^{name} has no official split here: choose a numbered one"):
        make_split(load_benchmark(name, tmp_path), "official")


def test_koniq10k_s_official_split_needs_the_file_that_holds_it(tmp_path):
    table = load_benchmark("koniq10k", write_koniq10k(tmp_path / "a"))
    split = make_split(table, "official")
    assert [len(part) for part in split] == [10, 1, 1] and split.index == "official"
    assert Path(table["image"].iloc[split.test[0]]).name == "1011.jpg"
    with pytest.raises(InputError, match=KONIQ_FILES["sets"]):
        make_split(load_benchmark("koniq10k", write_koniq10k(tmp_path / "b", files=["scores"])), "official")


def test_references_of_live_and_tid2013_come_from_one_collection():
    assert {name: b.shared_source for name, b in BENCHMARKS.items() if b.shared_source} == dict(
        live="Kodak", tid2013="Kodak"
    )
    assert all(b.source and b.folder for b in BENCHMARKS.values())


def test_livec_keeps_the_contents_of_its_list(tmp_path):
    table = load_benchmark("livec", write_livec(tmp_path))
    assert "3.JPG" in set(table["content"])


def test_a_kadid_row_whose_reference_is_not_its_pictures_own_is_a_fault(tmp_path):
    """It would put pictures of one reference on both sides of a split."""
    folder = write_kadid10k(tmp_path)
    labels = (folder / "dmos.csv").read_text()
    (folder / "dmos.csv").write_text(labels.replace("I01_01_03.png,I01.png", "I01_01_03.png,I81.png"))
    (fault,) = verify_benchmark("kadid10k", folder)
    assert fault.kind == "bad_label_row" and "I01_01_03.png" in fault.where and "ref_img" in fault.fix
