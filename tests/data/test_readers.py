"""Each reader on its official layout: the names, scores, contents, levels and traps of that benchmark."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest
from layouts import (
    KONIQ_FILES,
    LIVE_WHOLE,
    cells,
    write_book,
    write_csiq,
    write_demo,
    write_kadid10k,
    write_koniq10k,
    write_live,
    write_livec,
    write_livefb,
    write_rows,
    write_spaq,
    write_tid2013,
)
from scipy.io import loadmat, savemat

from lmcl_core import Fault, InputError, load_benchmark, make_split, split_hash, verify_benchmark

pytestmark = pytest.mark.usefixtures("small_counts")


def mos_of(table: pd.DataFrame) -> dict[str, float]:
    return {Path(image).name.lower(): mos for image, mos in zip(table["image"], table["mos"])}


def only_fault(name: str, root: Path) -> Fault:
    (fault,) = verify_benchmark(name, root)
    return fault


def test_live_is_read_in_the_order_of_its_five_folders_without_the_copies_of_references(tmp_path):
    folder = write_live(tmp_path, files=LIVE_WHOLE)
    table = load_benchmark("live", folder).set_index("image")
    copies = sum((count + 4) // 5 for count in LIVE_WHOLE.values())
    assert len(table) == 982 - copies and sum(LIVE_WHOLE.values()) == 982 and "jp2k/img1.bmp" not in table.index
    assert table["mos"][["jp2k/img2.bmp", "wn/img3.bmp", "fastfading/img174.bmp"]].tolist() == [60, 40, 20]
    row = table.loc["wn/img3.bmp"]
    assert row["distortion"] == "white noise" and row["content"] == "ocean.bmp" and row["level"] is pd.NA
    (folder / "fastfading" / "img174.bmp").unlink()
    found = [fault for fault in verify_benchmark("live", folder) if fault.kind == "missing_image"]
    assert [Path(fault.where).name for fault in found] == ["img174.bmp"]


def test_a_subset_of_live_whose_images_and_scores_differ_in_number_is_refused(tmp_path):
    folder = write_live(tmp_path)
    (folder / "wn" / "img5.bmp").unlink()
    fault = only_fault("live", folder)
    assert fault.kind == "missing_image" and fault.fix.startswith("24 images for 25 scores")
    (folder / "wn" / "img7.bmp").write_bytes(b"")
    fault = only_fault("live", folder)
    assert fault.kind == "bad_label_row" and fault.fix.startswith("25 scores for 27 images")


def test_live_needs_its_realigned_scores_and_plain_scores_do_not_replace_them(tmp_path):
    folder = write_live(tmp_path)
    (folder / "dmos_realigned.mat").unlink()
    fault = only_fault("live", folder)
    assert fault.kind == "missing_label_file" and "https://live.ece.utexas.edu" in fault.fix
    assert "dmos.mat holds other scores" in fault.fix
    shutil.copy(folder / "dmos.mat", folder / "dmos_realigned.mat")
    fault = only_fault("live", folder)
    assert fault.kind == "bad_label_column" and "dmos_new" in fault.where and "do not rename" in fault.fix


@pytest.mark.parametrize("name, write", [("live", write_live), ("livec", write_livec)])
def test_names_and_scores_of_different_number_are_refused_with_both_numbers(tmp_path, name, write):
    folder = write(tmp_path)
    path = folder / ("dmos_realigned.mat" if name == "live" else "Data/AllMOS_release.mat")
    savemat(path, {key: value[:, :-2] for key, value in loadmat(path).items() if key[0] != "_"})
    fault = only_fault(name, tmp_path)
    count = 25 if name == "live" else 19
    assert fault.kind == "bad_label_row" and fault.fix.startswith(f"{count - 2} scores for {count} names")


@pytest.mark.parametrize("options", [dict(text=True), dict(flat="dst_imgs_all"), dict(flat="dst_imgs", text=True)])
def test_the_arrangements_of_csiq_give_the_same_table(tmp_path, options):
    official = load_benchmark("csiq", write_csiq(tmp_path / "a"))
    folder = write_csiq(tmp_path / "b", **options)
    table = load_benchmark("csiq", folder)
    assert verify_benchmark("csiq", folder) == [] and mos_of(table) == pytest.approx(mos_of(official))
    assert split_hash(table, make_split(table, 1, test=0.5)) == split_hash(official, make_split(official, 1, test=0.5))


def test_the_scores_of_csiq_are_inverted_and_its_spellings_are_matched(tmp_path):
    table = load_benchmark("csiq", write_csiq(tmp_path)).set_index("image")
    row = table.loc["dst_imgs/jpeg2000/1600.jpeg2000.2.png"]
    assert row["mos"] == pytest.approx(1 - 0.3) and row["level"] == 2 and row["distortion"] == "JPEG 2000"
    assert row["content"] == "1600.png"
    assert table.loc["dst_imgs/awgn/aerial_city.AWGN.5.png", "distortion"] == "white noise"


def test_unrated_contrast_images_of_csiq_are_no_fault(tmp_path):
    contrast = write_csiq(tmp_path) / "dst_imgs" / "contrast"
    shutil.copy(contrast / "1600.contrast.1.png", contrast / "1600.contrast.5.png")
    assert verify_benchmark("csiq", tmp_path) == []
    shutil.copy(contrast / "1600.contrast.1.png", contrast.with_name("blur"))
    fault = only_fault("csiq", tmp_path)
    assert fault.kind == "extra_image" and fault.where.endswith("dst_imgs/blur/1600.contrast.1.png")


def test_an_unknown_distortion_is_named(tmp_path):
    rows = [["image", "dst_type", "dst_lev", "dmos"], [1, "fog", 1, 0]]
    write_book(write_csiq(tmp_path) / "csiq.DMOS.xlsx", all=rows)
    table = load_benchmark("tid2013", write_tid2013(tmp_path)).set_index("image")
    row = table.loc["distorted_images/i25_24_2.bmp"]
    assert (row["content"], row["level"], row["distortion"]) == ("i25.bmp", 2, "sparse sampling")
    assert row["mos"] == pytest.approx(5.8) and "distorted_images/I25_01_3.BMP" in table.index
    (write_tid2013(tmp_path) / "mos_with_names.txt").write_text("5.0 i01_25_1.bmp\n")
    for name, where in (("csiq", "'fog'"), ("tid2013", "distortion 25")):
        fault = only_fault(name, tmp_path)
        assert fault.kind == "bad_label_row" and where in fault.where


@pytest.mark.parametrize("sorted_out", [False, True])
def test_the_dmos_of_kadid10k_is_higher_for_better_images_and_its_references_are_unrated(tmp_path, sorted_out):
    folder = write_kadid10k(tmp_path, sorted_out=sorted_out)
    table = load_benchmark("kadid10k", folder)
    assert verify_benchmark("kadid10k", folder) == [] and "i01.png" not in mos_of(table)
    assert mos_of(table)["i81_25_01.png"] == pytest.approx(4.7) and mos_of(table)["i81_25_05.png"] < 2
    row = table[table["image"].str.endswith("I81_25_01.png")].iloc[0]
    assert row["content"] == "i81.png" and row["level"] == 1 and row["distortion"] == "contrast change"


def test_a_row_of_kadid10k_with_another_reference_is_refused(tmp_path):
    """Otherwise images of one reference could lie on both sides of a split."""
    path = write_kadid10k(tmp_path) / "dmos.csv"
    path.write_text(path.read_text().replace("I01_01_03.png,I01.png", "I01_01_03.png,I81.png"))
    fault = only_fault("kadid10k", tmp_path)
    assert fault.kind == "bad_label_row" and "I01_01_03.png" in fault.where and "ref_img" in fault.fix


def test_livec_keeps_the_spelling_of_its_list_as_content_and_refuses_another_order_of_rows(tmp_path):
    folder = write_livec(tmp_path)
    assert "3.JPG" in set(load_benchmark("livec", folder)["content"])
    path = folder / "Data" / "AllImages_release.mat"
    savemat(path, {"AllImages_release": loadmat(path)["AllImages_release"][::-1]})
    fault = only_fault("livec", folder)
    assert fault.kind == "bad_label_row" and "t1.bmp to t7.bmp" in fault.fix


def test_both_label_files_of_koniq10k_give_the_same_scores_and_one_gives_the_official_split(tmp_path):
    sets = load_benchmark("koniq10k", write_koniq10k(tmp_path / "a", files=["sets"]))
    scores = load_benchmark("koniq10k", write_koniq10k(tmp_path / "b", files=["scores"]))
    both = load_benchmark("koniq10k", write_koniq10k(tmp_path / "c", files=["sets", "scores"]))
    assert list(sets["mos"]) == list(scores["mos"]) and sets.equals(both) and scores["official_split"].isna().all()
    split = make_split(sets, "official")
    assert [len(part) for part in split] == [10, 1, 1] and sets["image"][split.test[0]].endswith("1011.jpg")
    with pytest.raises(InputError, match=KONIQ_FILES["sets"]):
        make_split(scores, "official")


def test_koniq10k_takes_the_larger_images_unless_that_folder_is_less_complete(tmp_path):
    folder = write_koniq10k(tmp_path, sizes=["512x384", "1024x768"])
    table = load_benchmark("koniq10k", folder)
    assert table["image"].str.startswith("1024x768").all() and "images of 1024x768/" in table.attrs["notes"]
    (folder / "1024x768" / "1003.jpg").unlink()
    assert load_benchmark("koniq10k", folder)["image"].str.startswith("512x384").all()
    shutil.rmtree(folder / "1024x768")
    assert verify_benchmark("koniq10k", folder) == []


@pytest.mark.parametrize("empty", [False, True])
def test_livefb_without_the_images_of_its_three_spare_rows_is_sound_and_notes_them(tmp_path, empty):
    folder = write_livefb(tmp_path)
    shutil.rmtree(folder / "EE371R")
    if empty:
        (folder / "EE371R").mkdir()
    table = load_benchmark("livefb", folder)
    assert len(table) == 12 and verify_benchmark("livefb", folder) == []
    assert table.attrs["notes"] == ["3 rows of EE371R/ are left out: this copy lacks their images"]
    (write_livefb(tmp_path / "b") / "EE371R" / "rq59.jpg").unlink()
    assert only_fault("livefb", tmp_path / "b").kind == "missing_image"


def test_the_official_parts_of_livefb_come_from_two_lists(tmp_path):
    folder = write_livefb(tmp_path)
    table = load_benchmark("livefb", folder)
    assert mos_of(table)["ava__4.jpg"] == 0.0 and "blur_dataset/out_of_focus0079.JPG" in set(table["image"])
    assert not table["image"].str.contains("patches").any() and len(table) == 15 and table.attrs["notes"] == []
    assert [len(part) for part in make_split(table, "official")] == [7, 3, 2]
    assert table["official_split"].isna().sum() == 3
    assert all(part is pd.NA or isinstance(part, str) for part in table["official_split"])
    (folder / "labels=640_padded.csv").unlink()
    table = load_benchmark("livefb", folder)
    assert [len(part) for part in make_split(table, "official")] == [10, 0, 2] and "padded" in table.attrs["notes"][0]
    (folder / "labels640.csv").unlink()
    with pytest.raises(InputError, match="labels640.csv, the official test list, is missing"):
        make_split(load_benchmark("livefb", folder), "official")


def test_spaq_is_read_from_a_spreadsheet_or_a_csv_in_either_place(tmp_path):
    book, text = write_spaq(tmp_path / "a"), write_spaq(tmp_path / "b", ending=".csv")
    assert list(load_benchmark("spaq", book)["mos"]) == list(load_benchmark("spaq", text)["mos"])
    name = "MOS and Image attribute scores.csv"
    (text / "Annotations" / name).rename(text / name)
    assert verify_benchmark("spaq", text) == []


def test_every_fault_of_the_rows_of_a_label_file_is_reported(tmp_path):
    path = write_koniq10k(tmp_path) / KONIQ_FILES["sets"]
    rows = pd.read_csv(path, dtype=str)
    rows.loc[0, "set"], rows.loc[1, "image_name"], rows.loc[2, "MOS"] = "exam", "", "good"
    rows.loc[3, "image_name"] = rows.loc[4, "image_name"]
    rows.to_csv(path, index=False)
    report = "\n".join(map(str, verify_benchmark("koniq10k", tmp_path)))
    for part in ("'exam'", "data row 2", rows.loc[4, "image_name"].lower(), "1 scores are not finite"):
        assert part in report
    with pytest.raises(InputError, match="and 3 more: `lmcl verify` lists them"):
        load_benchmark("koniq10k", tmp_path)


@pytest.mark.parametrize("level, kind", [("", "bad_label_row"), ("high", "bad_label_row"), (None, "bad_label_column")])
def test_a_demo_with_damaged_labels_is_to_be_built_again(tmp_path, level, kind):
    path = write_demo(tmp_path) / "labels.csv"
    assert len(load_benchmark("demo", tmp_path)) == 15
    table = pd.read_csv(path).astype({"level": object})
    table.loc[3, "level"] = level
    (table if level is not None else table.drop(columns="level")).to_csv(path, index=False)
    fault = only_fault("demo", tmp_path)
    assert fault.kind == kind and "delete the folder; it is built again" in fault.fix


#: The file that lists the images of each benchmark whose names are free, and one of its names.
_LISTS = dict(livec="3.JPG", koniq10k="1003.jpg", livefb="blur_dataset/motion0001.jpg", spaq="00003.jpg")
_LISTS |= dict(csiq="1600.AWGN.1.png", tid2013="I01_01_3.bmp", kadid10k="I01_01_03.png", demo="images/a.2.png")


def _rename(name: str, folder: Path, old: str, new: str) -> None:
    """Replace the name of an image in a benchmark's label file."""
    if name == "livec":
        path = folder / "Data" / "AllImages_release.mat"
        names = [new if str(cell[0]) == old else str(cell[0]) for cell in loadmat(path)["AllImages_release"].ravel()]
        savemat(path, {"AllImages_release": cells(names).T})
        return
    files = dict(koniq10k=KONIQ_FILES["sets"], livefb="labels_image.csv", csiq="csiq_label.txt", demo="labels.csv")
    files |= dict(tid2013="mos_with_names.txt", kadid10k="dmos.csv", spaq="MOS and Image attribute scores.csv")
    path = next(folder.rglob(files[name]))
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("outside", ["/etc/{}", "../{}", "a/../../../{}", r"..\{}", r"C:\{}"])
@pytest.mark.parametrize("name", _LISTS)
def test_a_name_that_leads_out_of_the_folder_is_a_bad_row(tmp_path, name, outside):
    write = dict(csiq=lambda path: write_csiq(path, text=True), spaq=lambda path: write_spaq(path, ending=".csv"))
    folder = write.get(name, globals()[f"write_{name}"])(tmp_path)
    _rename(name, folder, _LISTS[name], outside.format(_LISTS[name]))
    faults = verify_benchmark(name, tmp_path)
    assert {fault.kind for fault in faults} == {"bad_label_row"} and "\n" not in str(faults[0])


@pytest.mark.parametrize("odd", ["", "7", "bike.bmp", "../bikes2.bmp"])
def test_a_reference_that_live_does_not_have_is_refused(tmp_path, odd):
    """Otherwise one content would become two, and could lie on both sides of a split."""
    path = write_live(tmp_path) / "refnames_all.mat"
    names = [str(cell[0]) for cell in loadmat(path)["refnames_all"].ravel()]
    savemat(path, {"refnames_all": cells([odd, *names[1:]])})
    fault = only_fault("live", tmp_path)
    assert fault.kind == "bad_label_row" and repr(odd) in fault.where and "29 references" in fault.fix


@pytest.mark.parametrize("name", ["blur_dataset/motion0001.jpg", "motion0001.jpg", "x" * 300 + "/motion0001.jpg"])
def test_livefb_with_one_row_is_read(tmp_path, name):
    write_rows(write_livefb(tmp_path) / "labels_image.csv", [["name", "mos"], [name, 50]])
    kinds = {fault.kind for fault in verify_benchmark("livefb", tmp_path)}
    assert "wrong_count" in kinds and "bad_label_row" not in kinds


def test_a_row_with_a_decimal_comma_is_not_cut_short(tmp_path):
    path = write_koniq10k(tmp_path) / KONIQ_FILES["sets"]
    for text, kind, fix in (
        (path.read_text().replace(",", ";"), "bad_label_column", "separated by semicolons"),
        (path.read_text().replace(",", "\t"), "bad_label_column", "separated by tabs"),
        (path.read_text().replace("12.0", "12,5"), "bad_label_row", "decimal commas"),
        (path.read_text().replace("12.0", '"12,5"'), "bad_label_row", "decimal commas"),
        (path.read_text(), "missing_label_file", "UTF-16"),
    ):
        path.write_text(text, encoding="utf-16" if fix == "UTF-16" else "utf-8")
        fault = only_fault("koniq10k", tmp_path)
        assert fault.kind == kind and fix in fault.fix and "CSV UTF-8" in fault.fix and str(path) in fault.where
        path = write_koniq10k(tmp_path / fix) / KONIQ_FILES["sets"]
        tmp_path = path.parent
