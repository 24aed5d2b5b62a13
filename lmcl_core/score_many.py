"""Scores of very many pictures: parts of the list as tasks on a Dask cluster, a Parquet file each, resumable.

Pictures and scores may lie wherever fsspec reaches: in folders, or in object stores by their addresses, such as s3://.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pandas as pd

from .batch import connect
from .errors import InputError, RunError
from .files import replacing
from .model_file import BUNDLED, read_model
from .pictures import SCORED_SUFFIXES, from_bytes
from .score_files import picture_files, score_files
from .scoring import Scorer, load

if TYPE_CHECKING:
    from distributed import Client
    from fsspec import AbstractFileSystem

PART = 256  #: pictures a task, and a Parquet file
_ORDER = "order.json"  # beside the parts: what was asked for


def score_many(
    sources: Iterable[str | Path],
    out: str | Path,
    weights: str | Path = "livec",
    *,
    scheduler: str = "",
    workers: int = 0,
    device: str = "auto",
    part: int = PART,
    log: Callable[[str], None] = print,
) -> tuple[int, int]:
    """Score pictures on a Dask cluster. Called again, it does the parts that are missing.

    Args:
        sources: pictures or folders of pictures, as paths or as addresses of fsspec.
        out: folder of ``part-NNNNN.parquet`` (columns image, score, percentile, fault), a path or an address. Every
            worker must reach it, the pictures, and the weights.
        weights: as in `lmcl_core.load`.
        scheduler: as in `batch.connect`.
        workers: as in `batch.connect`.
        device: as in `lmcl_core.load`.
        part: pictures a task, 1 or more.
        log: called with one line a part.

    Returns:
        How many pictures were scored, and how many could not be read; the rows of the latter say why.

    Raises:
        InputError: no pictures, an address that cannot be reached, or a folder with the scores of something else.
        RunError: some parts failed twice; the others are kept.
    """
    if part < 1:
        raise InputError(f"part is {part}: it must be at least 1")
    files = list_pictures(sources)
    if not files:
        raise InputError(f"no pictures in {', '.join(map(str, sources))}: name picture files, or folders of pictures")
    weights, out = weights if weights in BUNDLED else _absolute(weights), _absolute(out)
    _claim(out, dict(weights=_digest(weights), part=part, files=hashlib.sha256("\n".join(files).encode()).hexdigest()))
    parts = {f"part-{n:05d}.parquet": files[first : first + part] for n, first in enumerate(range(0, len(files), part))}
    system, folder = _place(out)
    there = {PurePosixPath(path).name for path in system.ls(folder, detail=False)}
    log(f"{len(files)} pictures in {len(parts)} parts, {len(there & set(parts))} of them finished before")
    if set(parts) - there:
        with connect(scheduler, workers) as client:
            missing = {name: own for name, own in parts.items() if name not in there}
            _run(client, missing, out, weights, device, log)
    faults = sum(int(pd.read_parquet(f"{out}/{name}", columns=["fault"])["fault"].notna().sum()) for name in parts)
    return len(files) - faults, faults


def list_pictures(sources: Iterable[str | Path]) -> list[str]:
    """Pictures named one by one or by their folders.

    Args:
        sources: paths, or addresses of fsspec.

    Returns:
        Absolute paths and whole addresses, each once, those of a folder sorted.

    Raises:
        InputError: an address that fsspec cannot reach.
    """
    found: dict[str, None] = {}
    for source in map(str, sources):
        if "://" not in source:
            found |= dict.fromkeys(os.path.abspath(file) for file in picture_files([source]))
            continue
        system, path = _place(source)
        try:
            names = [path] if system.isfile(path) else sorted(system.find(path))
        except OSError as error:
            raise InputError(f"{source} cannot be listed ({error}): check the address and your access to it") from error
        wanted = [name for name in names if name == path or _is_picture(PurePosixPath(name))]
        found |= dict.fromkeys(map(system.unstrip_protocol, wanted))
    return list(found)


def score_part(files: Sequence[str], out: str, name: str, weights: str, device: str) -> int:
    """Score some pictures and write one Parquet file, whole or not at all; a worker's task.

    Args:
        files: from `list_pictures`.
        out: folder of the scores.
        name: of the file.
        weights: as in `lmcl_core.load`.
        device: as there.

    Returns:
        Number of pictures that could not be read.
    """
    columns = ["image", "score", "percentile", "fault"]
    scored = score_files(_scorer(weights, device), files, open_file=_fetch)
    table = pd.DataFrame([[getattr(one, column) for column in columns] for one in scored], columns=columns)
    _write(out, name, table.astype(dict(score="float64", percentile="float64", fault="string")).to_parquet())
    return int(table["fault"].notna().sum())


def _fetch(file: str):
    """What `scoring.as_picture` takes: a path as it is, an address as its picture."""
    if "://" not in file:
        return file
    system, path = _place(file)
    try:
        return from_bytes(system.cat_file(path), file)
    except OSError as error:
        raise InputError(f"unreadable image {file} ({error}): check the address and your access to it") from error


@functools.cache
def _scorer(weights: str, device: str) -> Scorer:
    """A worker loads its model once."""
    return load(weights, device)


def _run(
    client: Client, parts: dict[str, list[str]], out: str, weights: str, device: str, log: Callable[[str], None]
) -> None:
    from distributed import as_completed

    tasks = {
        client.submit(score_part, files, out, name, weights, device, key=name, retries=1, pure=False): name
        for name, files in parts.items()
    }
    failed, done = {}, 0
    for task in as_completed(tasks):
        name, error = tasks[task], task.exception()
        if error is not None:
            failed[name] = error
        done += 1
        log(f"{name}: {f'FAILED: {error}' if error else f'{len(parts[name])} pictures'} ({done} of {len(parts)})")
        task.release()
    if failed:
        first = next(iter(failed.values()))
        raise RunError(f"{len(failed)} of {len(parts)} parts failed ({first}); call again to do those that are missing")


def _claim(out: str, order: dict[str, str | int]) -> None:
    """Note in the folder what its scores are of, or refuse it where they are of something else."""
    system, folder = _place(out)
    path = f"{folder}/{_ORDER}"
    if not system.exists(path):
        _write(out, _ORDER, json.dumps(order).encode())
        return
    found = json.loads(system.cat_file(path))
    differing = [key for key in order if found.get(key) != order[key]]
    if differing:
        raise InputError(f"{out} holds scores of other {', '.join(differing)}: name another folder, or empty this one")


def _write(out: str, name: str, content: bytes) -> None:
    """A whole file or none; object stores do so by themselves."""
    if "://" not in out:
        with replacing(Path(out) / name) as path:
            path.write_bytes(content)
        return
    system, folder = _place(out)
    system.makedirs(folder, exist_ok=True)
    system.pipe_file(f"{folder}/{name}", content)


def _place(address: str) -> tuple[AbstractFileSystem, str]:
    from fsspec.core import url_to_fs

    try:
        return url_to_fs(address)
    except (ImportError, ValueError) as error:  # a protocol that is unknown, or whose package is not installed
        raise InputError(f"{address}: {error}") from error


def _absolute(place: str | Path) -> str:
    """A path that means the same in every worker; addresses as they are."""
    return str(place) if "://" in str(place) else os.path.abspath(place)


def _digest(weights: str) -> str:
    return hashlib.sha256(read_model(weights)[0].read_bytes()).hexdigest()


def _is_picture(path: PurePosixPath) -> bool:
    hidden = path.name.startswith(".") or "__MACOSX" in path.parts
    return path.suffix.lower() in SCORED_SUFFIXES and not hidden
