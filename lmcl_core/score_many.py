"""Scores of very many pictures: parts of the list as tasks on a Dask cluster, a Parquet file each, resumable.

Pictures and scores may lie wherever fsspec reaches: in folders, or in object stores by their addresses, such as s3://.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pandas as pd

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
        log: called with one line a part.

    Returns:
        How many pictures were scored, and how many could not be read; the rows of the latter say why.

    Raises:
        InputError: no pictures in one of the sources, an address that cannot be reached, or a folder with the scores of
            something else.
        RunError: some parts failed twice, or nothing can be written there; finished parts are kept.
    """
    found = list_pictures(sources)
    files = list(found)
    weights, out = weights if weights in BUNDLED else _absolute(weights), _absolute(out)
    digest, states = _digest(weights), json.dumps(found)
    there = _claim(out, dict(weights=digest, part=PART, files=hashlib.sha256(states.encode()).hexdigest()))
    parts = {f"part-{n:05d}.parquet": files[first : first + PART] for n, first in enumerate(range(0, len(files), PART))}
    log(f"{len(files)} pictures in {len(parts)} parts, {len(there & set(parts))} of them finished before")
    if set(parts) - there:
        from .batch import connect  # here, since a worker imports this module and needs none of it

        with connect(scheduler, workers) as client:
            missing = {name: own for name, own in parts.items() if name not in there}
            _run(client, missing, (out, weights, digest, device), log)
    faults = sum(int(pd.read_parquet(f"{out}/{name}", columns=["fault"])["fault"].notna().sum()) for name in parts)
    return len(files) - faults, faults


def list_pictures(sources: Iterable[str | Path]) -> dict[str, str]:
    """Pictures named one by one or by their folders, and what tells that a picture is still the same.

    Args:
        sources: paths, or addresses of fsspec.

    Returns:
        Absolute paths and whole addresses, each once, those of a folder sorted, with their size and time or tag.

    Raises:
        InputError: an address that cannot be reached, or a source without pictures.
    """
    found: dict[str, str] = {}
    for source in map(str, sources):
        own = _pictures_of_store(source) if "://" in source else _pictures_of_folder(source)
        if not own:
            raise InputError(f"no pictures in {source}: name picture files, or folders of pictures")
        found |= own
    return found


def _pictures_of_folder(source: str) -> dict[str, str]:
    states = {}
    for file in picture_files([source]):
        status = file.stat() if file.exists() else None  # what is missing is told in its row
        states[os.path.abspath(file)] = f"{status.st_size} {status.st_mtime_ns}" if status else "missing"
    return states


def _pictures_of_store(source: str) -> dict[str, str]:
    system, path = _place(source)
    try:
        names = {path: system.info(path)} if system.isfile(path) else system.find(path, detail=True)
    except Exception as error:  # of kinds that only the store's package knows: no network, no credentials, no bucket
        raise InputError(f"{source} cannot be listed ({error}): check the address and your access to it") from error
    wanted = {name: about for name, about in sorted(names.items()) if name == path or _is_picture(PurePosixPath(name))}
    tags = ("ETag", "etag", "LastModified", "mtime", "created")
    return {
        system.unstrip_protocol(name): f"{about.get('size')} {next((about[tag] for tag in tags if tag in about), '')}"
        for name, about in wanted.items()
    }


def score_part(files: Sequence[str], name: str, out: str, weights: str, digest: str, device: str) -> int:
    """Score some pictures and write one Parquet file, whole or not at all; a worker's task.

    Args:
        files: of `list_pictures`.
        name: of the file.
        out: folder of the scores.
        weights: as in `lmcl_core.load`.
        digest: SHA-256 of the weights' file that was meant.
        device: as in `lmcl_core.load`.

    Returns:
        Number of pictures that could not be read.

    Raises:
        InputError: the worker finds other weights there.
        RunError: the file cannot be written.
        OSError: a store did not answer.
    """
    columns = ["image", "score", "percentile", "fault"]
    with _ONE_AT_A_TIME:  # threads of a worker share its model
        scored = score_files(_scorer(weights, digest, device), files, open_file=_fetch)
        table = pd.DataFrame([[getattr(one, column) for column in columns] for one in scored], columns=columns)
    _write(out, name, table.astype(dict(score="float64", percentile="float64", fault="string")).to_parquet())
    return int(table["fault"].notna().sum())


def _fetch(file: str):
    """What `scoring.as_picture` takes: a path as it is, an address as its picture."""
    if "://" not in file:
        return file
    system, path = _place(file)
    try:
        content = system.cat_file(path)
    except FileNotFoundError as error:  # other errors may pass: they fail the part, which is then tried again
        raise InputError(f"missing image {file}: check its address") from error
    return from_bytes(content, file)


_ONE_AT_A_TIME = threading.Lock()


@functools.lru_cache(maxsize=1)
def _scorer(weights: str, digest: str, device: str) -> Scorer:
    """A worker loads its model once."""
    if _digest(weights) != digest:
        raise InputError(f"a worker finds other weights at {weights}: give every worker the same files")
    return load(weights, device)


def _run(client: Client, parts: dict[str, list[str]], settings: tuple[str, ...], log: Callable[[str], None]) -> None:
    from distributed import as_completed

    order = uuid.uuid4().hex[:8]  # a scheduler may have several
    tasks = {
        client.submit(score_part, files, name, *settings, key=f"{name} {order}", retries=1, pure=False): name
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


def _claim(out: str, order: dict[str, str | int]) -> set[str]:
    """Note in the folder what its scores are of, or refuse it where they are of something else; what is there."""
    system, folder = _place(out)
    system.invalidate_cache()
    names = {PurePosixPath(path).name for path in system.ls(folder, detail=False)} if system.exists(folder) else set()
    if _ORDER not in names:
        if any(name.startswith("part-") for name in names):
            raise InputError(f"{out} holds scores that do not say what they are of: name another folder, or empty it")
        _write(out, _ORDER, json.dumps(order).encode())
        return set()
    try:
        found = json.loads(system.cat_file(f"{folder}/{_ORDER}"))
    except ValueError as error:
        raise InputError(f"{out}/{_ORDER} is damaged: empty the folder, or name another") from error
    differing = [key for key in order if found.get(key) != order[key]]
    if differing:
        raise InputError(f"{out} holds scores of other {', '.join(differing)}: name another folder, or empty this one")
    return names


def _write(out: str, name: str, content: bytes) -> None:
    """A whole file or none; object stores do so by themselves."""
    if "://" not in out:
        with replacing(Path(out) / name) as path:
            path.write_bytes(content)
        return
    system, folder = _place(out)
    try:
        system.makedirs(folder, exist_ok=True)
        system.pipe_file(f"{folder}/{name}", content)
    except OSError as error:
        raise RunError(f"cannot write {out}/{name} ({error}): check the address and your access to it") from error


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
