"""Memory at its highest. Each measurement starts a process that imports this file: it imports little."""

from __future__ import annotations

import math
import os
import signal

import pytest
import torch

from lmcl_core.errors import RunError
from lmcl_core.peak import _peak, peak_megabytes


def hold(megabytes):
    """Work that fills so much memory."""
    return lambda: torch.ones(int(megabytes * 250_000)).sum()


def hold_before(megabytes):
    """Work that fills so much memory while it is made, and little afterwards."""
    hold(megabytes)()
    return hold(1)


def hold_too_much():
    """Work that no machine has the memory for."""
    return lambda: torch.ones(2**50)


def end(how):
    """Work that ends its process."""
    return lambda: os.kill(os.getpid(), how)


def test_what_the_system_kills_does_not_fit_and_what_crashes_is_told():
    assert peak_megabytes(end, signal.SIGKILL) == math.inf
    with pytest.raises(RunError, match="end.* ended its process with exit code -11: leave that part out"):
        peak_megabytes(end, signal.SIGSEGV)


def test_work_that_does_not_fit_has_an_infinite_peak_and_other_errors_are_told():
    assert peak_megabytes(hold_too_much) == math.inf
    with pytest.raises(TypeError):
        peak_megabytes(hold_before)


def test_the_peak_of_memory_is_that_of_the_work():
    assert peak_megabytes(hold_before, 300) < 100 and 190 < peak_megabytes(hold, 200) < 300


def test_a_system_that_does_not_tell_gives_no_number(monkeypatch, tmp_path):
    monkeypatch.setattr("lmcl_core.peak._STATUS", tmp_path / "status")
    monkeypatch.setattr("lmcl_core.peak._FORGET", tmp_path / "refs")
    assert math.isnan(_peak(hold, (1,)))
    (tmp_path / "status").write_text("VmRSS:\t 1000 kB\nVmHWM:\t 3000 kB\n")  # and no line of mapped files
    assert _peak(hold, (1,)) == pytest.approx(2000 * 1024 / 1e6)
