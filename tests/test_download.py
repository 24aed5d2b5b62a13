"""Downloads against a hub on this machine, and archives that must not be unpacked."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from collections import namedtuple
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from filelock import FileLock
from huggingface_hub import constants, file_download

from lmcl_core import InputError, RunError, download
from lmcl_core.download import NOTE, REPOSITORY, SOURCES, extract, terms

COMMIT = "5" * 40
CONTENT = {f"CSIQ/dst_imgs/{n}.png": bytes([n]) * 50 + os.urandom(30_000) for n in range(4)}
OPEN = ["csiq", "tid2013", "kadid10k", "koniq10k", "livefb", "spaq"]
CHUNK = 10_000  # bytes that the client writes at a time; of its own accord 10 MB
ROOT = Path(__file__).parent.parent


def tar_of(content: dict[str, bytes], mode: str = "w:gz") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def zip_of(content: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, data in content.items():
            file.writestr(name, data)
    return buffer.getvalue()


def files_below(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


class Hub(BaseHTTPRequestHandler):
    """What the hub client asks of a hub, for one file; the attributes say how it misbehaves."""

    def do_HEAD(self):
        match = re.fullmatch(rf"/datasets/{REPOSITORY}/resolve/(main|{COMMIT})/(.*)", self.path)
        if match:  # the client asks the hub for other things too
            self.asked.append((self.command, self.path, self.headers.get("Range")))
        body = self.files.get(match[2]) if match else None
        start = int(re.match(r"bytes=(\d+)-", self.headers.get("Range") or "bytes=0-")[1]) if self.ranges else 0
        self.send_response(404 if body is None else 206 if start else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        if body is None:
            self.send_header("X-Error-Code", "EntryNotFound")
            body, start = b"", 0
        elif self.etag != "":
            self.send_header("ETag", '"a name of its own for the storage"')
            self.send_header("X-Linked-Etag", f'"{self.etag or sha256(body)}"')
        self.send_header("X-Linked-Size", str(len(body)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        return body[start:]

    def do_GET(self):
        body = self.do_HEAD()
        assert "/resolve/" not in self.path or self.headers["Accept-Encoding"] == "identity"
        if not self.cuts or "/resolve/" not in self.path:
            self.wfile.write(body)
            return
        self.wfile.write(body[: self.cuts.pop(0)])
        self.wfile.flush()
        self.stalled.wait(10)
        self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub that holds CSIQ. `cuts`: after how many bytes each coming answer ends; `asked`: what was asked for."""
    kind = type("OwnHub", (Hub,), {})
    kind.files, kind.asked, kind.cuts = {"csiq.tgz": tar_of(CONTENT)}, [], []
    kind.etag, kind.ranges, kind.stalled = None, True, threading.Event()
    kind.stalled.set()
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs=dict(poll_interval=0.02))
    thread.start()
    kind.endpoint = f"http://127.0.0.1:{server.server_port}"
    point_to(kind.endpoint, monkeypatch)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)  # the client's pause before it tries again
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", CHUNK)
    yield kind
    kind.stalled.set()
    server.shutdown()
    thread.join()
    server.server_close()


def point_to(endpoint, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", endpoint + "/{repo_id}/resolve/{revision}/{filename}")


def fetch(folder, name="csiq", accept=lambda: True, log=lambda line: None):
    return download.download(name, folder, accept, log)


def in_a_process(hub, folder, before=""):
    code = (
        f"{before}\nfrom huggingface_hub import constants; constants.DOWNLOAD_CHUNK_SIZE = {CHUNK}\n"
        f"from lmcl_core.download import download; download('csiq', {str(folder)!r}, lambda: True)"
    )
    env = {**os.environ, "HF_ENDPOINT": hub.endpoint, "NO_PROXY": "127.0.0.1", "PYTHONPATH": str(ROOT)}
    env["HF_HUB_OFFLINE"] = "0"
    return subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def ranges(hub):
    return [asked for command, _, asked in hub.asked if command == "GET"]


def disk_with(free, monkeypatch):
    usage = namedtuple("usage", "total used free")(10**12, 0, free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


def test_a_download_is_installed_whole_with_a_note_and_nothing_else(hub, tmp_path):
    lines = []
    folder = fetch(tmp_path / "data", log=lines.append)
    assert folder == tmp_path / "data" / "CSIQ"
    note = json.loads((folder / NOTE).read_text())
    (folder / NOTE).unlink()
    assert files_below(tmp_path / "data") == CONTENT
    body = hub.files["csiq.tgz"]
    assert note == dict(name="csiq", repository=REPOSITORY, file="csiq.tgz", commit=COMMIT, sha256=sha256(body))
    assert [entry.name for entry in (tmp_path / "data").iterdir()] == ["CSIQ"]
    assert lines[0] == terms("csiq") and "lmcl verify csiq" in lines[-1]
    prefix = f"/datasets/{REPOSITORY}/resolve"
    assert hub.asked == [("HEAD", f"{prefix}/main/csiq.tgz", None), ("GET", f"{prefix}/{COMMIT}/csiq.tgz", None)]


def test_an_archive_without_a_folder_of_its_own_gets_one(hub, tmp_path):
    content = {"images/1.png": b"1", "dmos.csv": b"2", "__MACOSX/._dmos.csv": b"3"}
    hub.files["kadid10k.tgz"] = tar_of(content)
    folder = fetch(tmp_path, "kadid10k")
    (folder / NOTE).unlink()
    assert folder == tmp_path / "kadid10k" and files_below(folder) == content


def test_junk_beside_the_folder_is_left_behind(hub, tmp_path):
    hub.files["spaq.tgz"] = tar_of({"./SPAQ/TestImage/1.jpg": b"1", "__MACOSX/._SPAQ": b"2", ".DS_Store": b"3"})
    fetch(tmp_path, "spaq")
    assert set(files_below(tmp_path)) == {"SPAQ/TestImage/1.jpg", f"SPAQ/{NOTE}"}


def test_a_connection_that_is_cut_is_resumed(hub, tmp_path):
    hub.cuts = [4 * CHUNK]
    folder = fetch(tmp_path)
    assert ranges(hub) == [None, "bytes=40000-"]
    assert {name: (folder.parent / name).read_bytes() for name in CONTENT} == CONTENT


def test_what_has_arrived_is_kept_for_the_next_call(hub, tmp_path):
    hub.cuts = [4 * CHUNK] + [0] * 20
    with pytest.raises(RunError, match="csiq.tgz could not be had from http://127.0.0.1:.*it goes on where it was"):
        fetch(tmp_path)
    assert not (tmp_path / "CSIQ").exists()
    hub.cuts, hub.asked[:] = [], []
    lines = []
    fetch(tmp_path, log=lines.append)
    assert ranges(hub) == ["bytes=40000-"] and any("0.00 GB of 0.00 GB are here" in line for line in lines)
    assert {name: (tmp_path / name).read_bytes() for name in CONTENT} == CONTENT


def test_a_killed_process_is_resumed_by_the_next(hub, tmp_path):
    """The process gets the hub's address from its environment alone."""
    hub.cuts = [4 * CHUNK]
    hub.stalled.clear()
    with in_a_process(hub, tmp_path) as process:
        wait_for(lambda: any(part.stat().st_size >= 3 * CHUNK for part in tmp_path.glob(".download/csiq/*.tgz")))
        process.kill()
    had = next(tmp_path.glob(".download/csiq/*.tgz")).stat().st_size
    hub.stalled.set()
    fetch(tmp_path)
    assert ranges(hub) == [None, f"bytes={had}-"]
    assert {name: (tmp_path / name).read_bytes() for name in CONTENT} == CONTENT


def wait_for(condition, seconds=30):
    event, end = threading.Event(), time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        event.wait(0.02)


def test_a_server_that_cannot_resume_sends_all_of_it_again(hub, tmp_path):
    hub.cuts, hub.ranges = [4 * CHUNK], False
    fetch(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in CONTENT} == CONTENT


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
    hub.etag = None
    assert fetch(tmp_path).is_dir()
    assert ranges(hub) == [None, None]


@pytest.mark.parametrize("etag", ["", "0" * 40])
def test_a_file_without_a_stated_checksum_is_named_so(hub, tmp_path, etag):
    hub.etag = etag
    lines = []
    fetch(tmp_path, log=lines.append)
    assert "the mirror states no SHA-256 for csiq.tgz: only its size was checked" in lines


def test_the_second_call_does_nothing(hub, tmp_path):
    fetch(tmp_path)
    (tmp_path / "CSIQ" / "mine").write_text("kept")
    hub.asked.clear()
    lines = []
    assert fetch(tmp_path, accept=pytest.fail, log=lines.append) == tmp_path / "CSIQ"
    assert hub.asked == [] and len(lines) == 1 and "already there" in lines[0]
    assert (tmp_path / "CSIQ" / "mine").read_text() == "kept"


def test_a_folder_that_the_owners_gave_is_recognised(tmp_path):
    for mark in ("Images/10.bmp", "Data/AllMOS_release.mat", "Data/AllImages_release.mat"):
        (tmp_path / "ChallengeDB_release" / mark).mkdir(parents=True)
    assert fetch(tmp_path, "livec", accept=pytest.fail) == tmp_path / "ChallengeDB_release"


@pytest.mark.parametrize("note", ["", "[]", "{}", '{"name": "spaq"}'])
def test_a_folder_in_the_way_is_not_touched(hub, tmp_path, note):
    (tmp_path / "CSIQ").mkdir()
    (tmp_path / "CSIQ" / NOTE).write_text(note)
    with pytest.raises(InputError, match="CSIQ is there, but not from here: try `lmcl verify csiq .*CSIQ`"):
        fetch(tmp_path)
    assert hub.asked == [] and files_below(tmp_path) == {f"CSIQ/{NOTE}": note.encode()}


def test_an_empty_folder_is_not_in_the_way(hub, tmp_path):
    (tmp_path / "CSIQ").mkdir()
    fetch(tmp_path)
    assert {name: (tmp_path / name).read_bytes() for name in CONTENT} == CONTENT


@pytest.mark.parametrize("name", ["live", "livec"])
def test_a_set_that_its_owners_hand_out_says_where_to_ask(hub, tmp_path, name):
    lines = []
    with pytest.raises(InputError, match=f"ask at {re.escape(SOURCES[name].page)}"):
        fetch(tmp_path, name, accept=pytest.fail, log=lines.append)
    assert lines == [terms(name)] and "live.ece.utexas.edu" in lines[0] and "huggingface" not in lines[0]
    assert hub.asked == [] and list(tmp_path.iterdir()) == []


def test_a_name_that_is_not_known_gets_a_suggestion(hub, tmp_path):
    for call in (lambda: fetch(tmp_path, "kadid"), lambda: terms("kadid")):
        with pytest.raises(InputError, match="unknown benchmark 'kadid': did you mean 'kadid10k'"):
            call()


def test_nothing_is_asked_for_before_the_terms_are_accepted(hub, tmp_path):
    lines = []
    with pytest.raises(InputError, match="CSIQ was not downloaded: its terms have to be accepted"):
        fetch(tmp_path, accept=lambda: lines.append("asked"), log=lines.append)
    assert lines == [terms("csiq"), "asked"] and hub.asked == [] and list(tmp_path.iterdir()) == []


def test_every_benchmark_of_the_suite_has_terms_and_a_page():
    assert list(SOURCES) == ["live", "csiq", "tid2013", "kadid10k", "livec", "koniq10k", "livefb", "spaq"]
    assert [name for name, source in SOURCES.items() if source.archive] == OPEN
    for name, source in SOURCES.items():
        assert source.page.startswith("https://") and source.page in terms(name) and source.terms in terms(name)
        assert (REPOSITORY in terms(name)) == (name in OPEN)


def test_without_a_server_the_error_names_the_mirror_and_the_owners(tmp_path, monkeypatch):
    point_to("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(RunError) as error:
        fetch(tmp_path)
    message = str(error.value)
    assert "http://127.0.0.1:9" in message and "check the network" in message and SOURCES["csiq"].page in message
    assert "\n" not in message and not (tmp_path / "CSIQ").exists()


def test_offline_mode_is_obeyed(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(RunError, match="csiq.tgz could not be had"):
        fetch(tmp_path)
    assert hub.asked == []


def test_a_file_that_the_mirror_lost_is_an_error_with_the_owners_page(hub, tmp_path):
    with pytest.raises(RunError, match=f"(?s)spaq.tgz could not be had.*404.*{SOURCES['spaq'].page}"):
        fetch(tmp_path, "spaq")


def test_a_disk_without_room_for_archive_and_images_is_seen_before_the_download(hub, tmp_path, monkeypatch):
    disk_with(2 * len(hub.files["csiq.tgz"]) - 1, monkeypatch)
    with pytest.raises(RunError, match="CSIQ, archive and images, needs about .* GB left: free some space"):
        fetch(tmp_path)
    assert ranges(hub) == []
    disk_with(2 * len(hub.files["csiq.tgz"]) + 50_000, monkeypatch)
    assert fetch(tmp_path).is_dir()


def test_a_disk_without_room_for_the_images_keeps_the_archive(hub, tmp_path, monkeypatch):
    hub.files["csiq.tgz"] = tar_of({"CSIQ/a": bytes(10**6), "CSIQ/b": bytes(10**6)})
    disk_with(1_500_000, monkeypatch)
    with pytest.raises(RunError, match="unpacking .*csiq.tgz needs .* or more and the disk"):
        fetch(tmp_path)
    assert not (tmp_path / "CSIQ").exists() and not (tmp_path / ".download" / "csiq" / "unpacked").exists()
    monkeypatch.undo()
    point_to(hub.endpoint, monkeypatch)
    fetch(tmp_path)
    assert len(ranges(hub)) == 1 and (tmp_path / "CSIQ" / "b").stat().st_size == 10**6


def test_a_heap_of_empty_files_counts_as_what_it_takes(tmp_path, monkeypatch):
    (tmp_path / "heap.tar").write_bytes(tar_of({f"{n}": b"" for n in range(300)}, "w:"))
    disk_with(300 * 4096 - 1, monkeypatch)
    with pytest.raises(RunError, match="unpacking heap.tar needs"):
        extract(tmp_path / "heap.tar", tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_more_members_than_any_benchmark_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "_MOST_MEMBERS", 2)
    for n in (2, 3):
        (tmp_path / f"{n}.tar").write_bytes(tar_of({f"{k}": b"" for k in range(n)}))
    extract(tmp_path / "2.tar", tmp_path / "two")
    with pytest.raises(InputError, match="more than 2 members"):
        extract(tmp_path / "3.tar", tmp_path / "three")


def test_a_full_disk_while_unpacking_is_one_message(hub, tmp_path, monkeypatch):
    def full(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "extract", full)
    with pytest.raises(RunError, match="disk full while saving"):
        fetch(tmp_path)
    assert not (tmp_path / "CSIQ").exists() and not (tmp_path / ".download" / "csiq" / "unpacked").exists()


def test_an_unpacking_that_was_killed_leaves_nothing_half_and_goes_on(hub, tmp_path):
    code = (
        "import os, tarfile; extract = tarfile.TarFile.extract\n"
        "def killed(tar, member, target):\n"
        "    extract(tar, member, target)\n"
        "    member.name.endswith('1.png') and os._exit(9)\n"
        "tarfile.TarFile.extract = killed"
    )
    with in_a_process(hub, tmp_path, code) as process:
        assert process.wait(30) == 9
    assert len(files_below(tmp_path / ".download" / "csiq" / "unpacked")) == 2 and not (tmp_path / "CSIQ").exists()
    (tmp_path / ".download" / "csiq" / "unpacked" / "left over").touch()
    hub.asked.clear()
    fetch(tmp_path)
    assert ranges(hub) == [] and set(files_below(tmp_path)) == {*CONTENT, f"CSIQ/{NOTE}"}


def test_two_downloads_of_one_benchmark_do_not_write_to_one_file(hub, tmp_path):
    (tmp_path / ".download").mkdir()
    with FileLock(tmp_path / ".download" / "csiq.lock"):
        with pytest.raises(RunError, match="csiq is being downloaded to .* already"):
            fetch(tmp_path)
    assert hub.asked == [] and fetch(tmp_path).is_dir()


def test_a_folder_that_cannot_be_made_is_one_message(hub, tmp_path):
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


def zip_with(name: str, mode: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("CSIQ/good", b"")
        info = zipfile.ZipInfo("placeholder")
        info.filename, info.external_attr, info.create_system = name, (mode | 0o644) << 16, 3
        file.writestr(info, b"../out")
    return buffer.getvalue()


OUTSIDE = ["../out", "CSIQ/../../out", "/out", "//out/x", "..\\out", "C:\\out", "C:out", "\\out"]
REFUSED = [
    *[(with_member(tarfile.REGTYPE, name), name) for name in OUTSIDE],
    *[(zip_with(name, stat.S_IFREG), name) for name in OUTSIDE],
    (with_member(tarfile.DIRTYPE, "../out"), "../out"),
    (with_member(tarfile.SYMTYPE, "CSIQ/link", "../../out"), "CSIQ/link"),
    (with_member(tarfile.SYMTYPE, "CSIQ/link", "good"), "CSIQ/link"),
    (with_member(tarfile.LNKTYPE, "CSIQ/link", "CSIQ/good"), "CSIQ/link"),
    (with_member(tarfile.CHRTYPE, "CSIQ/null"), "CSIQ/null"),
    (with_member(tarfile.BLKTYPE, "CSIQ/disk"), "CSIQ/disk"),
    (with_member(tarfile.FIFOTYPE, "CSIQ/pipe"), "CSIQ/pipe"),
    (zip_with("CSIQ/link", stat.S_IFLNK), "CSIQ/link"),
    (zip_with("CSIQ/null", stat.S_IFCHR), "CSIQ/null"),
    (zip_with("CSIQ/pipe", stat.S_IFIFO), "CSIQ/pipe"),
]


@pytest.mark.parametrize("body, name", REFUSED, ids=range(len(REFUSED)))
def test_a_member_that_is_not_a_plain_file_inside_is_refused_before_anything_is_written(tmp_path, body, name):
    (tmp_path / "archive").write_bytes(body)
    fault = "has a path that leaves" if name in OUTSIDE else "is a link" if "link" in name else "is a device or special"
    with pytest.raises(InputError, match=re.escape(f"member {name!r} {fault}")):
        extract(tmp_path / "archive", tmp_path / "in" / "target")
    assert files_below(tmp_path / "in") == {} and list((tmp_path / "in" / "target").iterdir()) == []
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["archive", "in"] and not Path("/out").exists()


def test_a_refused_archive_is_not_installed_and_not_kept(hub, tmp_path):
    hub.files["csiq.tgz"] = with_member(tarfile.SYMTYPE, "CSIQ/link", "/etc")
    with pytest.raises(InputError, match="member 'CSIQ/link' is a link"):
        fetch(tmp_path)
    assert files_below(tmp_path / ".download" / "csiq") == {} and not (tmp_path / "CSIQ").exists()


@pytest.mark.parametrize("mode", ["w:", "w:gz", "w:bz2", "w:xz", "zip"])
def test_every_kind_of_archive_is_unpacked_exactly(tmp_path, mode):
    content = {"a/b/ä .png": os.urandom(5000), "a/two..dots": b"", "c": b"3"}
    (tmp_path / "archive").write_bytes(zip_of(content) if mode == "zip" else tar_of(content, mode))
    extract(tmp_path / "archive", tmp_path / "out")
    assert files_below(tmp_path / "out") == content


def encrypted() -> bytes:
    body = bytearray(zip_of({"a": b"1"}))
    body[6] |= 1
    body[body.index(b"PK\x01\x02") + 8] |= 1
    return bytes(body)


def spoiled(body: bytes, at: int) -> bytes:
    """Eight bytes changed, counted from the end."""
    return body[:-at] + bytes(byte ^ 0xA5 for byte in body[-at : 8 - at]) + body[8 - at :]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not an archive",
        b"Rar!\x1a\x07\x00" + bytes(2000),
        tar_of(CONTENT)[:60_000],
        tar_of(CONTENT, "w:")[:60_000],
        tar_of(CONTENT, "w:bz2")[:60_000],
        tar_of(CONTENT, "w:xz")[:60_000],
        zip_of(CONTENT)[:60_000],
        zip_of({"a": b"first"}).replace(b"first", b"worse", 1),
        encrypted(),
        spoiled(tar_of(CONTENT), 100),
        spoiled(tar_of({"a": str(list(range(50_000))).encode()}), 50_000),
        tar_of(CONTENT) + b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + b"\x07" * 20,  # a second stream of a type there is not
        spoiled(tar_of(CONTENT, "w:bz2"), 50_000),
        spoiled(tar_of(CONTENT, "w:xz"), 50_000),
    ],
    ids="empty text rar tgz tar bz2 xz zip crc encrypted bad-gz-end bad-gz-crc bad-gz bad-bz2 bad-xz".split(),
)
def test_a_damaged_archive_is_one_message(tmp_path, body):
    (tmp_path / "archive").write_bytes(body)
    with pytest.raises(InputError, match="cannot unpack .*archive: not a sound tar or zip .*fetch it again") as e:
        extract(tmp_path / "archive", tmp_path / "out")
    assert "\n" not in str(e.value)


def test_a_file_below_another_file_is_one_message(tmp_path):
    (tmp_path / "archive").write_bytes(tar_of({"a": b"1", "a/b": b"2"}))
    with pytest.raises(RunError, match="cannot save .*out"):
        extract(tmp_path / "archive", tmp_path / "out")


def test_an_archive_without_files_is_refused(hub, tmp_path):
    hub.files["csiq.tgz"] = tar_of({})
    with pytest.raises(InputError, match="holds no files"):
        fetch(tmp_path)
    assert not (tmp_path / "CSIQ").exists()


def test_an_archive_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InputError, match="no archive at .*none.tgz"):
        extract(tmp_path / "none.tgz", tmp_path / "out")


def test_the_hub_client_is_not_imported_before_it_is_needed():
    code = "import sys, lmcl_core.download; sys.exit('huggingface_hub' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}).returncode == 0
