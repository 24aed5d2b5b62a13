"""Downloads from a local hub are resumable, checked and installed whole; unsafe archives are refused."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest
from filelock import FileLock
from hub import CHUNK, COMMIT, point_to, serve_hub
from huggingface_hub import constants, file_download

from lmcl_core import BENCHMARKS, InputError, RunError
from lmcl_core.data import download
from lmcl_core.data.download import NOTE, REPOSITORY, SOURCES, extract, terms

CONTENT = {f"CSIQ/dst_imgs/{n}.png": bytes([n]) * 50 + os.urandom(30_000) for n in range(4)}
ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.network


def tar_of(content: dict[str, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def files_below(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture
def hub(tmp_path_factory, monkeypatch):
    """A hub that holds CSIQ."""
    with serve_hub(monkeypatch, tmp_path_factory.mktemp("hub"), **{"csiq.tgz": tar_of(CONTENT)}) as hub:
        yield hub


def fetch(folder, name="csiq", accept=lambda: True, log=lambda line: None):
    return download.download(name, folder, accept, log)


def in_a_process(hub, folder, before=""):
    code = (
        f"{before}\nfrom huggingface_hub import constants; constants.DOWNLOAD_CHUNK_SIZE = {CHUNK}\n"
        f"from lmcl_core.data.download import download; download('csiq', {str(folder)!r}, lambda: True)"
    )
    env = {**os.environ, "HF_ENDPOINT": hub.endpoint, "NO_PROXY": "127.0.0.1", "PYTHONPATH": str(ROOT)}
    env["HF_HUB_OFFLINE"] = "0"
    return subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def ranges(hub):
    return [asked for command, _, asked in hub.asked if command == "GET"]


def disk_with(free, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**12, 0, free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


def assert_installed(folder: Path) -> None:
    assert {name: (folder / name).read_bytes() for name in CONTENT} == CONTENT


def test_a_download_is_installed_whole_with_a_note_and_nothing_else(hub, tmp_path):
    lines, folder = [], tmp_path / "data" / "CSIQ"
    folder.mkdir(parents=True)  # an empty folder is not in the way
    assert fetch(tmp_path / "data", log=lines.append) == folder
    note = json.loads((folder / NOTE).read_text())
    (folder / NOTE).unlink()
    assert files_below(tmp_path / "data") == CONTENT
    digest = hashlib.sha256(hub.files["csiq.tgz"]).hexdigest()
    assert note == dict(name="csiq", repository=REPOSITORY, file="csiq.tgz", commit=COMMIT, sha256=digest)
    assert [entry.name for entry in (tmp_path / "data").iterdir()] == ["CSIQ"]
    assert lines[0] == terms("csiq") and "lmcl verify csiq" in lines[-1]
    prefix = f"/datasets/{REPOSITORY}/resolve"
    assert hub.asked == [("HEAD", f"{prefix}/main/csiq.tgz", None), ("GET", f"{prefix}/{COMMIT}/csiq.tgz", None)]


def test_archives_are_installed_with_and_without_a_folder_of_their_own(hub, tmp_path):
    hub.files["kadid10k.tgz"] = tar_of({"images/1.png": b"1", "dmos.csv": b"2"})
    fetch(tmp_path, "kadid10k")
    hub.files["spaq.tgz"] = tar_of({"./SPAQ/TestImage/1.jpg": b"1", "__MACOSX/._SPAQ": b"2", ".DS_Store": b"3"})
    fetch(tmp_path, "spaq")
    names = ["kadid10k/images/1.png", "kadid10k/dmos.csv", "SPAQ/TestImage/1.jpg", f"SPAQ/{NOTE}", f"kadid10k/{NOTE}"]
    assert set(files_below(tmp_path)) == set(names)


def test_a_cut_connection_is_resumed_within_a_call_and_by_the_next(hub, tmp_path):
    hub.cuts = [2 * CHUNK, 2 * CHUNK] + [0] * 20
    with pytest.raises(RunError, match="csiq.tgz cannot be downloaded from http://127.0.0.1:.*again to resume"):
        fetch(tmp_path)
    assert ranges(hub)[:3] == [None, "bytes=20000-", "bytes=40000-"] and not (tmp_path / "CSIQ").exists()
    hub.cuts, hub.asked[:] = [], []
    lines = []
    fetch(tmp_path, log=lines.append)
    assert ranges(hub) == ["bytes=40000-"] and any("0.00 GB of 0.00 GB are here" in line for line in lines)
    assert_installed(tmp_path)


@pytest.mark.slow
def test_a_killed_process_is_resumed_by_the_next(hub, tmp_path):
    hub.cuts = [4 * CHUNK]
    hub.stalled.clear()
    with in_a_process(hub, tmp_path) as process:
        wait_for(lambda: any(part.stat().st_size >= 3 * CHUNK for part in tmp_path.glob(".download/csiq/*.tgz")))
        process.kill()
    had = next(tmp_path.glob(".download/csiq/*.tgz")).stat().st_size
    hub.stalled.set()
    fetch(tmp_path)
    assert ranges(hub) == [None, f"bytes={had}-"]
    assert_installed(tmp_path)


def wait_for(condition, seconds=30):
    event, end = threading.Event(), time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        event.wait(0.02)


def test_a_part_of_an_older_version_is_not_continued(hub, tmp_path):
    hub.cuts = [4 * CHUNK] + [0] * 20
    with pytest.raises(RunError):
        fetch(tmp_path)
    hub.files["csiq.tgz"] = tar_of({"CSIQ/new": os.urandom(60_000)})
    hub.cuts, hub.asked[:] = [], []
    fetch(tmp_path)
    assert ranges(hub) == [None] and (tmp_path / "CSIQ" / "new").is_file()


def test_a_wrong_checksum_is_refused_and_the_next_call_starts_anew(hub, tmp_path):
    hub.etag = "0" * 64
    with pytest.raises(RunError, match="csiq.tgz does not have the SHA-256 that .* states"):
        fetch(tmp_path)
    assert files_below(tmp_path / ".download" / "csiq") == {} and not (tmp_path / "CSIQ").exists()
    hub.etag = "0" * 40  # of git, not SHA-256
    lines = []
    assert fetch(tmp_path, log=lines.append).is_dir() and ranges(hub) == [None, None]
    assert "the mirror states no SHA-256 for csiq.tgz: only its size was checked" in lines


def test_a_second_call_does_nothing(hub, tmp_path):
    fetch(tmp_path)
    (tmp_path / "CSIQ" / "mine").write_text("kept")
    hub.asked.clear()
    lines = []
    assert fetch(tmp_path, accept=pytest.fail, log=lines.append) == tmp_path / "CSIQ"
    assert hub.asked == [] and len(lines) == 1 and "already there" in lines[0]
    assert (tmp_path / "CSIQ" / "mine").read_text() == "kept"


def test_the_official_folder_is_recognised_without_a_note_and_in_any_case(tmp_path):
    marks = ("Images/10.bmp", "Data/AllMOS_release.mat", "Data/AllImages_release.mat")
    for name, case in (("ChallengeDB_release", str), ("challengedb_RELEASE", str.upper)):
        for mark in marks:
            (tmp_path / case("a") / name / case(mark)).mkdir(parents=True)
        assert fetch(tmp_path / case("a"), "livec", accept=pytest.fail) == tmp_path / case("a") / name


@pytest.mark.parametrize("note", ["[]", '{"name": "spaq"}'])
def test_a_folder_in_the_way_is_not_touched(hub, tmp_path, note):
    (tmp_path / "CSIQ").mkdir()
    (tmp_path / "CSIQ" / NOTE).write_text(note)
    with pytest.raises(InputError, match="CSIQ holds something else: check it with `lmcl verify csiq .*CSIQ`"):
        fetch(tmp_path)
    assert hub.asked == [] and files_below(tmp_path) == {f"CSIQ/{NOTE}": note.encode()}


def test_a_benchmark_that_only_its_owners_distribute_says_where_to_ask(hub, tmp_path):
    lines = []
    with pytest.raises(InputError, match=f"ask at {re.escape(SOURCES['live'].page)}"):
        fetch(tmp_path, "live", accept=pytest.fail, log=lines.append)
    assert lines == [terms("live")] and hub.asked == [] and list(tmp_path.iterdir()) == []


def test_nothing_is_requested_before_the_terms_are_accepted(hub, tmp_path):
    lines = []
    with pytest.raises(InputError, match="unknown benchmark 'kadid': did you mean 'kadid10k'"):
        fetch(tmp_path, "kadid")
    with pytest.raises(InputError, match="folder to download to is empty"):
        fetch(" ")
    with pytest.raises(InputError, match="CSIQ was not downloaded: accept its terms"):
        fetch(tmp_path, accept=lambda: lines.append("asked"), log=lines.append)
    assert lines == [terms("csiq"), "asked"] and hub.asked == [] and list(tmp_path.iterdir()) == []


def test_every_benchmark_has_terms_and_a_page():
    assert list(SOURCES) == [name for name in BENCHMARKS if name != "demo"]
    for name, source in SOURCES.items():
        assert source.page.startswith("https://") and source.page in terms(name) and source.terms in terms(name)
        assert (REPOSITORY in terms(name)) == bool(source.archive) == (name not in ("live", "livec"))


def test_an_unreachable_mirror_a_missing_file_and_offline_mode_are_errors(hub, tmp_path, monkeypatch):
    with pytest.raises(RunError, match=f"spaq.tgz cannot be downloaded.*404.*{SOURCES['spaq'].page}"):
        fetch(tmp_path, "spaq")
    hub.asked.clear()
    with monkeypatch.context() as offline:
        offline.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(RunError, match="csiq.tgz cannot be downloaded"):
            fetch(tmp_path)
    assert hub.asked == []
    point_to("http://127.0.0.1:9", monkeypatch)
    message = "csiq.tgz cannot be downloaded from http://127.0.0.1:9.*check the network"
    with pytest.raises(RunError, match=message) as error:
        fetch(tmp_path)
    assert "\n" not in str(error.value) and not (tmp_path / "CSIQ").exists()


def test_missing_room_for_archive_and_images_is_found_before_the_download(hub, tmp_path, monkeypatch):
    disk_with(2 * len(hub.files["csiq.tgz"]) - 1, monkeypatch)
    with pytest.raises(RunError, match="CSIQ, archive and images, needs at least .* GB left: free some space"):
        fetch(tmp_path)
    assert ranges(hub) == []
    disk_with(2 * len(hub.files["csiq.tgz"]) + 50_000, monkeypatch)
    assert fetch(tmp_path).is_dir()


def test_missing_room_for_the_images_keeps_the_archive(hub, tmp_path, monkeypatch):
    hub.files["csiq.tgz"] = tar_of({"CSIQ/a": bytes(10**6), "CSIQ/b": bytes(10**6)})
    disk_with(1_500_000, monkeypatch)
    with pytest.raises(RunError, match="unpacking .*csiq.tgz needs at least .* and the disk"):
        fetch(tmp_path)
    assert not (tmp_path / "CSIQ").exists() and not (tmp_path / ".download" / "csiq" / "unpacked").exists()
    monkeypatch.undo()
    point_to(hub.endpoint, monkeypatch)
    fetch(tmp_path)
    assert len(ranges(hub)) == 1 and (tmp_path / "CSIQ" / "b").stat().st_size == 10**6


@pytest.mark.parametrize("where", ["write", "unpack", "rename"])
def test_a_full_disk_is_reported_and_leaves_no_folder(hub, tmp_path, monkeypatch, where):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    target = dict(write=(file_download, "http_get"), unpack=(tarfile.TarFile, "makefile"), rename=(os, "replace"))
    monkeypatch.setattr(*target[where], full)
    with pytest.raises(RunError, match="disk full while saving") as error:
        fetch(tmp_path)
    assert str(tmp_path) in str(error.value) and ".download" not in str(error.value)
    assert not (tmp_path / "CSIQ").exists() and not (tmp_path / ".download" / "csiq" / "unpacked").exists()


@pytest.mark.slow
def test_a_killed_unpacking_leaves_nothing_incomplete_and_is_repeated(hub, tmp_path):
    code = (
        "import os, tarfile; makefile = tarfile.TarFile.makefile\n"
        "def killed(tar, member, target):\n"
        "    makefile(tar, member, target)\n"
        "    member.name.endswith('1.png') and os._exit(9)\n"
        "tarfile.TarFile.makefile = killed"
    )
    with in_a_process(hub, tmp_path, code) as process:
        assert process.wait(30) == 9
    assert len(files_below(tmp_path / ".download" / "csiq" / "unpacked")) == 2 and not (tmp_path / "CSIQ").exists()
    (tmp_path / ".download" / "csiq" / "unpacked" / "left over").touch()
    hub.asked.clear()
    fetch(tmp_path)
    assert ranges(hub) == [] and set(files_below(tmp_path)) == {*CONTENT, f"CSIQ/{NOTE}"}


def test_a_download_in_progress_and_a_folder_that_cannot_be_created_are_named(hub, tmp_path):
    (tmp_path / ".download").mkdir()
    with FileLock(tmp_path / ".download" / "csiq.lock"):
        with pytest.raises(RunError, match="csiq is already being downloaded to"):
            fetch(tmp_path)
    assert hub.asked == [] and fetch(tmp_path).is_dir()
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="cannot save .*file"):
        fetch(tmp_path / "file")


def with_member(kind: str, name: str, link: str = "") -> bytes:
    """A tar with a harmless member and then one of this kind."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.addfile(tarfile.TarInfo("CSIQ/good"))
        member = tarfile.TarInfo(name)
        member.type, member.linkname = kind, link
        tar.addfile(member)
    return buffer.getvalue()


OUTSIDE = ["../out", "CSIQ/../../out", "/out", "//out/x", "..\\out", "C:\\out", "C:out", "\\out"]
REFUSED = [
    *[(with_member(tarfile.REGTYPE, name), name) for name in OUTSIDE],
    (with_member(tarfile.DIRTYPE, "../out"), "../out"),
    (with_member(tarfile.SYMTYPE, "CSIQ/link", "../../out"), "CSIQ/link"),
    (with_member(tarfile.LNKTYPE, "CSIQ/link", "CSIQ/good"), "CSIQ/link"),
    (with_member(tarfile.CHRTYPE, "CSIQ/null"), "CSIQ/null"),
    (with_member(tarfile.FIFOTYPE, "CSIQ/pipe"), "CSIQ/pipe"),
]


@pytest.mark.parametrize("body, name", REFUSED, ids=range(len(REFUSED)))
def test_an_unsafe_member_is_refused_before_anything_is_written(tmp_path, body, name):
    (tmp_path / "archive").write_bytes(body)
    fault = "has a path that leaves" if name in OUTSIDE else "is a link" if "link" in name else "is a device or special"
    with pytest.raises(InputError, match=re.escape(f"member {name!r} {fault}")):
        extract(tmp_path / "archive", tmp_path / "in" / "target")
    assert files_below(tmp_path / "in") == {} and list((tmp_path / "in" / "target").iterdir()) == []
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["archive", "in"] and not Path("/out").exists()


@pytest.mark.parametrize(
    "body, message",
    [(with_member(tarfile.SYMTYPE, "CSIQ/link", "/etc"), "'CSIQ/link' is a link"), (tar_of({}), "holds no files")],
    ids=["link", "empty"],
)
def test_an_unusable_archive_is_neither_installed_nor_kept(hub, tmp_path, body, message):
    hub.files["csiq.tgz"] = body
    with pytest.raises(InputError, match=message):
        fetch(tmp_path)
    assert files_below(tmp_path / ".download" / "csiq") == {} and not (tmp_path / "CSIQ").exists()


@pytest.mark.parametrize("mode", ["w:", "w:gz", "w:bz2", "w:xz"])
def test_every_kind_of_archive_is_unpacked_exactly(tmp_path, mode):
    content = {"a/b/ä .png": os.urandom(5000), "a/two..dots": b"", "c": b"3"}
    (tmp_path / "archive").write_bytes(tar_of(content, mode))
    extract(tmp_path / "archive", tmp_path / "out")
    assert files_below(tmp_path / "out") == content


def spoiled(body: bytes, at: int) -> bytes:
    """Eight bytes changed, counted from the end."""
    return body[:-at] + bytes(byte ^ 0xA5 for byte in body[-at : 8 - at]) + body[8 - at :]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not an archive",
        tar_of(CONTENT)[:60_000],
        tar_of(CONTENT, "w:")[:60_000],
        spoiled(tar_of(CONTENT), 100),
        spoiled(tar_of({"a": str(list(range(50_000))).encode()}), 50_000),
        tar_of(CONTENT) + b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + b"\x07" * 20,  # a second stream of a type there is not
        spoiled(tar_of(CONTENT, "w:xz"), 50_000),
    ],
    ids="empty text tgz tar bad-gz-end bad-gz-crc bad-gz bad-xz".split(),
)
def test_a_damaged_archive_is_one_message(tmp_path, body):
    (tmp_path / "archive").write_bytes(body)
    with pytest.raises(InputError, match="cannot unpack .*archive: not an intact tar archive .*download it again") as e:
        extract(tmp_path / "archive", tmp_path / "out")
    assert "\n" not in str(e.value)
