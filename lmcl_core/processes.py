"""Several processes, one run: torchrun starts them, each works on a part of every batch, all see the same loss.

A process sees its own images alone; what it makes of them (scores, embeddings, saliency) is gathered, with gradients,
so that every process has the loss of the whole batch, the other processes' negatives with it. Each then holds the
whole gradient of that loss with respect to its own images, as many times as there are processes, and the mean over
processes that data-parallel training takes is the gradient of the whole batch.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .devices import resolve_device, usable_precision
from .errors import InputError

if TYPE_CHECKING:
    from lightning.fabric import Fabric


def started_by_torchrun() -> bool:
    """Whether this is one of several processes of one run."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank() -> int:
    """Number of this process among those that torchrun started; 0 where it started none."""
    return int(os.environ["RANK"]) if started_by_torchrun() else 0


def as_the_first(value: Any, device: str, precision: str) -> Any:
    """What the first process has found, in every process.

    Args:
        value: what this process has found; the first one's counts.
        device: as in `make_fabric`.
        precision: as in `make_fabric`.
    """
    if not started_by_torchrun():
        return value
    make_fabric(device, precision)  # the processes meet
    values = [value]
    torch.distributed.broadcast_object_list(values)
    return values[0]


def make_fabric(device: str, precision: str) -> Fabric:
    """Lightning Fabric for one device, or for the processes that torchrun started, a device each.

    Args:
        device: "auto", "cpu", "cuda" or "mps".
        precision: as in `Recipe`; `usable_precision` says what becomes of it.

    Returns:
        The `lightning.fabric.Fabric`, launched.

    Raises:
        InputError: the device is unknown or not there, there are fewer than processes, or it cannot work in that
            precision or for several processes.
    """
    device = resolve_device(device)
    precision = usable_precision(device, precision)
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import DDPStrategy

    for name in ("lightning.fabric", "lightning.pytorch"):  # its import has just set them to INFO
        logging.getLogger(name).setLevel(logging.WARNING)
    if not started_by_torchrun():
        return Fabric(accelerator=device, devices=1, precision=precision)
    if device == "mps":
        raise InputError("device mps is one for all processes: start one process, or choose cpu")
    here, all_of_them = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    if device == "cuda" and torch.cuda.device_count() < here:
        raise InputError(f"{here} processes and {torch.cuda.device_count()} GPUs: start one process a GPU")
    strategy = DDPStrategy(broadcast_buffers=False)  # there are only frozen ones
    fabric = Fabric(
        accelerator=device, devices=here, num_nodes=all_of_them // here, strategy=strategy, precision=precision
    )
    fabric.launch()
    return fabric


def part(fabric: Fabric, images: int) -> slice:
    """The images of a batch that this process works on; parts differ by one image at most.

    Args:
        fabric: from `make_fabric`.
        images: B, images of the whole batch.
    """
    counts = _counts(fabric, images)
    first = sum(counts[: fabric.global_rank])
    return slice(first, first + counts[fabric.global_rank])


def gather(fabric: Fabric, values: Sequence[Tensor], images: int) -> list[Tensor]:
    """What all processes made of a batch, with gradients.

    Args:
        fabric: from `make_fabric`.
        values: tensors (b, ...) of this process's b images.
        images: B, images of the whole batch.

    Returns:
        Tensors (B, ...), float32, in the order of the batch; `values` as they are where there is one process.
    """
    if fabric.world_size == 1:
        return list(values)
    counts = _counts(fabric, images)
    flat = torch.cat([value.flatten(1) for value in values], dim=1).float()  # (b, F)
    padded = F.pad(flat, (0, 0, 0, max(counts) - len(flat)))  # as long in every process
    everyone = fabric.all_gather(padded, sync_grads=flat.requires_grad)  # (processes, longest, F)
    rows = torch.cat([own[:count] for own, count in zip(everyone, counts)])  # (B, F)
    widths = [value[0].numel() for value in values]
    return [one.unflatten(1, value.shape[1:]) for one, value in zip(rows.split(widths, dim=1), values)]


def collect(fabric: Fabric, values: Tensor, count: int) -> Tensor:
    """Join results of items that were dealt out in turn: item i to process i modulo their number.

    Args:
        fabric: from `make_fabric`.
        values: (n,) of this process's items, on the CPU.
        count: number of all items.

    Returns:
        (count,) in the order of the items.
    """
    if fabric.world_size == 1:
        return values
    parts = [None] * fabric.world_size
    torch.distributed.all_gather_object(parts, values)
    joined = values.new_empty(count)
    for first, own in enumerate(parts):
        joined[first :: len(parts)] = own
    return joined


def _counts(fabric: Fabric, images: int) -> list[int]:
    """Images of a batch that each process works on."""
    each, over = divmod(images, fabric.world_size)
    return [each + (number < over) for number in range(fabric.world_size)]
