"""Keys and hashes do not depend on the root folder and tell all images apart."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lmcl_core import InputError, data_hash, make_split, split_hash
from lmcl_core.data.identity import image_keys, name_order, rows_of


def table_of(images: list[str], root: object = "") -> pd.DataFrame:
    table = pd.DataFrame({"image": images, "content": images, "mos": np.arange(len(images), dtype=float)})
    table.attrs["root"] = str(root)
    return table


@pytest.mark.parametrize(
    "images, keys",
    [
        (["X/a/1.PNG", "X/b/2.png"], ["1.png", "2.png"]),
        (["X/a/1.png", "X/b/1.PNG"], ["a/1.png", "b/1.png"]),
        (["r/x/a/1.png", "r/y/A/1.png"], ["x/a/1.png", "y/a/1.png"]),
        (["a", "a"], ["a", "a"]),
    ],
)
def test_a_key_has_as_many_folders_as_tell_images_apart(images, keys):
    assert image_keys(table_of(images)) == keys


def test_hashes_are_those_on_record_under_any_root(tmp_path):
    """A changed hash would make every recorded run unusable."""
    (tmp_path / "Outer" / "Inner").mkdir(parents=True)
    for n in range(10):
        (tmp_path / "Outer" / "Inner" / f"Img{n}.bmp").write_bytes(bytes(n))
    tables = [
        table_of([f"{prefix}Img{n}.bmp" for n in range(10)], tmp_path / root)
        for root, prefix in (("", "Outer/Inner/"), ("Outer", "Inner/"), ("Outer/Inner", ""))
    ]
    assert {data_hash(table) for table in tables} == {"e7f20bfd3028"}
    by_name = make_split(tables[2], 0)
    assert {split_hash(table, by_name) for table in tables} == {"4d2975c4024e"}
    changed = tables[0].assign(mos=1.0)
    changed.attrs = tables[0].attrs
    assert data_hash(changed) != data_hash(tables[0])


def test_rows_are_found_and_sorted_by_name_under_another_root():
    table = table_of(["Data/b.png", "Data/A.png", "Data/c.png"])
    assert rows_of(table, ["c.png", "other/a.PNG"]).tolist() == [2, 1]
    assert rows_of(table, []).dtype == np.int64
    assert name_order(table, ["c.png", "A.png", "b.png"]).tolist() == [1, 2, 0]
    with pytest.raises(InputError, match="^d.png is not in this table"):
        rows_of(table, ["c.png", "d.png"])
