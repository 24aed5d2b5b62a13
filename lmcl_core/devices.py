"""Which device to work on, and in what precision it can."""

from __future__ import annotations

import platform

from .errors import InputError


def resolve_device(device: str) -> str:
    """Name of a device that is there.

    Args:
        device: "auto" (the first there is of cuda, mps, cpu), "cpu", "cuda" or "mps".

    Returns:
        "cpu", "cuda" or "mps".

    Raises:
        InputError: it is unknown or not there.
    """
    import torch  # here, so that who only plans need not wait for it

    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    offered = [name for name, yes in there.items() if yes]
    if device == "auto":
        return offered[0]
    if device not in offered:
        raise InputError(
            f"device {device!r} is not there: this machine offers {', '.join(offered)}; choose one of them or 'auto'"
        )
    return device


def computes_in_bfloat16(device: str) -> bool:
    """Whether a device works in bfloat16 faster than in float32, or has at least its own convolutions for it.

    Processors without such instructions imitate bfloat16, which takes longer than float32: with AVX-512 two to three
    times as long, without it ten to thirty times.

    Args:
        device: "cpu", "cuda" or "mps".
    """
    import torch

    if device != "cpu":
        return True
    imitated = platform.machine() in ("x86_64", "AMD64") and not torch.cpu._is_avx512_bf16_supported()
    there = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return there and not imitated  # oneDNN says that every AVX-512 supports it


def usable_precision(device: str, precision: str) -> str:
    """In what a recipe is computed on a device: as it says, or in float32 where bfloat16 would only be imitated.

    Args:
        device: "cpu", "cuda" or "mps".
        precision: as in `Recipe`.

    Returns:
        "bf16-mixed", "16-mixed" or "32-true".

    Raises:
        InputError: "16-mixed" on a CPU.
    """
    if device == "cpu" and precision == "16-mixed":
        raise InputError("precision 16-mixed needs a GPU: choose bf16-mixed or 32-true on the CPU")
    return "32-true" if precision == "bf16-mixed" and not computes_in_bfloat16(device) else precision
