"""How near work comes to what the machine can do: its floating point operations beside plain matrix products."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def operations(work: Callable[[], Any]) -> int:
    """Floating point operations of one call: two for each multiply-add of matrix products and convolutions.

    Args:
        work: it is called once.
    """
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def matmul_rate(device: str, size: int | None = None, repeats: int = 5) -> float:
    """Floating point operations a second of square bfloat16 matrix products: what the machine reaches at its best.

    Args:
        device: "cpu", "cuda" or "mps".
        size: rows and columns; None takes 2,048 on a CPU and 8,192 elsewhere.
        repeats: of which the fastest counts.
    """
    size = size or (2048 if device == "cpu" else 8192)
    left, right = (torch.ones(size, size, dtype=torch.bfloat16, device=device) for _ in range(2))
    seconds = []
    for _ in range(repeats + 1):  # the first warms up, and is hardly the fastest
        start = time.perf_counter()
        (left @ right)[0, 0].item()  # which waits for the device
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)
