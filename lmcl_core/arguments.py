"""Texts of the command line as the values they stand for."""

from __future__ import annotations

import json
from typing import Any

from .errors import InputError


def parse_split(text: str) -> int | str:
    """A split as `make_split` takes it.

    Args:
        text: a whole number of 0 or more, or "official".

    Raises:
        InputError: neither.
    """
    if text == "official" or (text.isascii() and text.isdigit()):
        return text if text == "official" else int(text)
    raise InputError(f"--split is {text!r}: write a whole number of 0 or more, or official")


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
    return changes
