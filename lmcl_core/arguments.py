"""What the command line and papermill hand over, as the values it stands for."""

from __future__ import annotations

import json
import sys
from collections.abc import Container, Iterator
from contextlib import contextmanager
from typing import Any

from .errors import InputError, RunError, refused


def expect(kind: type, **values: object) -> None:
    """Refuse parameters of another type: papermill hands ``-p overwrite false`` over as a text, which counts as true.

    Args:
        kind: str, int, float or bool; a whole number is a float too.
        **values: parameters by name.

    Raises:
        InputError: one of them is of another type.
    """
    kinds = (int, float) if kind is float else kind
    for name, value in values.items():
        if not isinstance(value, kinds) or isinstance(value, bool) and kind is not bool:
            hint = " (on papermill's command line True or False)" if kind is bool else ""
            raise InputError(
                f"parameter {name} is {value!r}, of type {type(value).__name__}: {kind.__name__} is wanted{hint}"
            )


def parse_split(text: str) -> int | str:
    """A split as `make_split` takes it.

    Args:
        text: a whole number of 0 or more, of nine digits at most, or "official".

    Raises:
        InputError: neither.
    """
    if text == "official" or (text.isascii() and text.isdigit() and len(text) < 10):
        return text if text == "official" else int(text)
    raise InputError(f"--split is {text[:40]!r}: write a whole number of 0 or more (nine digits at most), or official")


def parse_changes(pairs: list[str] | None) -> dict[str, Any]:
    """Turn FIELD=VALUE texts into recipe fields; values are JSON, or plain text where they are not.

    Args:
        pairs: as given on the command line.

    Raises:
        InputError: no "=" in one of them.
    """
    changes = {}
    for pair in pairs or []:
        field, equals, text = pair.partition("=")
        if not equals:
            raise InputError(f"--set {pair!r}: write FIELD=VALUE, for example --set epochs=3")
        try:
            changes[field] = json.loads(text)
        except ValueError:  # a plain word, such as v2
            changes[field] = text
        if field == "name" and not isinstance(changes[field], str):  # such as 2024
            changes[field] = text
    return changes


@contextmanager
def module_command(module: str, usage: str, arguments: list[str], counts: Container[int]) -> Iterator[None]:
    """The frame of a command ``python -m lmcl_core.MODULE``: its help, its errors on stderr, its exit codes.

    Args:
        module: its name.
        usage: its arguments, as the help shows them.
        arguments: as they were given; ``--help`` or ``-h`` among them shows the help.
        counts: how many there may be.

    Raises:
        SystemExit: 0 after the help, 1 where the work failed, 2 for wrong use, 130 after Ctrl-C, as `lmcl`.
    """
    use = f"use: python -m lmcl_core.{module} {usage}"
    try:
        if {"--help", "-h"} & set(arguments):
            print(use, flush=True)
            sys.exit(0)
        if len(arguments) not in counts:
            raise InputError(use)
        yield
    except (InputError, RunError) as error:
        print(f"{module}: {error}", file=sys.stderr)
        sys.exit(2 if isinstance(error, InputError) else 1)
    except OSError as error:
        if (told := refused(error)) is None:
            raise
        print(f"{module}: {told}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print(f"{module}: stopped", file=sys.stderr)
        sys.exit(130)
