"""Data-parallel training over processes started by torchrun, with the loss of the whole batch in every process.

Outputs of all processes are gathered with gradients, so that every process computes the loss of the whole batch, with
all its negatives. The gradient with respect to a process's own images is multiplied by the number of processes, and
averaging gradients over processes then gives the gradient of the whole batch.
"""

from __future__ import annotations

import atexit
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
    """Whether torchrun started this process, alone or with others that share the run."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def rank() -> int:
    """Global rank of this process; 0 without torchrun."""
    return int(os.environ["RANK"]) if started_by_torchrun() else 0


def broadcast(value: Any, device: str, precision: str) -> Any:
    """Broadcast a value from rank 0. `device` and `precision` are those of `make_fabric`."""
    if not started_by_torchrun():
        return value
    make_fabric(device, precision)  # initialises the process group
    values = [value]
    torch.distributed.broadcast_object_list(values)
    return values[0]


def make_fabric(device: str, precision: str) -> Fabric:
    """Launch Lightning Fabric on one device, or on one device for each torchrun process.

    `device` is as in `resolve_device`, `precision` as in `Recipe`. InputError: the device is not available, or cannot
    serve this precision or this many processes.
    """
    device = resolve_device(device)
    precision = usable_precision(device, precision)
    from lightning.fabric import Fabric
    from lightning.fabric.strategies import DDPStrategy

    for name in ("lightning.fabric", "lightning.pytorch"):  # the import sets them to INFO
        logging.getLogger(name).setLevel(logging.WARNING)
    if not started_by_torchrun():
        return Fabric(accelerator=device, devices=1, precision=precision)
    if device == "mps":
        raise InputError("device mps supports only one process: start without torchrun, or choose device cpu")
    local, total = (int(os.environ[name]) for name in ("LOCAL_WORLD_SIZE", "WORLD_SIZE"))
    if device == "cuda" and torch.cuda.device_count() < local:
        counts = f"torchrun started {local} processes, but this machine has {torch.cuda.device_count()} GPUs"
        raise InputError(f"{counts}: start one process per GPU (--nproc_per_node)")
    strategy = DDPStrategy(broadcast_buffers=False)  # all buffers are frozen
    fabric = Fabric(accelerator=device, devices=local, num_nodes=total // local, strategy=strategy, precision=precision)
    fabric.launch()
    atexit.unregister(_leave)  # registered once, however many times a process calls this function
    atexit.register(_leave)
    return fabric


def _leave() -> None:
    """End the threads of the process group before the interpreter ends, which aborts if they are still alive."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def part(fabric: Fabric, images: int) -> slice:
    """Positions of this process's images in a batch of `images`; shares differ by at most one image."""
    counts = _counts(fabric, images)
    first = sum(counts[: fabric.global_rank])
    return slice(first, first + counts[fabric.global_rank])


def gather(fabric: Fabric, values: Sequence[Tensor], images: int) -> list[Tensor]:
    """Gather outputs of a batch of B `images` from all processes, with gradients.

    Returns float32 tensors (B, ...) in batch order for the tensors (b, ...) of this process's b images; with one
    process, `values` unchanged.
    """
    if fabric.world_size == 1:
        return list(values)
    counts = _counts(fabric, images)
    flat = torch.cat([value.flatten(1) for value in values], dim=1).float()  # (b, F)
    padded = F.pad(flat, (0, 0, 0, max(counts) - len(flat)))  # all_gather needs equal shapes
    gathered = fabric.all_gather(padded, sync_grads=flat.requires_grad)  # (processes, max b, F)
    rows = torch.cat([own[:count] for own, count in zip(gathered, counts)])  # (B, F)
    widths = [value[0].numel() for value in values]
    return [one.unflatten(1, value.shape[1:]) for one, value in zip(rows.split(widths, dim=1), values)]


def collect(fabric: Fabric, values: Tensor, count: int) -> Tensor:
    """Gather the (n,) CPU results of all processes as (count,) in item order.

    Process r of R must have computed the items r, r + R, r + 2R and so on.
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
    """Number of images of a batch in each process."""
    share, rest = divmod(images, fabric.world_size)
    return [share + (number < rest) for number in range(fabric.world_size)]
