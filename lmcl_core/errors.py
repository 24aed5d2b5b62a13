"""The two ways a run can be stopped by something its user can mend, and how they are worded."""

from __future__ import annotations

import errno
from difflib import get_close_matches
from collections.abc import Iterable


class _Told:
    """An error whose message says all: a notebook prints it without the code that raised it."""

    def _render_traceback_(self) -> list[str]:  # looked for by IPython
        return [f"{type(self).__name__}: {self}"]


class InputError(_Told, ValueError):
    """Input that cannot be used; the message names the thing, the place and the fix."""


class RunError(_Told, RuntimeError):
    """Work that could not be finished (full disk, failed notebook); nothing finished was lost."""


def unknown(kind: str, value: object, known: Iterable[str]) -> InputError:
    """Build the error for a name that is not on a list.

    Args:
        kind: what was named, e.g. ``"benchmark"``.
        value: the name as it was given.
        known: the names that would have been accepted.

    Returns:
        The error, not raised, with the nearest accepted name as its suggestion.
    """
    names = sorted(known)
    near = get_close_matches(str(value), names, n=1) or get_close_matches(str(value).lower(), names, n=1)
    listed = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of: {listed}"
    return InputError(f"unknown {kind} {value!r}: {hint}")


def counted(count: int, thing: str) -> str:
    """A number of things in words: ``"1 part"``, ``"2 parts"``."""
    return f"{count} {thing}" + "s" * (count != 1)


def save_failed(path: object, error: OSError) -> RunError:
    """Turn a failed write into one message that says what to do.

    Args:
        path: the file or folder that could not be written.
        error: the operating system's own error.

    Returns:
        The error, not raised.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(f"disk full while saving {path}: free some space and run the same command again")
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return RunError(f"cannot save {path}: a file or a link is in the way; move it, or name another place")
    return RunError(f"cannot save {path}: {error.strerror or error}; check the folder and its permissions")


def refused(error: OSError) -> str | None:
    """What to do about something that the operating system refused, where no better words were at hand.

    Args:
        error: its own error.

    Returns:
        One sentence; None where the error names no file and is not of a full disk, so that its cause is not known.
    """
    if error.filename is not None:
        return f"cannot use {error.filename}: {error.strerror}; check the path and its permissions"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return str(save_failed("what was printed", error))
    return None
