"""Exit codes, error messages and option values of the command lines."""

from __future__ import annotations

import argparse
import json
import os
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from .errors import InputError, RunError, counted, escaped, system_error_message

_REPEAT = "finished {} are kept, run the same command again to continue"
#: What remains of a command that was stopped.
_KEPT = dict(
    train=_REPEAT.format("epochs"),
    reproduce=_REPEAT.format("epochs"),
    score="the printed rows are complete; the other images are not scored",
    bench="results of complete parts are kept in files whose names end in unfinished",
)


class Parser(argparse.ArgumentParser):
    """A parser of ``python -m lmcl_core.MODULE`` that raises wrong use as `InputError`, and knows ``--debug``."""

    def __init__(self, module: str, description: str) -> None:
        super().__init__(f"python -m {module}", description=description)
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")

    def error(self, message: str) -> NoReturn:
        """Raise `InputError` with the usage as its fix."""
        raise InputError(f"{message}; {' '.join(self.format_usage().split())}")

    @contextmanager
    def run(self, arguments: Sequence[str] | None) -> Iterator[argparse.Namespace]:
        """Parse `arguments`, by default those of the process, and run the block with `exit_codes`."""
        arguments = sys.argv[1:] if arguments is None else arguments
        with exit_codes(self.prog.rpartition(".")[2], "--debug" in arguments):
            yield self.parse_args(arguments)


@contextmanager
def exit_codes(program: str, debug: bool = False) -> Iterator[None]:
    """Print each warning in one line, and exit as `fail` does.

    Code 2 for `InputError`, 1 for `RunError` and system errors, 130 for Ctrl-C.
    """
    before, warnings.showwarning = warnings.showwarning, _print_warning
    try:
        yield
    except KeyboardInterrupt:
        fail(program, "stopped", 130, debug)
    except (InputError, RunError) as error:
        fail(program, str(error), 2 if isinstance(error, InputError) else 1, debug)
    except UnicodeEncodeError as error:
        text = repr(str(error.object)[:80])
        fail(program, f"{text} holds characters that are no valid Unicode: rename it, or write it in UTF-8", 2, debug)
    except OSError as error:
        if (message := system_error_message(error)) is None:
            raise
        fail(program, message, 1, debug)
    finally:
        warnings.showwarning = before


def _print_warning(message: Warning | str, *_: object) -> None:
    """Print a warning in one line, without the code that raised it."""
    print(escaped(" ".join(str(message).split())), file=sys.stderr)


def fail(program: str, message: str, code: int, debug: bool = False) -> NoReturn:
    """Print "program: message" as one line on stderr and exit; if `debug`, print the current traceback first."""
    if debug:
        traceback.print_exc()
    print(escaped(f"{program}: {' '.join(message.split())}"), file=sys.stderr)
    sys.exit(code)


def wrong_option(error: Exception, arguments: list[str]) -> str | None:
    """The message of typer's error about an option of `lmcl`, with a hint; None for other errors."""
    if not hasattr(error, "format_message"):
        return None
    command = getattr(getattr(error, "ctx", None), "command_path", "lmcl")
    message = error.format_message().replace("Value error, ", "").rstrip(".")
    files = [argument for argument in arguments if argument.startswith("-") and os.path.lexists(argument)]
    return f"{message}. For the file, write ./{files[0]}." if files else f"{message}. Try `{command} --help`."


def kept(arguments: list[str]) -> str | None:
    """What remains of a command of `lmcl` that was stopped, in words; None if there is nothing to say."""
    to_folder = arguments[0] == "score" and any(argument.startswith("--out") for argument in arguments)
    return _REPEAT.format("chunks") if to_folder else _KEPT.get(arguments[0])


def print_faults(name: str, faults: Sequence[Any], show: int) -> None:
    """Print at most `show` faults of each `kind`, and their numbers, on stderr; `name` says what was checked."""
    for kind, count in Counter(fault.kind for fault in faults).items():
        for fault in [fault for fault in faults if fault.kind == kind][:show]:
            print(fault, file=sys.stderr)
        if count > show:
            print(f"{kind}: {count - show} more", file=sys.stderr)
    print(escaped(f"{name}: {counted(len(faults), 'fault')}"), file=sys.stderr)


def parse_split(text: str) -> int | str:
    """The value of ``--split``: an index of at most nine digits, or "official"; else raise `InputError`."""
    if text == "official" or (text.isascii() and text.isdigit() and len(text) < 10):
        return text if text == "official" else int(text)
    raise InputError(f"--split is {text[:40]!r}: write a whole number of 0 or more (nine digits at most), or official")


def parse_changes(pairs: list[str] | None) -> dict[str, Any]:
    """Recipe fields from the FIELD=VALUE strings of ``--set``; a value is JSON, or else a string."""
    changes = {}
    for pair in pairs or []:
        field, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"--set {pair!r}: write FIELD=VALUE, for example --set epochs=3")
        if field in changes:
            raise InputError(f"--set {field} is given twice: leave one out")
        if text.count("[") + text.count("{") > 10:
            raise InputError(f"--set {pair[:40]!r} ... is nested too deeply: no field is more than a list")
        try:
            value = json.loads(text)
        except ValueError:  # such as v2
            value = text
        changes[field] = text if field == "name" and not isinstance(value, str) else value  # such as 2024
    return changes
