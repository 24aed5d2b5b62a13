"""How near work comes to what the machine can do: its floating point operations beside plain matrix products."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from .devices import computes_in_bfloat16


def operations(work: Callable[[], Any]) -> int:
    """Floating point operations of one call: two for each multiply-add of matrix products and convolutions.

    Those of the zeros in `convolution`'s evened kernels, and of what its parts of kernels share, count too.

    Args:
        work: it is called once.
    """
    with FlopCounterMode(display=False, custom_mapping=_CORRECTED) as counter:
        work()
    return counter.get_total_flops()


def matmul_rate(device: str, size: int | None = None, repeats: int = 5) -> float:
    """Floating point operations a second of square matrix products: what the machine reaches at its best.

    Args:
        device: "cpu", "cuda" or "mps".
        size: rows and columns; None takes 2,048 on a CPU and 8,192 elsewhere.
        repeats: of which the fastest counts, in bfloat16 or float32, whichever is faster here.
    """
    size = size or (2048 if device == "cpu" else 8192)
    seconds = []
    for dtype in (torch.bfloat16, torch.float32) if computes_in_bfloat16(device) else (torch.float32,):
        left, right = (torch.ones(size, size, dtype=dtype, device=device) for _ in range(2))
        for _ in range(repeats + 1):  # the first warms up, and is hardly the fastest
            start = time.perf_counter()
            (left @ right)[0, 0].item()  # which waits for the device
            seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)


def _convolution_backward(
    grad: Sequence[int], x: Sequence[int], weight: Sequence[int], *rest: Any, **options: Any
) -> int:
    """Operations of a convolution's backward pass from its shapes: as many as forward for each gradient asked for.

    torch's own count takes a grouped convolution's weight gradient for that of one group.
    """
    _, _, _, _, transposed, _, _, wanted = rest[:8]
    return sum(wanted[:2]) * 2 * math.prod(x if transposed else grad) * math.prod(weight[1:])


def _clipped_convolution(
    x: Sequence[int], weight: Sequence[int], *rest: Any, out_shape: Sequence[int], **_: Any
) -> int:
    return 2 * math.prod(out_shape) * math.prod(weight[1:])


_CORRECTED = {torch.ops.aten.convolution_backward: _convolution_backward}
if hasattr(torch.ops.mkldnn, "_convolution_pointwise"):  # which torch does not count
    _CORRECTED[torch.ops.mkldnn._convolution_pointwise] = _clipped_convolution
