"""The two exceptions that a user can act on, and the wording of their messages."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from difflib import get_close_matches


_CONTROL = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029]")


def escaped(text: str) -> str:
    """Text in one line: control characters of a name are written as in Python's strings."""
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text.strip())


class _UserError(Exception):
    """An exception whose message is one line, and that IPython prints without a traceback."""

    def __str__(self) -> str:
        return escaped(super().__str__())

    def _render_traceback_(self) -> list[str]:  # called by IPython
        return [f"{type(self).__name__}: {self}"]


class InputError(_UserError, ValueError):
    """Input that cannot be used. The message names what is wrong, where, and the fix."""


class RunError(_UserError, RuntimeError):
    """Work that could not finish, for example on a full disk. Finished results are kept."""


def unknown(kind: str, value: object, known: Iterable[str]) -> InputError:
    """Build the error for an unknown name; `kind` says what it names, such as "benchmark"."""
    names = sorted(known)
    near = get_close_matches(str(value), names, n=1) or get_close_matches(str(value).lower(), names, n=1)
    listed = ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
    hint = f"did you mean {near[0]!r}?" if near else f"choose one of: {listed}"
    return InputError(f"unknown {kind} {value!r}: {hint}")


def counted(count: int, noun: str) -> str:
    """A number with its noun in singular or plural: "1 image", "2 images"."""
    return f"{count} {noun}" + "s" * (count != 1)


def first_line(error: Exception) -> str:
    """The first line of an exception's message, or its type if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(":")


def save_failed(path: object, error: OSError) -> RunError:
    """Build the error for a failed write to `path`, with the fix."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunError(f"disk full while saving {path}: free some space and run the same command again")
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return RunError(f"cannot save {path}: a file or a link is in the way; move it, or choose another path")
    return RunError(f"cannot save {path}: {error.strerror or error}; check the folder and its permissions")


def system_error_message(error: OSError) -> str | None:
    """Describe an error of the operating system; None if it names no file and the disk is not full."""
    if error.filename is not None:
        return f"cannot use {error.filename}: {error.strerror}; check the path and its permissions"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return str(save_failed("the output", error))
    return None
