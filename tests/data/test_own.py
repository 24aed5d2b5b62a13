"""A folder with a benchmark.toml works like the named benchmarks, and its errors name file, row and fix."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from layouts import OWN_TOML as TOML
from layouts import write_own
from openpyxl import load_workbook

from lmcl_core import (
    InputError,
    Recipe,
    benchmark,
    choose_benchmarks,
    data_hash,
    load,
    load_benchmark,
    make_split,
    split_hash,
    train,
    verify_benchmark,
)
from lmcl_core.data.faults import FaultError
from lmcl_core.results import cross_dataset, tables
from lmcl_core.results.ablation import choose_variants

TINY = dict(backbone="test_efficientnet", pretrained=False, crop_size=32, crops=2, test_crops=2, epochs=1)
TINY |= dict(batch_images=4, embedding_dim=8, precision="32-true")


def change_label(folder: Path, old: str, new: str) -> None:
    path = folder / "labels.csv"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_it_is_found_by_its_path_and_by_its_name_below_a_root(own):
    table = load_benchmark(own)
    assert table["image"].tolist() == [f"images/{n}.png" for n in [0, 1, 10, 11, *range(2, 10)]]
    row = table.set_index("image").loc["images/4.png"]
    assert (row["mos"], row["content"], row["level"], row["official_split"]) == (34, "ref1", 2, "train")
    assert len(make_split(table, "official").test) == 3 and set(table["distortion"]) == {"blur"}
    assert table.attrs["benchmark"] == "mine" and table.attrs["root"] == str(own) and table.attrs["notes"] == []
    about = benchmark(table)
    assert (about.title, about.axis, about.mos_range) == ("My pictures", "MOS", (0, 100)) and about == benchmark(own)
    for root in (own, own.parent, own.parents[1]):
        other = load_benchmark("mine", root)
        assert all((root / image).is_file() for image in other["image"])
        assert data_hash(other) == data_hash(table)
        assert split_hash(other, make_split(other, 3)) == split_hash(table, make_split(table, 3))
        assert verify_benchmark("mine", root) == []
    assert verify_benchmark(str(own), None, deep=True) == []


def test_a_named_benchmark_is_not_confused_with_own_data(own):
    for name in ("demo", "livec"):
        with pytest.raises(InputError, match="missing_folder"):
            load_benchmark(name, own)
    with pytest.raises(InputError, match="unknown benchmark 'mien': did you mean 'mine'"):
        load_benchmark("mien", own)
    with pytest.raises(InputError, match="holds no benchmark.toml"):
        load_benchmark(own.parent)


def test_labels_are_read_from_every_kind_of_table_and_turned_if_lower_is_better(own):
    expected, labels = load_benchmark(own), pd.read_csv(own / "labels.csv")
    labels["score"] = 100 - labels["score"]
    labels.to_excel(own / "labels.xlsx", index=False)
    labels.assign(votes=[[1, 2, 3]] * len(labels)).to_parquet(own / "labels.parquet")
    for name in ("labels.xlsx", "labels.parquet"):
        turned = TOML.replace("labels.csv", name).replace("= true", "= false")
        (own / "benchmark.toml").write_text(turned)
        table = load_benchmark(own)
        assert data_hash(table) == data_hash(expected) and table.equals(expected)
        assert table.attrs["notes"] == ["lower labels are better: mos = 100 - score"]
        assert benchmark(table).axis == "100 - score"
    (own / "benchmark.toml").write_text(turned.replace("= false", "= true"))
    assert [fault.kind for fault in verify_benchmark(own, None)] == ["wrong_direction"]


def test_without_content_every_image_is_its_own(own):
    labels = pd.read_csv(own / "labels.csv")[["file", "score"]]
    shutil.move(own / "images" / "0.png", own / "0.WebP")
    labels["file"] = [r".\0.WebP", *labels["file"][1:].str.replace("/", "\\").str.replace("png", "PNG")]
    labels.to_csv(own / "labels.csv", index=False, encoding="utf-8-sig")
    table = load_benchmark(own)
    assert table["content"].tolist() == table["image"].str.lower().tolist() and table["content"].nunique() == 12
    assert table["image"][:2].tolist() == ["0.WebP", "images/1.png"]
    assert table[["distortion", "level", "official_split"]].isna().all(axis=None)
    assert verify_benchmark(own, None) == [] and "its own content" in table.attrs["notes"][0]


@pytest.mark.parametrize(
    "old, new, message",
    [
        ('title = "My pictures"\n', "", "the key title is missing: write title ="),
        ("title", "titel", "unknown key 'titel': did you mean 'title'"),
        ("image =", "picture =", r"unknown key of \[columns\] 'picture'"),
        ('"file"', "3", r"image in \[columns\] is 3"),
        ('"My pictures"', "7", "title is 7: write for example title"),
        ('"made up"', '""', "source is '': write for example"),
        ("= true", '= "yes"', "higher_is_better is 'yes': write for example"),
        ("[0, 100]", "[100, 0]", "the first value must be the lower one"),
        ("[0, 100]", "[0, nan]", "the lowest and the highest value"),
        ('"mine"', '"livec"', "the name 'livec' is taken"),
        ('"mine"', '"My data"', "use at most 64 lower-case letters"),
        ('"labels.csv"', '"../labels.csv"', "write a path inside this folder"),
        ('"labels.csv"', '"labels.txt"', "save them as .csv, .xlsx, .parquet"),
        ("= true", "= True", r"not a TOML file in UTF-8 \(.*line 5"),
        ('"made up"', '"caf\udce9"', "not a TOML file in UTF-8"),
    ],
)
def test_an_error_of_the_toml_file_names_file_key_and_fix(own, old, new, message):
    path = own / "benchmark.toml"
    path.write_bytes(TOML.replace(old, new, 1).encode(errors="surrogateescape"))
    for call in (load_benchmark, verify_benchmark):
        with pytest.raises(InputError, match=message) as caught:
            call(own, None)
        assert str(own) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "old, new, kind, where, fix",
    [
        ("images/1.png,31", "images/1.png,n/a", "bad_label_row", "line 3", "'n/a' in column 'score' is not a number"),
        ("images/1.png,31", "images/1.png,131", "wrong_range", "line 3", "outside mos_range = [0, 100]"),
        ("images/1.png", "images/0.PNG", "bad_label_row", "line 3", "'images/0.PNG' is also in line 2"),
        ("images/1.png", "", "bad_label_row", "line 3", "column 'file' is empty"),
        ("images/1.png", "images/../images/1.png", "bad_label_row", "line 3", "is not a path inside the folder"),
        ("images/1.png", r"C:\1.png", "bad_label_row", "line 3", "is not a path inside the folder"),
        ("31,Ref0,blur,2", "31,,blur,2", "bad_label_row", "line 3", "column 'content' is empty"),
        ("31,Ref0,blur,2", "31,Ref0,blur,2.5", "bad_label_row", "line 3", "is not a whole number"),
        ("31,Ref0,blur,2,train", "31,Ref0,blur,2,trian", "bad_label_row", "line 3", "is not train, val, test"),
        ("31,Ref0,blur", "31,5,Ref0,blur", "bad_label_row", "line 3", "it has 7 cells, the header has 6"),
        ("file,", "name,", "bad_label_column", "labels.csv: file", "found only 'name', 'score'"),
        ("level", "score", "bad_label_column", "labels.csv: score", "more than once"),
        ('31,Ref0,blur', '31,"Ref0,blur', "missing_label_file", "labels.csv", "not a readable .csv file"),
    ],
)  # fmt: skip
def test_an_error_of_the_labels_is_one_fault_with_its_line(own, old, new, kind, where, fix):
    change_label(own, old, new)
    (fault,) = verify_benchmark(own, None)
    assert fault.kind == kind and fault.where.endswith(where) and str(own) in fault.where and fix in fault.fix
    with pytest.raises(FaultError, match=kind):
        load_benchmark(own)


@pytest.mark.parametrize(
    "change, encoding, kind, fix",
    [
        (lambda text: text.replace(",", ";"), "utf-8", "bad_label_column", "separated by semicolons"),
        (lambda text: "sep=;\n" + text.replace(",", ";"), "utf-8-sig", "bad_label_column", "separated by semicolons"),
        (lambda text: text.replace(",", "\t"), "utf-16", "missing_label_file", "UTF-16"),
        (lambda text: text, "utf-16-le", "missing_label_file", "UTF-16"),
        (lambda text: re.sub(r"png,(\d+)", r'png,"\1,5"', text), "utf-8", "bad_label_row", "decimal commas"),
        (lambda text: re.sub(r"png,(\d+)", r"png,\1,5", text), "utf-8", "bad_label_row", "decimal commas"),
    ],
)
def test_an_export_of_excel_is_named_as_what_it_is(own, change, encoding, kind, fix):
    path = own / "labels.csv"
    path.write_text(change(path.read_text()), encoding=encoding)
    (fault,) = verify_benchmark(own, None)
    assert fault.kind == kind and fix in fault.fix and "CSV UTF-8" in fault.fix and str(path) in fault.where


@pytest.mark.parametrize(
    "pattern, new, column, fix",
    [
        (r"png,\d+", "png,", "score", "every cell is empty: fill it; if it holds formulas"),
        (r"Ref\d", "Ref0", "content", "its images show 1 different contents, and a split needs at least 3"),
        (r"test$", "train", "official_split", "no image is in test"),
        (r"train$", "val", "official_split", "no image is in train"),
    ],
)
def test_a_column_from_which_no_split_can_be_made_is_a_fault(own, pattern, new, column, fix):
    path = own / "labels.csv"
    text = path.read_text() if column == "official_split" else path.read_text().replace(",test", ",train")
    path.write_text(re.sub(pattern, new, text, flags=re.MULTILINE))
    fault = verify_benchmark(own, None)[0]
    assert fault.kind == "bad_label_column" and fault.where == f"{path}: {column}" and fix in fault.fix


def test_a_stray_cell_far_away_does_not_fill_the_memory(own):
    (own / "benchmark.toml").write_text(TOML.replace("labels.csv", "labels.xlsx"))
    labels = pd.read_csv(own / "labels.csv")
    labels.to_excel(own / "labels.xlsx", index=False)
    assert verify_benchmark(own, None) == []
    book = load_workbook(own / "labels.xlsx")
    book.active["XFD1048576"] = " "
    book.save(own / "labels.xlsx")
    (fault,) = verify_benchmark(own, None)
    assert fault.kind == "missing_label_file" and "has 1048576 rows and 16384 columns" in fault.fix


def test_a_root_that_does_not_hold_the_path_is_refused(own, tmp_path):
    assert verify_benchmark(own, own.parent) == [] == verify_benchmark(own, own)
    with pytest.raises(InputError, match=f"{own} does not lie in {tmp_path}/other: give the path alone"):
        verify_benchmark(own, tmp_path / "other")


def test_the_parts_of_the_official_split_share_no_content(own):
    change_label(own, "Ref0,blur,2,train", "REF0,blur,2,test")
    (fault,) = verify_benchmark(own, None)
    assert fault.kind == "bad_label_row" and fault.where.endswith("lines 2, 3") and "'ref0'" in fault.fix
    change_label(own, "REF0,blur,2,test", "REF0,blur,2,")
    assert verify_benchmark(own, None) == []


def test_a_quote_that_merges_lines_is_named(own):
    change_label(own, "Ref0,blur,1,train", '"Ref0,blur,1,train')
    change_label(own, "Ref0,blur,3,train", 'Ref0",blur,3,train')
    fault = verify_benchmark(own, None)[0]
    assert (
        fault.kind == "bad_label_row" and fault.where.endswith("line 4") and "'content' has a line break" in fault.fix
    )


@pytest.mark.parametrize("suffix", [".WebP", ".JpG"])
def test_file_names_of_every_suffix_are_matched_without_case(own, suffix):
    (own / "images" / "1.png").rename(own / "images" / f"1{suffix}")
    change_label(own, "images/1.png", f"images/1{suffix.swapcase()}")
    assert f"images/1{suffix}" in set(load_benchmark(own)["image"]) and verify_benchmark(own, None) == []


def test_faults_of_images_are_found_one_by_one(own):
    image = own / "images" / "1.png"
    content = image.read_bytes()
    image.rename(own / "images" / "extra.png")
    found = {fault.kind: fault for fault in verify_benchmark(own, None)}
    assert list(found) == ["missing_image", "extra_image"] and found["missing_image"].where == str(image)
    assert "remove its row" in found["missing_image"].fix
    shutil.move(own / "images" / "extra.png", own.parent / "outside.png")
    image.symlink_to(own.parent / "outside.png")
    (fault,) = verify_benchmark(own, None)
    assert fault.kind == "bad_label_row" and fault.where.endswith("line 3") and "link out of the folder" in fault.fix
    image.unlink()
    image.write_bytes(content[:100])
    assert [fault.kind for fault in verify_benchmark(own, None)] == ["unreadable_image"]
    shutil.move(own / "images", own.parent / "elsewhere")
    os.symlink(own.parent / "elsewhere", own / "images")
    assert {fault.kind for fault in verify_benchmark(own, None)} == {"bad_label_row"}


def test_all_finds_own_data_beside_named_benchmarks(own, livec):
    root = own.parent
    shutil.copytree(livec / "ChallengeDB_release", root / "ChallengeDB_release")
    other = write_own(root / "other", TOML.replace('"mine"', '"a-second"'))
    broken = write_own(root / "broken", TOML.replace('"mine"', '"Not good"'))
    found, reasons = choose_benchmarks("all", root)
    assert list(found) == ["livec", "a-second", "mine"] and "64 lower-case" in reasons[str(broken)]
    found, _ = choose_benchmarks(f"{other}, livec", root)
    assert list(found) == ["a-second", "livec"] and found["a-second"].attrs["root"] == str(other)
    with pytest.raises(InputError, match="two of these are called the same"):
        choose_benchmarks(f"{other},a-second", root)
    shutil.copytree(other, root / "copy")
    with pytest.raises(InputError, match="2 folders are named 'a-second'.*give one path"):
        load_benchmark("a-second", root)
    assert "2 folders" in choose_benchmarks("all", root)[1]["a-second"]


def test_it_is_trained_summed_up_and_its_weights_score_without_it(own, tmp_path):
    table = load_benchmark(own)
    split, recipe = make_split(table, 0), Recipe.for_benchmark(table, name="lmcl", **TINY)
    run_set = tables.RunSet(table, recipe, tmp_path / "runs")
    train(table, split, recipe, run_set.folder(0), "cpu", log=lambda line: None)
    assert run_set.folder(0) == tmp_path / "runs" / "mine" / recipe.name / "split-00" and run_set.finished([0]) == [0]
    summary = tables.summarize_splits({"mine": tables.by_split(run_set, [0])}).set_index("benchmark")
    assert list(summary.index)[-1] == "mine" and summary.loc["mine", ["title", "splits"]].tolist() == ["My pictures", 1]
    assert "My pictures" in tables.paper_table(summary.reset_index()).frame["benchmark"].tolist()
    assert set(choose_variants(table, "all", dict(epochs=1))) >= {"lmcl", "quality"}
    assert cross_dataset.unseen("livec", table, split).tolist() == list(range(12))
    assert cross_dataset.unseen("mine", table, split).tolist() == split.test.tolist()
    scores = cross_dataset.predict(run_set.folder(0), table, split.test, "cpu")
    assert len(scores) == len(split.test)
    shutil.copy(own / "images" / "0.png", tmp_path / "alone.png")
    shutil.rmtree(own)
    scorer = load(run_set.folder(0))
    assert (scorer.about["title"], scorer.about["label_kind"]) == ("My pictures", "opinion of three raters")
    assert np.isfinite(scorer.score(tmp_path / "alone.png")["score"][0])


@pytest.mark.parametrize("suffix", [".png", ".webp"])
def test_names_that_differ_in_their_unicode_form_alone_are_the_same(own, suffix):
    """é is one letter or two, as in archives of macOS."""
    change_label(own, "images/2.png", f"images/caf\u00e9{suffix}")
    (own / "images" / "2.png").rename(own / "images" / f"cafe\u0301{suffix}")
    text = (own / "labels.csv").read_text().replace("Ref0", "R\u00e9f", 1).replace("Ref0", "re\u0301f", 1)
    (own / "labels.csv").write_text(text.replace("Ref0", "R\u00c9F", 1))
    table = load_benchmark(own)
    assert f"images/cafe\u0301{suffix}" in set(table["image"]) and table["content"].nunique() == 4
    assert verify_benchmark(own, None) == []


@pytest.mark.parametrize("named, on_disk", [("images", "Images"), ("caf\u00e9/a", "Cafe\u0301/A")])
def test_folders_are_found_in_any_case_and_unicode_form(own, named, on_disk):
    path = own / "labels.csv"
    path.write_text(path.read_text().replace("images/", f"{named}/"))
    (own / on_disk).parent.mkdir(exist_ok=True)
    (own / "images").rename(own / on_disk)
    assert set(load_benchmark(own)["image"]) == {f"{on_disk}/{n}.png" for n in range(12)}
    assert verify_benchmark(own, None) == []


def test_a_folder_spelled_otherwise_that_is_a_link_out_of_the_folder_is_refused(own):
    shutil.move(own / "images", own.parent / "elsewhere")
    os.symlink(own.parent / "elsewhere", own / "IMAGES")
    assert {fault.kind for fault in verify_benchmark(own, None)} == {"bad_label_row"}


def test_a_label_file_that_is_a_link_out_of_the_folder_is_not_read(own, tmp_path):
    (tmp_path / "secret.csv").write_text((own / "labels.csv").read_text())
    (own / "labels.csv").unlink()
    (own / "labels.csv").symlink_to(tmp_path / "secret.csv")
    [fault] = verify_benchmark(str(own), None)
    assert fault.kind == "missing_label_file" and "link out of the folder" in fault.fix
