"""Counted operations and the machine's own rate."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F

from lmcl_core.utilisation import matmul_rate, operations


def test_operations_are_two_for_every_multiply_add_forward_and_backward():
    left, right = torch.ones(3, 5), torch.ones(5, 7, requires_grad=True)
    assert operations(lambda: left @ right) == 2 * 3 * 5 * 7
    assert operations(lambda: (left @ right).sum().backward()) == 2 * 2 * 3 * 5 * 7  # and the gradient of one factor


def test_convolutions_count_what_their_kernels_touch():
    pictures, kernel = torch.ones(2, 4, 8, 8), torch.ones(6, 4, 3, 3)
    assert operations(lambda: F.conv2d(pictures, kernel, padding=1)) == 2 * 2 * 6 * 4 * 9 * 64


def test_the_rate_of_matrix_products_is_that_of_the_clock():
    start = time.perf_counter()
    rate = matmul_rate("cpu", size=512, repeats=3)
    assert 2 * 512**3 / rate < time.perf_counter() - start  # one product took less than all of them
