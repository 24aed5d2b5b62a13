"""Damage for the fuzz tests, their number of examples, and a count of the inputs that they try."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence

from hypothesis import settings
from hypothesis import strategies as st

tried: Counter[str] = Counter()  #: inputs and results by kind

#: Names and cells that a person, a program or an attacker could write.
HOSTILE = [
    "",
    " ",
    ".",
    "..",
    "../x.png",
    "/etc/passwd",
    "C:\\x.png",
    "a/../../b",
    "x\ny",
    "x\r\ny",
    "x\0y",
    "{x}",
    "{0}",
]
HOSTILE += [
    "%s",
    "\x1b[31m",
    "\u2028",
    "\udcff",
    "nan",
    "inf",
    "-1",
    "1e400",
    "1,5",
    "9" * 5000,
    "\u0663",
    "²",
    "a" * 300,
]
NUMBERS = [0, 1, 2, 127, 128, 255, 2**15 - 1, 2**15, 2**16 - 1, 2**20, 2**31 - 1, 2**31, 2**32 - 1]


def examples(share: float = 1.0) -> settings:
    """Settings of a test that tries this share of the profile's examples."""
    return settings(max_examples=max(1, round(settings().max_examples * share)))


@st.composite
def damaged(draw, contents: Sequence[bytes], head: int = 200) -> bytes:
    """One of some contents, cut, with flipped bits, bytes of another one, or other numbers; mostly in its head."""
    content = bytearray(draw(st.sampled_from(contents)))
    for _ in range(draw(st.integers(1, 3))):
        size = max(1, len(content))
        at = draw(st.one_of(st.integers(0, min(head, size) - 1), st.integers(0, size - 1)))
        kind = draw(st.sampled_from(("number", "flip", "cut", "splice")))
        if kind == "number":
            form = draw(st.sampled_from(("<B", "<H", ">H", "<I", ">I")))
            number = struct.pack(form, draw(st.sampled_from(NUMBERS)) % 256 ** struct.calcsize(form))
            content[at : at + len(number)] = number
        elif kind == "flip" and content:
            content[at] ^= 1 << draw(st.integers(0, 7))
        elif kind == "cut":
            del content[at : draw(st.one_of(st.just(size), st.integers(at, size)))]
        elif kind == "splice":
            other = draw(st.sampled_from(contents))
            start = draw(st.integers(0, len(other)))
            content[at:at] = other[start : draw(st.integers(start, len(other)))]
    return bytes(content)


def sealed(png: bytes) -> bytes:
    """A PNG file with right checksums, so that a decoder believes its numbers."""
    result, at = png[:8], 8
    while at + 12 <= len(png):
        size = int.from_bytes(png[at : at + 4])
        if at + 12 + size > len(png):
            break
        chunk = png[at + 4 : at + 8 + size]
        result, at = result + png[at : at + 4] + chunk + struct.pack(">I", zlib.crc32(chunk)), at + 12 + size
    return result + png[at:]


@st.composite
def damaged_zip(draw, content: bytes) -> bytes:
    """A zip archive, such as a spreadsheet, with damage inside one of its members."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    name = draw(st.sampled_from(sorted(members)))
    members[name] = draw(damaged([members[name]], head=2000))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for member, text in members.items():
            archive.writestr(member, text)
    return buffer.getvalue()


@st.composite
def damaged_table(draw, text: str, separator: str = ",") -> bytes:
    """A table in text of which a cell, a column or a row is changed, removed or doubled."""
    rows = [line.split(separator) for line in text.splitlines()]
    for _ in range(draw(st.integers(1, 3))):
        row = draw(st.sampled_from(rows))
        column = draw(st.integers(0, max(0, len(row) - 1)))
        kind = draw(st.sampled_from(("cell", "cell", "column", "row", "copy")))
        if kind == "cell":
            row[column : column + 1] = [draw(st.one_of(st.sampled_from(HOSTILE), st.text(max_size=8)))]
        elif kind == "column":
            rows = [[*cells[:column], *cells[column + 1 :]] for cells in rows]
        elif kind == "row" and len(rows) > 1:
            rows.remove(row)
        elif kind == "copy":
            rows.append(list(row))
    return "\n".join(separator.join(row) for row in rows).encode("utf-8", "surrogateescape")
