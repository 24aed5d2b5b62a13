"""Files are written whole, or not at all."""

from __future__ import annotations

import errno

import pytest

from lmcl_core import RunError
from lmcl_core.files import ensure_writable, replacing


def test_replacing_puts_the_new_file_in_place_of_the_old(tmp_path):
    path = tmp_path / "new" / "a.txt"
    for text in ("one", "two"):
        with replacing(path) as temporary:
            temporary.write_text(text)
            assert not path.exists() or path.read_text() != text
        assert path.read_text() == text and [p.name for p in path.parent.iterdir()] == ["a.txt"]


def test_a_writer_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyError), replacing(path) as temporary:
        temporary.write_text("half")
        raise KeyError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_while_replacing_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RunError, match=r"disk full while saving .*a\.txt"), replacing(path):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(RunError, match=r"cannot save .*a\.txt: a file or a link is in the way"),
        replacing(tmp_path / "file" / "a.txt"),
    ):
        pass


def test_a_folder_that_takes_no_files_is_told_before_work_begins(tmp_path):
    ensure_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot save"):
        ensure_writable(tmp_path / "file" / "folder")
