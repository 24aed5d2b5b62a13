"""Features of a frozen backbone, computed once for fixed crops of every image and kept on disk.

Shapes: `n` images, `K` crops per image and then the whole view, `S` crop side, `F` features of a crop, `h w` grid of
tokens of `C` channels of the whole view.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ..common.devices import autocast, keep_freed_memory, usable_precision
from ..common.errors import InputError, RunError, save_failed
from ..common.files import LockedError, file_lock
from ..common.paths import cache_folder
from ..common.progress import meter
from .weights import create_backbone, weights_digest

VERSION = 1  # part of the hash in the file names; raise it when features change
PRECISION = "bf16-mixed"  # of the backbone; float32 where a CPU emulates bfloat16
_POLL_SECONDS = 0.5  # between looks at the progress of other processes
_IMAGES_PER_FLUSH = 8


class FrozenBackbone(nn.Module):
    """Features of crops from a pretrained vision transformer that is not trained.

    The feature of a crop is the mean and the standard deviation of its patch tokens after each quarter of the blocks,
    and the CLS token after the last norm: F = 9 C numbers. The tokens are the patch tokens after the last norm; a grid
    of at least 8 x 8 is averaged over 2 x 2 tokens.

    Args:
        name: timm name of a vision transformer with a CLS token.
        size: S, side of the crops in pixels.
        pretrained: False gives random weights, for tests.

    Raises:
        InputError: another kind of network, or weights that cannot be loaded.
    """

    def __init__(self, name: str, size: int, pretrained: bool = True) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # random weights are the same in every process
            self.network, mean, std = create_backbone(name, size, pretrained)
        if not isinstance(self.network, VisionTransformer) or not self.network.has_class_token:
            raise InputError(f"backbone {name!r} cannot be used frozen: choose a vision transformer with a class token")
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1), persistent=False)
        blocks = len(self.network.blocks)
        self.taps = sorted({max(0, (quarter + 1) * blocks // 4 - 1) for quarter in range(4)})
        self.features = (2 * len(self.taps) + 1) * self.network.num_features
        side = self.network.patch_embed.grid_size[0]
        self.pooled = 2 if side >= 8 and side % 2 == 0 else 1
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 RGB crops (N, 3, S, S) -> float32 features (N, F) and tokens (N, h, w, C), on the model's device."""
        device = self.mean.device
        with autocast(device, PRECISION):
            pixels = (images.to(device).float() - self.mean) / self.std
            last, maps = self.network.forward_intermediates(
                pixels, indices=self.taps, return_prefix_tokens=True, output_fmt="NLC"
            )
        patches = [patch.float() for patch, _ in maps]  # (N, L, C) each
        moments = [moment for patch in patches for moment in (patch.mean(dim=1), patch.std(dim=1))]
        tokens = last[:, self.network.num_prefix_tokens :].float().unflatten(1, self.network.patch_embed.grid_size)
        tokens = F.avg_pool2d(tokens.permute(0, 3, 1, 2), self.pooled).permute(0, 2, 3, 1)
        return torch.cat([*moments, last[:, 0].float()], dim=1), tokens


class FeatureBank(NamedTuple):
    """Features of every image of a table, memory-mapped float16.

    Attributes:
        crops: (n, K + 1, F); the last one is the whole view.
        tokens: (n, h, w, C) of the whole view.
    """

    crops: np.ndarray
    tokens: np.ndarray


def open_bank(
    store: Any,
    boxes: Tensor,
    backbone: tuple[str, int, bool],
    device: torch.device,
    log: Callable[[str], None] = lambda line: None,
) -> FeatureBank:
    """Open the features of crops; on first use they are computed, with one process a core, or on the GPU.

    A killed computation goes on where it stopped. Features of other images, boxes, weights or precision lie in files
    of other names.

    Args:
        store: an `ImageStore`, whose file name identifies the images; other processes open it again.
        boxes: (n, K, 4) int64 boxes in image pixels.
        backbone: name, crop size and pretrained, the arguments of `FrozenBackbone`.
        device: where the backbone runs.
        log: called with the size and the estimated time before features are computed.

    Raises:
        InputError: weights that cannot be loaded. RunError: a full disk, or a process that was lost.
    """
    name, size, pretrained = backbone
    digest = [VERSION, store.path.stem, backbone, weights_digest(name) if pretrained else None]
    digest += [usable_precision(device.type, PRECISION), hashlib.sha256(boxes.numpy().tobytes()).hexdigest()]
    path = cache_folder() / "features" / hashlib.sha256(json.dumps(digest).encode()).hexdigest()[:16]
    sizes = _sizes(path)
    if not _complete(path, sizes, len(boxes)):
        with _only_builder(path, log):
            sizes = _build(path, store, boxes, backbone, device, log)
    return _map(path, sizes, len(boxes), boxes.shape[1] + 1, "c")


def _sizes(path: Path) -> list[int] | None:
    """F, h, w and C of a bank; None if it was not begun."""
    try:
        sizes = json.loads(path.with_suffix(".json").read_text())
        return sizes if [type(size) for size in sizes] == [int] * 4 else None
    except (OSError, ValueError, TypeError):
        return None


def _map(path: Path, sizes: list[int], images: int, views: int, mode: str) -> FeatureBank:
    features, *tokens = sizes
    try:
        return FeatureBank(
            np.memmap(path.with_suffix(".crops"), np.float16, mode, shape=(images, views, features)),
            np.memmap(path.with_suffix(".tokens"), np.float16, mode, shape=(images, *tokens)),
        )
    except (OSError, ValueError) as error:  # missing or cut
        raise InputError(f"features at {path} are damaged ({error}): delete {path}.* to compute them again") from error


def _done(path: Path, images: int, mode: str = "r") -> np.ndarray:
    return np.memmap(path.with_suffix(".done"), np.uint8, mode, shape=(images,))


def _complete(path: Path, sizes: list[int] | None, images: int) -> bool:
    done = path.with_suffix(".done")
    if sizes is None or not done.is_file() or done.stat().st_size != images:
        return False
    return bool((_done(path, images) == 1).all())


@contextmanager
def _only_builder(path: Path, log: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a bank; say so if another process holds it, and wait."""
    lock = path.with_suffix(".lock")
    try:
        with file_lock(lock, 0):
            yield
            return
    except LockedError:
        log("another process computes these features: waiting for it")
    with file_lock(lock):
        yield


def _build(
    path: Path,
    store: Any,
    boxes: Tensor,
    backbone: tuple[str, int, bool],
    device: torch.device,
    log: Callable[[str], None],
) -> list[int]:
    """Compute the features that are missing, and return F, h, w and C."""
    images, views = len(boxes), boxes.shape[1] + 1
    if _complete(path, _sizes(path), images):  # another process built it meanwhile
        return _sizes(path)
    model = FrozenBackbone(*backbone).to(device)
    crop = store.crops([0], boxes[:1, :1], backbone[1])
    features, tokens = model(crop)  # the first call takes longer
    start = time.perf_counter()
    model(crop)
    seconds = time.perf_counter() - start
    sizes = [features.shape[1], *tokens.shape[1:]]
    total = 2 * images * (views * sizes[0] + math.prod(sizes[1:]))
    _prepare(path, sizes, images, views, total)
    done = _done(path, images)
    left, workers = int((done == 0).sum()), 1 if device.type == "cuda" else len(os.sched_getaffinity(0))
    log(
        f"computing features of {views} crops of {left} images once with {backbone[0]}: {total / 1e9:.2f} GB in the "
        f"cache, about {max(1, left * views * seconds / workers / 60):.0f} minutes"
    )
    job = (path, sizes, store, boxes, backbone, workers)
    with_bar = meter(images, "features", done=images - left)
    try:
        if device.type == "cuda":
            for finished in _fill(job, 0, model):
                with_bar.update(finished)
        else:
            del model
            _fill_in_processes(job, done, with_bar)
    finally:
        with_bar.close()
    return sizes


def _prepare(path: Path, sizes: list[int], images: int, views: int, total: int) -> None:
    """Create the files of a bank, or keep those of an unfinished one if they have the right sizes."""
    wanted = {".crops": 2 * images * views * sizes[0], ".tokens": 2 * images * math.prod(sizes[1:]), ".done": images}
    files = {path.with_suffix(suffix): size for suffix, size in wanted.items()}
    if _sizes(path) == sizes and all(file.is_file() and file.stat().st_size == n for file, n in files.items()):
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if shutil.disk_usage(path.parent).free < total:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        path.with_suffix(".json").unlink(missing_ok=True)
        for file, size in files.items():
            file.unlink(missing_ok=True)
            with open(file, "wb") as opened:
                opened.truncate(size)
        path.with_suffix(".json").write_text(json.dumps(sizes))
    except OSError as error:
        raise save_failed(path, error) from error


def _fill(job: tuple, rank: int, model: FrozenBackbone) -> Iterator[int]:
    """Compute every image that is missing of one process's share, and yield how many were finished."""
    path, sizes, store, boxes, (_, size, _), workers = job
    bank, done = _map(path, sizes, len(boxes), boxes.shape[1] + 1, "r+"), _done(path, len(boxes), "r+")
    todo = [image for image in range(rank, len(boxes), workers) if done[image] == 0]
    for first in range(0, len(todo), _IMAGES_PER_FLUSH):
        part = todo[first : first + _IMAGES_PER_FLUSH]
        for image in part:
            crops = torch.cat([store.crops([image], boxes[image : image + 1], size), store.whole([image], size)])
            features, tokens = model(crops)
            if not features.isfinite().all():
                raise RunError(f"features of image {image} are not finite: check the weights of the backbone")
            bank.crops[image] = features.cpu().numpy()
            bank.tokens[image] = tokens[-1].cpu().numpy()
        bank.crops.flush()
        bank.tokens.flush()
        done[part] = 1  # only now: what is marked as done is on disk
        done.flush()
        yield len(part)


def _fill_in_processes(job: tuple, done: np.ndarray, progress: Any) -> None:
    """Run `_fill` in one process a core, each with one thread."""
    command = [sys.executable, "-m", "lmcl_core.backbones.bank"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    workers = []
    try:
        for rank in range(job[-1]):
            one = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
            workers.append(one)
            pickle.dump((os.getpid(), job, rank), one.stdin)
            one.stdin.close()
        seen = int((done == 1).sum())
        while any(one.poll() is None for one in workers) and not any(one.poll() for one in workers):
            time.sleep(_POLL_SECONDS)
            now = int((done == 1).sum())
            progress.update(now - seen)
            seen = now
        if failed := [one for one in workers if one.poll()]:
            last = failed[0].stderr.read().decode(errors="replace").strip().splitlines()
            raise RunError(f"a process that computes features stopped ({last[-1] if last else failed[0].returncode})")
    finally:
        for one in workers:
            one.kill()
            one.wait()


def _main() -> None:
    """One process of `_fill_in_processes`: its job comes on standard input."""
    parent, job, rank = pickle.load(sys.stdin.buffer)
    torch.set_num_threads(1)
    keep_freed_memory()
    for _ in _fill(job, rank, FrozenBackbone(*job[4])):
        if os.getppid() != parent:  # it was killed
            return


if __name__ == "__main__":
    _main()
