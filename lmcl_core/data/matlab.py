"""MATLAB files (.mat) of version 5 to 7, as label files are; scipy's reader ends the process on some damaged ones."""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

_MOST_BYTES = 2**28  # of one variable when it is unpacked
_CELL, _TEXT, _NUMBERS = 1, 4, range(6, 16)  # classes of arrays
_MATRIX, _PACKED = 14, 15  # types of elements; those of numbers and of text are below
_TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_ENCODINGS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}


def read_mat(content: bytes) -> dict[str, Any]:
    """Variables by name: an array (n,) of numbers, an array (n,) of the values of cells, a str, or None for others.

    Any exception means that the file is damaged or of another kind.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None or struct.unpack(f"{order}H", content[124:126]) != (0x100,):
        raise ValueError("it is not a MATLAB file of version 5 to 7")
    found = {}
    for kind, data in _elements(content[128:], order):
        if kind == _PACKED:
            unpacked = zlib.decompressobj().decompress(data, _MOST_BYTES)
            ((kind, data),) = _elements(unpacked, order)
        if kind == _MATRIX:
            name, value = _array(data, order)
            found[name] = value
    return found


def _elements(content: bytes, order: str) -> Iterator[tuple[int, bytes]]:
    """Type and bytes of each element."""
    at = 0
    while at < len(content):
        kind, size = struct.unpack_from(f"{order}II", content.ljust(at + 8, b"\0"), at)
        start, after = at + 8, at + 8 + (size if kind == _PACKED else -(-size // 8) * 8)
        if kind >> 16:  # at most four bytes, beside their type
            kind, size, start, after = kind & 0xFFFF, kind >> 16, at + 4, at + 8
        if start + size > min(after, len(content)):
            raise ValueError("it is cut")
        yield kind, content[start : start + size]
        at = after


def _array(data: bytes, order: str) -> tuple[str, Any]:
    """Name and value of an array, as in `read_mat`."""
    if not data:
        return "", np.empty(0)
    (_, flags), (_, sizes), (_, name), *parts = _elements(data, order)
    kind, shape = struct.unpack_from(f"{order}I", flags)[0] & 0xFF, np.frombuffer(sizes, f"{order}i4").tolist()
    if kind == _CELL:
        value = np.empty(len(parts), dtype=object)
        value[:] = [_array(part, order)[1] for _, part in parts]
    elif kind == _TEXT:
        encoding = _ENCODINGS[parts[0][0]]
        suffix = {"<": "-le", ">": "-be"}[order] if encoding in ("utf-16", "utf-32") else ""
        return name.decode("latin-1"), parts[0][1].decode(encoding + suffix)[:: max(1, shape[0])]  # the first row
    elif kind in _NUMBERS:
        value = np.frombuffer(parts[0][1], order + _TYPES[parts[0][0]])
    else:
        return name.decode("latin-1"), None
    if len(value) != math.prod(shape):
        raise ValueError("an array does not have the stated number of values")
    return name.decode("latin-1"), value if kind == _CELL else value.reshape(shape, order="F").ravel()
