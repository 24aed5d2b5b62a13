"""The next items are made while this one is worked on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")
_END = object()


def ahead(items: Iterable[Item], depth: int = 2) -> Iterator[Item]:
    """Items in their order, made by one thread up to `depth` of them ahead of who takes them.

    Args:
        items: made one after another, never two at a time, so that what they draw from one generator stays the same.
        depth: how many wait at most, 1 or more.

    Raises:
        Exception: whatever making an item raised, at that item's place.
    """
    source = iter(items)
    with ThreadPoolExecutor(1) as pool:
        waiting = deque(pool.submit(next, source, _END) for _ in range(depth))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(pool.submit(next, source, _END))
            yield item


def mapped(make: Callable[[Item], Made], items: Iterable[Item], threads: int, depth: int) -> Iterator[Made]:
    """What is made of each item, in their order, by several threads, up to `depth` ahead of who takes them.

    Args:
        make: called with one item, by several threads at a time.
        items: taken as they are needed.
        threads: how many, 1 or more.
        depth: how many are being made or wait at most, 1 or more.

    Raises:
        Exception: whatever making an item raised, at that item's place.
    """
    source, waiting = iter(items), deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            while True:
                waiting.extend(pool.submit(make, item) for item in islice(source, depth - len(waiting)))
                if not waiting:
                    return
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
