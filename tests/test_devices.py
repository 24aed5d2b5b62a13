"""A device is there or named as missing; what it cannot compute in, it does not."""

import pytest
import torch

from lmcl_core import InputError
from lmcl_core import devices
from lmcl_core.devices import resolve_device, usable_precision


def test_auto_takes_an_accelerator_before_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto") == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert resolve_device("auto") == "cpu"


@pytest.mark.parametrize("device", ["cuda", "gpu", ""])
def test_a_missing_device_is_named_beside_those_that_are_there(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match=rf"device '{device}' is not there: this machine offers .*cpu"):
        resolve_device(device)


@pytest.mark.parametrize("able, used", [(True, "bf16-mixed"), (False, "32-true")])
def test_bfloat16_is_left_to_devices_that_have_it(monkeypatch, able, used):
    monkeypatch.setattr(devices, "computes_in_bfloat16", lambda device: able)
    assert usable_precision("cpu", "bf16-mixed") == used
    assert usable_precision("cpu", "32-true") == "32-true"
    assert usable_precision("cuda", "16-mixed") == "16-mixed"


@pytest.mark.parametrize(
    "machine, onednn, instructions, has",
    [
        ("x86_64", True, True, True),
        ("x86_64", True, False, False),  # AVX-512 without them: oneDNN imitates, slower than float32
        ("AMD64", True, False, False),
        ("x86_64", False, True, False),
        ("aarch64", True, False, True),  # where oneDNN asks the processor itself
        ("aarch64", False, False, False),
    ],
)
def test_bfloat16_takes_instructions_for_it(monkeypatch, machine, onednn, instructions, has):
    monkeypatch.setattr(devices.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: onednn)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions)
    assert devices.computes_in_bfloat16("cpu") is has
    assert devices.computes_in_bfloat16("cuda")


def test_a_gpu_is_not_asked_what_the_processor_can(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert usable_precision("cuda", "bf16-mixed") == "bf16-mixed"
    assert usable_precision("cpu", "bf16-mixed") == "32-true"


def test_float16_is_refused_on_a_cpu():
    with pytest.raises(InputError, match="16-mixed needs a GPU"):
        usable_precision("cpu", "16-mixed")
