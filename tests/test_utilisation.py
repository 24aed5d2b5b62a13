"""Counted operations and the machine's own rate."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lmcl_core import convolution
from lmcl_core.utilisation import matmul_rate, operations


def test_operations_are_two_for_every_multiply_add_forward_and_backward():
    left, right = torch.ones(3, 5), torch.ones(5, 7, requires_grad=True)
    assert operations(lambda: left @ right) == 2 * 3 * 5 * 7
    assert operations(lambda: (left @ right).sum().backward()) == 2 * 2 * 3 * 5 * 7  # and the gradient of one factor


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_convolutions_count_what_their_kernels_touch(groups):
    pictures = torch.ones(2, 4, 8, 8, requires_grad=True)
    kernel = torch.ones(8, 4 // groups, 3, 3, requires_grad=True)
    once = 2 * 2 * 8 * (4 // groups) * 9 * 64
    assert operations(lambda: F.conv2d(pictures, kernel, padding=1, groups=groups)) == once
    assert operations(lambda: F.conv2d(pictures, kernel, padding=1, groups=groups).sum().backward()) == 3 * once
    still = pictures.detach()
    assert operations(lambda: F.conv2d(still, kernel, padding=1, groups=groups).sum().backward()) == 2 * once


def test_transposed_convolutions_too():
    pictures, kernel = torch.ones(2, 4, 8, 8, requires_grad=True), torch.ones(4, 6, 2, 2, requires_grad=True)
    once = operations(lambda: F.conv_transpose2d(pictures, kernel, stride=2))
    assert once == 2 * 2 * 4 * 6 * 4 * 64
    assert operations(lambda: F.conv_transpose2d(pictures, kernel, stride=2).sum().backward()) == 3 * once


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_convolutions_that_clip_count_as_much_as_plain_ones(dtype):
    if not convolution._has_pointwise(dtype):
        pytest.skip("this processor or build of torch lacks the convolution")
    pictures, kernel = torch.ones(2, 4, 8, 8).to(dtype), torch.ones(6, 4, 3, 3).to(dtype)
    clipped = torch.ops.mkldnn._convolution_pointwise
    found = operations(lambda: clipped(pictures, kernel, None, [1, 1], [1, 1], [1, 1], 1, "hardtanh", [0.0, 6.0], ""))
    assert found == 2 * 2 * 6 * 4 * 9 * 64


def test_a_processor_that_imitates_bfloat16_is_not_measured_in_it(monkeypatch):
    monkeypatch.setattr("lmcl_core.utilisation.computes_in_bfloat16", lambda device: False)
    monkeypatch.setattr(torch, "bfloat16", None)  # of which no product could be made
    assert matmul_rate("cpu", size=64, repeats=1) > 0


def test_the_rate_is_that_of_the_fastest_product(monkeypatch):
    ticks = iter([0, 9, 10, 14, 20, 23, 30, 39, 40, 48, 50, 57])  # products take 9, 4, 3 and 9, 8, 7 seconds
    monkeypatch.setattr("lmcl_core.utilisation.time.perf_counter", lambda: next(ticks))
    monkeypatch.setattr("lmcl_core.utilisation.computes_in_bfloat16", lambda device: True)
    assert matmul_rate("cpu", size=64, repeats=2) == 2 * 64**3 / 3
