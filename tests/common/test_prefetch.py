"""Prefetched items come in order, exceptions at their position, and no more is computed than asked for."""

from __future__ import annotations

import threading
import time

import pytest

from lmcl_core.common.prefetch import prefetch_map


@pytest.mark.parametrize("threads, depth", [(1, 1), (2, 4)])
def test_results_of_threads_come_in_order_and_no_more_than_asked_for(threads, depth):
    made, taken = [], 0

    def function(n: int) -> int:
        time.sleep(0.001 * (n % 3))
        made.append(n)
        return 10 * n

    for n, value in enumerate(prefetch_map(function, range(30), threads, depth)):
        taken += 1
        assert value == 10 * n and len(made) <= taken + depth
    assert taken == 30 and list(prefetch_map(function, [], threads, depth)) == []


def test_after_an_exception_in_a_thread_the_rest_is_cancelled():
    made = []

    def function(n: int) -> int:
        made.append(n)
        return 1 // (n - 3)

    taken = prefetch_map(function, range(1000), 2, 4)
    assert [next(taken) for _ in range(3)] == [-1, -1, -1]
    with pytest.raises(ZeroDivisionError):
        next(taken)
    assert len(made) < 20
    before, taken = threading.active_count(), prefetch_map(abs, range(100), 1, 2)
    next(taken)
    taken.close()
    assert threading.active_count() == before
