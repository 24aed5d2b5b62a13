"""An archive of a download never writes outside its own folder."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mutations import HOSTILE, damaged, examples, tried

from lmcl_core import InputError, RunError
from lmcl_core.data import download

KINDS = [
    tarfile.REGTYPE,
    tarfile.DIRTYPE,
    tarfile.SYMTYPE,
    tarfile.LNKTYPE,
    tarfile.CHRTYPE,
    tarfile.FIFOTYPE,
    b"7",
    b"S",
]
PARTS = st.sampled_from(["CSIQ", "csiq.DMOS.xlsx", "a", "b", ".lmcl-download.json", ".x", "__MACOSX", *HOSTILE])
NAMES = st.lists(PARTS, min_size=1, max_size=3).map("/".join)
NUMBERS = st.sampled_from([0, 0o7777, -1, 2**31, 2**40])


@st.composite
def archives(draw) -> bytes:
    """A tar archive of regular files and of what should not be in one."""
    buffer = io.BytesIO()
    with tarfile.open(
        fileobj=buffer, mode=draw(st.sampled_from(["w", "w:gz"])), format=draw(st.integers(0, 2))
    ) as file:
        for _ in range(draw(st.integers(1, 4))):
            member = tarfile.TarInfo(draw(NAMES))
            member.type, member.linkname = draw(st.sampled_from(KINDS)), draw(NAMES)
            member.type = draw(st.sampled_from([tarfile.REGTYPE, member.type]))
            member.size = len(member.name) if member.type == tarfile.REGTYPE else 0
            member.mode, member.mtime = draw(st.sampled_from([0o644, 0o7777, 0])), draw(NUMBERS)
            try:
                file.addfile(member, io.BytesIO(bytes(member.size)))
            except (ValueError, UnicodeError):  # a name that this format cannot hold
                continue
    content = buffer.getvalue()
    return draw(st.one_of(st.just(content), damaged([content], head=1024)))


@examples(1)
@given(archives())
def test_nothing_is_written_outside_the_folder(tmp_path_factory, content):
    tried["archives"] += 1
    with TemporaryDirectory(dir=tmp_path_factory.getbasetemp()) as base, pytest.MonkeyPatch.context() as patch:
        place = Path(base).resolve()
        (place / "data").mkdir()
        (place / "x.png").write_text("mine")

        def fetch(source, work, log):
            (work / "archive").write_bytes(content)
            return work / "archive", {}

        patch.setattr(download, "_fetch", fetch)
        try:
            folder = download.download("csiq", place / "data", lambda: True, lambda line: None)
            assert folder == place / "data" / "CSIQ" and (folder / download.NOTE).is_file()
        except (InputError, RunError) as error:
            assert len(str(error).splitlines()) <= 2
            assert os.listdir(place / "data") in ([], [".download"])
        assert sorted(os.listdir(place)) == ["data", "x.png"] and (place / "x.png").read_text() == "mine"
        unpacked = [path for path in (place / "data").rglob("*")]
        assert not any(path.is_symlink() or not (path.is_file() or path.is_dir()) for path in unpacked)
        assert set(os.listdir(place / "data")) <= {".download", "CSIQ"}
