"""Files that are there whole, or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import save_failed


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file whole or not at all: yields a temporary path that takes the place of `path` on success.

    Args:
        path: the file to be.

    Raises:
        RunError: it cannot be written; nothing is left behind.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".{path.name}-{uuid.uuid4().hex}"
        temporary.touch(exist_ok=False)  # with the permissions the user's files have, unlike a private temporary file
        permissions = temporary.stat().st_mode
        yield temporary
        temporary.chmod(permissions)  # a writer that puts a file of its own there may make it private
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise save_failed(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def ensure_writable(folder: str | Path) -> None:
    """Find out before long work whether files can be put into a folder; it is made where it is missing.

    Args:
        folder: the folder.

    Raises:
        RunError: they cannot.
    """
    probe = Path(folder) / ".writable"
    with replacing(probe):
        pass
    probe.unlink(missing_ok=True)
