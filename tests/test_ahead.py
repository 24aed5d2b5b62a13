"""Items made ahead: in order, one at a time, errors in their place."""

from __future__ import annotations

import threading
import time

import pytest

from lmcl_core.ahead import ahead


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
