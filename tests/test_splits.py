"""Official splits, proofs that parts share no content, and the names that hashes are made of."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lmcl_core import InputError, Split, make_split, split_hash
from lmcl_core.splits import numbered_splits, shared_contents, tail, tail_length, thinned, validation_split


def table_of(images: list[str], **columns) -> pd.DataFrame:
    return pd.DataFrame({"image": images, "content": images, "mos": 1.0}).assign(**columns)


def test_numbered_splits_are_a_range_of_at_least_one():
    assert list(numbered_splits(3)) == [0, 1, 2] and list(numbered_splits(2, 10)) == [10, 11]
    for count, first, message in ((0, 0, "splits is 0"), (-2, 0, "splits is -2"), (1, -1, "first_split is -1")):
        with pytest.raises(InputError, match=message):
            numbered_splits(count, first)


def test_the_official_split_is_what_the_table_says_and_rows_of_no_part_are_in_none():
    table = table_of(list("abcde"), official_split=["test", "train", pd.NA, "val", "train"])
    split = make_split(table, "official", test=0.9)
    assert [list(part) for part in split] == [[1, 4], [3], [0]] and split.index == "official"
    assert all(part.dtype == np.int64 for part in split)


@pytest.mark.parametrize("columns", [{}, dict(official_split=pd.NA)])
def test_a_table_without_an_official_split_is_refused_with_its_notes(columns):
    table = table_of(list("abcde"), **columns)
    table.attrs = dict(benchmark="koniq10k", notes=["small pictures", "the official list is not here"])
    with pytest.raises(
        InputError, match=r"^koniq10k has no official split here \(the official list is not here\): choose"
    ):
        make_split(table, "official")


@pytest.mark.parametrize("index", ["Official", "0", ""])
def test_another_word_is_no_split(index):
    with pytest.raises(InputError, match=f"split index is {index!r}: .*or 'official'"):
        make_split(table_of(list("abcde")), index)


def test_shared_contents_are_counted_once_and_without_case():
    table = table_of(list("abcd"), content=["x.png", "X.PNG", "x.png", "y.png"])
    parts = [np.array([n]) for n in range(4)]
    assert shared_contents(table, Split(parts[0], parts[1], parts[2])) == 1
    assert shared_contents(table, Split(parts[0], parts[0][:0], parts[3])) == 0


@pytest.mark.parametrize(
    "images, length",
    [(["a/1.png", "b/2.png"], 1), (["a/1.png", "b/1.PNG"], 2), (["x/a/1.png", "y/A/1.png"], 3), (["a", "a"], 4)],
)
def test_paths_are_cut_to_the_parts_that_tell_pictures_apart(images, length):
    assert tail_length(images) == length
    assert tail("X/Wn/img1.BMP", 2) == "wn/img1.bmp" and tail("img1.BMP", 3) == "img1.bmp"


def test_a_split_hash_tells_folders_apart_where_file_names_do_not():
    table = table_of(["wn/1.bmp", "wn/2.bmp", "jpeg/1.bmp", "jpeg/2.bmp"])
    one, other = (Split(np.array(train), np.array([], dtype=np.int64), np.array(test)) for train, test in SWAPPED)
    assert split_hash(table, one) != split_hash(table, other)


SWAPPED = [([0, 1], [2, 3]), ([0, 3], [2, 1])]


def test_a_validation_split_measures_on_a_part_of_training_and_leaves_the_test_part_out():
    table = table_of([f"{n}.png" for n in range(40)])
    numbered, chosen = make_split(table, 3), validation_split(table, 3)
    assert len(chosen.test) == 6 and len(chosen.val) == 0 and chosen.index == "03-val"
    assert sorted([*chosen.train, *chosen.test]) == numbered.train.tolist()
    assert not set(chosen.test) & set(numbered.test) and shared_contents(table, chosen) == 0


def test_the_official_split_has_no_validation_split_of_its_own():
    with pytest.raises(InputError, match="official"):
        validation_split(table_of(["a.png", "b.png", "c.png"], official_split=["train", "val", "test"]), "official")


@pytest.mark.parametrize("index", [0, 3])
def test_smaller_shares_of_training_are_parts_of_larger_ones_and_keep_contents_whole(index):
    table = table_of([f"{n}.png" for n in range(90)]).assign(content=[f"c{n // 3}" for n in range(90)])
    split = make_split(table, index)
    parts = [thinned(table, split, share) for share in (0.01, 0.25, 0.5, 0.75, 1.0)]
    assert [len(part) for part in parts] == [3, 18, 36, 54, 72]
    for small, large in zip(parts, parts[1:]):
        assert set(small) < set(large)
    assert parts[-1].tolist() == split.train.tolist()
    assert all((table["content"].iloc[part].value_counts() == 3).all() for part in parts)


def test_which_contents_a_share_keeps_depends_on_the_split():
    table = table_of([f"{n}.png" for n in range(200)])
    one, two = make_split(table, 0), make_split(table, 1)
    shared = set(one.train) & set(two.train)
    assert set(thinned(table, one, 0.5)) & shared != set(thinned(table, two, 0.5)) & shared
