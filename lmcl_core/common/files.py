"""Atomic writes and file locks."""

from __future__ import annotations

import glob
import hashlib
import os
import platform
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryFile

from filelock import FileLock, Timeout

from .errors import save_failed

_MACHINE = hashlib.sha256(platform.node().encode()).hexdigest()[:8]


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` if the block succeeds. RunError: the file cannot be written."""
    temporary = path.parent / f".{path.name}-{_MACHINE}-{os.getpid()}-{uuid.uuid4().hex}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        clear_temporaries(path.parent, glob.escape(path.name), locked=False)
        temporary.touch(exist_ok=False)  # with the user's default permissions, which a private temporary file lacks
        permissions = temporary.stat().st_mode
        yield temporary
        temporary.chmod(permissions)  # some writers replace the file by a private one
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise save_failed(path, error) from error
    finally:
        if os.path.exists(temporary):
            temporary.unlink()


def clear_temporaries(folder: Path, name: str = "*", locked: bool = True) -> None:
    """Delete the temporary files that killed processes left of `atomic_write`, of files whose names match a pattern.

    Those of living processes of this machine stay. Those of other machines stay, too, unless the caller holds a lock of
    the folder.
    """
    for path in folder.glob(f".{name}-*"):
        found = re.fullmatch(r"\..+?(?:-([0-9a-f]{8})-(\d{1,9}))?-[0-9a-f]{32}", path.name)
        here = found is not None and found[1] == _MACHINE
        if found and (locked or here) and not (here and _is_alive(int(found[2]))):
            path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # of another user
        return True
    return True


def digest(path: Path) -> str:
    """SHA-256 of a file in hex; read again only if the file has changed."""
    stat = path.stat()
    return _digest(path, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)


@lru_cache(maxsize=4096)
def _digest(path: Path, *state: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def ensure_writable(folder: str | Path) -> None:
    """Create a folder if it is missing, and raise RunError if files cannot be written to it."""
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise save_failed(folder, error) from error


class LockedError(Exception):
    """Another process holds a lock."""


@contextmanager
def file_lock(path: Path, timeout: float = -1) -> Iterator[None]:
    """Hold a lock file, whose folder is created if missing, during a ``with`` block; delete the file afterwards.

    LockedError: another process still holds the lock after `timeout` seconds; a negative timeout waits without limit.
    RunError: the lock file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, timeout=timeout)
        lock.acquire()
    except Timeout as error:
        raise LockedError(str(path)) from error
    except OSError as error:
        raise save_failed(path.parent, error) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before the release: a waiting FileLock notices the deleted file and retries
        lock.release()
