"""Items made ahead: in order, one at a time, errors in their place."""

from __future__ import annotations

import threading
import time

import pytest

from lmcl_core.ahead import ahead, mapped


@pytest.mark.parametrize("count", [0, 1, 2, 7])
@pytest.mark.parametrize("depth", [1, 2, 5])
def test_items_come_in_their_order(count, depth):
    assert list(ahead(range(count), depth)) == list(range(count))


def test_the_next_item_is_made_while_one_is_worked_on_and_never_two_at_once():
    busy, made = threading.Lock(), []

    def items():
        for n in range(4):
            assert busy.acquire(blocking=False)
            made.append(n)
            time.sleep(0.01)
            busy.release()
            yield n

    for n in ahead(items(), depth=2):
        time.sleep(0.05)
        assert n == 3 or n + 1 in made
        assert len(made) <= n + 3


def test_an_error_comes_at_its_item_s_place():
    def items():
        yield 1
        raise ValueError("second")

    taken = ahead(items())
    assert next(taken) == 1
    with pytest.raises(ValueError, match="second"):
        next(taken)


def test_who_stops_early_leaves_no_thread_behind():
    before = threading.active_count()
    taken = ahead(iter(range(100)))
    next(taken)
    taken.close()
    assert threading.active_count() == before


@pytest.mark.parametrize("threads, depth", [(1, 1), (2, 4), (4, 2)])
def test_what_threads_make_comes_in_order_and_no_more_of_it_than_asked(threads, depth):
    made, taken = [], 0

    def make(n: int) -> int:
        time.sleep(0.001 * (n % 3))
        made.append(n)
        return 10 * n

    for n, value in enumerate(mapped(make, range(30), threads, depth)):
        taken += 1
        assert value == 10 * n and len(made) <= taken + depth
    assert taken == 30 and list(mapped(make, [], threads, depth)) == []


def test_an_error_of_a_thread_comes_at_its_place_and_the_rest_is_not_made():
    made = []

    def make(n: int) -> int:
        made.append(n)
        return 1 // (n - 3)

    taken = mapped(make, range(1000), 2, 4)
    assert [next(taken) for _ in range(3)] == [-1, -1, -1]
    with pytest.raises(ZeroDivisionError):
        next(taken)
    assert len(made) < 20
