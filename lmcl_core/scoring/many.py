"""Score very many images: chunks of a list as tasks on a Dask cluster, one Parquet file per chunk, resumable.

Images and scores lie in folders or, by their addresses, in any object store that fsspec reaches, such as ``s3://``.
"""

from __future__ import annotations

import functools
import hashlib
import io
import json
import logging
import os
import re
import threading
import uuid
from collections.abc import Callable, Collection, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow
from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem
from PIL import Image
from pyarrow import parquet

from ..common.errors import InputError, RunError, counted
from ..common.files import atomic_write
from ..common.progress import above_bar, bar
from ..common.tasks import REPEAT, as_finished
from ..data.formats import check_bytes
from ..data.images import SCORED_SUFFIXES, from_bytes
from ..runs.model_file import BUNDLED, find_model
from .files import image_files, score_files

if TYPE_CHECKING:
    from distributed import Client

    from ..inference import Scorer

CHUNK = 256  #: images per task, and per Parquet file
_IDENTITY = "_order.json"  # hashes of the weights and of the list of images; Parquet readers skip files named "_..."
_DIFFERENT = dict(weights="of other weights", part="in chunks of another size", files="of another list of files")
_TYPES = dict(image="large_string", score="float64", percentile="float64", fault="large_string")
_MODEL_LOCK = threading.Lock()  # threads of a worker share one model


def score_many(
    sources: Iterable[str | Path],
    out: str | Path,
    weights: str | Path = "general",
    *,
    cluster: AbstractContextManager[Client],
    device: str = "auto",
    log: Callable[[str], None] = print,
) -> tuple[int, int]:
    """Score images on a Dask cluster. A repeated call scores missing and damaged chunks, and chunks with faults.

    `sources` are images or folders of images, and `out` is the folder of ``part-NNNNN.parquet`` (columns image, score,
    percentile, fault); all are paths or addresses of fsspec that every worker reaches. `weights` and `device` are as in
    `load`; `cluster` gives a Dask client when it is entered, after all checks; `log` is called with the number of
    images and with each chunk that fails. Returns the number of scored images, and of unreadable ones.

    Raises:
        InputError: a source without images, an address that cannot be reached, or a folder of other files or scores.
        RunError: some chunks failed twice, the workers or the scheduler are lost, or nothing can be written to `out`;
            finished chunks are kept. It stops when two more chunks have failed than succeeded.
    """
    images = list(dict.fromkeys(image for source in map(str, sources) for image in _list_images(source)))
    weights, out = weights if weights in BUNDLED else _absolute(weights), _absolute(out)
    identity = dict(weights=_digest(weights), part=CHUNK, files=hashlib.sha256(json.dumps(images).encode()).hexdigest())
    parts = [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]
    chunks = {f"part-{n:05d}.parquet": part for n, part in enumerate(parts)}
    existing = _check_folder(out, identity)
    missing = {k: chunk for k, chunk in chunks.items() if k not in existing or not _is_finished(out, k, chunk)}
    counts = f"{counted(len(images), 'image')} in {counted(len(chunks), 'chunk')}"
    log(f"{counts}, {len(chunks) - len(missing)} finished before")
    if not missing:
        return len(images), 0
    _write(out, _IDENTITY, json.dumps(identity).encode())
    with cluster as client:
        faults = _run(client, chunks, missing, (out, weights, identity["weights"], device), log)
    if lost := set(chunks) - _check_folder(out, identity):
        fix = "name a folder that this machine and all workers share"
        raise RunError(f"{out} lacks {min(lost)}, which a worker wrote: {fix}")
    return len(images) - faults, faults


def _run(
    client: Client, chunks: dict[str, list[str]], missing: Collection[str], settings: tuple, log: Callable[[str], None]
) -> int:
    """Score the missing chunks on the cluster and return the number of unreadable images."""
    call, failed, faults = uuid.uuid4().hex[:8], {}, {}  # several calls may share a scheduler

    def submit(name: str):
        return client.submit(_score_chunk, chunks[name], name, *settings, key=f"{name} {call}", retries=1, pure=False)

    try:
        for name, found, error in bar(as_finished(client, missing, submit), len(missing), "scoring chunks"):
            if not error:
                faults[name] = found
                continue
            failed[name] = error
            with above_bar():
                log(f"{name}: FAILED: {error}")
            if len(failed) > len(faults) + 1:  # the others would fail, too
                break
        if failed:
            count = f"{len(failed)} of {counted(len(chunks), 'chunk')} failed"
            raise RunError(f"{count} ({next(iter(failed.values()))}); {REPEAT}")
    except RunError as error:
        done = [chunk for name, chunk in chunks.items() if name in faults or name not in missing]
        images = f"{sum(map(len, done))} of {counted(sum(map(len, chunks.values())), 'image')}"
        raise RunError(f"{error} ({len(done)} of {counted(len(chunks), 'chunk')}, {images})") from error
    return sum(faults.values())


def _score_chunk(images: list[str], name: str, out: str, weights: str, digest: str, device: str) -> int:
    """Score images on a worker, write one Parquet file, and return the number of unreadable images."""
    logging.getLogger("distributed.worker").setLevel(logging.CRITICAL)  # the client reports the error
    with _MODEL_LOCK:
        scored = score_files(_scorer(weights, digest, device), images, open_file=_open)
        rows = [(_text(one.image), one.score, one.percentile, one.fault and _text(one.fault)) for one in scored]
    table = pyarrow.table([*zip(*rows)], schema=pyarrow.schema(_TYPES.items()))
    parquet.write_table(table, content := io.BytesIO())
    _write(out, name, content.getvalue())
    return len(table) - table["fault"].null_count


def _is_finished(out: str, name: str, images: list[str]) -> bool:
    """Whether an existing chunk is whole and has a score for each of its images."""
    system, folder = _filesystem(out)
    try:
        table = parquet.read_table(io.BytesIO(system.cat_file(f"{folder}/{name}")))
        return table["image"].to_pylist() == list(map(_text, images)) and table["fault"].null_count == len(table)
    except (pyarrow.ArrowException, KeyError, OSError, ValueError):  # score a damaged chunk again
        return False


@functools.lru_cache(maxsize=1)
def _scorer(weights: str, digest: str, device: str) -> Scorer:
    from ..inference import load  # imports torch, which listing images does not need

    if _digest(weights) != digest:
        raise InputError(f"a worker finds other weights at {weights}: copy this machine's file there")
    return load(weights, device)


def _list_images(source: str) -> list[str]:
    """Images of a file, folder or address, sorted."""
    if "://" not in source:
        exists = os.path.lexists(source) or Path(source).suffix.lower() in SCORED_SUFFIXES
        if not exists:
            raise InputError(f"{source} does not exist: name image files, or folders of images")
        images = [os.path.abspath(file) for file in image_files(source)]
    else:
        system, root = _filesystem(source)
        try:
            found = [root] if system.isfile(root) else sorted(system.find(root))
        except Exception as error:  # each store's package has its own errors: no network, no credentials, no bucket
            raise InputError(f"{source} cannot be listed ({error}): check the address and your access to it") from error
        names = [name for name in found if name == root or _is_image(name.removeprefix(root))]
        images = [system.unstrip_protocol(name) for name in names]
    if not images:
        raise InputError(f"no images in {source}: name image files, or folders of images")
    return images


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in SCORED_SUFFIXES and not re.search(r"(^|/)(\.|__MACOSX/)", name)


def _open(image: str) -> str | Image.Image:
    """Open an image of a store; a path is returned as it is."""
    if "://" not in image:
        return image
    system, path = _filesystem(image)
    try:
        check_bytes(system.size(path) or 0, image)
        return from_bytes(system.cat_file(path), image)
    except (FileNotFoundError, PermissionError) as error:
        raise InputError(f"image {image} is missing or not readable: check its address and your access") from error


def _check_folder(out: str, identity: dict[str, Any]) -> set[str]:
    """Names of the files in a folder of scores; raises InputError if the folder holds something else."""
    system, folder = _filesystem(out)
    try:
        system.invalidate_cache()
        is_file, paths = system.isfile(folder), system.ls(folder, detail=False) if system.exists(folder) else []
    except Exception as error:  # each store's package has its own errors
        raise InputError(f"--out {out} cannot be listed ({error}): check the address and your access to it") from error
    if is_file:
        raise InputError(f"--out is {out}, a file: name a folder")
    names = {Path(path).name for path in paths if path.rstrip("/") != folder.rstrip("/")}  # S3 lists the folder, too
    names = {name for name in names if not name.startswith(".")}
    if names and _IDENTITY not in names:
        raise InputError(f"{out} holds other files, such as {min(names)}: name an empty folder")
    try:
        found = json.loads(system.cat_file(f"{folder}/{_IDENTITY}")) if names else identity
        different = [_DIFFERENT[key] for key in identity if found.get(key) != identity[key]]
    except (ValueError, AttributeError) as error:
        raise InputError(f"{out}/{_IDENTITY} is damaged: name another folder, or empty this one") from error
    if different:
        raise InputError(f"{out} is for scores {' and '.join(different)}: name another folder, or empty this one")
    return names


def _write(out: str, name: str, content: bytes) -> None:
    """Write a file atomically, as object stores do anyway."""
    system, folder = _filesystem(out)
    if isinstance(system, LocalFileSystem):
        with atomic_write(Path(folder) / name) as path:
            path.write_bytes(content)
        return
    try:
        system.makedirs(folder, exist_ok=True)
        system.pipe_file(f"{folder}/{name}", content)
    except Exception as error:  # such as NotImplementedError of a store that cannot be written
        raise RunError(f"cannot write {out}/{name} ({error}): check the address and your access to it") from error


def _filesystem(address: str) -> tuple[AbstractFileSystem, str]:
    if "://" not in address:
        return LocalFileSystem(), address  # url_to_fs would split a path at "::"
    try:
        return url_to_fs(address)
    except Exception as error:  # an unknown protocol, a package that is not installed, no host in the address
        fix = "correct its protocol, or install the package that this protocol needs"
        raise InputError(f"cannot use the address {address} ({error}): {fix}") from error


def _absolute(path: str | Path) -> str:
    """A path that workers understand in any working directory; an address stays as it is."""
    return str(path) if "://" in str(path) else os.path.abspath(os.path.expanduser(path))


def _digest(weights: str) -> str:
    return hashlib.sha256(find_model(weights).read_bytes()).hexdigest()


def _text(name: str) -> str:
    """Escape what is not valid Unicode in a file name or message."""
    return name.encode("utf-8", "backslashreplace").decode()
