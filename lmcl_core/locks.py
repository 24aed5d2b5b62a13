"""One process at a time: a lock file that the system lifts when its holder ends, however that ends."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from .errors import save_failed


class TakenError(Exception):
    """Another process holds the lock and did not give it back in time."""


@contextmanager
def alone(lock: Path, patience: float = -1) -> Iterator[None]:
    """Hold a lock for the length of a ``with`` block; the file is gone afterwards.

    Args:
        lock: the lock file; its folder is made where it is missing.
        patience: seconds to wait for another holder; negative waits for ever.

    Raises:
        TakenError: another process held it all that time.
        RunError: the lock file cannot be written.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        held = FileLock(lock, timeout=patience)
        held.acquire()
    except Timeout as error:
        raise TakenError(str(lock)) from error
    except OSError as error:
        raise save_failed(lock.parent, error) from error
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # filelock sees that a file it waited for has no name any more, and tries again
        held.release()
