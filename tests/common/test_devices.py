"""A missing device is refused, and a precision that a CPU emulates is replaced by float32."""

from __future__ import annotations

import ctypes
import platform
from contextlib import nullcontext

import pytest
import torch

from lmcl_core import InputError
from lmcl_core.common import devices
from lmcl_core.common.devices import autocast, keep_freed_memory, resolve_device, usable_precision


def test_auto_prefers_an_accelerator(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == "cpu"


def test_a_missing_or_unknown_device_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="device 'cuda' is not available: this machine has .*cpu"):
        resolve_device("cuda")
    with pytest.raises(InputError, match="unknown device 'gpu': choose one of auto, cpu, cuda, mps"):
        resolve_device("gpu")


@pytest.mark.parametrize(
    "machine, onednn, instructions, native",
    [
        ("x86_64", True, True, True),
        ("AMD64", True, False, False),  # oneDNN emulates bfloat16 with AVX-512, slower than float32
        ("aarch64", True, False, True),  # oneDNN asks the processor itself
        ("aarch64", False, False, False),
    ],
)
def test_bfloat16_is_used_on_a_cpu_with_instructions_for_it(monkeypatch, machine, onednn, instructions, native):
    monkeypatch.setattr(devices.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    assert devices.computes_in_bfloat16("cpu") is native and devices.computes_in_bfloat16("cuda")
    assert usable_precision("cpu", "bf16-mixed") == ("bf16-mixed" if native else "32-true")
    assert usable_precision("cpu", "32-true") == "32-true" and usable_precision("cuda", "bf16-mixed") == "bf16-mixed"
    with pytest.raises(InputError, match="16-mixed needs a GPU"):
        usable_precision("cpu", "16-mixed")


@pytest.mark.parametrize("native", [True, False])
def test_a_forward_pass_computes_in_the_usable_precision(monkeypatch, native):
    monkeypatch.setattr(devices, "computes_in_bfloat16", lambda device: native)
    cpu = torch.device("cpu")
    assert isinstance(autocast(cpu, "32-true"), nullcontext)
    for precision in ("bf16-mixed", "16-mixed"):  # scoring on a CPU accepts a recipe trained in float16
        with autocast(cpu, precision):
            product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert product.dtype == (torch.bfloat16 if native else torch.float32)


def test_freed_memory_is_kept_with_glibc_only(monkeypatch):
    calls = []

    class Library:
        def mallopt(self, option, value):
            calls.append((option, value))

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    keep_freed_memory()
    assert calls == []
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    keep_freed_memory()
    assert calls == [(-4, 0), (-1, 2**31 - 1)]
