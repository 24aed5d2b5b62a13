"""Choice of device and precision, and CPU memory settings."""

from __future__ import annotations

import ctypes
import platform
import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import InputError

if TYPE_CHECKING:
    import torch

DEVICES = ("auto", "cpu", "cuda", "mps")


def check_device_name(device: str) -> None:
    """Raise `InputError` for a name that is no device on any machine, without importing torch."""
    if device not in DEVICES:
        raise InputError(f"unknown device {device!r}: choose one of {', '.join(DEVICES)}")


def resolve_device(device: str) -> str:
    """The device to use; "auto" means the first available of cuda, mps, cpu. InputError: it is not available."""
    check_device_name(device)
    import torch  # imported here, because planning commands do not need it

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    devices = [name for name, found in available.items() if found]
    if device != "auto" and device not in devices:
        problem = f"device {device!r} is not available: this machine has {', '.join(devices)}"
        raise InputError(f"{problem}; choose one of them or 'auto'")
    return devices[0] if device == "auto" else device


def device_name(device: str) -> str:
    """Model name of the GPU for "cuda", else of the processor."""
    if device == "cuda":
        import torch

        return torch.cuda.get_device_name()
    path = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.+)", path.read_text() if path.is_file() else "")
    return found[1] if found else platform.processor()


def conditions(device: str, precision: str, processes: int = 1) -> dict[str, Any]:
    """What the rounding of a result depends on besides the code; results under equal conditions are identical.

    `device` is "cpu", "cuda" or "mps", `precision` that of the recipe.
    """
    import torch

    if device == "cuda":
        features = f"compute capability {'.'.join(map(str, torch.cuda.get_device_capability()))}"
    else:
        features = torch.backends.cpu.get_cpu_capability()
    return dict(
        device=device,
        processor=device_name(device),
        features=f"{features}, bfloat16 {'yes' if computes_in_bfloat16(device) else 'no'}",
        precision=usable_precision(device, precision),
        threads=torch.get_num_threads(),
        processes=processes,
        torch=str(torch.__version__),
    )


def computes_in_bfloat16(device: str) -> bool:
    """Whether a device ("cpu", "cuda" or "mps") computes in bfloat16 natively.

    A CPU without bfloat16 instructions emulates them, which takes 2 to 3 times as long as float32 with AVX-512 and
    10 to 30 times as long without it.
    """
    import torch

    if device != "cpu":
        return True
    # oneDNN reports support on every AVX-512 CPU, so the instruction set is checked too
    emulated = platform.machine() in ("x86_64", "AMD64") and not torch.cpu._is_avx512_bf16_supported()
    supported = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return supported and not emulated


def usable_precision(device: str, precision: str) -> str:
    """Replace "bf16-mixed" by "32-true" on a CPU that emulates bfloat16; "16-mixed" on a CPU is an InputError."""
    if device == "cpu" and precision == "16-mixed":
        raise InputError("precision 16-mixed needs a GPU: choose bf16-mixed or 32-true on the CPU")
    return "32-true" if precision == "bf16-mixed" and not computes_in_bfloat16(device) else precision


def autocast(device: torch.device, precision: str) -> AbstractContextManager:
    """The context of a forward pass in a recipe's precision.

    On a CPU "16-mixed" means bfloat16, so that a model that was trained on a GPU can be used there.
    """
    import torch

    if device.type == "cpu" and precision == "16-mixed":
        precision = "bf16-mixed"
    precision = usable_precision(device.type, precision)
    if precision == "32-true":
        return nullcontext()
    return torch.autocast(device.type, torch.float16 if precision == "16-mixed" else torch.bfloat16)


_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # from glibc's malloc.h


def keep_freed_memory() -> None:
    """Make glibc reuse freed memory. By default every large tensor is mapped and unmapped again, which takes time."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_MAX, 0)
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
