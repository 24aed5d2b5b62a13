"""Benchmarks that may be had openly, from a public mirror: terms first, resumed, checked, unpacked safely and whole."""

from __future__ import annotations

import errno
import hashlib
import json
import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PureWindowsPath
from typing import Any, NamedTuple

from .errors import InputError, RunError, save_failed, unknown
from .locks import TakenError, alone
from .paths import whole_path

REPOSITORY = "chaofengc/IQA-Toolbox-Datasets"  #: the mirror, a dataset repository of the Hugging Face hub
NOTE = ".lmcl-download.json"  #: written into a folder that was installed whole
_BLOCK = 4096  # bytes that even an empty file is counted with, so that a heap of them cannot fill the disk
_MOST_MEMBERS = 1_000_000
_DAMAGED = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, ValueError, RuntimeError)


class Source(NamedTuple):
    """Where a benchmark comes from.

    Attributes:
        title: as printed.
        folder: name of the folder it is unpacked to.
        archive: file of the mirror; "" where the owners alone hand the images out.
        gigabytes: size of the archive, rounded.
        terms: the owners' terms in short.
        page: the owners' page: terms in full, the paper to cite, where to ask.
    """

    title: str
    folder: str
    archive: str
    gigabytes: float
    terms: str
    page: str


_LIVE = "https://live.ece.utexas.edu/research"
_GIT = "https://github.com"
_MMSP = "https://database.mmsp-kn.de"
_ASK = "free of charge, but handed out by the owners alone: the LIVE laboratory of UT Austin sends the link on request"
_PAGE = "offered by its authors on their page, for research; they name no licence there that we know of"
_TID = "offered by its authors; their notice, as worded for TID2008: for education and research, kept with every copy"
_YFCC = f"{_PAGE}; the photographs come from YFCC100M, each under the Creative Commons licence of its author"
_MIXED = (
    "labels are offered by the authors; the photographs are those of AVA, PASCAL VOC 2012, EMOTIC and a blur set, "
    "each under its own terms (VOC gives its test photographs to registered users)"
)
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
    """What to read before a benchmark is downloaded.

    Args:
        name: a key of `SOURCES`.

    Returns:
        A few lines: the owners' terms, their page, what the mirror is and how much it sends.

    Raises:
        InputError: unknown name.
    """
    source = _source(name)
    text = f"{source.title}: {source.terms}.\nOwners' page: {source.page}; cite the paper that it names."
    if not source.archive:
        return text
    return (
        f"{text}\nMirror: huggingface.co/datasets/{REPOSITORY}, {source.archive}, {source.gigabytes:g} GB. It is not "
        "the owners'; it collects benchmarks for academic, research and educational use, and the owners' terms hold."
    )


def download(name: str, folder: str | Path, accept: Callable[[], bool], log: Callable[[str], None] = print) -> Path:
    """Download a benchmark from the mirror and unpack it; what was cut off goes on where it was.

    Args:
        name: a key of `SOURCES`.
        folder: where the benchmark's own folder is put; made where it is missing.
        accept: called once, after the terms were logged; True if the user accepts them.
        log: takes what is to be said, line by line.

    Returns:
        The benchmark's folder, inside `folder`; where it was there before, nothing was done.

    Raises:
        InputError: unknown name, images that only their owners hand out, terms that were not accepted, a folder
            that is in the way, or an archive that cannot be trusted.
        RunError: no network, a wrong checksum, no room, or a folder that cannot be written.
    """
    source = _source(name)
    if not str(folder).strip():
        raise InputError("the folder to download to is empty: name one, or . for the current one")
    folder = whole_path(folder)
    destination = folder / source.folder
    if _is_there(name, destination):
        log(f"{source.title} is already there: nothing to do; check it with `lmcl verify {name} {destination}`")
        return destination
    log(terms(name))
    if not source.archive:
        raise InputError(
            f"{source.title} cannot be downloaded by this command, its owners hand it out themselves: ask at "
            f"{source.page}, unpack it to {destination} and run `lmcl verify {name} {destination}`"
        )
    if not accept():
        raise InputError(f"{source.title} was not downloaded: its terms have to be accepted first")
    with _workplace(folder, name) as work:
        archive, facts = _fetch(source, work, log)
        log(f"unpacking {source.archive}")
        try:
            extract(archive, work / "unpacked")
            _install(work / "unpacked", destination, dict(name=name, **facts))
        except InputError:
            archive.unlink(missing_ok=True)  # never to be tried again
            raise
        finally:
            shutil.rmtree(work / "unpacked", ignore_errors=True)
    log(f"{source.title} is in {destination}: check it with `lmcl verify {name} {destination}`")
    return destination


def extract(archive: Path, target: Path) -> None:
    """Unpack a tar or zip archive; every member is checked before the first one is written.

    Args:
        archive: tar (plain or compressed) or zip.
        target: the folder to unpack to; made where it is missing. A full disk can leave it half filled.

    Raises:
        InputError: not an archive, a damaged one, or one with a member that is not an ordinary file or folder
            inside `target`.
        RunError: its members need more room than the disk has, or cannot be written.
    """
    archive, target = Path(archive), Path(target)
    if not archive.is_file():
        raise InputError(f"no archive at {archive}: check the path")
    try:
        target.mkdir(parents=True, exist_ok=True)
        with _opened(archive) as file:
            _check_members(file, archive, target)
            for member in file.infolist() if isinstance(file, zipfile.ZipFile) else file.getmembers():
                file.extract(member, target)
    except (InputError, RunError):
        raise
    except _DAMAGED as error:
        raise _damaged(archive, error) from error
    except OSError as error:
        if error.errno is None:  # raised by a decompressor, not by the system
            raise _damaged(archive, error) from error
        raise save_failed(target, error) from error


def _opened(archive: Path) -> tarfile.TarFile | zipfile.ZipFile:
    with open(archive, "rb") as file:
        start = file.read(4)
    if start in (b"PK\x03\x04", b"PK\x05\x06"):
        return zipfile.ZipFile(archive)
    tar = tarfile.open(archive)
    tar.extraction_filter = getattr(tarfile, "data_filter", None)  # a second guard, where this Python has it
    return tar


def _damaged(archive: Path, error: Exception) -> InputError:
    return InputError(f"cannot unpack {archive}: not a sound tar or zip archive ({_reason(error)}): fetch it again")


def _check_members(file: tarfile.TarFile | zipfile.ZipFile, archive: Path, target: Path) -> None:
    """Refuse what does not stay an ordinary file or folder inside the target, or does not fit on its disk."""
    free, needed = shutil.disk_usage(target).free, 0
    for count, (name, size, kind) in enumerate(_members(file), start=1):
        path = PureWindowsPath(name)  # takes / and \ for separators, so it sees what either system would
        fault = "has a path that leaves the folder" if path.anchor or ".." in path.parts else ""
        fault = fault or ("" if kind in ("file", "folder") else f"is a {kind}")
        if fault:
            raise InputError(f"refused to unpack {archive}: member {name!r} {fault}; do not use this archive")
        if count > _MOST_MEMBERS:
            raise InputError(f"refused to unpack {archive}: it has more than {_MOST_MEMBERS} members")
        needed += -(-size // _BLOCK) * _BLOCK + _BLOCK
        if needed > free:
            raise _no_room(f"unpacking {archive.name}", f"{_gigabytes(needed)} or more", target, free)


def _members(file: tarfile.TarFile | zipfile.ZipFile) -> Iterator[tuple[str, int, str]]:
    """Name, size in bytes and kind (file, folder, link, device or special file) of each member."""
    if isinstance(file, zipfile.ZipFile):
        for info in file.infolist():
            form = stat.S_IFMT(info.external_attr >> 16)  # 0 where the archive comes from a system without modes
            kind = {0: "file", stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFLNK: "link"}
            yield info.filename, info.file_size, kind.get(form, "device or special file")
        return
    for member in file:
        kind = "file" if member.isreg() else "folder" if member.isdir() else "device or special file"
        yield member.name, member.size if member.isreg() else 0, "link" if member.issym() or member.islnk() else kind
    while file.fileobj.read(2**20):  # to the very end, where a compressed stream holds its own checksum
        pass


def _source(name: str) -> Source:
    if name not in SOURCES:
        raise unknown("benchmark", name, SOURCES)
    return SOURCES[name]


def _is_there(name: str, destination: Path) -> bool:
    """Whether the folder is the benchmark's, by the note of an earlier download or by its official contents."""
    from .benchmarks import BENCHMARKS

    if not destination.exists():
        return False
    with suppress(OSError, ValueError, KeyError, TypeError):
        if json.loads((destination / NOTE).read_text())["name"] == name:
            return True
    marks = BENCHMARKS[name].marks if name in BENCHMARKS else ()
    if marks and all(any((destination / one).exists() for one in mark.split("|")) for mark in marks):
        return True
    if destination.is_dir() and not any(destination.iterdir()):
        return False
    raise InputError(f"{destination} is there, but not from here: try `lmcl verify {name} {destination}` or move it")


@contextmanager
def _workplace(folder: Path, name: str) -> Iterator[Path]:
    """A folder of this download's own, which only success removes, so that the next call can go on."""
    work = folder / ".download" / name
    try:
        with alone(work.with_suffix(".lock"), patience=0):
            try:
                shutil.rmtree(work / "unpacked", ignore_errors=True)  # of a call that was killed
                work.mkdir(exist_ok=True)
            except OSError as error:
                raise save_failed(folder, error) from error
            yield work
            shutil.rmtree(work, ignore_errors=True)
    except TakenError as error:
        raise RunError(f"{name} is being downloaded to {folder} already: wait until that has ended") from error
    with suppress(OSError):
        work.parent.rmdir()  # unless another benchmark is being downloaded


def _fetch(source: Source, work: Path, log: Callable[[str], None]) -> tuple[Path, dict[str, Any]]:
    """The archive, whole and checked, and what is to be noted of it.

    The hub client's own download starts from nothing in every process; here the part that has arrived is kept.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        told = get_hf_file_metadata(hf_hub_url(REPOSITORY, source.archive, repo_type="dataset"))
    except Exception as error:  # the hub client raises many unrelated kinds; to a user all mean "no file"
        raise _not_had(source, error) from error
    version = hashlib.sha256(str(told.etag).encode()).hexdigest()[:16]
    part = work / f"{version}-{source.archive}"
    for other in work.glob(f"*-{source.archive}"):
        if other != part or told.etag is None or part.stat().st_size > (told.size or 0):
            other.unlink()  # of another version of the file, or of an unknown one
    had = part.stat().st_size if part.exists() else 0
    free, needed = shutil.disk_usage(work).free, 2 * (told.size or 0) - had  # images hardly shrink in an archive
    if needed > free:
        raise _no_room(f"{source.title}, archive and images,", f"about {_gigabytes(needed)}", work, free)
    log(f"downloading {source.archive}: {_gigabytes(had)} of {_gigabytes(told.size or 0)} are here")
    _receive(source, part, told)
    with open(part, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    stated = told.etag if re.fullmatch("[0-9a-f]{64}", told.etag or "") else None
    if stated is None:
        log(f"the mirror states no SHA-256 for {source.archive}: only its size was checked")
    elif digest != stated:
        part.unlink()
        raise RunError(f"{source.archive} does not have the SHA-256 that {REPOSITORY} states: run the command again")
    return part, dict(repository=REPOSITORY, file=source.archive, commit=told.commit_hash, sha256=digest)


def _receive(source: Source, part: Path, told: Any) -> None:
    """Get what is missing of the file, at the very commit whose checksum was stated."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(REPOSITORY, source.archive, repo_type="dataset", revision=told.commit_hash)
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}  # a compressed answer could not be resumed
    try:
        with open(part, "ab") as file:
            http_get(url, file, resume_size=file.tell(), headers=headers, expected_size=told.size)
    except Exception as error:  # as above
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise save_failed(part, error) from error
        raise _not_had(source, error) from error


def _not_had(source: Source, error: Exception) -> RunError:
    from huggingface_hub import constants

    return RunError(
        f"{source.archive} could not be had from {constants.ENDPOINT}/datasets/{REPOSITORY} ({_reason(error)}): check "
        f"the network and run the same command again, it goes on where it was; or ask the owners, {source.page}"
    )


def _reason(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(":")


def _no_room(what: str, needed: str, where: Path, free: int) -> RunError:
    return RunError(
        f"{what} needs {needed} and the disk of {where} has {_gigabytes(free)} left: free some space or name a "
        "folder on another disk, and run the command again"
    )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.2f} GB"


def _install(unpacked: Path, destination: Path, note: dict[str, Any]) -> None:
    """Put the unpacked folder in its place by one rename, its note inside, so that it is there whole or not at all."""
    inside = [entry for entry in unpacked.iterdir() if entry.name != "__MACOSX" and not entry.name.startswith(".")]
    if not inside:
        raise InputError(f"the archive of {destination.name} holds no files: fetch it again")
    own = len(inside) == 1 and inside[0].is_dir() and inside[0].name.lower() == destination.name.lower()
    whole = inside[0] if own else unpacked
    try:
        (whole / NOTE).write_text(json.dumps(note, indent=2) + "\n")
        os.replace(whole, destination)
    except OSError as error:
        raise save_failed(destination, error) from error
