"""Which device to work on."""

from __future__ import annotations

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
