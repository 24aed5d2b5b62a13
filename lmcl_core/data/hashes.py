"""SHA-256 of image files in the format of ``sha256sum``: a known-good list, and files that differ from it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ..common.errors import InputError
from ..common.files import atomic_write
from .faults import Fault

_LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def write_hashes(path: Path, folder: Path, images: Iterable[str]) -> None:
    """Write a line with SHA-256 and name of each image, relative to `folder`. InputError: the file exists."""
    if path.exists():
        raise InputError(f"{path} exists, and may be a known-good list: name another file, or remove it")
    lines = [f"{digest}  {image}\n" for image, digest in _digests(folder, sorted(images))]
    with atomic_write(path) as temporary:
        temporary.write_bytes("".join(lines).encode("utf-8", "surrogateescape"))


def hash_faults(path: Path, folder: Path, images: Iterable[str]) -> Iterator[Fault]:
    """Images that differ from a list of `write_hashes`, or are not in it. InputError: it cannot be read."""
    known = _read(path)
    for image, digest in _digests(folder, sorted(images)):
        if image not in known:
            yield Fault("unreadable_image", str(folder / image), f"not in {path}: make the list from a whole copy")
        elif digest != known[image]:
            problem = f"its SHA-256 differs from the one in {path}"
            yield Fault("unreadable_image", str(folder / image), f"{problem}: download this file again")


def _read(path: Path) -> dict[str, str]:
    """SHA-256 by name."""
    try:
        lines = path.read_bytes().decode("utf-8", "surrogateescape").split("\n")
    except OSError as error:
        fix = "name a file that --write-hashes made"
        raise InputError(f"--hashes {path} cannot be read ({error.strerror}): {fix}") from error
    found = {number: _LINE.fullmatch(line) for number, line in enumerate(lines, 1) if line.strip()}
    if odd := [number for number, match in found.items() if match is None]:
        raise InputError(f"{path}: line {odd[0]} is not a SHA-256 and a name: make the list again with --write-hashes")
    return {match[2]: match[1] for match in found.values()}


def _digests(folder: Path, images: list[str]) -> Iterator[tuple[str, str]]:
    def digest(image: str) -> str:
        try:
            with open(folder / image, "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError:  # told as a fault of its own
            return ""

    with ThreadPoolExecutor() as pool:
        yield from zip(images, pool.map(digest, images))
