"""Damaged label files give a sound table or an error for the user, and `verify` finds what `load` refuses."""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layouts import COUNTS, LABEL_FILES, LAYOUTS, write_own
from mutations import damaged, damaged_table, damaged_zip, examples, tried

from lmcl_core import BENCHMARKS, InputError, benchmark, load_benchmark, verify_benchmark

FILES = [("own", "labels.csv"), ("own", "benchmark.toml")]
FILES += [(name, file) for name in COUNTS for file in LABEL_FILES[name]]
#: Damage that once ended in another error, or ended the process.
FOUND = [
    ("kadid10k", "dmos.csv", lambda whole: whole.splitlines()[0]),
    (
        "live",
        "dmos_realigned.mat",
        lambda whole: whole.replace(struct.pack("<II", 9, 200), struct.pack("<II", 99, 200)),
    ),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with a small copy of every layout, as complete as the benchmark that it stands for."""
    folder = tmp_path_factory.mktemp("layouts")
    write_own(folder / "own")
    with pytest.MonkeyPatch.context() as patch:
        for name, count in COUNTS.items():
            LAYOUTS[name](folder / name)
            patch.setitem(BENCHMARKS, name, dataclasses.replace(BENCHMARKS[name], count=count))
        yield folder


def check(name: str, folder: Path) -> None:
    """A table is sound; a refusal is short, and `verify` finds it, too."""
    named, table, refused = (folder, None) if name == "own" else (name, folder), None, None
    try:
        table = load_benchmark(*named)
    except InputError as error:
        refused = str(error)
        assert 0 < len(refused.splitlines()) <= 2
    try:
        faults = verify_benchmark(*named)
    except InputError as error:  # of the file that describes own data
        assert str(error) == refused and "benchmark.toml" in refused
        return
    tried["faults found in labels"] += len(faults)
    assert all(len(str(fault).splitlines()) <= 2 for fault in faults)
    if table is None:
        assert faults
        return
    place = Path(table.attrs["root"]).resolve()
    assert np.isfinite(table["mos"]).all() and table["image"].is_unique and len(table)
    assert all((place / image).resolve().is_relative_to(folder) for image in table["image"])
    assert all((place / image).is_file() for image in table["image"])
    low, high = benchmark(table).mos_range
    assert faults or table["mos"].between(low - 0.01 * (high - low), high + 0.01 * (high - low)).all()


def contents(path: Path) -> st.SearchStrategy[bytes]:
    """Damage that suits a kind of file."""
    whole = path.read_bytes()
    if path.suffix == ".xlsx":
        return st.one_of(damaged_zip(whole), damaged([whole]))
    if path.suffix == ".mat":
        return damaged([whole], head=len(whole))
    separator = {".txt": " ", ".toml": " = "}.get(path.suffix, ",")
    return st.one_of(damaged([whole]), damaged_table(whole.decode(), separator))


@pytest.mark.parametrize("name, file, damage", FOUND)
def test_damage_that_was_found_stays_refused(root, name, file, damage):
    path = next((root / name).rglob(file))
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    try:
        with pytest.raises(InputError, match=file):
            load_benchmark(name, root / name)
        check(name, (root / name).resolve())
    finally:
        path.write_bytes(whole)


@pytest.mark.parametrize("name, file", FILES)
def test_damaged_labels_are_sound_or_refused_and_found(root, name, file):
    path = next((root / name).rglob(Path(file).name))
    whole = path.read_bytes()
    assert check(name, (root / name).resolve()) is None

    @examples(0.1 if path.suffix == ".xlsx" else 0.5)  # openpyxl is slow
    @given(contents(path))
    def attempt(content: bytes) -> None:
        tried["labels"] += 1
        path.write_bytes(content)
        check(name, (root / name).resolve())

    try:
        attempt()
    finally:
        path.write_bytes(whole)
