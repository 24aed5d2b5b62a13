"""Two measured facts about training convolutional networks on CPUs, each turned into one function."""

from __future__ import annotations

import ctypes
import functools
import platform

import torch
from torch import Tensor, nn

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # glibc's malloc.h


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed blocks for the next step instead of handing every large tensor back to the kernel.

    Without it, each large activation is mapped, zeroed page by page and unmapped again in every step.

    Returns:
        True where it took effect (glibc), False on other C libraries, where nothing is done.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_MMAP_MAX, 0)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def depthwise_in_float32(network: nn.Module) -> int:
    """Run strided and large depthwise convolutions in float32 on the CPU, also under bfloat16 autocast.

    Their bfloat16 backward passes are many times slower than the float32 ones; 3x3 convolutions of stride 1 are not.
    On other devices nothing changes. The parameters and their names stay as they are.

    Args:
        network: changed in place.

    Returns:
        Number of convolutions that were changed.
    """
    changed = 0
    for module in network.modules():
        depthwise = isinstance(module, nn.Conv2d) and module.groups == module.in_channels > 1
        if depthwise and (module.stride[0] > 1 or module.kernel_size[0] > 3):
            module.forward = functools.partial(_float32_on_cpu, module)
            changed += 1
    return changed


def _float32_on_cpu(module: nn.Conv2d, x: Tensor) -> Tensor:
    if x.device.type != "cpu":
        return type(module).forward(module, x)
    with torch.autocast("cpu", enabled=False):
        return type(module).forward(module, x.float()).to(x.dtype)
