"""Splits share no content, and validation splits and training shares are nested as they should be."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from lmcl_core import InputError, Split, make_split
from lmcl_core.data.splits import numbered_splits, shared_contents, subsample, validation_split


def table_of(images: list[str], **columns) -> pd.DataFrame:
    return pd.DataFrame({"image": images, "content": images, "mos": 1.0}).assign(**columns)


HUNDRED = table_of([f"{n}.png" for n in range(100)])


def test_numbered_splits_are_a_range_of_at_least_one():
    assert list(numbered_splits(3)) == [0, 1, 2] and list(numbered_splits(2, 10)) == [10, 11]
    for count, first, message in ((0, 0, "splits is 0"), (10_001, 0, "splits is 10001"), (1, -1, "first_split is -1")):
        with pytest.raises(InputError, match=message):
            numbered_splits(count, first)


def test_the_official_split_is_that_of_the_table_and_rows_without_a_part_are_left_out():
    table = table_of(list("abcde"), official_split=["test", "train", pd.NA, "val", "train"])
    split = make_split(table, "official", test=0.9)
    assert [list(part) for part in split] == [[1, 4], [3], [0]] and split.index == "official"
    assert all(part.dtype == np.int64 for part in split)
    with pytest.raises(InputError, match="the official split has no validation split"):
        validation_split(table, "official")
    table = table_of(list("abcde"), official_split=pd.NA)
    table.attrs = dict(benchmark="koniq10k", notes=["small images", "the official list is not here"])
    message = r"^koniq10k has no official split here \(the official list is not here\): choose"
    with pytest.raises(InputError, match=message):
        make_split(table, "official")


def test_an_image_without_a_content_is_refused():
    table = pd.DataFrame(dict(image=list("abcdef"), content=["a", "b", None, "d", "e", "f"]))
    with pytest.raises(InputError, match="row 2 of the table has no content"):
        make_split(table, 0)


@pytest.mark.parametrize("index", ["Official", "0", -1, 1.0, True])
def test_another_index_is_refused(index):
    with pytest.raises(InputError, match=f"split index is {index!r}: .*or 'official'"):
        make_split(HUNDRED, index)


@pytest.mark.parametrize("test, val", [(0, 0), (1.2, 0), (0.5, 0.5), (0.2, -0.1), (0.001, 0), (0.2, 0.001)])
def test_shares_that_leave_a_part_empty_are_refused(test, val):
    with pytest.raises(InputError, match=f"test={test}"):
        make_split(HUNDRED, 0, test, val)


def test_shared_contents_are_counted_once_and_without_case():
    table = table_of(list("abcd"), content=["x.png", "X.PNG", "x.png", "y.png"])
    parts = [np.array([n]) for n in range(4)]
    assert shared_contents(table, Split(parts[0], parts[1], parts[2])) == 1
    assert shared_contents(table, Split(parts[0], parts[0][:0], parts[3])) == 0


def test_a_validation_split_measures_on_training_contents_and_leaves_the_test_part_out():
    numbered, chosen = make_split(HUNDRED, 3), validation_split(HUNDRED, 3)
    assert len(chosen.test) == 15 and len(chosen.val) == 0 and chosen.index == "03-val"
    assert sorted([*chosen.train, *chosen.test]) == numbered.train.tolist()
    assert not set(chosen.test) & set(numbered.test) and shared_contents(HUNDRED, chosen) == 0


def test_smaller_shares_of_training_are_nested_and_keep_contents_whole():
    table = HUNDRED.iloc[:90].assign(content=[f"c{n // 3}" for n in range(90)])
    split = make_split(table, 3)
    parts = [subsample(table, split, share) for share in (0.01, 0.25, 0.5, 0.75, 1.0)]
    assert [len(part) for part in parts] == [3, 18, 36, 54, 72]
    for small, large in zip(parts, parts[1:]):
        assert set(small) < set(large)
    assert parts[-1].tolist() == split.train.tolist()
    assert all((table["content"].iloc[part].value_counts() == 3).all() for part in parts)


def test_ten_splits_differ_and_each_has_disjoint_and_complete_parts_of_the_given_shares():
    table = table_of([f"{n}.png" for n in range(60)]).assign(content=[f"c{n // 4:02d}" for n in range(60)])
    splits = [make_split(table, index, test=0.2, val=0.2) for index in range(10)]
    for index, split in enumerate(splits):
        assert [len(part) for part in split] == [36, 12, 12] and split.index == index
        assert sorted(np.concatenate(list(split))) == list(range(60)) and shared_contents(table, split) == 0
        assert np.array_equal(make_split(table, index).test, split.test)
    assert len({frozenset(split.test) for split in splits}) == 10


def test_a_split_depends_neither_on_the_order_of_rows_nor_on_the_hash_seed_of_the_process():
    """A changed split would make every recorded run unusable."""
    table = table_of([f"c{n:02d}" for n in range(20)])
    shuffled = table.sample(frac=1, random_state=1)
    for rows in (table, shuffled):
        assert sorted(rows["content"].iloc[make_split(rows, 0).test]) == ["c15", "c16", "c18", "c19"]
    code = (
        "import pandas as pd; from lmcl_core.data.splits import make_split;"
        "table = pd.DataFrame({'content': [f'c{n:02d}' for n in range(20)]});"
        "print(*[n for i in range(10) for n in make_split(table, i, val=0.1).train])"
    )
    env = {**os.environ, "PYTHONHASHSEED": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.split() == [str(n) for index in range(10) for n in make_split(table, index, val=0.1).train]
