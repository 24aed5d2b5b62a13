"""Atomic writes and file locks."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from filelock import FileLock, Timeout

from .errors import save_failed


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` if the block succeeds. RunError: the file cannot be written."""
    temporary = path.parent / f".{path.name}-{uuid.uuid4().hex}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
