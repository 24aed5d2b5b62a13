"""Download open benchmarks from a public mirror: resumable, checked by SHA-256, and unpacked safely."""

from __future__ import annotations

import errno
import hashlib
import json
import lzma
import os
import re
import shutil
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

from ..common.errors import InputError, RunError, first_line, save_failed, unknown
from ..common.files import LockedError, digest, ensure_writable, file_lock
from ..common.paths import resolve_path
from ..common.progress import Log, bar, meter
from .catalogue import BENCHMARKS
from .labels import find

REPOSITORY = "chaofengc/IQA-Toolbox-Datasets"  #: the mirror, a dataset repository of the Hugging Face hub
NOTE = ".lmcl-download.json"  #: file written into a completely installed folder
_WORK = ".download"  # folder of archives and unpacked files, in the folder that the user chose
_BLOCK = 4096  # bytes of disk that one more file takes, even if it is empty; its content is rounded up to blocks
_MAX_MEMBERS = 1_000_000
_DAMAGED = (tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, ValueError)


class Source(NamedTuple):
    """Where a benchmark comes from."""

    title: str
    folder: str  # the folder it is installed to
    archive: str  # file of the mirror; "" if only the owners distribute the images
    gigabytes: float  # size of the archive
    terms: str  # the owners' terms in short
    page: str  # the owners' page, with the full terms and the paper to cite


_LIVE = "https://live.ece.utexas.edu/research"
_GIT = "https://github.com"
_MMSP = "https://database.mmsp-kn.de"
_ASK = "free of charge; only the owners distribute it: the LIVE laboratory of UT Austin sends the link on request"
_PAGE = "offered by its authors on their page, for research; we know of no licence named there"
_TID = "offered by its authors; their notice, as worded for TID2008: for education and research, kept with every copy"
_YFCC = f"{_PAGE}; the photographs come from YFCC100M, each under the Creative Commons licence of its author"
_OWNERS = "AVA, PASCAL VOC 2012, EMOTIC and a blur set"
_MIXED = f"labels are offered by the authors; the photographs are those of {_OWNERS}, each under its own terms"
_MIXED += " (VOC gives its test photographs to registered users)"
_MIRROR = "It is not run by the owners; it collects benchmarks for academic, research and educational use, and the "
_MIRROR += "owners' terms apply."
SOURCES = {
    "live": Source("LIVE", "databaserelease2", "", 0.7, _ASK, f"{_LIVE}/Quality/subjective.htm"),
    "csiq": Source("CSIQ", "CSIQ", "csiq.tgz", 0.4, _PAGE, "https://s2.smu.edu/~eclarson/csiq.html"),
    "tid2013": Source("TID2013", "tid2013", "tid2013.tgz", 1.2, _TID, "https://www.ponomarenko.info/tid2013.htm"),
    "kadid10k": Source("KADID-10k", "kadid10k", "kadid10k.tgz", 3.1, _PAGE, f"{_MMSP}/kadid-10k-database.html"),
    "livec": Source("LIVEC", "ChallengeDB_release", "", 0.3, _ASK, f"{_LIVE}/ChallengeDB/index.html"),
    "koniq10k": Source("KonIQ-10k", "koniq10k", "koniq10k.tgz", 6.4, _YFCC, f"{_MMSP}/koniq-10k-database.html"),
    "livefb": Source("LIVEFB", "FLIVE_Database", "flive.tgz", 5.4, _MIXED, f"{_GIT}/niu-haoran/FLIVE_Database"),
    "spaq": Source("SPAQ", "SPAQ", "spaq.tgz", 34.8, _PAGE, f"{_GIT}/h4nwei/SPAQ"),
}


def terms(name: str) -> str:
    """The owners' terms, their page, and what the mirror offers; `InputError` for an unknown benchmark."""
    if name not in SOURCES:
        raise unknown("benchmark", name, SOURCES)
    source = SOURCES[name]
    text = f"{source.title}: {source.terms}.\nOwners' page: {source.page}; cite the paper that it names."
    mirror = f"huggingface.co/datasets/{REPOSITORY}, {source.archive}, {source.gigabytes:g} GB"
    return f"{text}\nMirror: {mirror}. {_MIRROR}" if source.archive else text


def download(name: str, folder: str | Path, accept: Callable[[], bool], log: Log = print) -> Path:
    """Download a benchmark of `SOURCES` and unpack it into its own folder in `folder`, which is returned.

    An interrupted download is resumed; if the benchmark is there, nothing is done. `accept` is called after the terms
    are logged and returns whether the user accepts them.

    Raises:
        InputError: unknown name, images not on the mirror, terms not accepted, or an unsafe or damaged archive.
        RunError: no network, wrong checksum, full disk, or a folder that cannot be written.
    """
    text = terms(name)
    if not str(folder).strip():
        raise InputError("the folder to download to is empty: name a folder, or . for the current one")
    source, folder = SOURCES[name], resolve_path(folder)
    destination = find(folder, source.folder) or folder / source.folder
    verify = f"`lmcl verify {name} {destination}`"
    if _is_installed(name, destination):
        log(f"{source.title} is already there: nothing to do; check it with {verify}")
        return destination
    log(text)
    if not source.archive:
        fix = f"ask at {source.page}, unpack it to {destination} and run {verify}"
        raise InputError(f"{source.title} is distributed only by its owners: {fix}")
    if not accept():
        raise InputError(f"{source.title} was not downloaded: accept its terms first")
    work = folder / _WORK / name  # deleted only on success, so that the next call can resume
    ensure_writable(folder)
    try:
        with file_lock(work.with_suffix(".lock"), timeout=0):
            _download_to(destination, name, work, log)
    except LockedError as error:
        raise RunError(f"{name} is already being downloaded to {folder}: wait until that has finished") from error
    with suppress(OSError):  # another benchmark is being downloaded
        work.parent.rmdir()
    log(f"{source.title} is in {destination}: check it with {verify}")
    return destination


def _is_installed(name: str, destination: Path) -> bool:
    """Whether a folder holds the benchmark, by the note of a download or by its official contents."""
    if not destination.exists() or destination.is_dir() and not any(destination.iterdir()):
        return False
    with suppress(OSError, ValueError, KeyError, TypeError):
        if json.loads((destination / NOTE).read_text())["name"] == name:
            return True
    if all(any(find(destination, one) for one in mark.split("|")) for mark in BENCHMARKS[name].marks):
        return True
    raise InputError(f"{destination} holds something else: check it with `lmcl verify {name} {destination}` or move it")


def _download_to(destination: Path, name: str, work: Path, log: Log) -> None:
    """Fetch the archive, unpack it in the work folder, and move it with a note to its place by one rename."""
    source, unpacked = SOURCES[name], work / "unpacked"
    shutil.rmtree(unpacked, ignore_errors=True)  # left by a killed process
    work.mkdir(exist_ok=True)
    archive, note = _fetch(source, work, log)
    log(f"unpacking {source.archive}")
    try:
        extract(archive, unpacked)
        entries = [entry for entry in unpacked.iterdir() if entry.name != "__MACOSX" and entry.name[0] != "."]
        if not entries:
            raise InputError(f"the archive of {destination.name} holds no files: download it again")
        own = len(entries) == 1 and entries[0].is_dir() and entries[0].name.lower() == destination.name.lower()
        whole = entries[0] if own else unpacked
        (whole / NOTE).write_text(json.dumps(dict(name=name, **note), indent=2) + "\n")
        os.replace(whole, destination)
    except InputError:
        archive.unlink(missing_ok=True)  # unusable, so that the next call downloads it again
        raise
    except OSError as error:
        raise save_failed(destination, error) from error
    finally:
        shutil.rmtree(unpacked, ignore_errors=True)
    shutil.rmtree(work, ignore_errors=True)


def _fetch(source: Source, work: Path, log: Log) -> tuple[Path, dict[str, Any]]:
    """Download and check an archive; the hub client's own download does not resume across processes."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers, disable_progress_bars
    from tqdm.utils import CallbackIOWrapper

    with _hub_errors(source, work):
        remote = get_hf_file_metadata(hf_hub_url(REPOSITORY, source.archive, repo_type="dataset"))
    size = remote.size or 0
    part = work / f"{hashlib.sha256(str(remote.etag).encode()).hexdigest()[:16]}-{source.archive}"
    for other in work.iterdir():
        if other != part or remote.etag is None or part.stat().st_size > size:
            other.unlink()  # of another or an unknown version
    present = part.stat().st_size if part.exists() else 0
    _check_room(f"{source.title}, archive and images,", 2 * size - present, work)  # images hardly compress
    log(f"downloading {source.archive}: {present / 1e9:.2f} GB of {size / 1e9:.2f} GB are here")
    url = hf_hub_url(REPOSITORY, source.archive, repo_type="dataset", revision=remote.commit_hash)
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # a compressed response cannot be resumed
    disable_progress_bars("huggingface_hub.http_get")  # it shows none in a log
    with (
        _hub_errors(source, part),
        open(part, "ab") as file,
        closing(meter(size, "downloading", "B", present)) as shown,
    ):
        counted = CallbackIOWrapper(shown.update, file, "write")
        http_get(url, counted, resume_size=present, headers=headers, expected_size=remote.size)
    log("checking its SHA-256")
    found = digest(part)
    if not re.fullmatch("[0-9a-f]{64}", remote.etag or ""):
        log(f"the mirror states no SHA-256 for {source.archive}: only its size was checked")
    elif found != remote.etag:
        part.unlink()
        raise RunError(f"{source.archive} does not have the SHA-256 that {REPOSITORY} states: run the command again")
    return part, dict(repository=REPOSITORY, file=source.archive, commit=remote.commit_hash, sha256=found)


@contextmanager
def _hub_errors(source: Source, path: Path) -> Iterator[None]:
    """Turn the errors of the hub client, which are of many unrelated types, into a `RunError`."""
    from huggingface_hub import constants

    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise save_failed(_chosen(path), error) from error
        where = f"{source.archive} cannot be downloaded from {constants.ENDPOINT}/datasets/{REPOSITORY}"
        fix = f"check the network and run the same command again to resume; or ask the owners, {source.page}"
        raise RunError(f"{where} ({first_line(error)}): {fix}") from error


def _chosen(path: Path) -> Path:
    """The folder that the user chose, for a path in its work folder; other paths are returned as they are."""
    return next((place.parent for place in path.parents if place.name == _WORK), path)


def _check_room(what: str, needed: int, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        room = f"at least {needed / 1e9:.2f} GB and the disk of {_chosen(folder)} has {free / 1e9:.2f} GB left"
        fix = "free some space or name a folder on another disk, and run the command again"
        raise RunError(f"{what} needs {room}: {fix}")


def extract(archive: Path, target: Path) -> None:
    """Unpack a tar archive, compressed or not, into a folder, after checking all of its members.

    Raises `InputError` if the archive is missing or damaged, or has a member that is not a regular file or folder
    inside `target`; `RunError` if the members do not fit on the disk or cannot be written.
    """
    if not archive.is_file():
        raise InputError(f"no archive at {archive}: check the path")
    try:
        target.mkdir(parents=True, exist_ok=True)
        with tarfile.open(archive) as file:
            _check_members(file, archive, target)
            file.extraction_filter = getattr(tarfile, "data_filter", None)  # a second check; not in Python 3.11.3
            members = file.getmembers()
            file.extractall(target, bar(members, len(members), "unpacking"))
    except InputError:
        raise
    except (*_DAMAGED, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # decompressors raise OSError without errno
            raise save_failed(_chosen(target), error) from error
        reason = f"not an intact tar archive ({first_line(error)})"
        raise InputError(f"cannot unpack {archive}: {reason}; download it again") from error


def _check_members(file: tarfile.TarFile, archive: Path, target: Path) -> None:
    """Refuse unsafe members, too many of them, and more data than fits on the disk."""
    needed = 0
    for count, member in enumerate(bar(file, None, "checking the archive"), start=1):
        path = PureWindowsPath(member.name)  # treats both / and \ as separators, and knows drive letters
        fault = None
        if path.anchor or ".." in path.parts:
            fault = "has a path that leaves the folder"
        elif not member.isreg() and not member.isdir():
            fault = "is a link" if member.issym() or member.islnk() else "is a device or special file"
        if fault:
            raise InputError(f"refused to unpack {archive}: member {member.name!r} {fault}; do not use this archive")
        if count > _MAX_MEMBERS:
            raise InputError(f"refused to unpack {archive}: it has more than {_MAX_MEMBERS} members")
        needed += -(-member.size // _BLOCK) * _BLOCK + _BLOCK
        _check_room(f"unpacking {archive.name}", needed, target)
    while file.fileobj.read(2**20):  # read to the end, where a compressed stream has its checksum
        pass
