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
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ..common.devices import autocast, keep_freed_memory, usable_precision
from ..common.errors import InputError, RunError, save_failed
from ..common.files import LockedError, atomic_write, digest, file_lock
from ..common.paths import cache_folder
from ..common.prefetch import prefetch_map
from ..common.progress import Log, meter
from .weights import create_backbone, weights_digest

VERSION = 1  # part of the hash in the file names; raise it when features change
PRECISION = "bf16-mixed"  # of the backbone; float32 where a CPU emulates bfloat16
_IMAGES_PER_SYNC = 8


class FrozenBackbone(nn.Module):
    """Features of crops from a pretrained vision transformer that is not trained.

    The feature of a crop is the mean and the standard deviation of its patch tokens after each quarter of the blocks,
    and the CLS token after the last norm: F = 9 C numbers. The tokens are the patch tokens after the last norm; a grid
    of at least 8 x 8 is averaged over 2 x 2 tokens.

    `name` is the timm name of a vision transformer with a CLS token; without `pretrained`, weights are random.
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
            options = dict(indices=self.taps, return_prefix_tokens=True, output_fmt="NLC")
            last, maps = self.network.forward_intermediates(pixels, **options)
        patches = [patch.float() for patch, _ in maps]  # (N, L, C) each
        moments = [moment for patch in patches for moment in (patch.mean(dim=1), patch.std(dim=1))]
        tokens = last[:, self.network.num_prefix_tokens :].float().unflatten(1, self.network.patch_embed.grid_size)
        tokens = F.avg_pool2d(tokens.permute(0, 3, 1, 2), self.pooled).permute(0, 2, 3, 1)
        return torch.cat([*moments, last[:, 0].float()], dim=1), tokens


class FeatureBank(NamedTuple):
    """Features of every image of a table, memory-mapped float16."""

    crops: np.ndarray  # (n, K + 1, F); the last one is the whole view
    tokens: np.ndarray  # (n, h, w, C) of the whole view


def open_bank(
    store: Any, boxes: Tensor, backbone: tuple, device: torch.device, log: Log, cache: Path | None = None
) -> FeatureBank:
    """Open the features of crops; on first use they are computed, with one thread a core, or on the GPU.

    A killed computation goes on where it stopped. Features of other images, boxes, weights or precision lie in files
    of other names.

    Args:
        store: an `ImageStore`, whose file name identifies the images.
        boxes: (n, K, 4) int64 boxes in image pixels.
        backbone: name, crop size and pretrained, the arguments of `FrozenBackbone`.
        device: where the backbone runs.
        log: called with the size and the estimated time before features are computed.
        cache: folder that holds the folder ``features``; None: the package's cache.

    Raises:
        InputError: weights that cannot be loaded. RunError: a full disk, or features that are not finite.
    """
    name, size, pretrained = backbone
    key = [VERSION, store.path.stem, backbone, weights_digest(name) if pretrained else None]
    key += [usable_precision(device.type, PRECISION), hashlib.sha256(boxes.numpy().tobytes()).hexdigest()]
    path = (cache or cache_folder()) / "features" / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    complete = path.with_suffix(".sha256")
    if not complete.is_file():
        with _only_builder(path, log):
            if not complete.is_file():  # another process may have built it meanwhile
                _build(path, store, boxes, backbone, device, log)
    return _map(path, len(boxes), boxes.shape[1] + 1)


def _sizes(path: Path) -> list[int] | None:
    """F, h, w and C of a bank; None if it was not begun."""
    try:
        sizes = json.loads(path.with_suffix(".json").read_text())
        return sizes if [type(size) for size in sizes] == [int] * 4 else None
    except (OSError, ValueError, TypeError):
        return None


def _digests(path: Path) -> str:
    """SHA-256 of the sizes, the crops and the tokens of a bank, one a line."""
    return "".join(f"{digest(path.with_suffix(suffix))}\n" for suffix in (".json", ".crops", ".tokens"))


def _map(path: Path, images: int, views: int) -> FeatureBank:
    """A bank whose files are those that were written."""
    try:
        if path.with_suffix(".sha256").read_text() != _digests(path):
            raise ValueError("a file has changed")
        features, *tokens = _sizes(path)
        return FeatureBank(
            np.memmap(path.with_suffix(".crops"), np.float16, "c", shape=(images, views, features)),
            np.memmap(path.with_suffix(".tokens"), np.float16, "c", shape=(images, *tokens)),
        )
    except (OSError, ValueError) as error:
        raise InputError(f"features at {path} are damaged ({error}): delete {path}.* to compute them again") from error


@contextmanager
def _only_builder(path: Path, log: Log) -> Iterator[None]:
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


def _build(path: Path, store: Any, boxes: Tensor, backbone: tuple, device: torch.device, log: Log) -> None:
    """Compute the features that are missing. On a CPU, each image is computed by one thread."""
    name, size, _ = backbone
    images, views = len(boxes), boxes.shape[1] + 1
    model = FrozenBackbone(*backbone).to(device)
    workers, before = (len(os.sched_getaffinity(0)) if device.type == "cpu" else 1), torch.get_num_threads()

    def compute(image: int) -> tuple[int, np.ndarray, np.ndarray]:
        crops = torch.cat([store.crops([image], boxes[image : image + 1], size), store.whole([image], size)])
        features, tokens = model(crops)
        halves = [values.half().cpu() for values in (features, tokens[-1])]
        if not all(values.isfinite().all() for values in halves):
            raise RunError(f"features of image {image} are not finite in float16: check the weights of the backbone")
        return image, *(values.numpy() for values in halves)

    if device.type == "cpu":
        keep_freed_memory()
    try:
        torch.set_num_threads(1 if device.type == "cpu" else before)
        _, features, tokens = compute(0)  # the first call takes longer
        start = time.perf_counter()
        compute(0)
        minutes = (time.perf_counter() - start) / workers / 60
        todo = _prepare(path, [features.shape[1], *tokens.shape], images, views)
        if todo:
            log(
                f"computing features of {views} crops of {len(todo)} images once with {name}: "
                f"{images * (features.nbytes + tokens.nbytes) / 1e9:.2f} GB in the cache, "
                f"about {max(1, len(todo) * minutes):.0f} minutes"
            )
        computed = prefetch_map(compute, todo, workers, 2 * workers)
        with closing(meter(images, "features", done=images - len(todo))) as shown, closing(computed):
            _write(path, computed, shown.update)
        with atomic_write(path.with_suffix(".sha256")) as written:
            written.write_text(_digests(path))
    except OSError as error:
        raise save_failed(path, error) from error
    finally:
        torch.set_num_threads(before)


def _prepare(path: Path, sizes: list[int], images: int, views: int) -> list[int]:
    """Create the files of a bank, or keep those of an unfinished one, and return the images that it lacks."""
    wanted = {".crops": 2 * images * views * sizes[0], ".tokens": 2 * images * math.prod(sizes[1:]), ".done": images}
    files = {path.with_suffix(suffix): size for suffix, size in wanted.items()}
    if _sizes(path) == sizes and all(file.is_file() and file.stat().st_size == n for file, n in files.items()):
        done = path.with_suffix(".done").read_bytes()
        return [image for image in range(images) if done[image] != 1]
    path.parent.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(path.parent).free < sum(wanted.values()):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    path.with_suffix(".json").unlink(missing_ok=True)
    for file, size in files.items():
        file.unlink(missing_ok=True)
        with open(file, "wb") as opened:
            opened.truncate(size)
    path.with_suffix(".json").write_text(json.dumps(sizes))
    return list(range(images))


def _write(path: Path, results: Iterator[tuple[int, np.ndarray, np.ndarray]], update: Callable[[int], Any]) -> None:
    """Write features as they are computed; an image is marked as done when its features are on disk."""
    crops, tokens, done = (open(path.with_suffix(suffix), "r+b") for suffix in (".crops", ".tokens", ".done"))
    with crops, tokens, done:
        while part := list(islice(results, _IMAGES_PER_SYNC)):
            for image, *arrays in part:
                for file, values in zip((crops, tokens), arrays):
                    file.seek(image * values.nbytes)
                    file.write(values.tobytes())
            for file in (crops, tokens):
                file.flush()
                os.fsync(file.fileno())
            for image, *_ in part:
                done.seek(image)
                done.write(b"\1")
            done.flush()
            update(len(part))
