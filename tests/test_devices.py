"""A device is there or named as missing."""

import pytest
import torch

from lmcl_core import InputError
from lmcl_core.devices import resolve_device


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
