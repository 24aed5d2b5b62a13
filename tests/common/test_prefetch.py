"""Prefetched items come in order, exceptions at their position, and no more is computed than asked for."""

from __future__ import annotations

import threading
import time

import pytest

from lmcl_core.common.prefetch import prefetch, prefetch_map


def test_the_next_item_is_computed_while_one_is_used_and_never_two_at_once():
    busy, made = threading.Lock(), []

    def items():
        for n in range(4):
            assert busy.acquire(blocking=False)
            made.append(n)
            time.sleep(0.01)
            busy.release()
            yield n

    assert list(prefetch(range(7), 2)) == list(range(7)) and list(prefetch([], 5)) == []
    for n in prefetch(items(), depth=2):
        time.sleep(0.05)
        assert n == 3 or n + 1 in made
        assert len(made) <= n + 3


def test_closing_early_ends_the_thread():
    before = threading.active_count()
    taken = prefetch(iter(range(100)))
    next(taken)
    taken.close()
    assert threading.active_count() == before


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
