"""Scores of very many pictures: parts of the list as tasks on a Dask cluster, a Parquet file each, resumable.

Pictures and scores may lie wherever fsspec reaches: in folders, or in object stores by their addresses, such as s3://.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import logging
import os
import threading
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import pandas as pd
import pyarrow
from pyarrow import parquet

from .devices import resolve_device
from .errors import InputError, RunError, counted
from .files import replacing
from .model_file import BUNDLED, read_model
from .pictures import SCORED_SUFFIXES, from_bytes
from .score_files import picture_files, score_files
from .scoring import Scorer, load

if TYPE_CHECKING:
    from distributed import Client
    from fsspec import AbstractFileSystem

PART = 256  #: pictures a task, and a Parquet file
_ORDER = "_order.json"  # beside the parts: what was asked for; readers of Parquet folders pass over such names
_ORDERED = dict(weights="of other weights", part="in parts of another size", files="of another list of files")
_TYPES = dict(image="string", score="float64", percentile="float64", fault="string")  # of a part's columns


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
    """Score pictures on a Dask cluster. Called again, it does what is missing: whole parts, and in the others the
    pictures that could not be read or have changed.

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
    from .batch import check_cluster, connect  # here, since a worker imports this module and needs none of it

    check_cluster(scheduler, workers)
    found = list_pictures(sources)
    files = list(found)
    weights, out = weights if weights in BUNDLED else _absolute(weights), _absolute(out)
    digest = _digest(weights)
    order = dict(weights=digest, part=PART, files=hashlib.sha256(json.dumps(files).encode()).hexdigest())
    starts = range(0, len(files), PART)
    parts = {f"part-{n:05d}.parquet": files[start : start + PART] for n, start in enumerate(starts)}
    states = {name: {file: found[file] for file in own} for name, own in parts.items()}
    there = _names(out, order)
    missing = {name: own for name, own in states.items() if name not in there or not _is_done(out, name, digest, own)}
    count = f"{counted(len(files), 'picture')} in {counted(len(parts), 'part')}"
    log(f"{count}, {len(parts) - len(missing)} finished before")
    if not missing:
        return len(files), 0
    if not scheduler:
        resolve_device(device)  # workers of this machine would say the same, later
    with connect(scheduler, workers) as client:
        _names(out, order)  # somebody else may have begun meanwhile
        _write(out, _ORDER, json.dumps(order).encode())
        faults = _run(client, missing, (out, weights, digest, device), log)
    if unseen := set(parts) - _names(out, order):
        raise RunError(f"{out} lacks {min(unseen)}, which a worker wrote: name a folder that this machine sees too")
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
    if not os.path.lexists(source) and Path(source).suffix.lower() not in SCORED_SUFFIXES:
        raise InputError(f"{source} is not there: name picture files, or folders of pictures")
    states = {}
    for file in picture_files([source]):
        try:
            status = os.stat(file)
            state = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:  # missing, or not to be looked at: told in its row
            state = "missing"
        states[os.path.abspath(file)] = state
    return states


def _pictures_of_store(source: str) -> dict[str, str]:
    system, path = _place(source)
    try:
        names = {path: system.info(path)} if system.isfile(path) else system.find(path, detail=True)
    except Exception as error:  # of kinds that only the store's package knows: no network, no credentials, no bucket
        raise InputError(f"{source} cannot be listed ({error}): check the address and your access to it") from error
    wanted = {
        name: about
        for name, about in sorted(names.items())
        if name == path or _is_picture(PurePosixPath(name.removeprefix(path)))
    }
    tags = ("ETag", "etag", "LastModified", "mtime", "created")
    return {
        system.unstrip_protocol(name): f"{about.get('size')} {next((about[tag] for tag in tags if tag in about), '')}"
        for name, about in wanted.items()
    }


def score_part(files: dict[str, str], name: str, out: str, weights: str, digest: str, device: str) -> tuple[int, int]:
    """Score some pictures and write one Parquet file, whole or not at all; a worker's task.

    Args:
        files: some of `list_pictures`.
        name: of the file. Where it is already there, what it says of pictures that could be read and are still the same
            is kept.
        out: folder of the scores.
        weights: as in `lmcl_core.load`.
        digest: SHA-256 of the weights' file that was meant.
        device: as in `lmcl_core.load`.

    Returns:
        How many pictures were tried, and how many of them could not be read.

    Raises:
        InputError: the worker finds other weights there.
        RunError: the file cannot be written.
        OSError: a store did not answer.
    """
    logging.getLogger("distributed.worker").setLevel(logging.CRITICAL)  # a failure is told once, by who waits for it
    rows = _kept(out, name, digest, files)
    wanted = [file for file in files if _text(file) not in rows]
    with _ONE_AT_A_TIME:  # threads of a worker share its model
        for one in score_files(_scorer(weights, digest, device), wanted, open_file=_fetch):
            rows[_text(one.image)] = [_text(one.image), one.score, one.percentile, one.fault and _text(one.fault)]
    table = pd.DataFrame([rows[_text(file)] for file in files], columns=list(_TYPES)).astype(_TYPES)
    made_from = json.dumps(dict(weights=digest, states=list(files.values())))
    content = io.BytesIO()
    whole = pyarrow.Table.from_pandas(table)
    parquet.write_table(whole.replace_schema_metadata({**whole.schema.metadata, b"lmcl": made_from}), content)
    _write(out, name, content.getvalue())
    return len(wanted), int(table["fault"].notna().sum())


def _is_done(out: str, name: str, digest: str, files: dict[str, str]) -> bool:
    return len(_kept(out, name, digest, files)) == len(files)


def _kept(out: str, name: str, digest: str, files: dict[str, str]) -> dict[str, list]:
    """Rows of a part, by image, of pictures that could be read, with these weights, and are still the same."""
    system, folder = _place(out)
    try:
        content = system.cat_file(f"{folder}/{name}")
    except FileNotFoundError:
        return {}
    try:
        found = parquet.read_table(io.BytesIO(content))
        made_from = json.loads(found.schema.metadata[b"lmcl"])
        rows = found.select(list(_TYPES)).to_pandas().to_numpy().tolist()
    except (pyarrow.ArrowException, OSError, KeyError, TypeError, ValueError):  # a damaged part is done again
        return {}
    now = {_text(file): state for file, state in files.items()}
    if made_from["weights"] != digest:
        return {}
    same = [now.get(row[0]) == state for row, state in zip(rows, made_from["states"])]
    return {row[0]: row for row, as_before in zip(rows, same) if as_before and pd.isna(row[3])}


def _text(name: str) -> str:
    """A name or message as it stands in a table: what is no text in it is escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def _fetch(file: str):
    """What `scoring.as_picture` takes: a path as it is, an address as its picture."""
    if "://" not in file:
        return file
    system, path = _place(file)
    try:
        content = system.cat_file(path)
    except FileNotFoundError as error:
        raise InputError(f"missing image {file}: check its address") from error
    except PermissionError as error:  # other errors may pass: they fail the part, which is then tried again
        raise InputError(f"image {file} may not be read: give yourself permission to read it") from error
    return from_bytes(content, file)


_ONE_AT_A_TIME = threading.Lock()


@functools.lru_cache(maxsize=1)
def _scorer(weights: str, digest: str, device: str) -> Scorer:
    """A worker loads its model once."""
    if _digest(weights) != digest:
        raise InputError(f"a worker finds other weights at {weights}: give every worker the same files")
    return load(weights, device)


def _run(
    client: Client, parts: dict[str, dict[str, str]], settings: tuple[str, ...], log: Callable[[str], None]
) -> int:
    """Have parts done; how many of their pictures could not be read."""
    from .batch import each_ended, told

    order = uuid.uuid4().hex[:8]  # a scheduler may have several

    def submit(name: str):
        return client.submit(score_part, parts[name], name, *settings, key=f"{name} {order}", retries=1, pure=False)

    failed, faults = {}, 0
    for done, (name, task) in enumerate(each_ended(client, parts, submit), start=1):
        error = task.exception()
        if error is None:
            tried, unread = task.result()
            faults += unread
            said = counted(tried, "picture")
        else:
            failed[name] = told(error)
            said = f"FAILED: {failed[name]}"
        log(f"{name}: {said} ({done} of {len(parts)})")
    if failed:
        first = next(iter(failed.values()))
        count = f"{len(failed)} of {counted(len(parts), 'part')} failed"
        raise RunError(f"{count} ({first}); call again to do those that are missing")
    return faults


def _names(out: str, order: dict[str, str | int]) -> set[str]:
    """Names of the files in a folder of scores, which is refused where they are of something else."""
    system, folder = _place(out)
    system.invalidate_cache()
    if system.isfile(folder):
        raise InputError(f"--out is {out}, a file: name a folder")
    paths = system.ls(folder, detail=False) if system.exists(folder) else []
    own = folder.rstrip("/")  # which some object stores list as one of its files
    names = {PurePosixPath(path).name for path in paths if path.rstrip("/") != own}
    if not any(name.startswith("part-") for name in names):
        if other := min((name for name in names if not name.startswith((".", "_"))), default=""):
            raise InputError(f"{out} holds other files, such as {other}: name a folder for scores alone")
        return set()
    if _ORDER not in names:
        raise InputError(f"{out} holds scores that do not say what they are of: name another folder, or empty it")
    try:
        found = json.loads(system.cat_file(f"{folder}/{_ORDER}"))
        if not isinstance(found, dict):
            raise ValueError("it holds no record")
    except ValueError as error:
        raise InputError(f"{out}/{_ORDER} is damaged: empty the folder, or name another") from error
    differing = [_ORDERED[key] for key in order if found.get(key) != order[key]]
    if differing:
        raise InputError(f"{out} holds scores {' and '.join(differing)}: name another folder, or empty this one")
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
    from fsspec.implementations.local import LocalFileSystem

    if "://" not in address:
        return LocalFileSystem(), address
    try:
        return url_to_fs(address)
    except (ImportError, ValueError) as error:  # a protocol that is unknown, or whose package is not installed
        raise InputError(f"{address}: {error}") from error


def _absolute(place: str | Path) -> str:
    """A path that means the same in every worker; addresses as they are."""
    return str(place) if "://" in str(place) else os.path.abspath(os.path.expanduser(place))


def _digest(weights: str) -> str:
    return hashlib.sha256(read_model(weights)[0].read_bytes()).hexdigest()


def _is_picture(path: PurePosixPath) -> bool:
    """Whether it is one by its ending, and neither hidden nor in a hidden folder nor left behind by archives.

    Args:
        path: below the folder that was named.
    """
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in SCORED_SUFFIXES and not hidden
