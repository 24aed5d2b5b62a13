"""Files are written whole or not at all, and locks exclude other processes."""

from __future__ import annotations

import errno
import threading

import pytest

from lmcl_core import RunError
from lmcl_core.common.files import LockedError, atomic_write, ensure_writable, file_lock


def test_an_atomic_write_replaces_the_old_file(tmp_path):
    path = tmp_path / "new" / "a.txt"
    for text in ("one", "two"):
        with atomic_write(path) as temporary:
            temporary.write_text(text)
            assert not path.exists() or path.read_text() != text
        assert path.read_text() == text and [p.name for p in path.parent.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    "error, raised, message",
    [(KeyError("bug"), KeyError, "bug"), (OSError(errno.ENOSPC, ""), RunError, r"disk full while saving .*a\.txt")],
)
def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, error, raised, message):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(raised, match=message), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise error
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_written_is_named_before_work_begins(tmp_path):
    ensure_writable(tmp_path / "new" / "folder")
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file" / "folder", tmp_path / "file"):
        with pytest.raises(RunError, match=f"cannot save {folder}: a file or a link is in the way"):
            ensure_writable(folder)
    with pytest.raises(RunError, match="cannot save .*file"), file_lock(tmp_path / "file" / "lock"):
        pass


def test_a_lock_excludes_others_and_its_file_is_deleted(tmp_path):
    path, entered = tmp_path / "new" / "lock", []

    def wait():
        with file_lock(path):
            entered.append("second")

    with file_lock(path):
        with pytest.raises(LockedError), file_lock(path, timeout=0.01):
            pass
        waiting = threading.Thread(target=wait)
        waiting.start()
        entered.append("first")
    waiting.join()
    assert entered == ["first", "second"] and not path.exists()
